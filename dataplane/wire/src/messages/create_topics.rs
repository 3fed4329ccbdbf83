//! CreateTopics (API 19): create topics with partitions and configs.

use crate::schema::messages;
use crate::{Array, Uuid};

messages! {
    CreateTopics: CreateTopicsRequest<'a> => CreateTopicsResponse<'a>;

    struct CreateTopicsRequest<'a> {
        topics: Array<'a, CreatableTopic<'a>>,
        timeout_ms: i32 = 60000,
        validate_only: bool,
    }

    struct CreatableTopic<'a> {
        name: &'a str,
        num_partitions: i32,
        replication_factor: i16,
        assignments: Array<'a, CreatableReplicaAssignment<'a>>,
        configs: Array<'a, CreatableTopicConfig<'a>>,
    }

    struct CreatableReplicaAssignment<'a> {
        partition_index: i32,
        broker_ids: Array<'a, i32>,
    }

    struct CreatableTopicConfig<'a> {
        name: &'a str,
        value: Option<&'a str> = Some(""),
    }

    struct CreateTopicsResponse<'a> {
        throttle_time_ms: i32,
        topics: Array<'a, CreatableTopicResult<'a>>,
    }

    struct CreatableTopicResult<'a> {
        name: &'a str,
        topic_id: Uuid [7..] ignorable,
        error_code: i16,
        error_message: Option<&'a str> = Some(""),
        num_partitions: i32 [5..] ignorable = -1,
        replication_factor: i16 [5..] ignorable = -1,
        configs: Option<Array<'a, CreatableTopicConfigs<'a>>> [5..] ignorable = Some(Array::default()),
    } tags {
        0 => topic_config_error_code: i16 [5..] ignorable,
    }

    struct CreatableTopicConfigs<'a> {
        name: &'a str,
        value: Option<&'a str> = Some(""),
        read_only: bool,
        config_source: i8 = -1,
        is_sensitive: bool,
    }
}
