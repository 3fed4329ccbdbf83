//! The one place where our errors become Kafka's error codes.

use crate::log::{AppendError, ReadError};
use control_api::message::ControlError;
use wire::ErrorCode;

/// What a client is told when the control plane refuses.
pub fn control_error_code(error: &ControlError) -> ErrorCode {
    match error {
        ControlError::NotLeader { .. } => ErrorCode::NotController,
        ControlError::Unavailable => ErrorCode::RequestTimedOut,
        ControlError::TopicExists => ErrorCode::TopicAlreadyExists,
        ControlError::UnknownTopic => ErrorCode::UnknownTopicOrPartition,
        ControlError::InvalidTopic(_) => ErrorCode::InvalidTopicException,
        ControlError::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
        ControlError::InvalidReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
        ControlError::InvalidAssignment(_) => ErrorCode::InvalidReplicaAssignment,
        ControlError::InvalidConfig(_) => ErrorCode::InvalidConfig,
        ControlError::InvalidRequest(_) => ErrorCode::InvalidRequest,
        ControlError::DuplicateBroker => ErrorCode::DuplicateBrokerRegistration,
        ControlError::StaleBrokerEpoch => ErrorCode::StaleBrokerEpoch,
        ControlError::UnknownBroker => ErrorCode::BrokerIdNotRegistered,
        ControlError::WrongCluster(_) => ErrorCode::InconsistentClusterId,
        ControlError::FencedCommit => ErrorCode::IllegalGeneration,
        ControlError::UnsupportedVersion => ErrorCode::UnsupportedVersion,
        ControlError::UnsupportedLevel(_) => ErrorCode::InvalidUpdateVersion,
        ControlError::UnknownGroup => ErrorCode::GroupIdNotFound,
        // As Kafka for what is more than a cluster should have.
        ControlError::LimitReached(_) => ErrorCode::PolicyViolation,
    }
}

/// What a producer is told when the log refuses a batch.
pub fn append_error_code(error: &AppendError) -> ErrorCode {
    match error {
        // The produce handler waits for room instead.
        AppendError::Busy => ErrorCode::RequestTimedOut,
        AppendError::Poisoned | AppendError::Stalled => ErrorCode::KafkaStorageError,
        AppendError::Closed => ErrorCode::NotLeaderOrFollower,
        AppendError::TooLarge => ErrorCode::MessageTooLarge,
        AppendError::Invalid | AppendError::OutOfOrder => ErrorCode::InvalidRecord,
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
    }
}

/// What a consumer is told when a read fails.
pub fn read_error_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Damaged(_) => ErrorCode::CorruptMessage,
        ReadError::Io(_) => ErrorCode::KafkaStorageError,
    }
}

/// The epoch check of Fetch, ListOffsets and OffsetForLeaderEpoch (KIP-320): -1 asks for none.
pub fn check_leader_epoch(asked: i32, current: i32) -> Result<(), ErrorCode> {
    if asked == -1 || asked == current {
        Ok(())
    } else if asked < current {
        Err(ErrorCode::FencedLeaderEpoch)
    } else {
        Err(ErrorCode::UnknownLeaderEpoch)
    }
}
