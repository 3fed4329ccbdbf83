//! Fetch (API 1): read record batches from partitions.
//!
//! Version 7 adds incremental fetch sessions (KIP-227), 12 is the first flexible one and adds diverging epochs (KIP-595), 13 names topics by id (KIP-516), 15 moves the
//! replica id into a tagged field (KIP-903), 16 names new leaders in tagged fields (KIP-951), 17 and 18 add what only followers send (KIP-853, KIP-1166).
//! A response usually holds its records as [`Records::external`], so that the connection sends them from where they lie.

use crate::schema::messages;
use crate::{Array, Records, Uuid};

messages! {
    Fetch: FetchRequest<'a> => FetchResponse<'a>;

    struct FetchRequest<'a> {
        replica_id: i32 [4..=14] = -1,
        max_wait_ms: i32,
        min_bytes: i32,
        max_bytes: i32 = i32::MAX,
        isolation_level: i8,
        session_id: i32 [7..] ignorable,
        session_epoch: i32 [7..] ignorable = -1,
        topics: Array<'a, FetchTopic<'a>>,
        forgotten_topics_data: Array<'a, ForgottenTopic<'a>> [7..],
        rack_id: &'a str [11..] ignorable,
    } tags {
        0 => cluster_id: Option<&'a str> [12..] ignorable,
        1 => replica_state: ReplicaState [15..],
    }

    struct ReplicaState {
        replica_id: i32 = -1,
        replica_epoch: i64 = -1,
    }

    struct FetchTopic<'a> {
        topic: &'a str [4..=12] ignorable,
        topic_id: Uuid [13..] ignorable,
        partitions: Array<'a, FetchPartition>,
    }

    struct FetchPartition {
        partition: i32,
        current_leader_epoch: i32 [9..] ignorable = -1,
        fetch_offset: i64,
        last_fetched_epoch: i32 [12..] = -1,
        log_start_offset: i64 [5..] ignorable = -1,
        partition_max_bytes: i32,
    } tags {
        0 => replica_directory_id: Uuid [17..] ignorable,
        1 => high_watermark: i64 [18..] ignorable = i64::MAX,
    }

    struct ForgottenTopic<'a> {
        topic: &'a str [7..=12] ignorable,
        topic_id: Uuid [13..] ignorable,
        partitions: Array<'a, i32>,
    }

    struct FetchResponse<'a> {
        throttle_time_ms: i32,
        error_code: i16 [7..] ignorable,
        session_id: i32 [7..],
        responses: Array<'a, FetchableTopicResponse<'a>>,
    } tags {
        0 => node_endpoints: Array<'a, NodeEndpoint<'a>> [16..],
    }

    struct FetchableTopicResponse<'a> {
        topic: &'a str [4..=12] ignorable,
        topic_id: Uuid [13..] ignorable,
        partitions: Array<'a, PartitionData<'a>>,
    }

    struct PartitionData<'a> {
        partition_index: i32,
        error_code: i16,
        high_watermark: i64,
        last_stable_offset: i64 = -1,
        log_start_offset: i64 [5..] ignorable = -1,
        aborted_transactions: Option<Array<'a, AbortedTransaction>> = Some(Array::default()),
        preferred_read_replica: i32 [11..] = -1,
        records: Option<Records<'a>>,
    } tags {
        0 => diverging_epoch: EpochEndOffset [12..],
        1 => current_leader: LeaderIdAndEpoch [12..],
        2 => snapshot_id: SnapshotId [12..],
    }

    struct EpochEndOffset {
        epoch: i32 = -1,
        end_offset: i64 = -1,
    }

    struct LeaderIdAndEpoch {
        leader_id: i32 = -1,
        leader_epoch: i32 = -1,
    }

    struct SnapshotId {
        end_offset: i64 = -1,
        epoch: i32 = -1,
    }

    struct AbortedTransaction {
        producer_id: i64,
        first_offset: i64,
    }

    struct NodeEndpoint<'a> {
        node_id: i32,
        host: &'a str,
        port: i32,
        rack: Option<&'a str>,
    }
}
