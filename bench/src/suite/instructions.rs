//! Instructions and allocations of a produce request, counted by callgrind in the broker itself. The cost of a request is the difference
//! between a run of so many requests and one of twice as many, so that connecting and creating topics cancel out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::callgrind::{Counts, parse_shard};
use super::children::Program;
use super::cluster::Cluster;
use super::lab::{Lab, Outcome, progress};
use super::rows::{ALLOCATIONS, Row, SHARDS_HOP, SHARDS_NO_HOP, Sample};

/// 20,000 requests: what a shard does once a second is far below a hundredth of that.
const BASE_BATCHES: u64 = 20_000;
const PROBE_BATCHES: u64 = 400;

/// Of one record of 200 bytes. A run ends at the batch that reaches its bytes.
const BATCH_BYTES: u64 = 270;

/// A topic's partitions start on a shard drawn from its id: that of all these none starts on the other is a matter of one in thousands.
const TOPICS_MAX: u32 = 12;

/// Shards publish what they have counted once a second.
const METRICS_PAUSE: Duration = Duration::from_millis(1_500);
const HOPS: &str = "millrace_request_seconds_count{api=\"Produce\",stage=\"hop\"}";

/// Below this share a run has no hops, above its complement it has nothing else. Neither is ever in between: connections and partitions
/// are two of each.
const STRAY_SHARE: f64 = 0.01;

/// What one request costs on all shards together.
#[derive(Clone, Copy, Debug, PartialEq)]
struct PerRequest {
    instructions: f64,
    allocations: f64,
    requests: f64,
}

pub(super) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    progress("shards: one shard under callgrind");
    let one = one_shard(lab)?;
    progress("shards: two shards under callgrind");
    let (local, hop) = two_shards(lab)?;
    let mut hop_sample = Sample::new(hop.instructions, local.instructions);
    hop_sample.note = Some(format!(
        "a hop costs {:.0} instructions and {:.2} allocations",
        hop.instructions - local.instructions,
        hop.allocations - local.allocations
    ));
    Ok(vec![
        Row::of_one(
            SHARDS_NO_HOP,
            "one shard",
            Sample::new(local.instructions, one.instructions),
        ),
        Row::of_one(SHARDS_HOP, "two shards without a hop", hop_sample),
        Row::of_one(ALLOCATIONS, "requests", allocations(one)),
    ])
}

/// What a shard does once a second is no part of a request, so less than one in a hundred requests is none.
fn allocations(cost: PerRequest) -> Sample {
    let each = (cost.allocations * 100.0).round() / 100.0;
    let mut sample = Sample::new((each * cost.requests).round(), cost.requests);
    let counted = cost.allocations * cost.requests;
    sample.note = Some(format!("{counted:.0} counted, once a second included"));
    sample
}

fn one_shard(lab: &Lab) -> Result<PerRequest> {
    let counted = Counted::start(lab, 1)?;
    counted.cost(lab, "one-shard", "one", 1)
}

/// Two connections with a partition each. Both partitions are on the shards that serve their connections, or neither is.
fn two_shards(lab: &Lab) -> Result<(PerRequest, PerRequest)> {
    let counted = Counted::start(lab, 2)?;
    let (mut local, mut hop) = (None, None);
    for number in 0..TOPICS_MAX {
        let topic = format!("two-{number}");
        let found = match counted.hop_share(lab, &topic)? {
            share if share < STRAY_SHARE => &mut local,
            share if share > 1.0 - STRAY_SHARE => &mut hop,
            _ => continue,
        };
        if found.is_none() {
            let before = counted.cluster.metric(HOPS)?;
            let cost = counted.cost(lab, &format!("two-shards-{number}"), &topic, 2)?;
            sleep(METRICS_PAUSE);
            let hops = counted.cluster.metric(HOPS)? - before;
            progress(&format!("shards: {hops:.0} hops by {topic}"));
            *found = Some(cost);
        }
        if let (Some(local), Some(hop)) = (local, hop) {
            return Ok((local, hop));
        }
    }
    bail!("{TOPICS_MAX} topics gave no run without hops and one of hops alone")
}

/// A broker that runs under callgrind.
struct Counted<'a> {
    cluster: Cluster<'a>,
    directory: PathBuf,
    preload_name: String,
}

impl<'a> Counted<'a> {
    fn start(lab: &'a Lab, shards: u32) -> Result<Self> {
        let preload = lab
            .preload
            .as_ref()
            .context("valgrind needs a library preloaded, see --preload")?;
        let directory = lab.scratch.join(format!("callgrind-{shards}"));
        fs::create_dir_all(&directory)?;
        let mut output = std::ffi::OsString::from("--callgrind-out-file=");
        output.push(directory.join("out"));
        let valgrind = Program::new("valgrind")
            .args("--tool=callgrind --fair-sched=yes --separate-threads=yes")
            .arg(output)
            .arg(&lab.broker)
            .with("LD_PRELOAD", preload);
        let name = preload.file_name().unwrap_or_default();
        Ok(Self {
            cluster: Cluster::start_under(lab, shards, valgrind)?,
            directory,
            preload_name: name.to_string_lossy().into_owned(),
        })
    }

