//! OffsetCommit (API 8): store offsets of a consumer group.

use crate::schema::messages;
use crate::Array;

messages! {
    OffsetCommit: OffsetCommitRequest<'a> => OffsetCommitResponse<'a>;

    struct OffsetCommitRequest<'a> {
        group_id: &'a str,
        generation_id_or_member_epoch: i32 = -1,
        member_id: &'a str,
        group_instance_id: Option<&'a str> [7..],
        retention_time_ms: i64 [2..=4] ignorable = -1,
        topics: Array<'a, OffsetCommitRequestTopic<'a>>,
    }

    struct OffsetCommitRequestTopic<'a> {
        name: &'a str,
        partitions: Array<'a, OffsetCommitRequestPartition<'a>>,
    }

    struct OffsetCommitRequestPartition<'a> {
        partition_index: i32,
        committed_offset: i64,
        committed_leader_epoch: i32 [6..] ignorable = -1,
        committed_metadata: Option<&'a str> = Some(""),
    }

    struct OffsetCommitResponse<'a> {
        throttle_time_ms: i32 [3..] ignorable,
        topics: Array<'a, OffsetCommitResponseTopic<'a>>,
    }

    struct OffsetCommitResponseTopic<'a> {
        name: &'a str,
        partitions: Array<'a, OffsetCommitResponsePartition>,
    }

    struct OffsetCommitResponsePartition {
        partition_index: i32,
        error_code: i16,
    }
}
