//! A client library at its defaults against this program's own consumer: what reading costs the broker. kcat is librdkafka as it comes, one
//! connection and answers of whatever it asks for, so the figure is what users meet.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::children::{Core, Process, Program};
use super::cluster::Cluster;
use super::fetch::{TAIL_WORDS, fill_old};
use super::lab::{Lab, Outcome};
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
    let old = compare(lab, &cluster, FETCH_STOCK_OLD, "old", &old, 1)?;
    let recent = cluster.produce_to("fetch-stock-tail-fill", "recent", TAIL_WORDS)?;
    let recent = compare(
        lab,
        &cluster,
        FETCH_STOCK_TAIL,
        "recent",
        &recent,
        TAIL_READINGS,
    )?;
    Ok(vec![recent, old])
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
    let own = format!("consume --bootstrap {bootstrap} --topic {topic}");
    let own = Program::new(lab.own_program()?).args(&own);
    let stock = format!("-C -b {bootstrap} -t {topic} -o beginning -c {records} -q");
    let stock = Program::new("kcat").args(&stock);
    let read = |run: &str, program: &Program| {
        let log = lab.scratch.join(format!("{run}.log"));
        Process::start(&lab.children, Core::Client, program, log)?
            .wait(READING_MAX)
            .with_context(|| format!("run {run} failed"))
    };
    // Both sides start anew for each reading, and are measured from without, so that only the reading differs.
    let measure = |run: &str, program: &Program| {
        cluster.settle();
        let megabytes = filled.bytes as f64 / 1e6 * f64::from(readings);
        let (begun, before) = (now(), broker_seconds(cluster)?);
        for _ in 0..readings {
            read(run, program)?;
        }
        let used = broker_seconds(cluster)? - before;
        ensure!(used > 0.0, "the broker used no time that could be counted");
        Ok(Reading {
            per_processor_second: megabytes / used,
            per_second: megabytes / begun.elapsed().as_secs_f64(),
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
                "kcat {:.0} MB/s, own {:.0}, starts included",
                stock.per_second, own.per_second
            )),
        })
        .collect();
    Ok(Row::of_rounds(spec, "own consumer", &samples))
}

fn broker_seconds(cluster: &Cluster<'_>) -> Result<f64> {
    processor_seconds(cluster.pid()).context("the broker is gone")
}
