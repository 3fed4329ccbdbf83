//! Where the partitions of a topic start and end, from the brokers that lead them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};
use wire::{ApiKey, Array};

use crate::connection::Connection;
use crate::topic::{Refusal, check};

const POLLS_MAX: usize = 100;
const POLL_PAUSE: Duration = Duration::from_millis(100);
const ANSWER_MS_MAX: i32 = 10_000;

/// Questions that ListOffsets answers in place of a timestamp.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// The first offset of a partition and the one after its last.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub earliest: i64,
    pub latest: i64,
}

/// Waits until the connection's broker really leads the partitions that metadata says it leads: it learns of a new topic a moment later than
/// whoever answers for the whole cluster.
pub async fn wait_led(connection: &mut Connection, topic: &str, partitions: &[i32]) -> Result<()> {
    bounds(connection, topic, partitions).await.map(drop)
}

/// The earliest and latest offsets of partitions of the connection's broker, in the order asked; waits a while for those that it does not lead
/// yet, as after a restart.
pub async fn bounds(
    connection: &mut Connection,
    topic: &str,
    partitions: &[i32],
) -> Result<Vec<Bounds>> {
    let mut polls = 1;
    loop {
        let passing = |error: &anyhow::Error| {
            error
                .downcast_ref()
                .is_some_and(|refusal: &Refusal| refusal.is_passing())
        };
        match bounds_now(connection, topic, partitions).await {
            Err(error) if passing(&error) && polls < POLLS_MAX => {}
            ended => return ended,
        }
        polls += 1;
        monoio::time::sleep(POLL_PAUSE).await;
    }
}

async fn bounds_now(
    connection: &mut Connection,
    topic: &str,
    partitions: &[i32],
) -> Result<Vec<Bounds>> {
    let earliest = offsets(connection, topic, partitions, EARLIEST).await?;
    let latest = offsets(connection, topic, partitions, LATEST).await?;
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
    topic: &str,
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
        name: topic,
        partitions: Array::from(&asked),
    }];
    let request = ListOffsetsRequest {
        replica_id: -1,
        timeout_ms: ANSWER_MS_MAX,
        topics: Array::from(&topics),
        ..ListOffsetsRequest::default()
    };
    let version = connection.version(ApiKey::ListOffsets)?;
    let decode = |answer: &mut wire::Reader<'_>| {
        let mut found = BTreeMap::new();
        for topic in ListOffsetsResponse::decode(answer, version)?.topics.iter() {
            for partition in topic.partitions.iter() {
                check(partition.error_code)?;
                found.insert(partition.partition_index, partition.offset);
            }
        }
        Ok(found)
    };
    let encode = |writer: &mut wire::Writer<'_>| request.encode(writer, version);
    connection
        .call(ApiKey::ListOffsets, version, encode, decode)
        .await
}
