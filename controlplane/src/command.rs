//! What the two Raft logs hold. An entry is a version byte and an rkyv archive of one of these.
//!
//! A leader change leaves some proposals of unknown fate, so every command may be proposed again: the second time changes
//! nothing more. A new command comes with a higher [`FEATURE_LEVEL`] and is proposed only once the cluster is at that level.

use control_api::ids::{BrokerEpoch, BrokerId, TopicId};
use control_api::message::{BrokerRegistration, ConfigChange, NewPartitions, NewTopic};
use rkyv::{Archive, Deserialize, Serialize};

/// The newest commands that this program reads.
pub const FEATURE_LEVEL: u32 = 1;

/// The longest command that is proposed, so that a batch of them fits one frame between controllers.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;

/// A broker process, named by the registration that made it known.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisteredBroker {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum MetaCommand {
    /// Proposed by the first leader; later ones change nothing.
    Bootstrap {
        cluster_id: String,
        feature_level: u32,
    },
    RegisterBroker(BrokerRegistration),
    /// Its session ended, or it said goodbye.
    FenceBroker(RegisteredBroker),
    /// Its metadata has reached its registration.
    UnfenceBroker(RegisteredBroker),
    /// It wants to stop: nothing new for it, and what others can take over moves.
    ShutDownBroker(RegisteredBroker),
    CreateTopics(Vec<NewTopic>),
    DeleteTopics(Vec<TopicId>),
    CreatePartitions(Vec<NewPartitions>),
    AlterConfigs(Vec<ConfigChange>),
    AllocateProducerIds(RegisteredBroker),
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum OffsetsCommand {
    Commit {
        groups: Vec<GroupClaim>,
        commits: Vec<Commit>,
    },
    DeleteOffsets {
        group: String,
        coordinator_epoch: i32,
        partitions: Vec<(TopicId, u32)>,
    },
    /// The topics are gone, so whatever was committed for them goes too.
    ForgetTopics(Vec<TopicId>),
    /// Groups with all their offsets, each under its coordinator's authority.
    DeleteGroups(Vec<GroupDeletion>),
    /// What was kept for long enough goes, and groups that have nothing left.
    ExpireOffsets {
        expiry: Expiry,
        groups: Vec<ExpiredGroup>,
    },
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GroupDeletion {
    pub group: String,
    pub coordinator_epoch: i32,
}

/// By what an offset is judged to be old. The time is in the command because applying has no clock.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The proposing leader's wall clock, milliseconds since 1970.
    pub now_ms: i64,
    pub retention_ms: i64,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ExpiredGroup {
    pub group: String,
    /// In order; none for a group that has no offsets.
    pub partitions: Vec<(TopicId, u32)>,
}

/// Under whose authority a command's commits for one group are made.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupClaim {
    pub group: String,
    pub coordinator_epoch: i32,
    pub generation: i32,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Commit {
    /// Position in the command's `groups`, so that a name is written once.
    pub claim: u32,
    pub topic: TopicId,
    pub partition: u32,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    pub timestamp_ms: i64,
    /// How long it is kept from then on, if its client said so; -1 otherwise.
    pub retention_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::codec;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Logs and snapshots outlive the program that wrote them. When one of these changes, old data directories can no longer
    /// be read: that needs a new format version and a way to read the old one.
    #[test]
    fn what_is_in_the_logs_keeps_its_form() {
        let bootstrap = MetaCommand::Bootstrap {
            cluster_id: "mQxNyM-0RYK1AUOhzXb8dw".into(),
            feature_level: 1,
        };
        let fence = MetaCommand::FenceBroker(RegisteredBroker {
            id: BrokerId(7),
            epoch: BrokerEpoch(9),
        });
        let commit = OffsetsCommand::Commit {
            groups: vec![GroupClaim {
                group: "g".into(),
                coordinator_epoch: 2,
                generation: -1,
            }],
            commits: vec![Commit {
                claim: 0,
                topic: TopicId([5; 16]),
                partition: 3,
                offset: 42,
                leader_epoch: -1,
                metadata: "m".into(),
                timestamp_ms: 1_000,
                retention_ms: -1,
            }],
        };
        assert_eq!(
            hex(&codec::encode(&bootstrap)),
            "016d51784e794d2d3052594b3141554f687a58623864770096000000e9ffffff0100000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        );
        assert_eq!(
            hex(&codec::encode(&fence)),
            "010207000000090000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        );
        assert_eq!(
            hex(&codec::encode(&commit)),
            "0167ffffffffffffff02000000ffffffff0000000005050505050505050505050505050505030000002a00000000000000ffffffff6dffffffffffffffe803000000000000ffffffffffffffff00b3ffffff01000000bbffffff010000000000000000000000"
        );
    }
}
