//! One of each kind, with something in every field.

use crate::command::{
    Commit, ExpiredGroup, Expiry, GroupClaim, GroupDeletion, MetaCommand, OffsetsCommand,
    RegisteredBroker,
};
use crate::meta::MetaState;
use crate::offsets::{OffsetsImage, OffsetsState};
use control_api::ids::{
    BrokerEpoch, BrokerId, Incarnation, LeaderEpoch, PartitionEpoch, Position, TopicId,
};
use control_api::image::{
    BrokerRecord, CoordinatorRecord, MetadataEvent, MetadataImage, PartitionRecord, TopicRecord,
};
use control_api::level::{Level, Levels};
use control_api::map::Map;
use control_api::message::{
    BrokerHeartbeat, BrokerRegistration, CommittedOffset, ConfigChange, ConfigOperation,
    ConfigResource, ControlError, GroupSummary, MetadataUpdate, NewPartitions, NewTopic,
    NodeStatus, OffsetCommit, OffsetSelection, QuorumChange, QuorumMember, QuorumStatus,
    RaftGroupStatus, Request, Response,
};
use std::collections::BTreeMap;

const TOPIC: TopicId = TopicId([7; 16]);
const BROKER: BrokerId = BrokerId(4);
const EPOCH: BrokerEpoch = BrokerEpoch(9);
const FIRST: Levels = Levels {
    min: Level(1),
    max: Level(1),
};

fn text(text: &str) -> String {
    text.to_owned()
}

fn configs() -> BTreeMap<String, String> {
    BTreeMap::from([(text("retention.ms"), text("1000"))])
}

fn registration() -> BrokerRegistration {
    BrokerRegistration {
        id: BROKER,
        incarnation: Incarnation([3; 16]),
        host: text("broker.example"),
        port: 9092,
        rack: Some(text("rack")),
        version: text("1.0.0"),
        cluster_id: text("mQxNyM-0RYK1AUOhzXb8dw"),
        levels: FIRST,
    }
}

fn new_topic() -> NewTopic {
    NewTopic {
        name: text("orders"),
        id: TOPIC,
        partitions: 3,
        replication_factor: 1,
        assignment: vec![vec![BROKER], vec![BrokerId(5)]],
        configs: configs(),
    }
}

fn new_partitions() -> NewPartitions {
    NewPartitions {
        topic: TOPIC,
        count: 4,
        assignment: vec![vec![BROKER]],
    }
}

fn config_changes() -> Vec<ConfigChange> {
    let operations = vec![
        ConfigOperation::Set(text("retention.ms"), text("5")),
        ConfigOperation::Delete(text("segment.ms")),
        ConfigOperation::Append(text("cleanup.policy"), text("delete")),
        ConfigOperation::Subtract(text("cleanup.policy"), text("compact")),
    ];
    let resources = [
        ConfigResource::Topic(TOPIC),
        ConfigResource::Broker(Some(BROKER)),
        ConfigResource::Broker(None),
    ];
    let change = |resource| ConfigChange {
        resource,
        operations: operations.clone(),
        replace_all: true,
    };
    resources.into_iter().map(change).collect()
}

pub(super) fn requests() -> Vec<Request> {
    let beat = BrokerHeartbeat {
        id: BROKER,
        epoch: EPOCH,
        metadata_index: 77,
        wants_shutdown: true,
        goodbye: false,
    };
    let commit = OffsetCommit {
        group: text("billing"),
        topic: TOPIC,
        partition: 2,
        offset: 42,
        leader_epoch: 6,
        metadata: text("of the consumer"),
        timestamp_ms: 1_700_000_000_000,
        coordinator_epoch: 8,
        generation: 5,
        retention_ms: -1,
    };
    vec![
        Request::RegisterBroker(registration()),
        Request::Heartbeat(beat),
        Request::WatchMetadata {
            from: Position { term: 3, index: 12 },
        },
        Request::CreateTopics {
            topics: vec![new_topic()],
            validate_only: true,
        },
        Request::DeleteTopics {
            topics: vec![TOPIC],
        },
        Request::CreatePartitions {
            topics: vec![new_partitions()],
            validate_only: true,
        },
        Request::AlterConfigs {
            changes: config_changes(),
            validate_only: true,
        },
        Request::AllocateProducerIds {
            broker: BROKER,
            epoch: EPOCH,
        },
        Request::CommitOffsets {
            commits: vec![commit],
        },
        Request::FetchOffsets {
            group: text("billing"),
            which: OffsetSelection::Partitions(vec![(TOPIC, 2)]),
        },
        Request::DeleteOffsets {
            group: text("billing"),
            coordinator_epoch: 8,
            partitions: vec![(TOPIC, 2)],
        },
        Request::Status,
        Request::MetadataIndex,
        Request::Barrier { group: 1 },
        Request::DeleteGroups {
            groups: vec![(text("billing"), 8)],
        },
        Request::ListGroups {
            after: Some(text("billing")),
        },
        Request::FindGroups {
            groups: vec![text("billing")],
        },
        Request::DescribeQuorum {
            group: 1,
            by_leader: true,
        },
        Request::ChangeQuorum {
            group: 1,
            change: QuorumChange::Add {
                node: 4,
                disk: Some(0xabc),
                address: text("four:9093"),
            },
        },
        Request::RaiseFeatureLevel {
            level: Level(1),
            validate_only: true,
        },
        Request::UnregisterBroker { broker: BROKER },
    ]
}

