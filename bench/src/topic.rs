//! What commands ask of a cluster around a run: create and delete a topic, find its leaders, find its offsets. The versions used here
//! are old enough for any Kafka broker of the last years, so that a comparison needs no other code.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use wire::messages::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
};
use wire::messages::delete_topics::{DeleteTopicsRequest, DeleteTopicsResponse};
use wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use wire::{ApiKey, Array, ErrorCode};

use crate::connection::Connection;

const METADATA_VERSION: i16 = 9;
const CREATE_TOPICS_VERSION: i16 = 5;
const DELETE_TOPICS_VERSION: i16 = 4;
const LIST_OFFSETS_VERSION: i16 = 5;

const REQUEST_MS: i32 = 10_000;
const LEADER_POLLS_MAX: usize = 100;
const LEADER_POLL_PAUSE: Duration = Duration::from_millis(100);

/// Questions that ListOffsets answers in place of a timestamp.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// A partition and the address of its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub partition: i32,
    pub address: String,
}

/// The partitions that one connection serves.
#[derive(Debug, PartialEq, Eq)]
pub struct Share {
    pub address: String,
    pub partitions: Vec<i32>,
}

/// The first offset of a partition and the one after its last.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub earliest: i64,
    pub latest: i64,
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
    fn is_passing(self) -> bool {
        matches!(
            ErrorCode::from_i16(self.0),
            Some(ErrorCode::NotLeaderOrFollower | ErrorCode::LeaderNotAvailable)
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
        replication_factor: -1,
        configs: Array::from(&configs),
        ..CreatableTopic::default()
    }];
    let request = CreateTopicsRequest {
        topics: Array::from(&topics),
        timeout_ms: REQUEST_MS,
        ..CreateTopicsRequest::default()
    };
    let decode = |answer: &mut wire::Reader<'_>| {
        for topic in CreateTopicsResponse::decode(answer, CREATE_TOPICS_VERSION)?
            .topics
            .iter()
        {
            if topic.error_code != ErrorCode::TopicAlreadyExists as i16 {
                check(topic.error_code)
                    .with_context(|| topic.error_message.unwrap_or_default().to_owned())?;
            }
        }
        Ok(())
    };
    let encode = |writer: &mut wire::Writer<'_>| request.encode(writer, CREATE_TOPICS_VERSION);
    let created = connection
        .call(ApiKey::CreateTopics, CREATE_TOPICS_VERSION, encode, decode)
        .await;
    created.with_context(|| format!("cannot create topic {name}"))
}

pub async fn delete(connection: &mut Connection, name: &str) -> Result<()> {
    let names = [name];
    let request = DeleteTopicsRequest {
        topic_names: Array::from(&names),
        timeout_ms: REQUEST_MS,
        ..DeleteTopicsRequest::default()
    };
    let decode = |answer: &mut wire::Reader<'_>| {
        let response = DeleteTopicsResponse::decode(answer, DELETE_TOPICS_VERSION)?;
        response
            .responses
            .iter()
            .try_for_each(|topic| check(topic.error_code))
    };
    let encode = |writer: &mut wire::Writer<'_>| request.encode(writer, DELETE_TOPICS_VERSION);
    let deleted = connection
        .call(ApiKey::DeleteTopics, DELETE_TOPICS_VERSION, encode, decode)
        .await;
    deleted.with_context(|| format!("cannot delete topic {name}"))
}

/// Finds the leader of every partition of a topic, in order of partition; waits a while for those that have none yet.
pub async fn leaders(connection: &mut Connection, name: &str) -> Result<Vec<Leader>> {
    let mut last = String::new();
    for _ in 0..LEADER_POLLS_MAX {
        match leaders_now(connection, name).await? {
            Ok(leaders) => return Ok(leaders),
            Err(missing) => last = missing,
        }
        monoio::time::sleep(LEADER_POLL_PAUSE).await;
    }
    bail!("topic {name} is not ready: {last}")
}

/// The outer error ends the search, the inner one says what is still missing.
pub async fn leaders_now(
    connection: &mut Connection,
    name: &str,
) -> Result<Result<Vec<Leader>, String>> {
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
        let response = MetadataResponse::decode(answer, METADATA_VERSION)?;
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
        Ok(Ok(leaders))
    };
    let encode = |writer: &mut wire::Writer<'_>| request.encode(writer, METADATA_VERSION);
    connection
        .call(ApiKey::Metadata, METADATA_VERSION, encode, decode)
        .await
}

/// Waits until the connection's broker really leads the partitions that metadata says it leads: it learns of a new topic a moment later than
/// whoever answers for the whole cluster.
pub async fn wait_led(connection: &mut Connection, name: &str, partitions: &[i32]) -> Result<()> {
    bounds(connection, name, partitions).await.map(drop)
}

