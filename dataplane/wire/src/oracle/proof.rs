//! The proof itself: one test for each API, over its request and its response in every version.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, Message};

use super::debug_tree::normal;
use super::{Random, Sample};
use crate::messages as ours;
use crate::{ApiKey, EncodeError, Reader, Scratch, Writer};

const SAMPLES: u64 = 30;

/// Fields of versions that the oracle declares and does not yet speak: OffsetCommit and OffsetFetch 10, InitProducerId 6.
const UNSPOKEN: [&str; 5] = [
    "topic_id",
    "enable_2_pc",
    "keep_prepared_txn",
    "ongoing_txn_producer_id",
    "ongoing_txn_producer_epoch",
];

/// Tagged fields that Kafka's schemas do not call ignorable. The oracle drops them in versions without them; Kafka refuses, and so do we.
const TAGGED_NOT_IGNORABLE: [&str; 5] = [
    "replica_state",
    "node_endpoints",
    "diverging_epoch",
    "current_leader",
    "snapshot_id",
];

/// The two messages have the same fields with the same values.
fn assert_same(ours: &str, theirs: &str, context: &str) {
    let dropped: Vec<_> = UNSPOKEN
        .into_iter()
        .filter(|field| !ours.contains(&format!("{field}: ")))
        .collect();
    assert_eq!(normal(ours, &[]), normal(theirs, &dropped), "{context}");
}

/// Whether the oracle writes what Kafka itself would refuse: it lets null pass in every version, and drops tagged fields.
fn only_the_oracle_allows(error: EncodeError) -> bool {
    match error {
        EncodeError::UnexpectedNull(_) => true,
        EncodeError::FieldNotCarried(field) => TAGGED_NOT_IGNORABLE.contains(&field),
        EncodeError::UnsupportedVersion(_) | EncodeError::TooLong(_) => false,
    }
}

macro_rules! prove {
    ($($test:ident: $api:ident, $request:ident, $response:ident;)*) => {$(
        #[test]
        fn $test() {
            prove!(@message $api, $request);
            prove!(@message $api, $response);
        }
    )*};
    (@message $api:ident, $name:ident) => {
        let api = ApiKey::$api.api();
        let range = <theirs::$name as Message>::VERSIONS;
        assert_eq!(range.min, api.version_min, "oldest version of {}", stringify!($name));
        assert!(range.max >= api.version_max, "newest version of {}", stringify!($name));
        for version in api.version_min..=api.version_max {
            let form = api.key.form(version).unwrap();
            for seed in 0..SAMPLES {
                let context = format!("{} version {version} seed {seed}", stringify!($name));
                let random = &mut Random::seeded(seed);
                let value = ours::$name::sample(random, form);
                let bytes = prove!(@encode value, version).unwrap_or_else(|error| panic!("{context}: {error}"));

                let mut in_turns = Vec::new();
                finish(value.encode_in_turns(&mut Writer::new(&mut in_turns), version)).unwrap();
                assert_eq!(in_turns, bytes, "{context} in turns");

                // The oracle reads what we write, sees the same names and values, and writes the same bytes.
                let mut unread = Bytes::from(bytes.clone());
                let oracle = theirs::$name::decode(&mut unread, version).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(unread.is_empty(), "{context}: the oracle left {} bytes", unread.len());
                assert_same(&format!("{value:?}"), &format!("{oracle:?}"), &context);
                let mut written = BytesMut::new();
                oracle.encode(&mut written, version).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_eq!(&written[..], bytes, "{context}");

                // So do we, from one piece and from pieces.
                let mut reader = Reader::new(&bytes);
                let back = ours::$name::decode(&mut reader, version).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_eq!(reader.remaining(), 0, "{context}");
                assert_eq!(back, value, "{context}");
                let mut reader = Reader::new(&bytes);
                let in_turns = finish(ours::$name::decode_in_turns(&mut reader, version));
                assert_eq!((in_turns, reader.remaining()), (Ok(value.clone()), 0), "{context} in turns");
                assert_eq!(prove!(@encode back, version).unwrap(), bytes, "{context}");
                for cut in cuts(random, bytes.len()) {
                    let parts = [&bytes[..cut.0], &bytes[cut.0..cut.1], &bytes[cut.1..]];
                    let scratch = Scratch::new();
                    let mut reader = Reader::fragments(&parts, &scratch);
                    let pieces = ours::$name::decode(&mut reader, version).unwrap_or_else(|error| panic!("{context} cut at {cut:?}: {error}"));
                    assert_eq!(reader.remaining(), 0, "{context} cut at {cut:?}");
                    assert_eq!(pieces, value, "{context} cut at {cut:?}");
                }

                // Cut short it is an error; damaged it is an error or another value, the same from one piece and from pieces.
                for len in 0..bytes.len() {
                    assert!(ours::$name::decode(&mut Reader::new(&bytes[..len]), version).is_err(), "{context}: {len} bytes");
                }
                for _ in 0..30 {
                    let damaged = damage(random, &bytes);
                    let (first, second) = (random.below(damaged.len() + 1), random.below(damaged.len() + 1));
                    let (first, second) = (first.min(second), first.max(second));
                    let parts = [&damaged[..first], &damaged[first..second], &damaged[second..]];
                    let scratch = Scratch::new();
                    let whole = ours::$name::decode(&mut Reader::new(&damaged), version);
                    let pieces = ours::$name::decode(&mut Reader::fragments(&parts, &scratch), version);
                    assert_eq!(whole, pieces, "{context}: {damaged:?} cut at {first} and {second}");
                    let in_turns = finish(ours::$name::decode_in_turns(&mut Reader::new(&damaged), version));
                    assert_eq!(whole, in_turns, "{context}: {damaged:?} in turns");
                }

                // Another version carries it, drops what it may drop, and refuses the rest, as the oracle does.
                for other in api.version_min..=api.version_max {
                    let mut expected = BytesMut::new();
                    match (prove!(@encode back, other), oracle.encode(&mut expected, other)) {
                        (Ok(carried), Ok(())) => assert_eq!(carried, &expected[..], "{context} in {other}"),
                        (Err(_), Err(_)) => {}
                        (Err(error), Ok(())) if only_the_oracle_allows(error) => {}
                        (carried, expected) => panic!("{context} in {other}: {carried:?} where the oracle says {expected:?}"),
                    }
                    let mut in_turns = Vec::new();
                    let encoded = finish(back.encode_in_turns(&mut Writer::new(&mut in_turns), other));
                    assert_eq!(encoded.map(|()| in_turns), prove!(@encode back, other), "{context} in {other}, in turns");
                }
            }
        }
        let context = format!("defaults of {}", stringify!($name));
        assert_same(&format!("{:?}", ours::$name::default()), &format!("{:?}", theirs::$name::default()), &context);
        for version in [api.version_min - 1, api.version_max + 1, i16::MIN, i16::MAX] {
            assert!(ours::$name::decode(&mut Reader::new(&[0; 100]), version).is_err());
            assert!(prove!(@encode ours::$name::default(), version).is_err());
        }
    };
    (@encode $value:expr, $version:expr) => {{
        let mut bytes = Vec::new();
        $value.encode(&mut Writer::new(&mut bytes), $version).map(|()| bytes)
    }};
}

