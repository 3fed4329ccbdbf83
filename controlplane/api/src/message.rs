//! Requests that brokers and operators send to a controller, and the answers.
//!
//! One request frame gets one answer frame, in order, except `WatchMetadata`, after which the connection carries
//! `MetadataUpdate` frames until it closes.

use crate::codec::{self, CodecError, Format, Kind, Tag};
use crate::frame::{META_GROUP, OFFSETS_GROUP};
use crate::ids::{BrokerEpoch, BrokerId, Incarnation, Position, TopicId};
use crate::image::{MetadataEvent, MetadataImage, TopicRecord};
use crate::level::{Level, Levels};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a broker sends a heartbeat: several fit into a session, so that one lost heartbeat does not end it.
pub const BROKER_HEARTBEAT: Duration = Duration::from_millis(150);

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Answered by `Response::Registered`.
    RegisterBroker(BrokerRegistration),
    /// Soft state on the `meta` leader. Answered by `Response::Heartbeat`.
    Heartbeat(BrokerHeartbeat),
    /// Starts the metadata stream: everything after `from`, or a snapshot first where that is gone, or where this log never had it.
    /// Index 0 asks for a snapshot.
    WatchMetadata { from: Position },
    /// Answered by `Response::Topics`, one result per topic in order.
    CreateTopics {
        topics: Vec<NewTopic>,
        validate_only: bool,
    },
    /// Answered by `Response::Topics`: the records that were deleted.
    DeleteTopics { topics: Vec<TopicId> },
    /// Answered by `Response::Topics`.
    CreatePartitions {
        topics: Vec<NewPartitions>,
        validate_only: bool,
    },
    /// Answered by `Response::Done`, one result per change in order. A change is applied whole or not at all.
    AlterConfigs {
        changes: Vec<ConfigChange>,
        validate_only: bool,
    },
    /// Answered by `Response::ProducerIds`.
    AllocateProducerIds {
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    /// Group `offsets`. Answered by `Response::Done`, one result per commit in order, after Raft has committed it.
    CommitOffsets { commits: Vec<OffsetCommit> },
    /// Group `offsets`, linearizable. Answered by `Response::Offsets`.
    FetchOffsets {
        group: String,
        which: OffsetSelection,
    },
    /// Removes committed offsets of a group. Answered by `Response::Done` with one result.
    DeleteOffsets {
        group: String,
        coordinator_epoch: i32,
        partitions: Vec<(TopicId, u32)>,
    },
    /// Any node answers. `Response::Status`.
    Status,
    /// Answered by `Response::MetadataIndex`: an image at that index or later has everything acknowledged so far.
    MetadataIndex,
    /// Answered by `Response::Done` once a majority of the group has confirmed its leader.
    Barrier { group: u8 },
    /// Removes groups (by name, with the epoch of their coordinator) and all their offsets. Answered by `Response::Done`, one
    /// result per group in order.
    DeleteGroups { groups: Vec<(String, i32)> },
    /// Group `offsets`, linearizable: which groups there are, some at a time in name order. Answered by `Response::Groups`;
    /// the next question names the last group of the answer, until an answer is empty.
    ListGroups { after: Option<String> },
    /// Group `offsets`, linearizable. Answered by `Response::Done`, one result per group in order.
    FindGroups { groups: Vec<String> },
    /// Who is in a Raft group, as far as the node knows that answers: any, or only the leader. `Response::Quorum`.
    DescribeQuorum { group: u8, by_leader: bool },
    /// Changes who is in a Raft group. Answered by `Response::Done` with one result, or by `Response::Pending` while there is
    /// something left to do: then the request is to be repeated.
    ChangeQuorum { group: u8, change: QuorumChange },
    /// Answered by `Response::Done` with one result: refused unless every controller and broker supports the level.
    RaiseFeatureLevel { level: Level, validate_only: bool },
    /// Forgets a broker that is gone for good. Answered by `Response::Done` with one result: refused while it lives.
    UnregisterBroker { broker: BrokerId },
}

