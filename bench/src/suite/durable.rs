//! Produce whose answers wait for stable storage, against the sink's best durable mode and the device's own latency.

use anyhow::{Context, Result};

use super::cluster::Cluster;
use super::lab::{Lab, Sink, progress};
use super::produce::megabytes;
use super::rows::{DURABLE_8, DURABLE_256, DURABLE_P99, Row, Sample, Spec};

/// Logs and unanswered frames a connection. Which of these a device likes best, no rule says.
const SINK_SHAPES: [(u32, u32); 4] = [(1, 8), (4, 8), (8, 8), (16, 32)];
const CALIBRATION_SECONDS: u64 = 1;

/// One record fills a batch, so that a latency is that of a batch and not of the wait for it to fill.
const WHOLE_BATCH: &str = "--batch-bytes 64k --record-bytes 65400";

/// The share of the best durable rate at which latency is measured.
const LATENCY_LOAD: f64 = 0.3;

pub(super) fn over_8_partitions(lab: &Lab) -> Result<Vec<Row>> {
    throughput(lab, DURABLE_8, 8, 8)
}

pub(super) fn over_256_partitions(lab: &Lab) -> Result<Vec<Row>> {
    throughput(lab, DURABLE_256, 256, 64)
}

fn throughput(lab: &Lab, spec: Spec, partitions: u32, in_flight: u32) -> Result<Vec<Row>> {
    let seconds = lab.seconds;
    let (sink, words, shape) = best_sink(lab, spec.name)?;
    let cluster = Cluster::start(lab, 1)?;
    let pairs = lab.interleave(
        spec.name,
        |run| sink.load(lab, run, &format!("{words} --seconds {seconds}")),
        |run| {
            cluster.produce(
                run,
                &format!(
                    "--partitions {partitions} --acks all --config write.caching=false --batch-bytes 64k \
                     --connections 4 --in-flight {in_flight} --seconds {seconds}"
                ),
            )
        },
    )?;
    Ok(vec![Row::of_rounds(
        spec,
        format!("sink, dsync, {shape}"),
        &megabytes(&pairs),
    )])
}

/// The fastest of the shapes in a short run each: the sink, the words that load it, and what to call it.
fn best_sink(lab: &Lab, name: &str) -> Result<(Sink, String, String)> {
    let mut best: Option<(f64, u32, u32)> = None;
    for (logs, in_flight) in SINK_SHAPES {
        progress(&format!("{name}: sink with {logs} logs"));
        let sink = lab.sink("dsync", &format!("--logs {logs}"))?;
        let words = sink_words(in_flight);
        let run = format!("{name}-calibration-{logs}");
        let outcome = sink.load(
            lab,
            &run,
            &format!("{words} --seconds {CALIBRATION_SECONDS}"),
        )?;
        if best.is_none_or(|(rate, ..)| outcome.megabytes_per_second > rate) {
            best = Some((outcome.megabytes_per_second, logs, in_flight));
        }
    }
    let (_, logs, in_flight) = best.context("there is a shape at least")?;
    let sink = lab.sink("dsync", &format!("--logs {logs}"))?;
    Ok((sink, sink_words(in_flight), format!("{logs} logs")))
}

fn sink_words(in_flight: u32) -> String {
    format!("--frame-bytes 64k --connections 4 --in-flight {in_flight}")
}

/// The device's own figure is that of the sink with one write of the same size in flight, not that of `limits`: it is taken in the same
/// rounds, because a virtual disk changes by the minute, and it holds the socket and the wake-ups that no broker is without. At 30% of
/// the best rate the broker stores most batches by a write of their own.
pub(super) fn latency(lab: &Lab) -> Result<Vec<Row>> {
    let seconds = lab.seconds;
    let sink = lab.sink("dsync", "--logs 1")?;
    let cluster = Cluster::start(lab, 1)?;
    let produce = format!(
        "--partitions 8 --acks all --config write.caching=false {WHOLE_BATCH} --connections 4 --in-flight 8 \
         --seconds {seconds}"
    );
    progress("durable-p99: the best rate");
    let best = cluster.produce("durable-p99-best", &produce)?;
    let rate = (best.records as f64 / best.seconds * LATENCY_LOAD).max(1.0);
    let paced = format!("{produce} --records-per-second {rate:.0} --linger-ms 0");
    let alone = format!("--frame-bytes 64k --connections 1 --in-flight 1 --seconds {seconds}");
    let pairs = lab.interleave(
        "durable-p99",
        |run| sink.load(lab, run, &alone),
        |run| cluster.produce(run, &paced),
    )?;
    let samples: Vec<Sample> = pairs
        .iter()
        .map(|(broker, device)| Sample::new(broker.latency_ms.p99, device.latency_ms.p99))
        .collect();
    Ok(vec![Row::of_rounds(
        DURABLE_P99,
        "device's 64 KiB DSYNC p99",
        &samples,
    )])
}
