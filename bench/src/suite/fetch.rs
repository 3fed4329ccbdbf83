//! Fetch: of what is still in memory against SEND from memory, of what is not against reading the disk; and producers beside a reader of
//! old data.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::fs::OFlags;

use super::cluster::Cluster;
use super::lab::{CALIBRATION_SECONDS, Lab, Outcome, fastest, generator_note, progress};
use super::produce::{PARTITIONS, megabytes};
use super::rows::{FETCH_COLD, FETCH_TAIL, Row, Sample, UNDER_SCAN};
use crate::clock::now;

/// Half of the tail's memory, so that all of it is still there.
const TAIL_WORDS: &str =
    "--bytes 64m --partitions 1 --acks 1 --config write.caching=true --batch-bytes 64k";

/// Of one fetch.
const ANSWER_BYTES: [&str; 4] = ["128k", "256k", "512k", "1m"];

/// Twelve times the tail's memory.
const OLD_WORDS: &str =
    "--bytes 1536m --partitions 8 --acks 1 --config write.caching=true --batch-bytes 64k";

/// Unbuffered reads are made of whole blocks in memory that is aligned to them. The kernel cuts one this long into many at a time.
const BLOCK_BYTES: usize = 4096;
const DIRECT_READ_BYTES: usize = 8 << 20;

/// The share of the best rate at which producers run beside a scan: half of the half that the generator holds at a fixed rate on its one
/// core. More would measure the generator.
const SCAN_LOAD: f64 = 0.25;
const SCAN_START: Duration = Duration::from_millis(300);

/// One consumer, one answer at a time. Both servers give answers of the size at which the sink is fastest: what suits a processor's caches, no
/// rule says.
pub(super) fn tail(lab: &Lab) -> Result<Vec<Row>> {
    let seconds = lab.seconds;
    let sink = lab.sink("send", "")?;
    let one = "--connections 1";
    let bytes = fastest(&ANSWER_BYTES, |bytes| {
        progress(&format!("fetch-tail: sink with answers of {bytes}"));
        let run = format!("fetch-tail-calibration-{bytes}");
        let words = format!(
            "{one} --receive --in-flight 1 --frame-bytes {bytes} --seconds {CALIBRATION_SECONDS}"
        );
        sink.load(lab, &run, &words)
    })?;
    let cluster = Cluster::start(lab, 1)?;
    cluster.produce_to("fetch-tail-fill", "tail", TAIL_WORDS)?;
    let send = format!("{one} --receive --in-flight 1 --frame-bytes {bytes} --seconds {seconds}");
    let consume =
        format!("{one} --fetch-bytes {bytes} --partition-bytes {bytes} --seconds {seconds}");
    let pairs = lab.interleave(
        FETCH_TAIL.name,
        |run| sink.load(lab, run, &send),
        |run| cluster.consume(run, "tail", &consume),
    )?;
    let against = format!("sink, send, answers of {bytes}");
    Ok(vec![Row::of_rounds(
        FETCH_TAIL,
        against,
        &megabytes(&pairs),
    )])
}

/// A round reads the topic once from the disk by itself, once over loopback alone, and once through the broker.
pub(super) fn cold(lab: &Lab) -> Result<Vec<Row>> {
    let seconds = lab.seconds;
    let sink = lab.sink("send", "")?;
    let cluster = Cluster::start(lab, 1)?;
    fill_old(&cluster, "fetch-cold-fill")?;
    let files = cluster.segments("old")?;
    let send =
        format!("--receive --frame-bytes 1m --connections 4 --in-flight 1 --seconds {seconds}");
    let mut samples = Vec::new();
    for round in 1..=lab.rounds {
        progress(&format!("fetch-cold: round {round} of {}", lab.rounds));
        let disk = read_direct(&files)?;
        let loopback = sink.load(lab, &format!("fetch-cold-{round}-loopback"), &send)?;
        cluster.drop_page_cache("old")?;
        let broker = cluster.consume(&format!("fetch-cold-{round}-broker"), "old", "")?;
        samples.push(cold_sample(&broker, disk, &loopback));
    }
    Ok(vec![Row::of_rounds(
        FETCH_COLD,
        "the lower of disk and loopback",
        &samples,
    )])
}

