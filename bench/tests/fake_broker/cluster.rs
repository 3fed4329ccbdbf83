//! What the fake broker says of itself and of its topics.

use wire::messages::api_versions::{ApiVersion, ApiVersionsResponse};
use wire::messages::create_topics::{
    CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};
use wire::messages::delete_topics::{
    DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse,
};
use wire::messages::init_producer_id::InitProducerIdResponse;
use wire::messages::metadata::{
    MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
    MetadataResponseTopic,
};
use wire::{APIS, ApiKey, Array, EncodeError, ErrorCode, Reader, Writer};

use super::FakeBroker;
use super::state::{Log, id_of};

impl FakeBroker {
    fn range(&self, api: ApiKey) -> (i16, i16) {
        let row = api.api();
        let narrowed = self.versions.iter().find(|(key, ..)| *key == api);
        narrowed.map_or((row.version_min, row.version_max), |(_, min, max)| {
            (*min, *max)
        })
    }

    pub(super) fn api_versions(
        &self,
        version: i16,
        writer: &mut Writer<'_>,
    ) -> Result<(), EncodeError> {
        let known = |api: ApiKey| {
            let (min_version, max_version) = self.range(api);
            ApiVersion {
                api_key: api as i16,
                min_version,
                max_version,
            }
        };
        let keys: Vec<_> = APIS.iter().map(|api| known(api.key)).collect();
        let (min, max) = self.range(ApiKey::ApiVersions);
        let answered = (min..=max).contains(&version);
        let response = ApiVersionsResponse {
            error_code: if answered {
                ErrorCode::None
            } else {
                ErrorCode::UnsupportedVersion
            } as i16,
            api_keys: Array::from(&keys),
            ..ApiVersionsResponse::default()
        };
        response.encode(writer, if answered { version } else { 0 })
    }

    pub(super) fn init_producer_id(
        &self,
        version: i16,
        writer: &mut Writer<'_>,
    ) -> Result<(), EncodeError> {
        let mut state = self.state.lock().unwrap();
        state.producers += 1;
        let response = InitProducerIdResponse {
            producer_id: state.producers,
            ..InitProducerIdResponse::default()
        };
        response.encode(writer, version)
    }

    pub(super) fn metadata(
        &self,
        version: i16,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<(), EncodeError> {
        let request = MetadataRequest::decode(reader, version).unwrap();
        let name = request.topics.unwrap().iter().next().unwrap().name.unwrap();
        let state = self.state.lock().unwrap();
        let count = state.topics.get(name).map_or(0, Vec::len);
        let partition = |index| MetadataResponsePartition {
            partition_index: index as i32,
            leader_id: 1,
            ..MetadataResponsePartition::default()
        };
        let partitions: Vec<_> = (0..count).map(partition).collect();
        let error = if count == 0 {
            ErrorCode::UnknownTopicOrPartition
        } else {
            ErrorCode::None
        };
        let topics = [MetadataResponseTopic {
            error_code: error as i16,
            name: Some(name),
            topic_id: id_of(name),
            partitions: Array::from(&partitions),
            ..MetadataResponseTopic::default()
        }];
        let brokers = [MetadataResponseBroker {
            node_id: 1,
            host: "127.0.0.1",
            port: self.port,
            rack: None,
        }];
        let response = MetadataResponse {
            brokers: Array::from(&brokers),
            topics: Array::from(&topics),
            ..MetadataResponse::default()
        };
        response.encode(writer, version)
    }

    pub(super) fn create_topics(
        &self,
        version: i16,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<(), EncodeError> {
        let request = CreateTopicsRequest::decode(reader, version).unwrap();
        let topic = request.topics.iter().next().unwrap();
        let mut state = self.state.lock().unwrap();
        let exists = state.topics.contains_key(topic.name);
        let logs = || (0..topic.num_partitions).map(|_| Log::default()).collect();
        state
            .topics
            .entry(topic.name.to_owned())
            .or_insert_with(logs);
        let error = if exists {
            ErrorCode::TopicAlreadyExists
        } else {
            ErrorCode::None
        };
        let topics = [CreatableTopicResult {
            name: topic.name,
            error_code: error as i16,
            ..CreatableTopicResult::default()
        }];
        let response = CreateTopicsResponse {
            topics: Array::from(&topics),
            ..CreateTopicsResponse::default()
        };
        response.encode(writer, version)
    }

    pub(super) fn delete_topics(
        &self,
        version: i16,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<(), EncodeError> {
        let request = DeleteTopicsRequest::decode(reader, version).unwrap();
        let name = request.topic_names.iter().next().unwrap();
        self.state.lock().unwrap().topics.remove(name).unwrap();
        let responses = [DeletableTopicResult {
            name: Some(name),
            ..DeletableTopicResult::default()
        }];
        let response = DeleteTopicsResponse {
            responses: Array::from(&responses),
            ..DeleteTopicsResponse::default()
        };
        response.encode(writer, version)
    }
}
