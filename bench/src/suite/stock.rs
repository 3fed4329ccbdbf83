//! A client library at its defaults against this program's own consumer: what reading costs the broker. kcat is librdkafka as it comes, one
//! connection and answers of whatever it asks for, so the figure is what users meet.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::children::{Core, Process, Program};
use super::cluster::Cluster;
use super::fetch::{TAIL_WORDS, fill_old};
use super::lab::Lab;
use super::rows::{FETCH_STOCK_OLD, FETCH_STOCK_TAIL, Row, Sample, Spec};
use crate::clock::now;
use crate::process::processor_seconds;

/// What is in memory is so little that one reading takes no time that Linux could count.
const TAIL_READINGS: u32 = 10;

/// kcat gives up by itself much earlier.
const READING_MAX: Duration = Duration::from_secs(120);

/// Bytes that were read for each second of the broker's processor time, and of anyone's.
struct Reading {
    per_processor_second: f64,
    per_second: f64,
}

pub(super) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let cluster = Cluster::start(lab, 1)?;
    let old = fill_old(&cluster, "fetch-stock-old-fill")?;
    let old = compare(lab, &cluster, FETCH_STOCK_OLD, "old", old.bytes, 1)?;
    let recent = cluster.produce_to("fetch-stock-tail-fill", "recent", TAIL_WORDS)?;
    let recent = compare(
        lab,
        &cluster,
        FETCH_STOCK_TAIL,
        "recent",
        recent.bytes,
        TAIL_READINGS,
    )?;
    Ok(vec![recent, old])
}

fn compare(
    lab: &Lab,
    cluster: &Cluster<'_>,
    spec: Spec,
    topic: &str,
    bytes: u64,
    readings: u32,
) -> Result<Row> {
    let own_words = format!("--seconds {}", lab.seconds);
    let pairs = lab.interleave(
        spec.name,
        |run| {
            let outcome = cluster.consume(run, topic, &own_words)?;
            Ok(Reading {
                per_processor_second: 1000.0 / outcome.server_cpu()?,
                per_second: outcome.megabytes_per_second,
            })
        },
        |run| {
            cluster.settle();
            let megabytes = bytes as f64 / 1e6 * f64::from(readings);
            let (begun, before) = (now(), broker_seconds(cluster)?);
            for _ in 0..readings {
                read_with_kcat(lab, cluster, run, topic)?;
            }
            let used = broker_seconds(cluster)? - before;
            ensure!(used > 0.0, "the broker used no time that could be counted");
            Ok(Reading {
                per_processor_second: megabytes / used,
                per_second: megabytes / begun.elapsed().as_secs_f64(),
            })
        },
    )?;
    let samples: Vec<Sample> = pairs
        .iter()
        .map(|(stock, own)| Sample {
            value: stock.per_processor_second,
            against: own.per_processor_second,
            note: Some(format!(
                "kcat {:.0} MB/s with its start, own {:.0}",
                stock.per_second, own.per_second
            )),
        })
        .collect();
    Ok(Row::of_rounds(spec, "own consumer", &samples))
}

fn broker_seconds(cluster: &Cluster<'_>) -> Result<f64> {
    processor_seconds(cluster.pid()).context("the broker is gone")
}

/// Reads a topic from its start to its end.
fn read_with_kcat(lab: &Lab, cluster: &Cluster<'_>, run: &str, topic: &str) -> Result<()> {
    let bootstrap = &cluster.bootstrap;
    let program =
        Program::new("kcat").args(&format!("-C -b {bootstrap} -t {topic} -o beginning -e -q"));
    let log = lab.scratch.join(format!("{run}.log"));
    Process::start(&lab.children, Core::Client, &program, log)?
        .wait(READING_MAX)
        .context("kcat failed")
}
