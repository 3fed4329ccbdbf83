//! A broker's answer, whole and in pieces, of every API and version: what our own clients decode.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::messages::*;
use wire::{ApiKey, DecodeError, Reader, ResponseHeader, Scratch};

fuzz_target!(|input: (u8, u8, u8, &[u8])| {
    let (api, version, cut, bytes) = input;
    let Some(api) = ApiKey::from_i16(api.into()) else {
        return;
    };
    let version = version.into();
    if !api.supports(version) {
        return;
    }
    let mut reader = Reader::new(bytes);
    let whole = decode(api, version, &mut reader);

    let middle = usize::from(cut).min(bytes.len());
    let parts = [&bytes[..middle], &bytes[middle..]];
    let scratch = Scratch::new();
    let mut reader = Reader::fragments(&parts, &scratch);
    assert_eq!(whole, decode(api, version, &mut reader));
});

/// Decodes an answer, and gives it in words, which say all that it has.
fn decode(api: ApiKey, version: i16, reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    ResponseHeader::decode(reader, api, version)?;
    macro_rules! decoded {
        ($($api:ident: $response:ident,)*) => {
            match api {
                $(ApiKey::$api => $response::decode(reader, version).map(|message| format!("{message:?}")),)*
            }
        };
    }
    decoded! {
        AddRaftVoter: AddRaftVoterResponse,
        AlterConfigs: AlterConfigsResponse,
        ApiVersions: ApiVersionsResponse,
        CreatePartitions: CreatePartitionsResponse,
        CreateTopics: CreateTopicsResponse,
        DeleteGroups: DeleteGroupsResponse,
        DeleteRecords: DeleteRecordsResponse,
        DeleteTopics: DeleteTopicsResponse,
        DescribeCluster: DescribeClusterResponse,
        UpdateFeatures: UpdateFeaturesResponse,
        DescribeConfigs: DescribeConfigsResponse,
        DescribeGroups: DescribeGroupsResponse,
        DescribeQuorum: DescribeQuorumResponse,
        Fetch: FetchResponse,
        FindCoordinator: FindCoordinatorResponse,
        Heartbeat: HeartbeatResponse,
        IncrementalAlterConfigs: IncrementalAlterConfigsResponse,
        InitProducerId: InitProducerIdResponse,
        JoinGroup: JoinGroupResponse,
        LeaveGroup: LeaveGroupResponse,
        ListGroups: ListGroupsResponse,
        ListOffsets: ListOffsetsResponse,
        Metadata: MetadataResponse,
        OffsetCommit: OffsetCommitResponse,
        OffsetDelete: OffsetDeleteResponse,
        OffsetFetch: OffsetFetchResponse,
        OffsetForLeaderEpoch: OffsetForLeaderEpochResponse,
        Produce: ProduceResponse,
        RemoveRaftVoter: RemoveRaftVoterResponse,
        SyncGroup: SyncGroupResponse,
        UnregisterBroker: UnregisterBrokerResponse,
    }
}
