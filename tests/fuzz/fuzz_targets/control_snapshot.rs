//! A snapshot file of either Raft group: it is refused, or the state machine starts from it and goes on with the log.
//!
//! The file's checksum is right, as it would be if a faulty program had written it. Few inputs are such a file, so another is
//! the file of a state that commands made, in which some bytes were changed.
#![no_main]

use std::fmt::Debug;

use control_api::codec;
use control_api::ids::{BrokerEpoch, BrokerId, Incarnation, Position, TopicId};
use control_api::level::{Level, Levels};
use control_api::message::{
    BrokerRegistration, ConfigChange, ConfigOperation, ConfigResource, NewPartitions, NewTopic,
};
use controlplane::command::{
    Commit, ExpiredGroup, Expiry, GroupClaim, GroupDeletion, MetaCommand, OffsetsCommand,
    RegisteredBroker,
};
use controlplane::meta::MetaState;
use controlplane::offsets::OffsetsState;
use controlplane::raft::{
    Machine, Membership, SnapshotMeta, StoredMembership, encode_snapshot, read_snapshot,
};
use libfuzzer_sys::fuzz_target;

/// How many of the commands come to the state, which bits are changed where in its file, and the commands that it goes on with.
type Course = (u8, Vec<(u16, u8)>, Vec<u8>);

fuzz_target!(|input: (&[u8], Course)| {
    let (file, course) = input;
    let _ = read_snapshot(file);
    start_both_ways::<MetaState>(file, &course, &meta_commands());
    start_both_ways::<OffsetsState>(file, &course, &offsets_commands());
});

fn start_both_ways<M>(file: &[u8], course: &Course, commands: &[Vec<u8>])
where
    M: Machine + PartialEq + Debug,
{
    let (before, damage, after) = course;
    let chosen = after
        .iter()
        .map(|number| &*commands[usize::from(*number) % commands.len()]);
    let after: Vec<&[u8]> = chosen.take(64).collect();
    start::<M>(file, &after);
    start_from_file::<M>(file, &after);

    let mut machine = M::default();
    let before = commands.iter().take(usize::from(*before));
    apply(&mut machine, 1, before.map(|command| &**command));
    let made = encode_snapshot(Level::FIRST, &meta(), &machine.to_bytes());
    let mut body = made[HEADER_BYTES..].to_vec();
    assert_eq!(sealed(&body), made);
    let length = body.len();
    for (position, bits) in damage {
        body[usize::from(*position) % length] ^= bits;
    }
    start_from_file::<M>(&body, &after);
}

fn start_from_file<M: Machine + PartialEq + Debug>(body: &[u8], commands: &[&[u8]]) {
    if let Ok((meta, state)) = read_snapshot(&*sealed(body)) {
        let again = read_snapshot(&*encode_snapshot(Level::FIRST, &meta, &state));
        assert_eq!(
            again.expect("what we write we can read"),
            (meta, state.clone())
        );
        start::<M>(&state, commands);
    }
}

/// Whatever starts must be written and read again as it is, and do the same as its copy from then on.
fn start<M: Machine + PartialEq + Debug>(state: &[u8], commands: &[&[u8]]) {
    let Ok(mut machine) = M::from_bytes(state) else {
        return;
    };
    let mut copy = M::from_bytes(&machine.to_bytes()).expect("what we write we can read");
    assert_eq!(machine, copy);
    apply(&mut machine, 1_000, commands.iter().copied());
    apply(&mut copy, 1_000, commands.iter().copied());
    assert_eq!(machine, copy);
}

fn apply<'a, M: Machine>(machine: &mut M, first: u64, commands: impl Iterator<Item = &'a [u8]>) {
    for (index, command) in (first..).zip(commands) {
        let applied = machine.apply_entry(Position { term: 1, index }, command);
        applied.expect("a command of ours can be read");
    }
}

fn meta() -> SnapshotMeta {
    let membership = Membership::new_with_defaults(vec![[1, 2, 3].into()], []);
    SnapshotMeta {
        last_log_id: None,
        last_membership: StoredMembership::new(None, membership),
    }
}

const HEADER_BYTES: usize = 20;

fn sealed(body: &[u8]) -> Vec<u8> {
    let mut file = b"MILLSNAP".to_vec();
    file.extend(crc32c::crc32c(body).to_le_bytes());
    file.extend((body.len() as u64).to_le_bytes());
    file.extend(body);
    file
}

