//! OffsetDelete (API 47): delete stored offsets of a group (KIP-496).

use crate::schema::messages;
use crate::Array;

messages! {
    OffsetDelete: OffsetDeleteRequest<'a> => OffsetDeleteResponse<'a>;

    struct OffsetDeleteRequest<'a> {
        group_id: &'a str,
        topics: Array<'a, OffsetDeleteRequestTopic<'a>>,
    }

    struct OffsetDeleteRequestTopic<'a> {
        name: &'a str,
        partitions: Array<'a, OffsetDeleteRequestPartition>,
    }

    struct OffsetDeleteRequestPartition {
        partition_index: i32,
    }

    struct OffsetDeleteResponse<'a> {
        error_code: i16,
        throttle_time_ms: i32,
        topics: Array<'a, OffsetDeleteResponseTopic<'a>>,
    }

    struct OffsetDeleteResponseTopic<'a> {
        name: &'a str,
        partitions: Array<'a, OffsetDeleteResponsePartition>,
    }

    struct OffsetDeleteResponsePartition {
        partition_index: i32,
        error_code: i16,
    }
}
