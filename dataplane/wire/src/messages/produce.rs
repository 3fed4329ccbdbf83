//! Produce (API 0): append record batches to partitions.
//!
//! Version 8 adds error details per record (KIP-467), 9 is the first flexible one, 10 names a new leader in tagged fields (KIP-951), 13 names topics by id (KIP-516).
//! Record bytes are never copied: a request borrows them from the receive buffers.

use crate::schema::messages;
use crate::{Array, Records, Uuid};

messages! {
    Produce: ProduceRequest<'a> => ProduceResponse<'a>;

    struct ProduceRequest<'a> {
        transactional_id: Option<&'a str>,
        acks: i16,
        timeout_ms: i32,
        topic_data: Array<'a, TopicProduceData<'a>>,
    }

    struct TopicProduceData<'a> {
        name: &'a str [3..=12] ignorable,
        topic_id: Uuid [13..] ignorable,
        partition_data: Array<'a, PartitionProduceData<'a>>,
    }

    struct PartitionProduceData<'a> {
        index: i32,
        records: Option<Records<'a>>,
    }

    struct ProduceResponse<'a> {
        responses: Array<'a, TopicProduceResponse<'a>>,
        throttle_time_ms: i32,
    } tags {
        0 => node_endpoints: Array<'a, NodeEndpoint<'a>> [10..],
    }

    struct TopicProduceResponse<'a> {
        name: &'a str [3..=12] ignorable,
        topic_id: Uuid [13..] ignorable,
        partition_responses: Array<'a, PartitionProduceResponse<'a>>,
    }

    struct PartitionProduceResponse<'a> {
        index: i32,
        error_code: i16,
        base_offset: i64,
        log_append_time_ms: i64 = -1,
        log_start_offset: i64 [5..] ignorable = -1,
        record_errors: Array<'a, BatchIndexAndErrorMessage<'a>> [8..] ignorable,
        error_message: Option<&'a str> [8..] ignorable,
    } tags {
        0 => current_leader: LeaderIdAndEpoch [10..],
    }

    struct BatchIndexAndErrorMessage<'a> {
        batch_index: i32,
        batch_index_error_message: Option<&'a str>,
    }

    struct LeaderIdAndEpoch {
        leader_id: i32 = -1,
        leader_epoch: i32 = -1,
    }

    struct NodeEndpoint<'a> {
        node_id: i32,
        host: &'a str,
        port: i32,
        rack: Option<&'a str>,
    }
}
