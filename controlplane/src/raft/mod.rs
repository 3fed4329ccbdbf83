//! openraft's side of the control plane: one Raft group per state machine, with its log, snapshots and network.

pub(crate) mod addresses;
#[cfg(test)]
mod crash_tests;
mod digest;
pub(crate) mod log;
pub(crate) mod machine;
mod machines;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod peer;
mod repair;
pub(crate) mod snapshot;
#[cfg(test)]
mod store_tests;
pub mod wire;

pub use log::read_payload;
pub(crate) use log::{Record, read_records};
pub use machine::Machine;
pub(crate) use machine::read_state;
pub use snapshot::{encode_snapshot, read_snapshot};

use bytes::Bytes;
use control_api::message::Response;
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::vote::leader_id_std;
use std::fmt;

openraft::declare_raft_types!(
    /// Entries are opaque bytes to Raft; what they mean is the state machine's business.
    pub TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = openraft::BasicNode,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type Entry = EntryOf<TypeConfig>;
pub(crate) type EntryPayload = openraft::EntryPayload<Proposal, u64, openraft::BasicNode>;
pub type Membership = openraft::Membership<u64, openraft::BasicNode>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Bytes>;
pub(crate) type Raft<M> = openraft::Raft<TypeConfig, machine::Applier<M>>;

/// An encoded command.
#[derive(Clone, Debug)]
pub struct Proposal(pub Bytes);

/// What applying a command answered.
#[derive(Clone, Debug)]
pub struct Applied(pub Response);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The name of a group, in directories, metrics and status.
pub(crate) fn group_name(group: u8) -> &'static str {
    match group {
        control_api::frame::META_GROUP => "meta",
        _ => "offsets",
    }
}
