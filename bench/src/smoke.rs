//! `smoke`: whether a cluster really works. One record goes into a new topic and comes out again; the topic is deleted whatever happened.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Write, stdout};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use wire::messages::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use wire::{ApiKey, Array, BatchBuilder, Reader, Records, Writer};

use crate::clock;
use crate::connection::Connection;
use crate::topic;

const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;
const PARTITION: i32 = 0;
const ACKS_ALL: i16 = -1;
const TIMEOUT_MS: i32 = 10_000;
const FETCH_WAIT_MS: i32 = 500;
const FETCH_BYTES_MAX: i32 = 1 << 20;
const FETCHES_MAX: usize = 20;
const FETCH_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// HOST:PORT of any broker
    #[arg(long)]
    bootstrap: String,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let bootstrap = arguments.bootstrap;
    crate::block_on(async {
        let mut connection = Connection::open(&bootstrap).await?;
        // Two checks at the same time must not share a topic.
        let topic = format!(
            "millrace-smoke-{:016x}",
            RandomState::new().build_hasher().finish()
        );
        topic::create(&mut connection, &topic, 1, &[]).await?;
        let worked = exchange(&mut connection, &topic).await;
        worked.and(delete(&bootstrap, &topic).await)
    })?;
    writeln!(stdout(), "{bootstrap} takes a record and gives it back").context("cannot print")
}

/// Over a connection of its own, because an error may have left the other one in the middle of an answer.
async fn delete(bootstrap: &str, topic: &str) -> Result<()> {
    topic::delete(&mut Connection::open(bootstrap).await?, topic).await
}

async fn exchange(connection: &mut Connection, topic: &str) -> Result<()> {
    let leaders = topic::leaders(connection, topic).await?;
    let leader = leaders.first().context("the topic has no partition")?;
    let mut leader = Connection::open(&leader.address).await?;
    topic::wait_led(&mut leader, topic, &[PARTITION]).await?;
    let value = topic.as_bytes();
    produce(&mut leader, topic, value).await?;
    for _ in 0..FETCHES_MAX {
        if let Some(found) = fetch(&mut leader, topic).await? {
            ensure!(found == value, "the record came back changed");
            return Ok(());
        }
        monoio::time::sleep(FETCH_PAUSE).await;
    }
    bail!("the record did not come back")
}

async fn produce(connection: &mut Connection, topic: &str, value: &[u8]) -> Result<()> {
    let now_ms = clock::wall_clock_ms();
    let batch = BatchBuilder::new(now_ms)
        .record(now_ms, None, Some(value), &[])
        .build();
    let partitions = [PartitionProduceData {
        index: PARTITION,
        records: Some(Records::from_slice(&batch)),
    }];
    let topics = [TopicProduceData {
        name: topic,
        partition_data: Array::from(&partitions),
        ..TopicProduceData::default()
    }];
    let request = ProduceRequest {
        acks: ACKS_ALL,
        timeout_ms: TIMEOUT_MS,
        topic_data: Array::from(&topics),
        ..ProduceRequest::default()
    };
    let decode = |answer: &mut Reader<'_>| {
        let response = ProduceResponse::decode(answer, PRODUCE_VERSION)?;
        let mut partitions = response
            .responses
            .iter()
            .flat_map(|topic| topic.partition_responses.iter());
        topic::check(
            partitions
                .next()
                .context("an answer without a partition")?
                .error_code,
        )
    };
    let encode = |writer: &mut Writer<'_>| request.encode(writer, PRODUCE_VERSION);
    connection
        .call(ApiKey::Produce, PRODUCE_VERSION, encode, decode)
        .await
}

/// The value of the first record, if it can be read already.
async fn fetch(connection: &mut Connection, topic: &str) -> Result<Option<Vec<u8>>> {
    let partitions = [FetchPartition {
        partition_max_bytes: FETCH_BYTES_MAX,
        ..FetchPartition::default()
    }];
    let topics = [FetchTopic {
        topic,
        partitions: Array::from(&partitions),
        ..FetchTopic::default()
    }];
    let request = FetchRequest {
        max_wait_ms: FETCH_WAIT_MS,
        min_bytes: 1,
        max_bytes: FETCH_BYTES_MAX,
        topics: Array::from(&topics),
        ..FetchRequest::default()
    };
    let decode = |answer: &mut Reader<'_>| {
        let response = FetchResponse::decode(answer, FETCH_VERSION)?;
        topic::check(response.error_code)?;
        let mut partitions = response
            .responses
            .iter()
            .flat_map(|topic| topic.partitions.iter());
        let partition = partitions.next().context("an answer without a partition")?;
        topic::check(partition.error_code)?;
        let Some(batch) = partition
            .records
            .and_then(|records| records.batches().next())
        else {
            return Ok(None);
        };
        let batch = batch?;
        batch.validate()?;
        let records = batch
            .records
            .contiguous()
            .context("the batch lies in one piece")?;
        let record = wire::RecordIter::new(records)
            .next()
            .context("a batch without records")??;
        Ok(record.value.map(<[u8]>::to_vec))
    };
    let encode = |writer: &mut Writer<'_>| request.encode(writer, FETCH_VERSION);
    connection
        .call(ApiKey::Fetch, FETCH_VERSION, encode, decode)
        .await
}
