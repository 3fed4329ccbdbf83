//! DeleteRecords (API 21): move the start of partitions forward.

use crate::schema::messages;
use crate::Array;

messages! {
    DeleteRecords: DeleteRecordsRequest<'a> => DeleteRecordsResponse<'a>;

    struct DeleteRecordsRequest<'a> {
        topics: Array<'a, DeleteRecordsTopic<'a>>,
        timeout_ms: i32,
    }

    struct DeleteRecordsTopic<'a> {
        name: &'a str,
        partitions: Array<'a, DeleteRecordsPartition>,
    }

    struct DeleteRecordsPartition {
        partition_index: i32,
        offset: i64,
    }

    struct DeleteRecordsResponse<'a> {
        throttle_time_ms: i32,
        topics: Array<'a, DeleteRecordsTopicResult<'a>>,
    }

    struct DeleteRecordsTopicResult<'a> {
        name: &'a str,
        partitions: Array<'a, DeleteRecordsPartitionResult>,
    }

    struct DeleteRecordsPartitionResult {
        partition_index: i32,
        low_watermark: i64,
        error_code: i16,
    }
}
