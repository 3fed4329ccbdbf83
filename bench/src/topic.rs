//! What commands ask of a cluster around a run: create and delete a topic, find its id and its leaders.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use wire::messages::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
};
use wire::messages::delete_topics::{DeleteTopicsRequest, DeleteTopicsResponse};
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use wire::{ApiKey, Array, ErrorCode, Uuid};

use crate::connection::Connection;
use crate::versions::{TOPIC_NAME_VERSION_MAX, Versions};

/// The first version of CreateTopics in which a replication factor of -1 leaves the choice to the broker (KIP-464).
const BROKER_DEFAULT_VERSION: i16 = 4;

const REQUEST_MS: i32 = 10_000;
const LEADER_POLLS_MAX: usize = 100;
const LEADER_POLL_PAUSE: Duration = Duration::from_millis(100);

/// A topic as metadata describes it.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    /// Zero where the broker knows no topic ids.
    pub id: Uuid,
    /// One for each partition, in order of partition.
    pub leaders: Vec<Leader>,
}

impl Topic {
    /// The version to call Produce or Fetch with: those that name topics by id are for topics that have one.
    pub fn version(&self, versions: &Versions, api: ApiKey) -> Result<i16> {
        if self.id == Uuid::ZERO {
            versions.agreed_at_most(api, TOPIC_NAME_VERSION_MAX)
        } else {
            versions.agreed(api)
        }
    }
}

/// A partition and the address of its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub partition: i32,
    pub address: String,
}

/// What a broker answered instead of doing what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub i16);

impl fmt::Display for Refusal {
    /// The name, which is what one searches for.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ErrorCode::from_i16(self.0) {
            Some(known) => formatter.write_str(known.name()),
            None => write!(formatter, "error code {}", self.0),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Whether it is how a partition answers whose leader is just being found.
    pub fn is_passing(self) -> bool {
        matches!(
            ErrorCode::from_i16(self.0),
            Some(
                ErrorCode::NotLeaderOrFollower
                    | ErrorCode::LeaderNotAvailable
                    | ErrorCode::UnknownTopicOrPartition
            )
        )
    }
}

pub fn check(code: i16) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(Refusal(code).into()),
    }
}

/// Creates a topic; one that exists already is left as it is.
pub async fn create(
    connection: &mut Connection,
    name: &str,
    partitions: i32,
    configs: &[(String, String)],
) -> Result<()> {
    let version = connection.version(ApiKey::CreateTopics)?;
    let configs: Vec<_> = configs
        .iter()
        .map(|(name, value)| CreatableTopicConfig {
            name,
            value: Some(value),
        })
        .collect();
    let topics = [CreatableTopic {
        name,
        num_partitions: partitions,
        replication_factor: if version < BROKER_DEFAULT_VERSION {
            1
        } else {
            -1
        },
        configs: Array::from(&configs),
        ..CreatableTopic::default()
    }];
    let request = CreateTopicsRequest {
        topics: Array::from(&topics),
        timeout_ms: REQUEST_MS,
        ..CreateTopicsRequest::default()
    };
    let decode = |answer: &mut wire::Reader<'_>| {
        for topic in CreateTopicsResponse::decode(answer, version)?.topics.iter() {
            if topic.error_code != ErrorCode::TopicAlreadyExists as i16 {
                check(topic.error_code)
                    .with_context(|| topic.error_message.unwrap_or_default().to_owned())?;
            }
        }
        Ok(())
    };
    let encode = |writer: &mut wire::Writer<'_>| request.encode(writer, version);
    let created = connection
        .call(ApiKey::CreateTopics, version, encode, decode)
        .await;
    created.with_context(|| format!("cannot create topic {name}"))
}

pub async fn delete(connection: &mut Connection, name: &str) -> Result<()> {
    let version = connection.version(ApiKey::DeleteTopics)?;
    let names = [name];
    let request = DeleteTopicsRequest {
        topic_names: Array::from(&names),
        timeout_ms: REQUEST_MS,
        ..DeleteTopicsRequest::default()
    };
    let decode = |answer: &mut wire::Reader<'_>| {
        let response = DeleteTopicsResponse::decode(answer, version)?;
        response
            .responses
            .iter()
            .try_for_each(|topic| check(topic.error_code))
    };
    let encode = |writer: &mut wire::Writer<'_>| request.encode(writer, version);
    let deleted = connection
        .call(ApiKey::DeleteTopics, version, encode, decode)
        .await;
    deleted.with_context(|| format!("cannot delete topic {name}"))
}

/// Finds a topic and the leader of every partition; waits a while for partitions that have none yet.
pub async fn find(connection: &mut Connection, name: &str) -> Result<Topic> {
    let mut last = String::new();
    for _ in 0..LEADER_POLLS_MAX {
        match find_now(connection, name).await? {
            Ok(topic) => return Ok(topic),
            Err(missing) => last = missing,
        }
        monoio::time::sleep(LEADER_POLL_PAUSE).await;
    }
    bail!("topic {name} is not ready: {last}")
}

/// The outer error ends the search, the inner one says what is still missing.
async fn find_now(connection: &mut Connection, name: &str) -> Result<Result<Topic, String>> {
    let version = connection.version(ApiKey::Metadata)?;
    let topics = [MetadataRequestTopic {
        name: Some(name),
        ..MetadataRequestTopic::default()
    }];
    let request = MetadataRequest {
        topics: Some(Array::from(&topics)),
        allow_auto_topic_creation: false,
        ..MetadataRequest::default()
    };
    let decode = |answer: &mut wire::Reader<'_>| {
        let response = MetadataResponse::decode(answer, version)?;
        let brokers: HashMap<i32, String> = response
            .brokers
            .iter()
            .map(|broker| (broker.node_id, format!("{}:{}", broker.host, broker.port)))
            .collect();
        let Some(topic) = response.topics.iter().next() else {
            return Ok(Err("not in the answer".to_owned()));
        };
        if let Err(error) = check(topic.error_code) {
            return Ok(Err(error.to_string()));
        }
        let mut leaders = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions.iter() {
            match brokers.get(&partition.leader_id) {
                Some(address) => {
                    leaders.push(Leader {
                        partition: partition.partition_index,
                        address: address.clone(),
                    });
                }
                None => {
                    return Ok(Err(format!(
                        "partition {} has no leader",
                        partition.partition_index
                    )));
                }
            }
        }
        leaders.sort_by_key(|leader| leader.partition);
        Ok(Ok(Topic {
            name: name.to_owned(),
            id: topic.topic_id,
            leaders,
        }))
    };
    let encode = |writer: &mut wire::Writer<'_>| request.encode(writer, version);
    connection
        .call(ApiKey::Metadata, version, encode, decode)
        .await
}
