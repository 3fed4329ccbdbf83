//! Produce whose answers wait for stable storage, against the sink's best durable mode and the device's own latency.

use anyhow::Result;

use super::cluster::Cluster;
use super::lab::{CALIBRATION_SECONDS, Lab, Outcome, fastest, generator_note, progress};
use super::produce::{PARTITIONS, PREPARED_BYTES, megabytes};
use super::rows::{DURABLE_8, DURABLE_256, DURABLE_P99, DURABLE_P99_SINK, Row, Sample, Spec};

/// Logs of the sink, of which each has one write in flight. How many of these a device likes best, no rule says.
const SINK_LOGS: [u32; 4] = [1, 4, 8, 16];
/// One record fills a batch, so that a latency is that of a batch and not of the wait for it to fill.
const WHOLE_BATCH: &str = "--batch-bytes 64k --record-bytes 65400";

/// The share of the best durable rate at which latency is measured.
const LATENCY_LOAD: f64 = 0.3;

pub(super) fn over_8_partitions(lab: &Lab) -> Result<Vec<Row>> {
    throughput(lab, DURABLE_8, PARTITIONS, 4)
}

/// More connections, so that every partition has several batches unanswered, as it does where producers are many. With one each, every
/// batch would be a write of its own, and what is measured is how many writes a second the device takes.
pub(super) fn over_256_partitions(lab: &Lab) -> Result<Vec<Row>> {
    throughput(lab, DURABLE_256, 256, 16)
}

/// Sink and broker have as many unanswered requests each.
fn throughput(lab: &Lab, spec: Spec, partitions: u32, connections: u32) -> Result<Vec<Row>> {
    let seconds = lab.seconds;
    let in_flight = format!("--connections {connections} --in-flight 64");
    let sink_words = format!("--frame-bytes 64k {in_flight}");
    let logs = best_logs(lab, spec.name, &sink_words)?;
    let sink = lab.sink("dsync", &format!("--logs {logs}"))?;
    let cluster = Cluster::start_prepared(lab, partitions)?;
    let limits = format!("--seconds {seconds} --bytes {PREPARED_BYTES}");
    let produce = format!(
        "--partitions {partitions} --acks all --config write.caching=false --batch-bytes 64k {in_flight} {limits}"
    );
    let pairs = lab.interleave(
        spec.name,
        |run| {
            cluster.wait_prepared()?;
            sink.load(lab, run, &format!("{sink_words} {limits}"))
        },
        |run| cluster.produce(run, &produce),
    )?;
    let against = format!("sink, dsync, {logs} logs");
    Ok(vec![Row::of_rounds(spec, against, &megabytes(&pairs))])
}

/// The number of logs with which the sink was fastest in a short run each.
fn best_logs(lab: &Lab, name: &str, words: &str) -> Result<u32> {
    fastest(&SINK_LOGS, |logs| {
        progress(&format!("{name}: sink with {logs} logs"));
        let sink = lab.sink("dsync", &format!("--logs {logs}"))?;
        let words = format!("{words} --seconds {CALIBRATION_SECONDS}");
        sink.load(lab, &format!("{name}-calibration-{logs}"), &words)
    })
}

/// The device's own figure is that of the sink with one write of the same size in flight, not that of `limits`: it is taken in the same
/// rounds, because a virtual disk changes by the minute, and it holds the socket and the wake-ups that no broker is without. At 30% of
/// the best rate the broker stores most batches by a write of their own.
///
/// One write in flight sends nothing while it waits, so it hardly meets what else the machine does. The second line meets it as the
/// broker does: the sink under the same rate, counted from when each frame was meant to be sent.
pub(super) fn latency(lab: &Lab) -> Result<Vec<Row>> {
    let seconds = lab.seconds;
    let alone = lab.sink("dsync", "--logs 1")?;
    let paced = lab.sink("dsync", &format!("--logs {PARTITIONS}"))?;
    let cluster = Cluster::start_prepared(lab, PARTITIONS)?;
    let in_flight = format!("--connections 4 --in-flight 8 --seconds {seconds}");
    let produce = format!(
        "--partitions {PARTITIONS} --acks all --config write.caching=false {WHOLE_BATCH} {in_flight}"
    );
    progress("durable-p99: the best rate");
    let best = cluster.produce("durable-p99-best", &produce)?;
    let rate = (best.records as f64 / best.seconds * LATENCY_LOAD).max(1.0);
    let alone_words =
        format!("--frame-bytes 64k --connections 1 --in-flight 1 --seconds {seconds}");
    let paced_words = format!("--frame-bytes 64k {in_flight} --frames-per-second {rate:.0}");
    let rounds = lab.interleave(
        "durable-p99",
        |run| {
            cluster.wait_prepared()?;
            Ok((
                alone.load(lab, &format!("{run}-device"), &alone_words)?,
                paced.load(lab, run, &paced_words)?,
            ))
        },
        |run| {
            cluster.produce(
                run,
                &format!("{produce} --records-per-second {rate:.0} --linger-ms 0"),
            )
        },
    )?;
    let sample = |broker: &Outcome, against: &Outcome| Sample {
        value: broker.latency_ms.p99,
        against: against.latency_ms.p99,
        note: generator_note(broker, against),
    };
    let (device, sink): (Vec<Sample>, Vec<Sample>) = rounds
        .iter()
        .map(|(broker, (device, sink))| (sample(broker, device), sample(broker, sink)))
        .unzip();
    Ok(vec![
        Row::of_rounds(DURABLE_P99, "device's 64 KiB DSYNC p99", &device),
        Row::of_rounds(DURABLE_P99_SINK, "sink's p99 at the same rate", &sink),
    ])
}