/// The earliest and latest offsets of partitions of the connection's broker, in the order asked; waits a while for those that it does not lead
/// yet, as after a restart.
pub async fn bounds(
    connection: &mut Connection,
    name: &str,
    partitions: &[i32],
) -> Result<Vec<Bounds>> {
    let mut polls = 1;
    loop {
        let passing = |error: &anyhow::Error| {
            error
                .downcast_ref()
                .is_some_and(|refusal: &Refusal| refusal.is_passing())
        };
        match bounds_now(connection, name, partitions).await {
            Err(error) if passing(&error) && polls < LEADER_POLLS_MAX => {}
            ended => return ended,
        }
        polls += 1;
        monoio::time::sleep(LEADER_POLL_PAUSE).await;
    }
}

async fn bounds_now(
    connection: &mut Connection,
    name: &str,
    partitions: &[i32],
) -> Result<Vec<Bounds>> {
    let earliest = offsets(connection, name, partitions, EARLIEST).await?;
    let latest = offsets(connection, name, partitions, LATEST).await?;
    let bound = |partition| {
        Some(Bounds {
            earliest: *earliest.get(partition)?,
            latest: *latest.get(partition)?,
        })
    };
    let bounds: Option<Vec<_>> = partitions.iter().map(bound).collect();
    bounds.context("the broker left out a partition")
}

async fn offsets(
    connection: &mut Connection,
    name: &str,
    partitions: &[i32],
    question: i64,
) -> Result<BTreeMap<i32, i64>> {
    let asked: Vec<_> = partitions
        .iter()
        .map(|index| ListOffsetsPartition {
            partition_index: *index,
            timestamp: question,
            ..ListOffsetsPartition::default()
        })
        .collect();
    let topics = [ListOffsetsTopic {
        name,
        partitions: Array::from(&asked),
    }];
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: Array::from(&topics),
        ..ListOffsetsRequest::default()
    };
    let decode = |answer: &mut wire::Reader<'_>| {
        let mut found = BTreeMap::new();
        for topic in ListOffsetsResponse::decode(answer, LIST_OFFSETS_VERSION)?
            .topics
            .iter()
        {
            for partition in topic.partitions.iter() {
                check(partition.error_code)?;
                found.insert(partition.partition_index, partition.offset);
            }
        }
        Ok(found)
    };
    let encode = |writer: &mut wire::Writer<'_>| request.encode(writer, LIST_OFFSETS_VERSION);
    connection
        .call(ApiKey::ListOffsets, LIST_OFFSETS_VERSION, encode, decode)
        .await
}

/// Spreads partitions over `connections` connections, of which one that serves partitions of several brokers becomes several. Where there
/// are more connections than partitions, partitions are served more than once.
pub fn shares(leaders: &[Leader], connections: usize) -> Result<Vec<Share>> {
    ensure!(!leaders.is_empty(), "the topic has no partitions");
    let mut shares: BTreeMap<(usize, &str), Vec<i32>> = BTreeMap::new();
    for turn in 0..connections.max(leaders.len()) {
        let leader = &leaders[turn % leaders.len()];
        shares
            .entry((turn % connections, &leader.address))
            .or_default()
            .push(leader.partition);
    }
    let share = |((_, address), partitions): ((usize, &str), Vec<i32>)| Share {
        address: address.to_owned(),
        partitions,
    };
    Ok(shares.into_iter().map(share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaders(addresses: &[&str]) -> Vec<Leader> {
        let leader = |(partition, address): (usize, &&str)| Leader {
            partition: partition as i32,
            address: (*address).to_owned(),
        };
        addresses.iter().enumerate().map(leader).collect()
    }

    fn partitions(shares: &[Share]) -> Vec<Vec<i32>> {
        shares
            .iter()
            .map(|share| share.partitions.clone())
            .collect()
    }

    #[test]
    fn partitions_are_spread_evenly_over_fewer_connections() {
        let shares = shares(&leaders(&["a"; 5]), 2).unwrap();
        assert_eq!(partitions(&shares), [vec![0, 2, 4], vec![1, 3]]);
    }

    #[test]
    fn spare_connections_serve_partitions_again() {
        let shares = shares(&leaders(&["a"; 2]), 3).unwrap();
        assert_eq!(partitions(&shares), [vec![0], vec![1], vec![0]]);
    }

    #[test]
    fn a_connection_never_serves_partitions_of_two_brokers() {
        let shares = shares(&leaders(&["a", "b", "a", "b"]), 1).unwrap();
        assert_eq!(partitions(&shares), [vec![0, 2], vec![1, 3]]);
        assert_eq!([&*shares[0].address, &*shares[1].address], ["a", "b"]);
    }

    #[test]
    fn a_topic_without_partitions_is_refused() {
        assert!(shares(&[], 1).is_err());
    }
}
