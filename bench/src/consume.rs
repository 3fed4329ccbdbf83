//! `consume`: reads every partition of a topic from its first offset to the end it had when the run began.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use wire::{ApiKey, Array, BatchError, Reader};

use crate::clock::now;
use crate::connection::Connection;
use crate::report::{Meter, Output};
use crate::run::Run;
use crate::topic::{self, Bounds, Share};
use crate::units;
use crate::verify::Verifier;

const FETCH_VERSION: i16 = 12;
const FETCH_WAIT_MS: i32 = 500;
/// Asks for no fetch session (KIP-227).
const NO_SESSION_EPOCH: i32 = -1;
const CONSUMER_REPLICA_ID: i32 = -1;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// HOST:PORT of any broker
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// The most that a fetch may return of one partition
    #[arg(long, default_value = "1m", value_parser = units::message_bytes)]
    partition_bytes: usize,
    /// The most that a fetch may return
    #[arg(long, default_value = "4m", value_parser = units::message_bytes)]
    fetch_bytes: usize,
    /// Checks offsets, CRCs and that every batch written by produce is there once
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: Arguments) -> Result<()> {
    crate::block_on(async move {
        let mut bootstrap = Connection::open(&arguments.bootstrap).await?;
        let leaders = topic::leaders(&mut bootstrap, &arguments.topic).await?;
        // More connections than partitions would read partitions twice.
        let shares = topic::shares(
            &leaders,
            leaders.len().clamp(1, arguments.connections as usize),
        )?;
        let mut consumers = Vec::with_capacity(shares.len());
        for share in &shares {
            consumers.push(Consumer::open(&arguments, share).await?);
        }
        let meter = Meter::start(arguments.output.clone())?;
        let run = Run::unlimited();
        let ended = run
            .supervise(
                consumers
                    .into_iter()
                    .map(|consumer| consumer.consume(&run))
                    .collect(),
            )
            .await;
        let settings = [
            ("topic", arguments.topic.clone()),
            ("partitions", leaders.len().to_string()),
            ("connections", shares.len().to_string()),
            ("partition_bytes", arguments.partition_bytes.to_string()),
            ("fetch_bytes", arguments.fetch_bytes.to_string()),
            ("verify", arguments.verify.to_string()),
        ];
        meter.finish(&run, "consume", &settings, ended)
    })
}

/// One connection and what is left for it to read.
struct Consumer<'a> {
    connection: Connection,
    arguments: &'a Arguments,
    positions: BTreeMap<i32, Position>,
    verifier: Verifier,
}

struct Position {
    next: i64,
    bounds: Bounds,
}

impl<'a> Consumer<'a> {
    async fn open(arguments: &'a Arguments, share: &Share) -> Result<Self> {
        let mut connection = Connection::open(&share.address).await?;
        let bounds = topic::bounds(&mut connection, &arguments.topic, &share.partitions).await?;
        let position = |bounds: Bounds| Position {
            next: bounds.earliest,
            bounds,
        };
        let positions = share
            .partitions
            .iter()
            .copied()
            .zip(bounds.into_iter().map(position))
            .collect();
        Ok(Self {
            connection,
            arguments,
            positions,
            verifier: Verifier::default(),
        })
    }

    async fn consume(mut self, run: &Run) -> Result<()> {
        loop {
            self.positions
                .retain(|_, position| position.next < position.bounds.latest);
            if self.positions.is_empty() {
                return Ok(());
            }
            self.fetch(run).await?;
        }
    }

    async fn fetch(&mut self, run: &Run) -> Result<()> {
        let Consumer {
            connection,
            arguments,
            positions,
            verifier,
        } = self;
        let sent_at = now();
        let partitions: Vec<_> = positions
            .iter()
            .map(|(index, position)| FetchPartition {
                partition: *index,
                fetch_offset: position.next,
                partition_max_bytes: arguments.partition_bytes as i32,
                ..FetchPartition::default()
            })
            .collect();
        let topics = [FetchTopic {
            topic: &arguments.topic,
            partitions: Array::from(&partitions),
            ..FetchTopic::default()
        }];
        let request = FetchRequest {
            replica_id: CONSUMER_REPLICA_ID,
            max_wait_ms: FETCH_WAIT_MS,
            min_bytes: 1,
            max_bytes: arguments.fetch_bytes as i32,
            session_epoch: NO_SESSION_EPOCH,
            topics: Array::from(&topics),
            ..FetchRequest::default()
        };
        let encode = |writer: &mut wire::Writer<'_>| request.encode(writer, FETCH_VERSION);
        let decode =
            |answer: &mut Reader<'_>| take(answer, positions, arguments.verify.then_some(verifier));
        let (bytes, records) = connection
            .call(ApiKey::Fetch, FETCH_VERSION, encode, decode)
            .await?;
        // An empty answer is one that waited for nothing: counting it would hide a broker that has stopped serving.
        if bytes > 0 {
            run.count(bytes, records, sent_at);
        }
        Ok(())
    }
}

/// Moves all positions past what a response holds; returns its bytes and records.
fn take(
    answer: &mut Reader<'_>,
    positions: &mut BTreeMap<i32, Position>,
    mut verifier: Option<&mut Verifier>,
) -> Result<(u64, u64)> {
    let response = FetchResponse::decode(answer, FETCH_VERSION)?;
    topic::check(response.error_code)?;
    let (mut bytes, mut records) = (0, 0);
    for topic in response.responses.iter() {
        for data in topic.partitions.iter() {
            let index = data.partition_index;
            topic::check(data.error_code).with_context(|| format!("partition {index}"))?;
            let position = positions
                .get_mut(&index)
                .with_context(|| format!("partition {index} was not asked for"))?;
            let Some(found) = data.records else { continue };
            let from_start = position.bounds.earliest == 0;
            let mut whole = false;
            for batch in found.batches() {
                let batch = match batch {
                    Ok(batch) => batch,
                    // A broker may cut the last batch at the byte limit.
                    Err(BatchError::TooShort { .. }) if whole => break,
                    Err(error) => return Err(error).with_context(|| format!("partition {index}")),
                };
                whole = true;
                if let Some(verifier) = &mut verifier {
                    verifier.check(index, position.next, from_start, &batch)?;
                }
                let end = batch.header.last_offset() + 1;
                ensure!(
                    end > position.next,
                    "partition {index}: offset {} was given twice",
                    batch.header.base_offset
                );
                position.next = end;
                bytes += batch.bytes.len() as u64;
                records += u64::try_from(batch.header.records_count).unwrap_or(0);
            }
        }
    }
    Ok((bytes, records))
}