fn every_error() -> Vec<ControlError> {
    let why = || text("why");
    vec![
        ControlError::NotLeader {
            leader: Some(text("b:2")),
        },
        ControlError::Unavailable,
        ControlError::TopicExists,
        ControlError::UnknownTopic,
        ControlError::InvalidTopic(why()),
        ControlError::InvalidPartitions(why()),
        ControlError::InvalidReplicationFactor(why()),
        ControlError::InvalidAssignment(why()),
        ControlError::InvalidConfig(why()),
        ControlError::InvalidRequest(why()),
        ControlError::DuplicateBroker,
        ControlError::StaleBrokerEpoch,
        ControlError::UnknownBroker,
        ControlError::WrongCluster(why()),
        ControlError::FencedCommit,
        ControlError::UnsupportedVersion,
        ControlError::UnknownGroup,
        ControlError::LimitReached(why()),
        ControlError::UnsupportedLevel(why()),
    ]
}

pub(super) fn responses() -> Vec<Response> {
    let offset = CommittedOffset {
        topic: TOPIC,
        partition: 2,
        offset: 42,
        leader_epoch: 6,
        metadata: text("of the consumer"),
        timestamp_ms: 1_700_000_000_000,
    };
    let group = RaftGroupStatus {
        name: text("meta"),
        role: text("leader"),
        leader: Some(1),
        term: 3,
        last_log_index: 20,
        applied_index: 19,
        follower_lag: vec![(2, 1)],
        has_majority: true,
        voters: vec![(1, text("a:1"))],
        snapshot_index: 10,
        snapshot_age_ms: Some(5_000),
        digests: vec![(19, 0xdead_beef)],
    };
    let status = NodeStatus {
        node: 1,
        version: text("1.0.0"),
        groups: vec![group],
        image: image(),
        feature_level: Level(1),
        levels: FIRST,
        last_beats_ms: vec![(BROKER, 120)],
        offset_groups: 1,
        committed_offsets: 2,
    };
    let done = every_error().into_iter().map(Err).chain([Ok(())]);
    vec![
        Response::Error(ControlError::TopicExists),
        Response::Registered {
            epoch: EPOCH,
            cluster_id: text("mQxNyM-0RYK1AUOhzXb8dw"),
        },
        Response::Heartbeat {
            fenced: true,
            may_shut_down: false,
            metadata_index: 77,
            lease_ms: 500,
        },
        Response::Topics(vec![Ok(topic()), Err(ControlError::TopicExists)]),
        Response::Done(done.collect()),
        Response::ProducerIds {
            first: 1_000,
            count: 1_000,
        },
        Response::Offsets(vec![offset]),
        Response::Status(Box::new(status)),
        Response::MetadataIndex(77),
        Response::Groups(vec![GroupSummary {
            name: text("billing"),
            offsets: 2,
        }]),
        Response::Quorum(QuorumStatus {
            leader: Some(1),
            term: 3,
            changed_at: (3, 40),
            committed_index: 77,
            last_index: 78,
            members: vec![QuorumMember {
                node: 4,
                disk: 0xabc,
                address: text("four:9093"),
                votes: true,
                last_index: Some(77),
                silent_ms: Some(12),
            }],
        }),
        Response::Pending(text("it is behind")),
    ]
}

fn broker() -> BrokerRecord {
    BrokerRecord {
        id: BROKER,
        epoch: EPOCH,
        incarnation: Incarnation([3; 16]),
        host: text("broker.example"),
        port: 9092,
        rack: Some(text("rack")),
        version: text("1.0.0"),
        fenced: true,
        shutting_down: false,
        levels: FIRST,
    }
}

fn partition() -> PartitionRecord {
    PartitionRecord {
        replicas: vec![BROKER, BrokerId(5)],
        in_sync: vec![BROKER],
        leader: Some(BROKER),
        leader_epoch: LeaderEpoch(6),
        partition_epoch: PartitionEpoch(7),
    }
}

fn topic() -> TopicRecord {
    TopicRecord {
        id: TOPIC,
        name: text("orders"),
        partitions: vec![partition()],
        configs: configs(),
    }
}

fn coordinator() -> CoordinatorRecord {
    CoordinatorRecord {
        owner: Some(BROKER),
        epoch: 8,
    }
}

