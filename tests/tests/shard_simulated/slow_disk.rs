//! Producers that want no answer, in front of a disk that cannot keep up: how much the broker takes from them is bounded, on the shard
//! that writes it as well as on the one that only passes it on.

use std::cell::Cell;
use std::rc::Rc;

use dataplane::io::Io;
use dataplane::limits::{
    FRAME_BYTES_HELD_MAX, LARGE_FRAME_BYTES_MAX, MOVED_FRAME_BYTES_MAX, PINNED_BYTES_MAX,
    RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, TAIL_BUFFER_BYTES,
};
use millrace_tests::sim::SimIo;
use wire::messages::AnyRequest;
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::{Array, BatchBuilder, Records, RequestHeader, Writer};

use super::broker::TAIL_BUFFERS;
use super::client::{Client, PRODUCE_VERSION};
use super::{TOPIC, World};

const SHARDS: usize = 2;
/// So that nothing is written while the producers send.
const SLOWNESS: u64 = 300_000;
/// Half of them are on the shard that passes on what it is sent.
const PRODUCERS: usize = 8;
const SOCKET_BYTES_MAX: usize = 2 * 128 * 1024;

/// What may be on its way beside the memory of frames: in tails, receive buffers, between the hosts, and a frame of each connection.
const ELSEWHERE_BYTES_MAX: usize = TAIL_BUFFERS * TAIL_BUFFER_BYTES
    + SHARDS * RECEIVE_BUFFERS * RECEIVE_BUFFER_BYTES
    + PRODUCERS * (SOCKET_BYTES_MAX + FRAME_BYTES_HELD_MAX);

/// A Produce request of one record, with its length.
pub(super) fn frame(io: &SimIo, partition: i32, value: &[u8], acks: i16) -> Vec<u8> {
    let now = io.wall_clock_ms();
    let mut builder = BatchBuilder::new(now);
    builder.record(now, None, Some(value), &[]);
    let batch = builder.build();
    let partitions = [PartitionProduceData {
        index: partition,
        records: Some(Records::from_slice(&batch)),
    }];
    let topics = [TopicProduceData {
        name: TOPIC,
        partition_data: Array::from(&partitions),
        ..Default::default()
    }];
    let request = AnyRequest::Produce(ProduceRequest {
        acks,
        timeout_ms: 10_000,
        topic_data: Array::from(&topics),
        ..Default::default()
    });
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    let start = writer.start_frame();
    let header = RequestHeader {
        api_key: request.api() as i16,
        api_version: PRODUCE_VERSION,
        correlation_id: 1,
        client_id: Some("simulated"),
    };
    header.encode(&mut writer).unwrap();
    request.encode(&mut writer, PRODUCE_VERSION).unwrap();
    writer.end_frame(start).unwrap();
    bytes
}

