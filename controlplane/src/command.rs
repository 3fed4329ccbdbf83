//! What the two Raft logs hold. Each command is a kind with versions of its own (`control_api::codec`).
//!
//! A leader change leaves some proposals of unknown fate, so every command may be proposed again: the second time changes
//! nothing more. A new command comes with a higher feature level and is proposed only once the cluster is at that level.

use control_api::codec::{self, Format};
use control_api::formats;
use control_api::ids::{BrokerEpoch, BrokerId, TopicId};
use control_api::level::Level;
use control_api::message::{
    BrokerRegistration, ConfigChange, ControlError, NewPartitions, NewTopic,
};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;

/// The longest command that is proposed, so that a batch of them fits one frame between controllers.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;

/// What may be proposed to a group.
pub trait Command: Format {
    /// The feature level from which on every program reads it.
    fn level(&self) -> Level;
}

/// A command as it stands in the log of a group at this level, unless it does not belong there.
pub fn proposed<C: Command>(command: &C, level: Level) -> Result<Vec<u8>, ControlError> {
    // A follower that does not read it could not go on.
    if command.level() > level {
        return Err(ControlError::UnsupportedVersion);
    }
    let bytes = codec::encode_at(level, command);
    if bytes.len() > COMMAND_BYTES_MAX {
        let text = format!(
            "the request takes {} bytes, more than {COMMAND_BYTES_MAX}",
            bytes.len()
        );
        return Err(ControlError::InvalidRequest(text));
    }
    Ok(bytes)
}

/// A broker process, named by the registration that made it known.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisteredBroker {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
}

#[derive(Clone, Debug, PartialEq)]
pub enum MetaCommand {
    /// Proposed by the first leader; later ones change nothing.
    Bootstrap {
        cluster_id: String,
        feature_level: Level,
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
    AlterConfigs {
        changes: Vec<ConfigChange>,
        /// What list-valued keys hold that were never set, for those that are appended to or subtracted from.
        list_defaults: BTreeMap<String, String>,
    },
    AllocateProducerIds(RegisteredBroker),
    /// Every broker must support it; that every controller does was seen before.
    RaiseFeatureLevel(Level),
    /// It is gone for good. Refused while it is in service.
    UnregisterBroker(RegisteredBroker),
}

formats! {
    enum MetaCommand {
        128 Bootstrap { cluster_id: String, feature_level: Level },
        129 RegisterBroker(BrokerRegistration),
        130 FenceBroker(RegisteredBroker),
        131 UnfenceBroker(RegisteredBroker),
        132 ShutDownBroker(RegisteredBroker),
        133 CreateTopics(Vec<NewTopic>),
        134 DeleteTopics(Vec<TopicId>),
        135 CreatePartitions(Vec<NewPartitions>),
        136 AlterConfigs { changes: Vec<ConfigChange>, list_defaults: BTreeMap<String, String> },
        137 AllocateProducerIds(RegisteredBroker),
        138 RaiseFeatureLevel(Level),
        139 UnregisterBroker(RegisteredBroker),
    }
}

impl Command for MetaCommand {
    fn level(&self) -> Level {
        match self {
            MetaCommand::Bootstrap { .. }
            | MetaCommand::RegisterBroker(_)
            | MetaCommand::FenceBroker(_)
            | MetaCommand::UnfenceBroker(_)
            | MetaCommand::ShutDownBroker(_)
            | MetaCommand::CreateTopics(_)
            | MetaCommand::DeleteTopics(_)
            | MetaCommand::CreatePartitions(_)
            | MetaCommand::AlterConfigs { .. }
            | MetaCommand::AllocateProducerIds(_)
            | MetaCommand::RaiseFeatureLevel(_) => Level(1),
            MetaCommand::UnregisterBroker(_) => Level(2),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
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
    /// To where `meta` is.
    RaiseFeatureLevel(Level),
}

formats! {
    enum OffsetsCommand {
        160 Commit { groups: Vec<GroupClaim>, commits: Vec<Commit> },
        161 DeleteOffsets {
            group: String,
            coordinator_epoch: i32,
            partitions: Vec<(TopicId, u32)>,
        },
        162 ForgetTopics(Vec<TopicId>),
        163 DeleteGroups(Vec<GroupDeletion>),
        164 ExpireOffsets { expiry: Expiry, groups: Vec<ExpiredGroup> },
        165 RaiseFeatureLevel(Level),
    }
}

impl Command for OffsetsCommand {
    fn level(&self) -> Level {
        match self {
            OffsetsCommand::Commit { .. }
            | OffsetsCommand::DeleteOffsets { .. }
            | OffsetsCommand::ForgetTopics(_)
            | OffsetsCommand::DeleteGroups(_)
            | OffsetsCommand::ExpireOffsets { .. }
            | OffsetsCommand::RaiseFeatureLevel(_) => Level(1),
        }
    }
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
    use control_api::codec::{CodecError, Kind, Tag};

    /// A command of a later version of the program.
    #[derive(Debug)]
    struct Later;

    impl Format for Later {
        const KINDS: &'static [Kind] = &[];

        fn write(&self, _level: Level, bytes: Vec<u8>) -> Vec<u8> {
            bytes
        }

        fn read(tag: Tag, _archive: &[u8]) -> Result<Self, CodecError> {
            let (found, wanted) = (tag.kind, 0);
            Err(CodecError::Foreign { found, wanted })
        }
    }

    impl Command for Later {
        fn level(&self) -> Level {
            Level::TRIAL
        }
    }

    #[test]
    fn a_command_above_the_level_is_not_proposed() {
        let refused = Err(ControlError::UnsupportedVersion);
        assert_eq!(proposed(&Later, Level::NEWEST), refused);
        assert_eq!(proposed(&Later, Level::TRIAL), Ok(Vec::new()));
    }
}