    /// The share of a topic's requests that hop.
    fn hop_share(&self, lab: &Lab, topic: &str) -> Result<f64> {
        let before = self.cluster.metric(HOPS)?;
        let run = format!("{topic}-probe");
        let outcome = self.produce(lab, &run, topic, 2, PROBE_BATCHES)?;
        sleep(METRICS_PAUSE);
        Ok((self.cluster.metric(HOPS)? - before) / outcome.requests as f64)
    }

    /// One connection and partition a shard, so that a shard finds as much to do in a turn whatever the number of shards.
    fn cost(&self, lab: &Lab, run: &str, topic: &str, connections: u32) -> Result<PerRequest> {
        let measured = |part: &str, batches| {
            let run = format!("{run}-{part}");
            let outcome = self.produce(lab, &run, topic, connections, batches)?;
            Ok::<_, anyhow::Error>((outcome.requests, self.dump(&run)?))
        };
        // The first run meets what is done once, and its counts are thrown away.
        measured("first", BASE_BATCHES)?;
        let once = measured("once", BASE_BATCHES)?;
        let twice = measured("twice", BASE_BATCHES * 2)?;
        per_request(once, twice)
    }

    fn produce(
        &self,
        lab: &Lab,
        run: &str,
        topic: &str,
        connections: u32,
        batches: u64,
    ) -> Result<Outcome> {
        let bytes = batches * BATCH_BYTES;
        let words = format!(
            "--partitions {connections} --connections {connections} --in-flight 16 --acks 1 \
             --config write.caching=true --record-bytes 200 --batch-bytes 300 --bytes {bytes}"
        );
        // Not settled: valgrind is never at rest.
        self.cluster
            .begin_produce(run, topic, &words)?
            .finish(lab.seconds)
    }

    /// What all shards did since the last dump.
    fn dump(&self, name: &str) -> Result<Counts> {
        let before = self.dumps()?;
        let pid = self.cluster.pid().to_string();
        let asked = Command::new("callgrind_control")
            .args(["-d", name, &pid])
            .output()
            .context("cannot run callgrind_control")?;
        ensure!(
            asked.status.success(),
            "callgrind_control failed: {}",
            String::from_utf8_lossy(&asked.stderr).trim()
        );
        let mut dumps = self.dumps()?;
        dumps.retain(|path| !before.contains(path));
        let counts: Vec<Counts> = dumps
            .iter()
            .filter_map(|path| self.read(path).transpose())
            .collect::<Result<_>>()?;
        ensure!(!counts.is_empty(), "callgrind saw no shard");
        Ok(counts.into_iter().sum())
    }

    fn dumps(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.directory)?;
        Ok(entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?)
    }

    fn read(&self, path: &Path) -> Result<Option<Counts>> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(parse_shard(&text, &self.preload_name))
    }
}

/// Of two runs with their requests: what the second did more, by request that it had more.
fn per_request(once: (u64, Counts), twice: (u64, Counts)) -> Result<PerRequest> {
    ensure!(
        twice.0 > once.0,
        "the second run was no longer than the first"
    );
    let requests = (twice.0 - once.0) as f64;
    let more = twice.1 - once.1;
    Ok(PerRequest {
        instructions: more.instructions as f64 / requests,
        allocations: more.allocations as f64 / requests,
        requests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(instructions: u64, allocations: u64) -> Counts {
        Counts {
            instructions,
            allocations,
        }
    }

    #[test]
    fn what_happens_once_a_run_cancels_out() {
        let cost = per_request(
            (1_000, counts(5_000_000 + 7, 3_000 + 9)),
            (2_000, counts(10_000_000 + 7, 6_000 + 9)),
        );
        let expected = PerRequest {
            instructions: 5_000.0,
            allocations: 3.0,
            requests: 1_000.0,
        };
        assert_eq!(cost.unwrap(), expected);
    }

    #[test]
    fn what_happens_now_and_then_is_no_allocation_of_a_request() {
        let cost = per_request((1_000, counts(1, 0)), (2_000, counts(2, 4))).unwrap();
        assert_eq!(allocations(cost).value, 0.0);
        let cost = per_request((1_000, counts(1, 0)), (2_000, counts(2, 1_004))).unwrap();
        assert_eq!(allocations(cost).value, 1_000.0);
    }

    #[test]
    fn a_second_run_that_was_cut_short_gives_no_figure() {
        assert!(per_request((1_000, counts(1, 1)), (1_000, counts(2, 2))).is_err());
    }
}
