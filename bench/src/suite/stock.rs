//! A client library at its defaults against this program's own consumer that asks for the same: what reading costs the broker. kcat is
//! librdkafka as it comes, so the figure is what users meet; both have one connection, and answers of up to 1 MiB of a partition and 50 MiB
//! of all.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::children::{Core, Process, Program};
use super::cluster::Cluster;
use super::fetch::fill_old;
use super::lab::{Lab, Outcome};
use super::rows::{FETCH_STOCK_OLD, FETCH_STOCK_TAIL, Row, Sample, Spec};
use crate::clock::now;
use crate::process::{processor_seconds, processor_seconds_by_thread};

/// What a stock client asks for, in this program's words.
const STOCK_WORDS: &str = "--connections 1 --partition-bytes 1m --fetch-bytes 50m";

/// So much of it is in memory that kcat's start, which takes longer than to read what a broker keeps by default, is little beside it.
const TAIL_MIB: u32 = 1024;
const RECENT_WORDS: &str =
    "--bytes 512m --partitions 1 --acks 1 --config write.caching=true --batch-bytes 64k";

/// Of the whole topic in one turn. Linux counts in hundredths of a second.
const OLD_READINGS: u32 = 2;
const TAIL_READINGS: u32 = 4;

/// What a broker uses that nobody asks anything: its clocks, its heartbeats.
const REST: Duration = Duration::from_secs(5);

/// kcat gives up by itself much earlier.
const READING_MAX: Duration = Duration::from_secs(120);

/// Bytes that were read for each second of the broker's processor time, and of anyone's.
struct Reading {
    per_processor_second: f64,
    per_second: f64,
}

pub(super) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    Ok(vec![tail(lab)?, old(lab)?])
}

fn tail(lab: &Lab) -> Result<Row> {
    let program = Program::new(&lab.broker).args(&format!("--tail-mib {TAIL_MIB}"));
    let cluster = Cluster::start_under(lab, 1, program)?;
    let filled = cluster.produce_to("fetch-stock-tail-fill", "recent", RECENT_WORDS)?;
    compare(
        lab,
        &cluster,
        FETCH_STOCK_TAIL,
        "recent",
        &filled,
        TAIL_READINGS,
    )
}

fn old(lab: &Lab) -> Result<Row> {
    let cluster = Cluster::start(lab, 1)?;
    let filled = fill_old(&cluster, "fetch-stock-old-fill")?;
    compare(lab, &cluster, FETCH_STOCK_OLD, "old", &filled, OLD_READINGS)
}

fn compare(
    lab: &Lab,
    cluster: &Cluster<'_>,
    spec: Spec,
    topic: &str,
    filled: &Outcome,
    readings: u32,
) -> Result<Row> {
    let (bootstrap, records) = (&cluster.bootstrap, filled.records);
    let own = format!("consume --bootstrap {bootstrap} --topic {topic} {STOCK_WORDS}");
    let own = Program::new(lab.own_program()?).args(&own);
    let stock = format!("-C -b {bootstrap} -t {topic} -o beginning -c {records} -q");
    let stock = Program::new("kcat").args(&stock);
    let read = |run: &str, program: &Program| {
        let log = lab.scratch.join(format!("{run}.log"));
        Process::start(&lab.children, Core::Client, program, log)?
            .wait(READING_MAX)
            .with_context(|| format!("run {run} failed"))
    };
    cluster.settle();
    let resting = resting(cluster)?;
    // Both sides start anew for each reading and are measured from without. What the broker uses anyway is not the reader's: kcat takes
    // much longer.
    let measure = |run: &str, program: &Program| {
        cluster.settle();
        let megabytes = filled.bytes as f64 / 1e6 * f64::from(readings);
        let (begun, before) = (now(), broker_seconds(cluster)?);
        for _ in 0..readings {
            read(run, program)?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let used = broker_seconds(cluster)? - before - resting * seconds;
        ensure!(used > 0.0, "the broker used no time that could be counted");
        Ok(Reading {
            per_processor_second: megabytes / used,
            per_second: megabytes / seconds,
        })
    };
    let pairs = lab.interleave(
        spec.name,
        |run| measure(run, &own),
        |run| measure(run, &stock),
    )?;
    let samples: Vec<Sample> = pairs
        .iter()
        .map(|(stock, own)| Sample {
            value: stock.per_processor_second,
            against: own.per_processor_second,
            note: Some(format!(
                "kcat {:.0} MB/s, own {:.0}, starts included; at rest {:.1} ms/s",
                stock.per_second,
                own.per_second,
                resting * 1e3
            )),
        })
        .collect();
    Ok(Row::of_rounds(spec, "own consumer, same limits", &samples))
}

fn broker_seconds(cluster: &Cluster<'_>) -> Result<f64> {
    processor_seconds(cluster.pid()).context("the broker is gone")
}

/// Seconds of processor time in a second, of a broker that nobody asks anything.
fn resting(cluster: &Cluster<'_>) -> Result<f64> {
    let by_thread = || processor_seconds_by_thread(cluster.pid()).context("the broker is gone");
    let (begun, before) = (now(), by_thread()?);
    sleep(REST);
    let after = by_thread()?;
    let of_thread = |(thread, used): (&u32, &f64)| used - before.get(thread).unwrap_or(&0.0);
    Ok(after.iter().map(of_thread).sum::<f64>() / begun.elapsed().as_secs_f64())
}