pub(super) fn events() -> Vec<MetadataEvent> {
    vec![
        MetadataEvent::ClusterIdSet(text("mQxNyM-0RYK1AUOhzXb8dw")),
        MetadataEvent::BrokerChanged(broker()),
        MetadataEvent::BrokerRemoved(BROKER),
        MetadataEvent::TopicCreated(topic()),
        MetadataEvent::TopicDeleted(TOPIC),
        MetadataEvent::PartitionChanged {
            topic: TOPIC,
            partition: 0,
            record: partition(),
        },
        MetadataEvent::PartitionsAdded {
            topic: TOPIC,
            first: 1,
            records: vec![partition()],
        },
        MetadataEvent::TopicConfigsChanged {
            topic: TOPIC,
            configs: configs(),
        },
        MetadataEvent::BrokerConfigsChanged {
            broker: None,
            configs: configs(),
        },
        MetadataEvent::CoordinatorChanged {
            shard: 3,
            record: coordinator(),
        },
        MetadataEvent::NextProducerId(2_000),
        MetadataEvent::FeatureLevelSet(Level(1)),
    ]
}

pub(super) fn image() -> MetadataImage {
    MetadataImage {
        index: 77,
        term: 3,
        cluster_id: text("mQxNyM-0RYK1AUOhzXb8dw"),
        brokers: BTreeMap::from([(BROKER, broker())]),
        topics: Map::from_iter([(TOPIC, topic())]),
        topic_ids: Map::from_iter([(text("orders"), TOPIC)]),
        broker_configs: BTreeMap::from([(Some(BROKER), configs()), (None, configs())]),
        coordinators: vec![coordinator()],
        next_producer_id: 2_000,
        feature_level: Level(1),
    }
}

pub(super) fn updates() -> Vec<MetadataUpdate> {
    vec![
        MetadataUpdate::Snapshot(image()),
        MetadataUpdate::Delta {
            at: Position { term: 3, index: 78 },
            events: events(),
        },
        MetadataUpdate::Replacement(image()),
        MetadataUpdate::KeepAlive {
            at: Position { term: 3, index: 79 },
            digest: image().digest(),
        },
    ]
}

pub(super) fn meta_commands() -> Vec<MetaCommand> {
    let registered = RegisteredBroker {
        id: BROKER,
        epoch: EPOCH,
    };
    vec![
        MetaCommand::Bootstrap {
            cluster_id: text("mQxNyM-0RYK1AUOhzXb8dw"),
            feature_level: Level(1),
        },
        MetaCommand::RegisterBroker(registration()),
        MetaCommand::FenceBroker(registered),
        MetaCommand::UnfenceBroker(registered),
        MetaCommand::ShutDownBroker(registered),
        MetaCommand::CreateTopics(vec![new_topic()]),
        MetaCommand::DeleteTopics(vec![TOPIC]),
        MetaCommand::CreatePartitions(vec![new_partitions()]),
        MetaCommand::AlterConfigs {
            changes: config_changes(),
            list_defaults: BTreeMap::from([(text("cleanup.policy"), text("delete"))]),
        },
        MetaCommand::AllocateProducerIds(registered),
        MetaCommand::RaiseFeatureLevel(Level(1)),
        MetaCommand::UnregisterBroker(registered),
    ]
}

fn commits() -> OffsetsCommand {
    OffsetsCommand::Commit {
        groups: vec![GroupClaim {
            group: text("billing"),
            coordinator_epoch: 8,
            generation: 5,
        }],
        commits: vec![Commit {
            claim: 0,
            topic: TOPIC,
            partition: 2,
            offset: 42,
            leader_epoch: 6,
            metadata: text("of the consumer"),
            timestamp_ms: 1_700_000_000_000,
            retention_ms: 60_000,
        }],
    }
}

pub(super) fn offsets_commands() -> Vec<OffsetsCommand> {
    vec![
        commits(),
        OffsetsCommand::DeleteOffsets {
            group: text("billing"),
            coordinator_epoch: 8,
            partitions: vec![(TOPIC, 2)],
        },
        OffsetsCommand::ForgetTopics(vec![TOPIC]),
        OffsetsCommand::DeleteGroups(vec![GroupDeletion {
            group: text("billing"),
            coordinator_epoch: 8,
        }]),
        OffsetsCommand::ExpireOffsets {
            expiry: Expiry {
                now_ms: 1_700_000_000_000,
                retention_ms: 1_000,
            },
            groups: vec![ExpiredGroup {
                group: text("billing"),
                partitions: vec![(TOPIC, 2)],
            }],
        },
        OffsetsCommand::RaiseFeatureLevel(Level(1)),
    ]
}

pub(super) fn meta_state() -> MetaState {
    MetaState::of(image())
}

pub(super) fn offsets_image() -> OffsetsImage {
    let mut state = OffsetsState::default();
    state.apply(&commits());
    state.to_image()
}

/// Each with its file.
pub(super) fn quorum_changes() -> Vec<(String, QuorumChange)> {
    let changes = [
        (
            "Add",
            QuorumChange::Add {
                node: 4,
                disk: None,
                address: text("four:9093"),
            },
        ),
        (
            "Remove",
            QuorumChange::Remove {
                node: 4,
                disk: Some(0xabc),
            },
        ),
        (
            "Move",
            QuorumChange::Move {
                node: 4,
                disk: 0xabc,
                address: text("four:9094"),
            },
        ),
        ("Transfer", QuorumChange::Transfer { node: 4 }),
    ];
    let file = |name: &str| format!("request-ChangeQuorum-{name}.1");
    changes.map(|(name, change)| (file(name), change)).into()
}
