//! Newtypes for the identities that both planes use. A swap of two of these would compile if they were plain integers.

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// A broker's configured id (`node_id` in the Kafka protocol).
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
#[rkyv(derive(PartialEq, Eq, PartialOrd, Ord, Hash))]
pub struct BrokerId(pub i32);

/// The log index at which a broker's current registration was committed. A later registration has a higher epoch.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub struct BrokerEpoch(pub u64);

/// A place in the log of `meta`. Two logs that have the same one are the same up to there; an index alone says nothing of that.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
)]
pub struct Position {
    /// The term in which the entry was proposed. Never lower than that of an entry before it.
    pub term: u64,
    pub index: u64,
}

/// Drawn at random by a broker process at its start; tells two processes with one broker id apart.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub struct Incarnation(pub [u8; 16]);

/// A topic's id, a version 4 UUID (KIP-516).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[rkyv(derive(PartialEq, Eq, PartialOrd, Ord, Hash))]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// The all-zero id, which the protocol uses for "no id".
    pub const ZERO: TopicId = TopicId([0; 16]);
}

impl fmt::Display for TopicId {
    /// Thirty-two lower-case hex digits: safe in a file name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

/// Raised each time a partition's leader changes; stamped into every batch.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
)]
pub struct LeaderEpoch(pub i32);

/// Raised each time anything about a partition's replicas, in-sync set or leader changes.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub struct PartitionEpoch(pub i32);

impl fmt::Display for BrokerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
