//! `consume`: reads every partition of a topic from its first offset to the end it had when the run began, once or, with `--seconds`,
//! again and again.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::bounds::{self, Bounds};
use crate::clock::now;
use crate::connection::Connection;
use crate::fetch::{FetchLimits, Fetched, Fetcher};
use crate::meter::{Meter, Output};
use crate::run::{Limits, Run};
use crate::shares::{self, Share};
use crate::topic::{self, Topic};
use crate::units;
use crate::verify::Verifier;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// HOST:PORT of any broker
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// Connections of each reader
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Independent readers, each of which reads everything
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    fan_out: u32,
    /// Reads for this long, beginning again with every partition whose end is reached [default: reads everything once]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// The most that a fetch may return of one partition
    #[arg(long, default_value = "1m", value_parser = units::message_bytes)]
    partition_bytes: usize,
    /// The most that a fetch may return
    #[arg(long, default_value = "4m", value_parser = units::message_bytes)]
    fetch_bytes: usize,
    /// Checks offsets, CRCs and that every batch written by produce is there once; with --seconds, while reading for the first time
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: Arguments) -> Result<()> {
    crate::block_on(async move {
        let mut bootstrap = Connection::open(&arguments.bootstrap).await?;
        let topic = topic::find(&mut bootstrap, &arguments.topic).await?;
        // More connections than partitions would read partitions twice.
        let shares = shares::shares(
            &topic.leaders,
            topic.leaders.len().clamp(1, arguments.connections as usize),
        )?;
        let mut consumers = Vec::new();
        for share in (0..arguments.fan_out).flat_map(|_| &shares) {
            consumers.push(Consumer::open(&arguments, &topic, share).await?);
        }
        ensure!(
            arguments.seconds.is_none() || consumers.iter().any(|consumer| !consumer.is_done()),
            "topic {} holds no records",
            arguments.topic
        );
        let meter = Meter::start(arguments.output.clone())?;
        let run = match arguments.seconds {
            None => Run::unlimited(),
            seconds => Run::new(Limits {
                seconds,
                bytes: None,
            }),
        };
        let ended = meter
            .supervise(
                &run,
                consumers
                    .into_iter()
                    .map(|consumer| consumer.consume(&run))
                    .collect(),
            )
            .await;
        let settings = [
            ("topic", arguments.topic.clone()),
            ("partitions", topic.leaders.len().to_string()),
            ("connections", shares.len().to_string()),
            ("fan_out", arguments.fan_out.to_string()),
            ("partition_bytes", arguments.partition_bytes.to_string()),
            ("fetch_bytes", arguments.fetch_bytes.to_string()),
            ("verify", arguments.verify.to_string()),
        ];
        meter.finish(&run, "consume", &settings, ended)
    })
}

/// One connection and what is left for it to read.
struct Consumer<'a> {
    fetcher: Fetcher,
    arguments: &'a Arguments,
    positions: BTreeMap<i32, Position>,
    verifier: Verifier,
}

struct Position {
    next: i64,
    bounds: Bounds,
    first_pass: bool,
}

impl Position {
    fn at_end(&self) -> bool {
        self.next >= self.bounds.latest
    }
}

/// What one answer brought.
#[derive(Default)]
struct Taken {
    bytes: u64,
    records: u64,
    /// Partitions whose next record was deleted before it was asked for.
    deleted: Vec<i32>,
}

impl<'a> Consumer<'a> {
    async fn open(arguments: &'a Arguments, topic: &Topic, share: &Share) -> Result<Self> {
        let mut connection = Connection::open(&share.address).await?;
        let bounds = bounds::bounds(&mut connection, &topic.name, &share.partitions).await?;
        let position = |(partition, bounds): (&i32, Bounds)| {
            let position = Position {
                next: bounds.earliest,
                bounds,
                first_pass: true,
            };
            (*partition, position)
        };
        let positions = share.partitions.iter().zip(bounds).map(position);
        let limits = FetchLimits {
            partition_bytes: arguments.partition_bytes,
            bytes: arguments.fetch_bytes,
        };
        let mut consumer = Self {
            positions: positions.collect(),
            fetcher: Fetcher::new(connection, topic, limits)?,
            arguments,
            verifier: Verifier::default(),
        };
        // An empty partition would never have anything to begin again with.
        consumer.positions.retain(|_, position| !position.at_end());
        Ok(consumer)
    }

    fn is_done(&self) -> bool {
        self.positions.is_empty()
    }

    async fn consume(mut self, run: &Run) -> Result<()> {
        while !self.is_done() && !run.is_over(now()) {
            let sent_at = now();
            let taken = self.fetch().await?;
            // An empty answer is one that waited for nothing: counting it would hide a broker that has stopped serving.
            if taken.bytes > 0 {
                run.count(taken.bytes, taken.records, sent_at);
            }
            self.skip_deleted(&taken.deleted).await?;
            self.turn_ends();
        }
        Ok(())
    }

    async fn fetch(&mut self) -> Result<Taken> {
        let Consumer {
            fetcher,
            arguments,
            positions,
            verifier,
        } = self;
        let asked: Vec<_> = positions
            .iter()
            .map(|(index, position)| (*index, position.next))
            .collect();
        let mut taken = Taken::default();
        let take = |fetched: Fetched<'_>| {
            let index = fetched.partition;
            if !fetched.in_range {
                taken.deleted.push(index);
                return Ok(());
            }
            let position = positions
                .get_mut(&index)
                .with_context(|| format!("partition {index} was not asked for"))?;
            let from_start = position.bounds.earliest == 0;
            let verify = arguments.verify && position.first_pass;
            position.next = fetched.batches(position.next, |offset, batch| {
                if verify {
                    verifier.check(index, offset, from_start, batch)?;
                }
                taken.bytes += batch.bytes.len() as u64;
                taken.records += u64::try_from(batch.header.records_count).unwrap_or(0);
                Ok(())
            })?;
            Ok(())
        };
        fetcher.fetch(asked.into_iter(), take).await?;
        Ok(taken)
    }

    /// Where retention was faster than this reader, it goes on with what is still there.
    async fn skip_deleted(&mut self, deleted: &[i32]) -> Result<()> {
        if deleted.is_empty() {
            return Ok(());
        }
        ensure!(
            self.arguments.seconds.is_some(),
            "partition {}: records were deleted while they were read",
            deleted[0]
        );
        let topic = &self.arguments.topic;
        let found = bounds::bounds(&mut self.fetcher.connection, topic, deleted).await?;
        for (index, bounds) in deleted.iter().zip(found) {
            let position = Position {
                next: bounds.earliest,
                bounds,
                first_pass: false,
            };
            self.positions.insert(*index, position);
        }
        Ok(())
    }

    /// Leaves or begins again the partitions that were read to their end.
    fn turn_ends(&mut self) {
        if self.arguments.seconds.is_none() {
            self.positions.retain(|_, position| !position.at_end());
            return;
        }
        for position in self.positions.values_mut() {
            if position.at_end() {
                position.next = position.bounds.earliest;
                position.first_pass = false;
            }
        }
    }
}
