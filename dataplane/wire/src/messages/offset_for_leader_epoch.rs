//! OffsetForLeaderEpoch (API 23): where a leader epoch ends, so that a reader finds where logs part (KIP-320).

use crate::schema::messages;
use crate::Array;

messages! {
    OffsetForLeaderEpoch: OffsetForLeaderEpochRequest<'a> => OffsetForLeaderEpochResponse<'a>;

    struct OffsetForLeaderEpochRequest<'a> {
        replica_id: i32 [3..] ignorable = -2,
        topics: Array<'a, OffsetForLeaderTopic<'a>>,
    }

    struct OffsetForLeaderTopic<'a> {
        topic: &'a str,
        partitions: Array<'a, OffsetForLeaderPartition>,
    }

    struct OffsetForLeaderPartition {
        partition: i32,
        current_leader_epoch: i32 = -1,
        leader_epoch: i32,
    }

    struct OffsetForLeaderEpochResponse<'a> {
        throttle_time_ms: i32,
        topics: Array<'a, OffsetForLeaderTopicResult<'a>>,
    }

    struct OffsetForLeaderTopicResult<'a> {
        topic: &'a str,
        partitions: Array<'a, EpochEndOffset>,
    }

    struct EpochEndOffset {
        error_code: i16,
        partition: i32,
        leader_epoch: i32 = -1,
        end_offset: i64 = -1,
    }
}
