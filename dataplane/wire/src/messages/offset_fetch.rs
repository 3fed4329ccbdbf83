//! OffsetFetch (API 9): read the stored offsets of consumer groups. Version 8 asks for many groups at once.

use crate::schema::messages;
use crate::Array;

messages! {
    OffsetFetch: OffsetFetchRequest<'a> => OffsetFetchResponse<'a>;

    struct OffsetFetchRequest<'a> {
        group_id: &'a str [1..=7],
        topics: Option<Array<'a, OffsetFetchRequestTopic<'a>>> [1..=7, null 2..=7] = Some(Array::default()),
        groups: Array<'a, OffsetFetchRequestGroup<'a>> [8..],
        require_stable: bool [7..],
    }

    struct OffsetFetchRequestTopic<'a> {
        name: &'a str,
        partition_indexes: Array<'a, i32>,
    }

    struct OffsetFetchRequestGroup<'a> {
        group_id: &'a str,
        member_id: Option<&'a str> [9..] ignorable,
        member_epoch: i32 [9..] ignorable = -1,
        topics: Option<Array<'a, OffsetFetchRequestTopics<'a>>> = Some(Array::default()),
    }

    struct OffsetFetchRequestTopics<'a> {
        name: &'a str,
        partition_indexes: Array<'a, i32>,
    }

    struct OffsetFetchResponse<'a> {
        throttle_time_ms: i32 [3..] ignorable,
        topics: Array<'a, OffsetFetchResponseTopic<'a>> [1..=7],
        error_code: i16 [2..=7] ignorable,
        groups: Array<'a, OffsetFetchResponseGroup<'a>> [8..],
    }

    struct OffsetFetchResponseTopic<'a> {
        name: &'a str,
        partitions: Array<'a, OffsetFetchResponsePartition<'a>>,
    }

    struct OffsetFetchResponsePartition<'a> {
        partition_index: i32,
        committed_offset: i64,
        committed_leader_epoch: i32 [5..] ignorable = -1,
        metadata: Option<&'a str> = Some(""),
        error_code: i16,
    }

    struct OffsetFetchResponseGroup<'a> {
        group_id: &'a str,
        topics: Array<'a, OffsetFetchResponseTopics<'a>>,
        error_code: i16,
    }

    struct OffsetFetchResponseTopics<'a> {
        name: &'a str,
        partitions: Array<'a, OffsetFetchResponsePartitions<'a>>,
    }

    struct OffsetFetchResponsePartitions<'a> {
        partition_index: i32,
        committed_offset: i64,
        committed_leader_epoch: i32 = -1,
        metadata: Option<&'a str> = Some(""),
        error_code: i16,
    }
}