const TOPIC: TopicId = TopicId([7; 16]);
const OTHER: TopicId = TopicId([8; 16]);

fn meta_commands() -> Vec<Vec<u8>> {
    let register = |id, process| {
        MetaCommand::RegisterBroker(BrokerRegistration {
            id: BrokerId(id),
            incarnation: Incarnation([process; 16]),
            host: "127.0.0.1".into(),
            port: 9092,
            rack: Some("rack".into()),
            version: "1.0.0".into(),
            cluster_id: String::new(),
            levels: Levels::supported(),
        })
    };
    // A broker's epoch is the index of the command that registered it.
    let broker = |id, index| RegisteredBroker {
        id: BrokerId(id),
        epoch: BrokerEpoch(index),
    };
    let topic = |id, name: &str, assignment: Vec<Vec<BrokerId>>| NewTopic {
        name: name.into(),
        id,
        partitions: 1,
        replication_factor: 1,
        assignment,
        configs: [("retention.ms".to_owned(), "1000".to_owned())].into(),
    };
    let set = |resource, name: &str, value: &str| MetaCommand::AlterConfigs {
        changes: vec![ConfigChange {
            resource,
            operations: vec![ConfigOperation::Set(name.into(), value.into())],
            replace_all: false,
        }],
        list_defaults: Default::default(),
    };
    let commands = [
        MetaCommand::Bootstrap {
            cluster_id: "mQxNyM-0RYK1AUOhzXb8dw".into(),
            feature_level: Level::FIRST,
        },
        register(1, 1),
        register(2, 1),
        MetaCommand::UnfenceBroker(broker(1, 2)),
        MetaCommand::UnfenceBroker(broker(2, 3)),
        set(ConfigResource::Broker(None), "num.partitions", "3"),
        MetaCommand::CreateTopics(vec![
            topic(TOPIC, "orders", vec![]),
            topic(OTHER, "payments", vec![vec![BrokerId(2)]]),
        ]),
        set(
            ConfigResource::Topic(TOPIC),
            "unclean.leader.election.enable",
            "true",
        ),
        MetaCommand::CreatePartitions(vec![NewPartitions {
            topic: OTHER,
            count: 3,
            assignment: vec![],
        }]),
        MetaCommand::AllocateProducerIds(broker(1, 2)),
        MetaCommand::ShutDownBroker(broker(1, 2)),
        MetaCommand::FenceBroker(broker(1, 2)),
        MetaCommand::FenceBroker(broker(2, 3)),
        register(1, 2),
        MetaCommand::DeleteTopics(vec![OTHER]),
    ];
    commands.iter().map(codec::encode).collect()
}

fn offsets_commands() -> Vec<Vec<u8>> {
    let commit = |group: &str, topic, coordinator_epoch| OffsetsCommand::Commit {
        groups: vec![GroupClaim {
            group: group.into(),
            coordinator_epoch,
            generation: 1,
        }],
        commits: vec![Commit {
            claim: 0,
            topic,
            partition: 1,
            offset: 42,
            leader_epoch: -1,
            metadata: "of the consumer".into(),
            timestamp_ms: 1_700_000_000_000,
            retention_ms: -1,
        }],
    };
    let expiry = Expiry {
        now_ms: 1_700_000_000_000,
        retention_ms: 1_000,
    };
    let commands = [
        commit("billing", TOPIC, 1),
        commit("billing", OTHER, 1),
        commit("audit", TOPIC, 1),
        commit("billing", TOPIC, 2),
        OffsetsCommand::DeleteOffsets {
            group: "billing".into(),
            coordinator_epoch: 2,
            partitions: vec![(TOPIC, 1)],
        },
        OffsetsCommand::ForgetTopics(vec![TOPIC]),
        OffsetsCommand::DeleteGroups(vec![GroupDeletion {
            group: "billing".into(),
            coordinator_epoch: 2,
        }]),
        OffsetsCommand::ExpireOffsets {
            expiry,
            groups: vec![ExpiredGroup {
                group: "audit".into(),
                partitions: vec![(TOPIC, 1)],
            }],
        },
    ];
    commands.iter().map(codec::encode).collect()
}
