//! A broker's file with the last metadata image, and the events that it goes on with.
//!
//! Few inputs have the right checksum, so everything is also asked of bytes with one that was made right; and few are an image, so
//! another is the file of an image that events made, in which some bytes were changed.
#![no_main]

use control_api::codec;
use control_api::ids::{BrokerEpoch, BrokerId, Incarnation, LeaderEpoch, PartitionEpoch, Position, TopicId};
use control_api::image::{
    BrokerRecord, CoordinatorRecord, MetadataEvent, MetadataImage, PartitionRecord, TopicRecord,
};
use control_api::level::Levels;
use control_api::message::MetadataUpdate;
use dataplane::control::{decode_image, encode_image};
use libfuzzer_sys::fuzz_target;

/// Which event, of which topic or broker, with which number.
type Event = (u8, u8, u32);

/// Which bits are changed where.
type Damage = Vec<(u16, u8)>;

fuzz_target!(|input: (Vec<Event>, Damage, &[u8])| {
    let (events, damage, bytes) = input;
    let events: Vec<MetadataEvent> = events.into_iter().map(event).collect();
    let mut image = MetadataImage::default();
    let digest = image.apply(at(1), &events);
    assert_eq!(digest, image.digest(), "kept up to date");
    let file = encode_image(&image);
    assert_eq!(
        decode_image(&file).expect("what we write we can read"),
        image
    );

    let _ = decode_image(bytes);
    read(bytes, &events);
    let archive = changed(&file[4..], &damage);
    if archive != file[4..] && damage.len() == 1 {
        // A checksum never misses a single byte.
        let damaged = [&file[..4], &archive].concat();
        decode_image(&damaged).expect_err("its checksum does not match");
    }
    read(&archive, &events);

    let update = MetadataUpdate::Delta { at: at(2), events };
    follow(image, &changed(&codec::encode(&update), &damage));
});

/// What can be read must be written and read again as it is, be good for a shard's questions, and take events.
fn read(archive: &[u8], events: &[MetadataEvent]) {
    let file = [&crc32c::crc32c(archive).to_le_bytes(), archive].concat();
    let Ok(mut image) = decode_image(&file) else {
        return;
    };
    assert_eq!(
        decode_image(&encode_image(&image)).ok().as_ref(),
        Some(&image)
    );
    let _ = image.live_brokers().count();
    for name in image.topic_ids.keys() {
        let _ = image.topic(name);
    }
    let before = image.digest();
    let growth = image.apply(image.position(), events);
    assert_eq!(before.wrapping_add(growth), image.digest(), "kept up to date");
}

fn at(index: u64) -> Position {
    Position { term: 1, index }
}

fn follow(mut image: MetadataImage, update: &[u8]) {
    if let Ok(MetadataUpdate::Delta { at, events }) = codec::decode(update) {
        image.apply(at, &events);
        let mut again = image.clone();
        again.apply(at, &events);
        let file = encode_image(&image);
        assert_eq!(decode_image(&file).ok(), Some(image));
    }
}

fn changed(bytes: &[u8], damage: &Damage) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for (position, bits) in damage {
        let position = usize::from(*position) % changed.len();
        changed[position] ^= bits;
    }
    changed
}

fn event((kind, which, number): Event) -> MetadataEvent {
    let topic = TopicId([which % 4; 16]);
    let broker = BrokerId(i32::from(which % 4));
    let partition = PartitionRecord {
        replicas: vec![broker, BrokerId(9)],
        in_sync: vec![broker],
        leader: (number % 2 == 0).then_some(broker),
        leader_epoch: LeaderEpoch(number as i32),
        partition_epoch: PartitionEpoch(number as i32),
    };
    let partitions = vec![partition.clone(); usize::from(which % 8)];
    let configs = [("retention.ms".to_owned(), number.to_string())].into();
    match kind % 10 {
        0 => MetadataEvent::ClusterIdSet(format!("cluster {number}")),
        1 => MetadataEvent::BrokerChanged(BrokerRecord {
            id: broker,
            epoch: BrokerEpoch(number.into()),
            incarnation: Incarnation([which; 16]),
            host: "127.0.0.1".into(),
            port: number as u16,
            rack: (number % 2 == 0).then(|| "rack".into()),
            version: number.to_string(),
            fenced: number % 3 == 0,
            shutting_down: false,
            levels: Levels::supported(),
        }),
        2 => MetadataEvent::BrokerRemoved(broker),
        3 => MetadataEvent::TopicCreated(TopicRecord {
            id: topic,
            name: format!("topic {}", which % 3),
            partitions,
            configs,
        }),
        4 => MetadataEvent::TopicDeleted(topic),
        5 => MetadataEvent::PartitionChanged {
            topic,
            partition: number,
            record: partition,
        },
        6 => MetadataEvent::PartitionsAdded {
            topic,
            first: number,
            records: partitions,
        },
        7 => MetadataEvent::TopicConfigsChanged { topic, configs },
        8 => MetadataEvent::BrokerConfigsChanged {
            broker: (number % 2 == 0).then_some(broker),
            configs,
        },
        _ => MetadataEvent::CoordinatorChanged {
            shard: number,
            record: CoordinatorRecord {
                owner: Some(broker),
                epoch: 1,
            },
        },
    }
}
