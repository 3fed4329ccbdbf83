//! `e2e`: producers at a fixed rate and consumers that follow the end. A record's latency runs from when it was meant to be sent to when a
//! consumer has it.

use std::cell::RefCell;

use anyhow::Result;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, try_join_all};

use crate::clock::now;
use crate::follow::{Delivery, Follower, Reader};
use crate::meter::{Meter, Output};
use crate::open::{self, Linger, OpenLoop, Rate};
use crate::report::Report;
use crate::run::{Limits, Run};
use crate::shares;
use crate::topic::Topic;
use crate::workload::Workload;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    workload: Workload,
    /// The rate at which records are meant to be sent, of all partitions together
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    records_per_second: u64,
    #[command(flatten)]
    linger: Linger,
    /// Independent readers, each of which gets every record
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    fan_out: u32,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let workload = &arguments.workload;
    workload.check()?;
    open::record_bytes(workload)?;
    crate::block_on(async {
        let topic = workload.prepare_topic().await?;
        let readers = open_readers(&arguments, &topic).await?;
        let mut open_loop = OpenLoop::prepare(workload, &topic, arguments.linger).await?;
        let rate = arguments.records_per_second;
        let mut settings = open_loop.settings(&topic, arguments.linger, rate);
        settings.push(("fan_out", arguments.fan_out.to_string()));
        let meter = Meter::start(arguments.output.clone())?;
        let run = Run::new(arguments.limits);
        let delivery = Delivery::new(&run, open_loop.stream);
        let produce = open_loop.start(&run, Rate::patient(rate), arguments.limits);
        let ended = meter
            .supervise(&run, all(&delivery, produce, &readers))
            .await;
        let mut report = Report::new(&run, "e2e", &settings, &meter.costs(), &ended);
        report.set_end_to_end(&delivery.latency_us.borrow());
        report.generator_late_ms_max = Some(open_loop.late_ms_max());
        Meter::publish(&arguments.output, &report, ended)
    })
}

/// The connections of one reader, which are taken when the run starts.
struct OpenReader {
    reader: Reader,
    followers: RefCell<Vec<Follower>>,
}

async fn open_readers(arguments: &Arguments, topic: &Topic) -> Result<Vec<OpenReader>> {
    let connections = (arguments.workload.connections as usize).min(topic.leaders.len());
    let shares = shares::shares(&topic.leaders, connections)?;
    let mut readers = Vec::new();
    for _ in 0..arguments.fan_out {
        let mut followers = Vec::new();
        for share in &shares {
            followers.push(Follower::open(topic, share).await?);
        }
        readers.push(OpenReader {
            reader: Reader::default(),
            followers: followers.into(),
        });
    }
    Ok(readers)
}

/// Producers, which end first, and followers, which end once they have what was acknowledged.
fn all<'f>(
    delivery: &'f Delivery<'_>,
    produce: Vec<LocalBoxFuture<'f, Result<()>>>,
    readers: &'f [OpenReader],
) -> Vec<LocalBoxFuture<'f, Result<()>>> {
    let produced = async move {
        try_join_all(produce).await?;
        delivery.run.stop_clock();
        delivery.acknowledged_at.set(Some(now()));
        Ok(())
    };
    let mut futures = vec![produced.boxed_local()];
    for OpenReader { reader, followers } in readers {
        for follower in followers.take() {
            futures.push(follower.follow(delivery, reader).boxed_local());
        }
    }
    futures
}
