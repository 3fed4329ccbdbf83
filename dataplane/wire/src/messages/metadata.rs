//! Metadata (API 3): brokers, topics, partitions and their leaders.
//!
//! Version 0 asks for all topics by an empty array, later ones by null. Version 10 adds topic ids, 12 lets a request name topics by id, 13 adds a top-level error.

use crate::schema::messages;
use crate::{Array, Uuid};

messages! {
    Metadata: MetadataRequest<'a> => MetadataResponse<'a>;

    struct MetadataRequest<'a> {
        topics: Option<Array<'a, MetadataRequestTopic<'a>>> [0.., null 1..] = Some(Array::default()),
        allow_auto_topic_creation: bool [4..] = true,
        include_cluster_authorized_operations: bool [8..=10],
        include_topic_authorized_operations: bool [8..],
    }

    struct MetadataRequestTopic<'a> {
        topic_id: Uuid [10..] ignorable,
        name: Option<&'a str> [0.., null 10..] = Some(""),
    }

    struct MetadataResponse<'a> {
        throttle_time_ms: i32 [3..] ignorable,
        brokers: Array<'a, MetadataResponseBroker<'a>>,
        cluster_id: Option<&'a str> [2..] ignorable,
        controller_id: i32 [1..] ignorable = -1,
        topics: Array<'a, MetadataResponseTopic<'a>>,
        cluster_authorized_operations: i32 [8..=10] = -2147483648,
        error_code: i16 [13..] ignorable,
    }

    struct MetadataResponseBroker<'a> {
        node_id: i32,
        host: &'a str,
        port: i32,
        rack: Option<&'a str> [1..] ignorable,
    }

    struct MetadataResponseTopic<'a> {
        error_code: i16,
        name: Option<&'a str> [0.., null 12..] = Some(""),
        topic_id: Uuid [10..] ignorable,
        is_internal: bool [1..] ignorable,
        partitions: Array<'a, MetadataResponsePartition<'a>>,
        topic_authorized_operations: i32 [8..] = -2147483648,
    }

    struct MetadataResponsePartition<'a> {
        error_code: i16,
        partition_index: i32,
        leader_id: i32,
        leader_epoch: i32 [7..] ignorable = -1,
        replica_nodes: Array<'a, i32>,
        isr_nodes: Array<'a, i32>,
        offline_replicas: Array<'a, i32> [5..] ignorable,
    }
}
