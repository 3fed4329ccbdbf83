//! CreatePartitions (API 37): add partitions to topics.

use crate::schema::messages;
use crate::Array;

messages! {
    CreatePartitions: CreatePartitionsRequest<'a> => CreatePartitionsResponse<'a>;

    struct CreatePartitionsRequest<'a> {
        topics: Array<'a, CreatePartitionsTopic<'a>>,
        timeout_ms: i32,
        validate_only: bool,
    }

    struct CreatePartitionsTopic<'a> {
        name: &'a str,
        count: i32,
        assignments: Option<Array<'a, CreatePartitionsAssignment<'a>>> = Some(Array::default()),
    }

    struct CreatePartitionsAssignment<'a> {
        broker_ids: Array<'a, i32>,
    }

    struct CreatePartitionsResponse<'a> {
        throttle_time_ms: i32,
        results: Array<'a, CreatePartitionsTopicResult<'a>>,
    }

    struct CreatePartitionsTopicResult<'a> {
        name: &'a str,
        error_code: i16,
        error_message: Option<&'a str>,
    }
}
