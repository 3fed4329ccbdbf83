//! DeleteTopics (API 20): delete topics, by name, or from version 6 on by id.

use crate::schema::messages;
use crate::{Array, Uuid};

messages! {
    DeleteTopics: DeleteTopicsRequest<'a> => DeleteTopicsResponse<'a>;

    struct DeleteTopicsRequest<'a> {
        topics: Array<'a, DeleteTopicState<'a>> [6..],
        topic_names: Array<'a, &'a str> [1..=5] ignorable,
        timeout_ms: i32,
    }

    struct DeleteTopicState<'a> {
        name: Option<&'a str>,
        topic_id: Uuid,
    }

    struct DeleteTopicsResponse<'a> {
        throttle_time_ms: i32,
        responses: Array<'a, DeletableTopicResult<'a>>,
    }

    struct DeletableTopicResult<'a> {
        name: Option<&'a str> [1.., null 6..] = Some(""),
        topic_id: Uuid [6..] ignorable,
        error_code: i16,
        error_message: Option<&'a str> [5..] ignorable,
    }
}
