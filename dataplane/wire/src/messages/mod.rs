//! Every message, one file per API. Types and fields are named as in Kafka's JSON schemas.

use crate::{ApiKey, DecodeError, EncodeError, Reader, Writer};

macro_rules! requests {
    ($($module:ident: $api:ident, $request:ident $(<$life:lifetime>)?, $response:ident;)*) => {
        $(
            pub mod $module;
            pub use $module::{$request, $response};
        )*

        /// A request of any API, as dispatch takes it apart.
        #[derive(Clone, Debug, PartialEq)]
        pub enum AnyRequest<'a> {
            $($api($request $(<$life>)?),)*
        }

        impl<'a> AnyRequest<'a> {
            /// Decodes the request that follows a header. Bytes that follow the request stay in the reader and are no error: librdkafka
            /// sends three too many when it asks for the metadata of all topics, and Kafka lets that pass.
            pub fn decode(api: ApiKey, version: i16, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                match api {
                    $(ApiKey::$api => $request::decode(reader, version).map(Self::$api),)*
                }
            }

            /// Appends the request; see the messages' own `encode`.
            pub fn encode(&self, writer: &mut Writer<'_>, version: i16) -> Result<(), EncodeError> {
                match self {
                    $(Self::$api(request) => request.encode(writer, version),)*
                }
            }

            pub fn api(&self) -> ApiKey {
                match self {
                    $(Self::$api(_) => ApiKey::$api,)*
                }
            }
        }
    };
}

requests! {
    add_raft_voter: AddRaftVoter, AddRaftVoterRequest<'a>, AddRaftVoterResponse;
    alter_configs: AlterConfigs, AlterConfigsRequest<'a>, AlterConfigsResponse;
    api_versions: ApiVersions, ApiVersionsRequest<'a>, ApiVersionsResponse;
    create_partitions: CreatePartitions, CreatePartitionsRequest<'a>, CreatePartitionsResponse;
    create_topics: CreateTopics, CreateTopicsRequest<'a>, CreateTopicsResponse;
    delete_groups: DeleteGroups, DeleteGroupsRequest<'a>, DeleteGroupsResponse;
    delete_records: DeleteRecords, DeleteRecordsRequest<'a>, DeleteRecordsResponse;
    delete_topics: DeleteTopics, DeleteTopicsRequest<'a>, DeleteTopicsResponse;
    describe_cluster: DescribeCluster, DescribeClusterRequest, DescribeClusterResponse;
    describe_configs: DescribeConfigs, DescribeConfigsRequest<'a>, DescribeConfigsResponse;
    describe_groups: DescribeGroups, DescribeGroupsRequest<'a>, DescribeGroupsResponse;
    describe_quorum: DescribeQuorum, DescribeQuorumRequest<'a>, DescribeQuorumResponse;
    fetch: Fetch, FetchRequest<'a>, FetchResponse;
    find_coordinator: FindCoordinator, FindCoordinatorRequest<'a>, FindCoordinatorResponse;
    heartbeat: Heartbeat, HeartbeatRequest<'a>, HeartbeatResponse;
    incremental_alter_configs: IncrementalAlterConfigs, IncrementalAlterConfigsRequest<'a>, IncrementalAlterConfigsResponse;
    init_producer_id: InitProducerId, InitProducerIdRequest<'a>, InitProducerIdResponse;
    join_group: JoinGroup, JoinGroupRequest<'a>, JoinGroupResponse;
    leave_group: LeaveGroup, LeaveGroupRequest<'a>, LeaveGroupResponse;
    list_groups: ListGroups, ListGroupsRequest<'a>, ListGroupsResponse;
    list_offsets: ListOffsets, ListOffsetsRequest<'a>, ListOffsetsResponse;
    metadata: Metadata, MetadataRequest<'a>, MetadataResponse;
    offset_commit: OffsetCommit, OffsetCommitRequest<'a>, OffsetCommitResponse;
    offset_delete: OffsetDelete, OffsetDeleteRequest<'a>, OffsetDeleteResponse;
    offset_fetch: OffsetFetch, OffsetFetchRequest<'a>, OffsetFetchResponse;
    offset_for_leader_epoch: OffsetForLeaderEpoch, OffsetForLeaderEpochRequest<'a>, OffsetForLeaderEpochResponse;
    produce: Produce, ProduceRequest<'a>, ProduceResponse;
    remove_raft_voter: RemoveRaftVoter, RemoveRaftVoterRequest<'a>, RemoveRaftVoterResponse;
    sync_group: SyncGroup, SyncGroupRequest<'a>, SyncGroupResponse;
    unregister_broker: UnregisterBroker, UnregisterBrokerRequest, UnregisterBrokerResponse;
    update_features: UpdateFeatures, UpdateFeaturesRequest<'a>, UpdateFeaturesResponse;
}