/// Each producer sends so many records of `value_bytes` to one partition, while the disk does nothing. Checks that about `bytes_max` is
/// taken of them until it does, and that all of that is stored then.
fn flood(value_bytes: usize, records: usize, bytes_max: usize) {
    let passed_on = PRODUCERS / 2 * records * value_bytes;
    assert!(passed_on > bytes_max + ELSEWHERE_BYTES_MAX);
    let world = World::new(1, SHARDS);
    let clients = world.simulation.boot("clients");
    let _broker = world.boot();
    world.run(&clients, async {
        let mut honest = Client::new(clients.clone());
        honest.produce(TOPIC, 0, b"before").await;
        // Connections take turns over the shards.
        let mut producers = Vec::new();
        for _ in 0..PRODUCERS {
            let mut producer = Client::new(clients.clone());
            producer.produce(TOPIC, 1, b"before").await;
            producers.push(producer);
        }
        let frame = Rc::new(frame(&clients, 0, &vec![b'v'; value_bytes], 0));
        let (sent, sending) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(producers.len())));
        let enough = Rc::new(Cell::new(false));
        world.simulation.slow_disk("broker", SLOWNESS);
        for mut producer in producers {
            let (frame, sent, sending) = (frame.clone(), sent.clone(), sending.clone());
            let enough = enough.clone();
            clients.spawn(async move {
                let socket = producer.connected().await.unwrap();
                for _ in 0..records {
                    if enough.get() {
                        break;
                    }
                    let bytes = frame.to_vec();
                    producer.send_bytes(&socket, bytes).await.unwrap();
                    sent.set(sent.get() + frame.len());
                }
                sending.set(sending.get() - 1);
                // An open connection, or what it has sent last might be lost.
                std::future::pending::<()>().await;
            });
        }
        let mut before = usize::MAX;
        while sent.get() != before {
            before = sent.get();
            clients.sleep_until(clients.now().after_ms(1000)).await;
        }
        let all = bytes_max / 2..bytes_max + ELSEWHERE_BYTES_MAX;
        assert!(all.contains(&before), "{before} bytes were taken");
        assert!(sending.get() > 0, "the rest has to wait");
        enough.set(true);
        world.simulation.slow_disk("broker", 1);
        while sending.get() > 0 {
            clients.sleep_until(clients.now().after_ms(1000)).await;
        }
        clients.sleep_until(clients.now().after_ms(5000)).await;
        let offset = honest.produce(TOPIC, 0, b"after").await;
        assert_eq!(offset as usize, 1 + sent.get() / frame.len());
    });
}

#[test]
fn large_batches_on_their_way_to_another_shard_take_bounded_memory() {
    flood(1_000_000, 75, LARGE_FRAME_BYTES_MAX);
}

/// Once there is no room for more of them their producers are left unread. They were closed.
#[test]
fn small_batches_on_their_way_to_another_shard_take_bounded_memory() {
    flood(4000, 7500, MOVED_FRAME_BYTES_MAX);
}

#[test]
fn batches_in_receive_buffers_on_their_way_to_another_shard_take_bounded_memory() {
    flood(100_000, 260, MOVED_FRAME_BYTES_MAX + PINNED_BYTES_MAX);
}

/// All that other shards had sent waited in one line, whatever partition it was for, behind a flood that the disk could not keep up with.
#[test]
fn batches_that_wait_for_memory_keep_no_other_partition_waiting() {
    const FRAME_BYTES: usize = 60_000;
    const FRAMES: usize = 6 * TAIL_BUFFERS * TAIL_BUFFER_BYTES / FRAME_BYTES;
    let world = World::new(1, SHARDS);
    let clients = world.simulation.boot("clients");
    let _broker = world.boot();
    // Partitions take turns over the shards too.
    let (flooded, other) = (0, SHARDS as i32);
    world.run(&clients, async {
        // Connections take turns over the shards, so one of two hops.
        let mut producers = [(); 4].map(|()| Client::new(clients.clone()));
        for producer in &mut producers {
            producer.produce(TOPIC, other, b"before").await;
        }
        let [first, second, mut third, mut fourth] = producers;
        world.simulation.slow_disk("broker", 300);
        let frame = frame(&clients, flooded, &[b'v'; FRAME_BYTES], 0);
        for mut producer in [first, second] {
            let frame = frame.clone();
            clients.spawn(async move {
                let socket = producer.connected().await.unwrap();
                for _ in 0..FRAMES {
                    producer.send_bytes(&socket, frame.clone()).await.unwrap();
                }
                std::future::pending::<()>().await;
            });
        }
        clients.sleep_until(clients.now().after_ms(300)).await;
        // They took 6.6 s of the world's time in one line, and 1.8 s beside each other.
        let asked = clients.now();
        for producer in [&mut third, &mut fourth] {
            producer.produce(TOPIC, other, b"beside").await;
        }
        assert!(clients.now() < asked.after_ms(3_000));
        world.simulation.slow_disk("broker", 1);
        while third.try_fetch(TOPIC, flooded, 0).await.unwrap().1 < 2 * FRAMES as i64 {
            clients.sleep_until(clients.now().after_ms(100)).await;
        }
    });
}