fn cold_sample(broker: &Outcome, disk: f64, loopback: &Outcome) -> Sample {
    let bound = generator_note(broker, loopback).map_or(String::new(), |note| format!("; {note}"));
    let loopback = loopback.megabytes_per_second;
    Sample {
        value: broker.megabytes_per_second,
        against: disk.min(loopback),
        note: Some(format!(
            "disk {disk:.0}, loopback {loopback:.0} MB/s{bound}"
        )),
    }
}

pub(super) fn fill_old(cluster: &Cluster<'_>, run: &str) -> Result<Outcome> {
    progress(&format!("{run}: writing 1.5 GiB"));
    let filled = cluster.produce_to(run, "old", OLD_WORDS)?;
    // What is written ahead of the log must not meet the reading.
    cluster.settle();
    Ok(filled)
}

/// Reads files from start to end past the page cache, all at the same time: one read at a time would leave the disk idle between two.
/// Returns MB/s.
fn read_direct(files: &[PathBuf]) -> Result<f64> {
    let started = now();
    let bytes = thread::scope(|scope| -> Result<usize> {
        let readers: Vec<_> = files
            .iter()
            .map(|path| scope.spawn(|| read_file(path)))
            .collect();
        let mut bytes = 0;
        for reader in readers {
            let read = reader.join().map_err(|_| anyhow!("a reader panicked"))?;
            bytes += read?;
        }
        Ok(bytes)
    })?;
    Ok(bytes as f64 / 1e6 / started.elapsed().as_secs_f64())
}

fn read_file(path: &Path) -> Result<usize> {
    let mut memory = vec![0; DIRECT_READ_BYTES + BLOCK_BYTES];
    let start = memory.as_ptr().align_offset(BLOCK_BYTES);
    let buffer = &mut memory[start..start + DIRECT_READ_BYTES];
    let reading = || format!("cannot read {}", path.display());
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path)
        .with_context(reading)?;
    let mut bytes = 0;
    loop {
        match file.read(buffer).with_context(reading)? {
            0 => return Ok(bytes),
            read => bytes += read,
        }
    }
}

/// Producers at half of what their generator holds, alone and beside a consumer that reads another topic's old data. The consumer shares the producers'
/// core and gives way to them there: what is asked is what a scan costs inside of the broker.
pub(super) fn under_scan(lab: &Lab) -> Result<Vec<Row>> {
    let seconds = lab.seconds;
    let cluster = Cluster::start_prepared(lab, PARTITIONS)?;
    let produce = format!(
        "--partitions 8 --acks 1 --config write.caching=true --batch-bytes 64k --record-bytes 65400 \
         --connections 4 --in-flight 8 --seconds {seconds}"
    );
    progress("produce-under-scan: the best rate");
    let best = cluster.produce("produce-under-scan-best", &produce)?;
    fill_old(&cluster, "produce-under-scan-fill")?;
    let rate = (best.records as f64 / best.seconds * SCAN_LOAD).max(1.0);
    let paced = format!("{produce} --records-per-second {rate:.0} --linger-ms 0");
    let pairs = lab.interleave(
        UNDER_SCAN.name,
        |run| cluster.produce(run, &paced),
        |run| beside_scan(lab, &cluster, run, &paced),
    )?;
    let samples: Vec<Sample> = pairs
        .iter()
        .map(|(scanned, alone)| Sample {
            value: scanned.latency_ms.p99,
            against: alone.latency_ms.p99,
            note: generator_note(scanned, alone),
        })
        .collect();
    Ok(vec![Row::of_rounds(
        UNDER_SCAN,
        "p99 without the scan",
        &samples,
    )])
}

fn beside_scan(lab: &Lab, cluster: &Cluster<'_>, run: &str, paced: &str) -> Result<Outcome> {
    cluster.wait_prepared()?;
    cluster.drop_page_cache("old")?;
    // It goes on until it is dropped, whatever the producers take to start and to end.
    let scan_words = format!("--seconds {}", lab.seconds * 10 + 60);
    let scan = cluster.begin_scan(&format!("{run}-scan"), "old", &scan_words)?;
    sleep(SCAN_START);
    let mut producers = cluster.begin_produce(run, run, paced)?;
    while !producers.has_ended()? {
        // A second pass over the data has to be as cold as the first.
        cluster.drop_page_cache("old")?;
        sleep(SCAN_START);
    }
    let outcome = producers.finish(lab.seconds)?;
    drop(scan);
    cluster.delete_topic(run)?;
    Ok(outcome)
}