crate::formats! {
    enum Request {
        16 RegisterBroker(BrokerRegistration),
        17 Heartbeat(BrokerHeartbeat),
        18 WatchMetadata { from: Position },
        19 CreateTopics { topics: Vec<NewTopic>, validate_only: bool },
        20 DeleteTopics { topics: Vec<TopicId> },
        21 CreatePartitions { topics: Vec<NewPartitions>, validate_only: bool },
        22 AlterConfigs { changes: Vec<ConfigChange>, validate_only: bool },
        23 AllocateProducerIds { broker: BrokerId, epoch: BrokerEpoch },
        24 CommitOffsets { commits: Vec<OffsetCommit> },
        25 FetchOffsets { group: String, which: OffsetSelection },
        26 DeleteOffsets { group: String, coordinator_epoch: i32, partitions: Vec<(TopicId, u32)> },
        27 Status,
        28 MetadataIndex,
        29 Barrier { group: u8 },
        30 DeleteGroups { groups: Vec<(String, i32)> },
        31 ListGroups { after: Option<String> },
        32 FindGroups { groups: Vec<String> },
        33 DescribeQuorum { group: u8, by_leader: bool },
        34 ChangeQuorum { group: u8, change: QuorumChange },
        35 RaiseFeatureLevel { level: Level, validate_only: bool },
        36 UnregisterBroker { broker: BrokerId },
    }
}

impl Request {
    /// The Raft group whose leader answers. Any node answers `WatchMetadata` and `Status`.
    pub fn group(&self) -> u8 {
        match self {
            Request::CommitOffsets { .. }
            | Request::FetchOffsets { .. }
            | Request::DeleteOffsets { .. }
            | Request::DeleteGroups { .. }
            | Request::ListGroups { .. }
            | Request::FindGroups { .. } => OFFSETS_GROUP,
            Request::Barrier { group }
            | Request::DescribeQuorum { group, .. }
            | Request::ChangeQuorum { group, .. } => *group,
            Request::RegisterBroker(_)
            | Request::Heartbeat(_)
            | Request::WatchMetadata { .. }
            | Request::CreateTopics { .. }
            | Request::DeleteTopics { .. }
            | Request::CreatePartitions { .. }
            | Request::AlterConfigs { .. }
            | Request::AllocateProducerIds { .. }
            | Request::Status
            | Request::MetadataIndex
            | Request::RaiseFeatureLevel { .. }
            | Request::UnregisterBroker { .. } => META_GROUP,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Error(ControlError),
    Registered {
        epoch: BrokerEpoch,
        cluster_id: String,
    },
    Heartbeat {
        fenced: bool,
        may_shut_down: bool,
        /// How far the metadata of the leader that answers has come.
        metadata_index: u64,
        /// How long a broker that has not run since may take itself for registered: half of its session.
        lease_ms: u32,
    },
    Topics(Vec<Result<TopicRecord, ControlError>>),
    Done(Vec<Result<(), ControlError>>),
    ProducerIds {
        first: i64,
        count: i32,
    },
    Offsets(Vec<CommittedOffset>),
    Status(Box<NodeStatus>),
    MetadataIndex(u64),
    Groups(Vec<GroupSummary>),
    Quorum(QuorumStatus),
    /// What there is to wait for.
    Pending(String),
}

/// One member of a Raft group: a disk of a node, and where the node is.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct QuorumMember {
    pub node: u64,
    pub disk: u64,
    /// HOST:PORT.
    pub address: String,
    pub votes: bool,
    /// On the leader: the last entry of the log that the member is known to have.
    pub last_index: Option<u64>,
    /// On the leader: how long ago it was heard.
    pub silent_ms: Option<u64>,
}

/// Who is in a Raft group.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct QuorumStatus {
    /// The node that leads, as far as the one that answers knows.
    pub leader: Option<u64>,
    pub term: u64,
    /// Where in the log the members were last changed: term and index. Of two answers the higher is the newer.
    pub changed_at: (u64, u64),
    pub committed_index: u64,
    pub last_index: u64,
    pub members: Vec<QuorumMember>,
}

