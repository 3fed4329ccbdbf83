//! The open loop: records are made at a fixed rate, whatever the broker does, and each one's latency counts from when it was meant to be
//! sent. So a broker that stalls is charged for every record that it kept waiting, and not for the few that a closed loop would have sent.
//!
//! ```text
//! schedule --> pacer --(keys)--> outbox of a connection --(full or lingered)--> producer --> broker
//!                                    pending batches                             window
//! ```

pub mod outbox;
pub mod pacer;
pub mod pending;
pub mod producer;
pub mod requests;
pub mod schedule;

use std::cell::Cell;

use anyhow::{Result, ensure};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

pub use pacer::Overload;

use crate::keys::Chooser;
use crate::lanes::{record_bytes_fitting, record_room};
use crate::meter::{Meter, Output, SILENT_SECONDS_MAX};
use crate::report::Report;
use crate::run::{Limits, Run};
use crate::shares;
use crate::stamp::{TIMED_STAMP_BYTES, random_stream};
use crate::topic::Topic;
use crate::workload::Workload;
use outbox::Outbox;
use pacer::{Destination, Pacer, Values};
use producer::Producer;
use schedule::Schedule;

const NS_PER_MS: u64 = 1_000_000;

/// Flags of commands with an open loop, besides its rate.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Linger {
    /// How long a batch that is not full waits for more records, at a fixed rate [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub linger_ms: Option<u64>,
}

/// That of Kafka's producer since version 4.
const LINGER_MS_DEFAULT: u64 = 5;

impl Linger {
    fn ms(self) -> u64 {
        self.linger_ms.unwrap_or(LINGER_MS_DEFAULT)
    }
}

/// How fast records are made, and when a run gives up.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub records_per_second: u64,
    /// A broker that is as many seconds of records behind does not keep up.
    pub backlog_seconds_max: u64,
}

impl Rate {
    /// A rate that is given up later than a broker that answers nothing at all.
    pub fn patient(records_per_second: u64) -> Self {
        Self {
            records_per_second,
            backlog_seconds_max: SILENT_SECONDS_MAX + 2,
        }
    }
}

/// Connections that are open and wait for records.
pub struct OpenLoop<'a> {
    workload: &'a Workload,
    partitions: Vec<i32>,
    producers: Vec<Producer>,
    outboxes: Vec<Outbox>,
    record_bytes: usize,
    late_ns_max: Cell<u64>,
    /// Marks the records of this run.
    pub stream: u64,
}

impl<'a> OpenLoop<'a> {
    pub async fn prepare(workload: &'a Workload, topic: &Topic, linger: Linger) -> Result<Self> {
        let record_bytes = record_bytes(workload)?;
        // A partition is served by one connection, which keeps its records in order.
        let connections = (workload.connections as usize).min(topic.leaders.len());
        let mut producers = Vec::new();
        for share in shares::shares(&topic.leaders, connections)? {
            producers.push(Producer::open(workload, topic, &share).await?);
        }
        let linger_ns = linger.ms() * NS_PER_MS;
        let outbox = |producer: &Producer| producer.outbox(workload.batch_bytes, linger_ns);
        Ok(Self {
            workload,
            partitions: topic
                .leaders
                .iter()
                .map(|leader| leader.partition)
                .collect(),
            outboxes: producers.iter().map(outbox).collect(),
            producers,
            record_bytes,
            late_ns_max: Cell::new(0),
            stream: random_stream(),
        })
    }

    /// Everything that has to run for the records of a run to be sent and answered.
    pub fn start<'f>(
        &'f mut self,
        run: &'f Run,
        rate: Rate,
        limits: Limits,
    ) -> Vec<LocalBoxFuture<'f, Result<()>>> {
        let pacer = Pacer {
            run,
            schedule: Schedule {
                records_per_second: rate.records_per_second,
                records: limits.records(rate.records_per_second, self.record_bytes),
            },
            backlog_seconds_max: rate.backlog_seconds_max,
            outboxes: &self.outboxes,
            destinations: destinations(&self.partitions, &self.producers, &self.outboxes),
            chooser: Chooser::new(self.workload.keys, &self.partitions, 0),
            values: Values::new(self.record_bytes, self.stream),
            late_ns_max: &self.late_ns_max,
        };
        let mut futures = vec![pacer.pace().boxed_local()];
        for (producer, outbox) in self.producers.drain(..).zip(&self.outboxes) {
            futures.push(producer.produce(run, outbox).boxed_local());
        }
        futures
    }

    /// The longest that this program itself kept a record waiting.
    pub fn late_ms_max(&self) -> f64 {
        self.late_ns_max.get() as f64 / NS_PER_MS as f64
    }

    /// For the report.
    pub fn settings(
        &self,
        topic: &Topic,
        linger: Linger,
        records_per_second: u64,
    ) -> Vec<(&'static str, String)> {
        let mut settings = self.workload.settings(topic);
        settings.extend([
            ("connections", self.outboxes.len().to_string()),
            ("batch_bytes", self.workload.batch_bytes.to_string()),
            ("record_bytes", self.record_bytes.to_string()),
            ("linger_ms", linger.ms().to_string()),
            ("records_per_second", records_per_second.to_string()),
        ]);
        settings
    }
}

/// One run of producers alone: what it measured, and how it ended.
pub async fn run_once(
    workload: &Workload,
    topic: &Topic,
    linger: Linger,
    rate: Rate,
    limits: Limits,
    output: Output,
) -> Result<(Report, Result<()>)> {
    let mut open_loop = OpenLoop::prepare(workload, topic, linger).await?;
    let settings = open_loop.settings(topic, linger, rate.records_per_second);
    let meter = Meter::start(output)?;
    let run = Run::new(limits);
    let futures = open_loop.start(&run, rate, limits);
    let ended = meter.supervise(&run, futures).await;
    let mut report = Report::new(&run, "produce", &settings, &meter.costs(), &ended);
    report.generator_late_ms_max = Some(open_loop.late_ms_max());
    Ok((report, ended))
}

/// The size of a record's value, if a batch can hold one.
pub fn record_bytes(workload: &Workload) -> Result<usize> {
    let (wanted, batch_bytes) = (workload.record_bytes, workload.batch_bytes);
    let record_bytes = record_bytes_fitting(wanted, batch_bytes, TIMED_STAMP_BYTES)?;
    ensure!(
        record_bytes <= record_room(batch_bytes),
        "a record of {record_bytes} bytes does not fit a batch of {batch_bytes}"
    );
    Ok(record_bytes)
}

fn destinations<'a>(
    partitions: &[i32],
    producers: &[Producer],
    outboxes: &'a [Outbox],
) -> Vec<Destination<'a>> {
    let destination = |partition: &i32| {
        let mut connections = producers.iter().zip(outboxes);
        connections.find_map(|(producer, outbox)| {
            let mut served = producer.partitions.iter();
            let place = served.position(|served| served == partition)?;
            Some(Destination { outbox, place })
        })
    };
    let destinations = partitions.iter().map(destination);
    destinations
        .collect::<Option<_>>()
        .expect("every partition has a connection")
}
