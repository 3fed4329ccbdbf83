//! Produce against the sink, without waiting for the disk: at 64 KiB, 1 MiB and 200 B; and whether the generator could have done more.

use anyhow::Result;

use super::cluster::Cluster;
use super::lab::{Lab, Outcome, SATURATED, generator_note};
use super::rows::{
    GENERATOR_1M, GENERATOR_64K, GENERATOR_200B, PRODUCE_1M, PRODUCE_64K, PRODUCE_64K_CPU,
    PRODUCE_200B, Row, Sample, Spec,
};

pub(super) const PARTITIONS: u32 = 8;

/// What fits the segment files that are prepared before a run, one for each partition, as the sink's file is written before it is used.
pub(super) const PREPARED_BYTES: &str = "7g";

/// The same bytes in the same number of unanswered requests on both sides.
struct Load {
    name: &'static str,
    partitions: u32,
    sink: &'static str,
    produce: &'static str,
}

pub(super) fn at_64k(lab: &Lab) -> Result<Vec<Row>> {
    let pairs = compare(
        lab,
        &Load {
            name: "produce-64k",
            partitions: PARTITIONS,
            sink: "--frame-bytes 64k --connections 4 --in-flight 8",
            produce: "--batch-bytes 64k --connections 4 --in-flight 8",
        },
    )?;
    let cpu: Vec<Sample> = pairs
        .iter()
        .map(|(broker, sink)| Ok(Sample::new(broker.server_cpu()?, sink.server_cpu()?)))
        .collect::<Result<_>>()?;
    Ok(vec![
        Row::of_rounds(PRODUCE_64K, "sink", &megabytes(&pairs)),
        Row::of_rounds(PRODUCE_64K_CPU, "sink", &cpu),
        generator(GENERATOR_64K, &pairs),
    ])
}

/// With as many unanswered requests as Kafka's producer has by default (`max.in.flight.requests.per.connection`).
pub(super) fn at_1m(lab: &Lab) -> Result<Vec<Row>> {
    let pairs = compare(
        lab,
        &Load {
            name: "produce-1m",
            partitions: PARTITIONS,
            sink: "--frame-bytes 1m --connections 4 --in-flight 5",
            produce: "--batch-bytes 1m --connections 4 --in-flight 5",
        },
    )?;
    Ok(vec![
        Row::of_rounds(PRODUCE_1M, "sink", &megabytes(&pairs)),
        generator(GENERATOR_1M, &pairs),
    ])
}

/// A batch of one record has 70 bytes beside its value. The sink's frames are what a producer wants to store: 200 bytes and a header of 8.
/// As many partitions as the sink has logs, so that requests share their writes as its frames do.
pub(super) fn at_200b(lab: &Lab) -> Result<Vec<Row>> {
    let pairs = compare(
        lab,
        &Load {
            name: "produce-200b",
            partitions: 4,
            sink: "--frame-bytes 208 --connections 4 --in-flight 64",
            produce: "--record-bytes 200 --batch-bytes 300 --connections 4 --in-flight 64",
        },
    )?;
    let requests: Vec<Sample> = pairs
        .iter()
        .map(|(broker, sink)| Sample {
            value: broker.requests_per_second,
            against: sink.requests_per_second,
            note: generator_note(broker, sink),
        })
        .collect();
    Ok(vec![
        Row::of_rounds(PRODUCE_200B, "sink", &requests),
        generator(GENERATOR_200B, &pairs),
    ])
}

fn compare(lab: &Lab, load: &Load) -> Result<Vec<(Outcome, Outcome)>> {
    let sink = lab.sink("plain", "")?;
    let partitions = load.partitions;
    let cluster = Cluster::start_prepared(lab, partitions)?;
    let limits = format!("--seconds {} --bytes {PREPARED_BYTES}", lab.seconds);
    let words = format!(
        "--partitions {partitions} --acks 1 --config write.caching=true {limits} {}",
        load.produce
    );
    lab.interleave(
        load.name,
        |run| {
            cluster.wait_prepared()?;
            sink.load(lab, run, &format!("{limits} {}", load.sink))
        },
        |run| cluster.produce(run, &words),
    )
}

pub(super) fn megabytes(pairs: &[(Outcome, Outcome)]) -> Vec<Sample> {
    pairs
        .iter()
        .map(|(broker, ceiling)| Sample {
            value: broker.megabytes_per_second,
            against: ceiling.megabytes_per_second,
            note: generator_note(broker, ceiling),
        })
        .collect()
}

/// How busy the generator's core was under the broker, against what counts as the generator being the limit, and what the generator
/// reached with the sink in the same rounds.
fn generator(spec: Spec, pairs: &[(Outcome, Outcome)]) -> Row {
    let samples: Vec<Sample> = pairs
        .iter()
        .map(|(broker, sink)| Sample {
            value: broker.generator_busy(),
            against: SATURATED,
            note: Some(format!(
                "{:.0} requests/s; against the sink {:.2} cores, {:.0} requests/s",
                broker.requests_per_second,
                sink.generator_busy(),
                sink.requests_per_second
            )),
        })
        .collect();
    Row::of_rounds(spec, "saturated", &samples)
}