/// Samples are short, so nothing gives way.
fn finish<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a short message is written in one turn"),
    }
}

/// Every single cut of a short message and some pairs of cuts of any.
fn cuts(random: &mut Random, len: usize) -> Vec<(usize, usize)> {
    let single = if len <= 100 { len + 1 } else { 0 };
    let mut cuts: Vec<_> = (0..single).map(|cut| (cut, cut)).collect();
    for _ in 0..20 {
        let (first, second) = (random.below(len + 1), random.below(len + 1));
        cuts.push((first.min(second), first.max(second)));
    }
    cuts
}

/// The message with a few bytes changed, some of them to what makes the largest lengths, or no message at all.
fn damage(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    if random.below(4) == 0 || damaged.is_empty() {
        let len = random.below(64);
        return random.bytes(len);
    }
    for _ in 0..=random.below(4) {
        let position = random.below(damaged.len());
        damaged[position] = [0, 1, 0x7f, 0x80, 0xff, random.below(256) as u8][random.below(6)];
    }
    damaged
}

prove! {
    add_raft_voter: AddRaftVoter, AddRaftVoterRequest, AddRaftVoterResponse;
    alter_configs: AlterConfigs, AlterConfigsRequest, AlterConfigsResponse;
    api_versions: ApiVersions, ApiVersionsRequest, ApiVersionsResponse;
    create_partitions: CreatePartitions, CreatePartitionsRequest, CreatePartitionsResponse;
    create_topics: CreateTopics, CreateTopicsRequest, CreateTopicsResponse;
    delete_groups: DeleteGroups, DeleteGroupsRequest, DeleteGroupsResponse;
    delete_records: DeleteRecords, DeleteRecordsRequest, DeleteRecordsResponse;
    delete_topics: DeleteTopics, DeleteTopicsRequest, DeleteTopicsResponse;
    describe_cluster: DescribeCluster, DescribeClusterRequest, DescribeClusterResponse;
    describe_configs: DescribeConfigs, DescribeConfigsRequest, DescribeConfigsResponse;
    describe_groups: DescribeGroups, DescribeGroupsRequest, DescribeGroupsResponse;
    describe_quorum: DescribeQuorum, DescribeQuorumRequest, DescribeQuorumResponse;
    fetch: Fetch, FetchRequest, FetchResponse;
    find_coordinator: FindCoordinator, FindCoordinatorRequest, FindCoordinatorResponse;
    heartbeat: Heartbeat, HeartbeatRequest, HeartbeatResponse;
    incremental_alter_configs: IncrementalAlterConfigs, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse;
    init_producer_id: InitProducerId, InitProducerIdRequest, InitProducerIdResponse;
    join_group: JoinGroup, JoinGroupRequest, JoinGroupResponse;
    leave_group: LeaveGroup, LeaveGroupRequest, LeaveGroupResponse;
    list_groups: ListGroups, ListGroupsRequest, ListGroupsResponse;
    list_offsets: ListOffsets, ListOffsetsRequest, ListOffsetsResponse;
    metadata: Metadata, MetadataRequest, MetadataResponse;
    offset_commit: OffsetCommit, OffsetCommitRequest, OffsetCommitResponse;
    offset_delete: OffsetDelete, OffsetDeleteRequest, OffsetDeleteResponse;
    offset_fetch: OffsetFetch, OffsetFetchRequest, OffsetFetchResponse;
    offset_for_leader_epoch: OffsetForLeaderEpoch, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse;
    produce: Produce, ProduceRequest, ProduceResponse;
    remove_raft_voter: RemoveRaftVoter, RemoveRaftVoterRequest, RemoveRaftVoterResponse;
    sync_group: SyncGroup, SyncGroupRequest, SyncGroupResponse;
    unregister_broker: UnregisterBroker, UnregisterBrokerRequest, UnregisterBrokerResponse;
    update_features: UpdateFeatures, UpdateFeaturesRequest, UpdateFeaturesResponse;
}
