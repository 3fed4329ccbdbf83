//! ListOffsets (API 2): find offsets by timestamp, or the earliest and latest.
//!
//! Timestamps below zero are questions: -1 latest, -2 earliest, -3 the largest timestamp (version 7, KIP-734), -4 earliest local (version 8), -5 latest tiered (version 9).

use crate::schema::messages;
use crate::Array;

messages! {
    ListOffsets: ListOffsetsRequest<'a> => ListOffsetsResponse<'a>;

    struct ListOffsetsRequest<'a> {
        replica_id: i32,
        isolation_level: i8 [2..],
        topics: Array<'a, ListOffsetsTopic<'a>>,
        timeout_ms: i32 [10..] ignorable,
    }

    struct ListOffsetsTopic<'a> {
        name: &'a str,
        partitions: Array<'a, ListOffsetsPartition>,
    }

    struct ListOffsetsPartition {
        partition_index: i32,
        current_leader_epoch: i32 [4..] ignorable = -1,
        timestamp: i64,
    }

    struct ListOffsetsResponse<'a> {
        throttle_time_ms: i32 [2..] ignorable,
        topics: Array<'a, ListOffsetsTopicResponse<'a>>,
    }

    struct ListOffsetsTopicResponse<'a> {
        name: &'a str,
        partitions: Array<'a, ListOffsetsPartitionResponse>,
    }

    struct ListOffsetsPartitionResponse {
        partition_index: i32,
        error_code: i16,
        timestamp: i64 = -1,
        offset: i64 = -1,
        leader_epoch: i32 [4..] = -1,
    }
}