/// The Raft groups, in the order in which their members are changed: a node is not gone before `meta` says so.
pub const QUORUM_GROUPS: [u8; 2] = [OFFSETS_GROUP, META_GROUP];

/// Every one may be repeated.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum QuorumChange {
    /// Has the node at the address vote, once it has caught up. A node that votes already and is found at another address than
    /// before is spoken to there; where its disk is another one, that takes the place of the one that is gone.
    Add {
        node: u64,
        /// `None`: whichever is found there.
        disk: Option<u64>,
        address: String,
    },
    /// Takes the node out, or only one disk of it.
    Remove { node: u64, disk: Option<u64> },
    /// A member says where it is now.
    Move {
        node: u64,
        disk: u64,
        address: String,
    },
    /// Has the node lead.
    Transfer { node: u64 },
}

crate::formats! {
    enum Response {
        48 Error(ControlError),
        49 Registered { epoch: BrokerEpoch, cluster_id: String },
        50 Heartbeat { fenced: bool, may_shut_down: bool, metadata_index: u64, lease_ms: u32 },
        51 Topics(Vec<Result<TopicRecord, ControlError>>),
        52 Done(Vec<Result<(), ControlError>>),
        53 ProducerIds { first: i64, count: i32 },
        54 Offsets(Vec<CommittedOffset>),
        55 Status(Box<NodeStatus>),
        56 MetadataIndex(u64),
        57 Groups(Vec<GroupSummary>),
        58 Quorum(QuorumStatus),
        59 Pending(String),
    }
}

/// What follows a `WatchMetadata`.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataUpdate {
    Snapshot(MetadataImage),
    /// The events of one committed entry.
    Delta {
        at: Position,
        events: Vec<MetadataEvent>,
    },
    /// A snapshot in place of an image that is none of this log, even if that came further.
    Replacement(MetadataImage),
    /// Everything up to this place was sent, and comes to an image of this digest. Sent several times a second, whether there
    /// were changes or not.
    KeepAlive {
        at: Position,
        digest: u64,
    },
}

const SNAPSHOT: Kind = Kind {
    kind: 80,
    name: "Snapshot",
    newest: 1,
};
const DELTA: Kind = Kind {
    kind: 81,
    name: "Delta",
    newest: 1,
};
const REPLACEMENT: Kind = Kind {
    kind: 82,
    name: "Replacement",
    newest: 1,
};
const KEEP_ALIVE: Kind = Kind {
    kind: 83,
    name: "KeepAlive",
    newest: 1,
};

/// The image, and each event, keeps its own kind and version inside, so that a new event moves no other.
impl Format for MetadataUpdate {
    const KINDS: &'static [Kind] = &[SNAPSHOT, DELTA, REPLACEMENT, KEEP_ALIVE];

    fn write(&self, level: Level, mut bytes: Vec<u8>) -> Vec<u8> {
        match self {
            MetadataUpdate::Snapshot(image) => {
                bytes.extend([SNAPSHOT.kind, SNAPSHOT.newest]);
                image.write(level, bytes)
            }
            MetadataUpdate::Replacement(image) => {
                bytes.extend([REPLACEMENT.kind, REPLACEMENT.newest]);
                image.write(level, bytes)
            }
            MetadataUpdate::Delta { at, events } => {
                let events = events.iter().map(|event| codec::encode_at(level, event));
                let body = (*at, events.collect::<Vec<_>>());
                let (kind, version) = (DELTA.kind, DELTA.newest);
                codec::write_archive(Tag { kind, version }, level, bytes, &body)
            }
            MetadataUpdate::KeepAlive { at, digest } => {
                let (kind, version) = (KEEP_ALIVE.kind, KEEP_ALIVE.newest);
                codec::write_archive(Tag { kind, version }, level, bytes, &(*at, *digest))
            }
        }
    }

