//! DescribeQuorum (API 55): who votes on the metadata, and how far each has come (KIP-595, KIP-853).

use crate::schema::messages;
use crate::{Array, Uuid};

messages! {
    DescribeQuorum: DescribeQuorumRequest<'a> => DescribeQuorumResponse<'a>;

    struct DescribeQuorumRequest<'a> {
        topics: Array<'a, TopicData<'a>>,
    }

    struct TopicData<'a> {
        topic_name: &'a str,
        partitions: Array<'a, PartitionData>,
    }

    struct PartitionData {
        partition_index: i32,
    }

    struct DescribeQuorumResponse<'a> {
        error_code: i16,
        error_message: Option<&'a str> [2..] ignorable = Some(""),
        topics: Array<'a, DescribedTopic<'a>>,
        nodes: Array<'a, Node<'a>> [2..],
    }

    struct DescribedTopic<'a> {
        topic_name: &'a str,
        partitions: Array<'a, DescribedPartition<'a>>,
    }

    struct DescribedPartition<'a> {
        partition_index: i32,
        error_code: i16,
        error_message: Option<&'a str> [2..] ignorable = Some(""),
        leader_id: i32,
        leader_epoch: i32,
        high_watermark: i64,
        current_voters: Array<'a, ReplicaState>,
        observers: Array<'a, ReplicaState>,
    }

    struct ReplicaState {
        replica_id: i32,
        replica_directory_id: Uuid [2..],
        log_end_offset: i64,
        last_fetch_timestamp: i64 [1..] ignorable = -1,
        last_caught_up_timestamp: i64 [1..] ignorable = -1,
    }

    struct Node<'a> {
        node_id: i32,
        listeners: Array<'a, Listener<'a>>,
    }

    struct Listener<'a> {
        name: &'a str,
        host: &'a str,
        port: u16,
    }
}