    fn read(tag: Tag, archive: &[u8]) -> Result<Self, CodecError> {
        match tag.kind {
            kind if kind == SNAPSHOT.kind => {
                codec::check_newest(SNAPSHOT, tag.version)?;
                return codec::decode(archive).map(MetadataUpdate::Snapshot);
            }
            kind if kind == REPLACEMENT.kind => {
                codec::check_newest(REPLACEMENT, tag.version)?;
                return codec::decode(archive).map(MetadataUpdate::Replacement);
            }
            kind if kind == KEEP_ALIVE.kind => {
                let body = codec::read_newest(KEEP_ALIVE, tag.version, archive);
                return body.map(|(at, digest)| MetadataUpdate::KeepAlive { at, digest });
            }
            kind if kind == DELTA.kind => {}
            found => {
                let wanted = DELTA.kind;
                return Err(CodecError::Foreign { found, wanted });
            }
        }
        let (at, events): (Position, Vec<Vec<u8>>) =
            codec::read_newest(DELTA, tag.version, archive)?;
        let events = events.iter().map(|event| codec::decode(event));
        let events = events.collect::<Result<_, _>>()?;
        Ok(MetadataUpdate::Delta { at, events })
    }
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct BrokerRegistration {
    pub id: BrokerId,
    pub incarnation: Incarnation,
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
    /// Of the broker's program.
    pub version: String,
    /// Empty when the broker has never seen a cluster; otherwise it must match.
    pub cluster_id: String,
    /// What its program reads and writes.
    pub levels: Levels,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct BrokerHeartbeat {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
    /// The index that the broker's metadata has reached. It is unfenced once that covers its own registration.
    pub metadata_index: u64,
    /// The broker wants to stop: move its leaderships first.
    pub wants_shutdown: bool,
    /// Sent on the way out after a clean stop: fence at once, do not wait for the session to end.
    pub goodbye: bool,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct NewTopic {
    pub name: String,
    /// Drawn at random by the broker that proposes, so that a repeated proposal is recognised.
    pub id: TopicId,
    /// Ignored when `assignment` is not empty. At least 1 otherwise.
    pub partitions: i32,
    /// -1: the cluster's default (`default.replication.factor`).
    pub replication_factor: i16,
    /// Explicit replicas per partition number; empty to let the controller place them.
    pub assignment: Vec<Vec<BrokerId>>,
    pub configs: BTreeMap<String, String>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct NewPartitions {
    pub topic: TopicId,
    /// The total after the change.
    pub count: i32,
    /// Replicas for the added partitions only; empty to let the controller place them.
    pub assignment: Vec<Vec<BrokerId>>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum ConfigResource {
    Topic(TopicId),
    /// `None`: the defaults of all brokers.
    Broker(Option<BrokerId>),
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ConfigChange {
    pub resource: ConfigResource,
    pub operations: Vec<ConfigOperation>,
    /// AlterConfigs (the old API): everything not set here goes back to its default.
    pub replace_all: bool,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum ConfigOperation {
    Set(String, String),
    /// Back to the default.
    Delete(String),
    /// For list-valued keys.
    Append(String, String),
    Subtract(String, String),
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct OffsetCommit {
    pub group: String,
    pub topic: TopicId,
    pub partition: u32,
    pub offset: i64,
    /// -1 when the client did not say.
    pub leader_epoch: i32,
    pub metadata: String,
    /// Wall clock of the broker that took the commit, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The coordinator's epoch; a lower one than the group has seen is refused in `apply`.
    pub coordinator_epoch: i32,
    /// -1 for a simple consumer (no group membership).
    pub generation: i32,
    /// How long the client wants it kept; -1 leaves that to `offsets.retention.minutes`.
    pub retention_ms: i64,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum OffsetSelection {
    All,
    Partitions(Vec<(TopicId, u32)>),
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct CommittedOffset {
    pub topic: TopicId,
    pub partition: u32,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    pub timestamp_ms: i64,
}

/// A group that has something committed.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    pub name: String,
    pub offsets: u64,
}

/// One controller's own view.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct NodeStatus {
    pub node: u64,
    /// Of the controller's program.
    pub version: String,
    pub groups: Vec<RaftGroupStatus>,
    pub image: MetadataImage,
    /// Which commands may be in the log.
    pub feature_level: Level,
    /// What the controller's program supports.
    pub levels: Levels,
    /// On the leader of `meta`: how long ago each broker's last heartbeat came, or its session was granted.
    pub last_beats_ms: Vec<(BrokerId, u64)>,
    /// How many groups have anything committed, and how many offsets that is.
    pub offset_groups: u64,
    pub committed_offsets: u64,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct RaftGroupStatus {
    pub name: String,
    pub role: String,
    pub leader: Option<u64>,
    pub term: u64,
    pub last_log_index: u64,
    pub applied_index: u64,
    /// On the leader: how many entries each follower is behind.
    pub follower_lag: Vec<(u64, u64)>,
    /// On the leader: a majority has answered it of late.
    pub has_majority: bool,
    /// The nodes of which a majority decides, and their addresses.
    pub voters: Vec<(u64, String)>,
    pub snapshot_index: u64,
    /// How long ago the last snapshot was taken; `None` before the first.
    pub snapshot_age_ms: Option<u64>,
    /// Checksums over everything applied up to an index, for the last few: nodes that differ at an index have drifted apart.
    pub digests: Vec<(u64, u32)>,
}

/// Why a controller refused. The broker maps each to one Kafka error code, in one place.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("not the leader of this Raft group")]
    NotLeader { leader: Option<String> },
    #[error("no majority of controllers answered in time")]
    Unavailable,
    #[error("topic already exists")]
    TopicExists,
    #[error("no such topic")]
    UnknownTopic,
    #[error("{0}")]
    InvalidTopic(String),
    #[error("{0}")]
    InvalidPartitions(String),
    #[error("{0}")]
    InvalidReplicationFactor(String),
    #[error("{0}")]
    InvalidAssignment(String),
    #[error("{0}")]
    InvalidConfig(String),
    #[error("{0}")]
    InvalidRequest(String),
    #[error("a live broker is registered under this id")]
    DuplicateBroker,
    #[error("the broker's epoch is not current")]
    StaleBrokerEpoch,
    #[error("no broker is registered under this id")]
    UnknownBroker,
    #[error("the broker belongs to cluster {0}")]
    WrongCluster(String),
    #[error("the coordinator or generation is not current")]
    FencedCommit,
    #[error("the command needs a newer feature level")]
    UnsupportedVersion,
    #[error("no such group")]
    UnknownGroup,
    /// More would not fit what the control plane keeps.
    #[error("{0}")]
    LimitReached(String),
    /// A program does not support the cluster's feature level, or one that it is to be raised to.
    #[error("{0}")]
    UnsupportedLevel(String),
}

impl ControlError {
    /// The same error, without what it says: two programs may word that differently.
    pub fn without_text(&self) -> ControlError {
        let none = String::new;
        match self {
            ControlError::InvalidTopic(_) => ControlError::InvalidTopic(none()),
            ControlError::InvalidPartitions(_) => ControlError::InvalidPartitions(none()),
            ControlError::InvalidReplicationFactor(_) => {
                ControlError::InvalidReplicationFactor(none())
            }
            ControlError::InvalidAssignment(_) => ControlError::InvalidAssignment(none()),
            ControlError::InvalidConfig(_) => ControlError::InvalidConfig(none()),
            ControlError::InvalidRequest(_) => ControlError::InvalidRequest(none()),
            ControlError::WrongCluster(_) => ControlError::WrongCluster(none()),
            ControlError::LimitReached(_) => ControlError::LimitReached(none()),
            ControlError::UnsupportedLevel(_) => ControlError::UnsupportedLevel(none()),
            ControlError::NotLeader { .. }
            | ControlError::Unavailable
            | ControlError::TopicExists
            | ControlError::UnknownTopic
            | ControlError::DuplicateBroker
            | ControlError::StaleBrokerEpoch
            | ControlError::UnknownBroker
            | ControlError::FencedCommit
            | ControlError::UnsupportedVersion
            | ControlError::UnknownGroup => self.clone(),
        }
    }
}
