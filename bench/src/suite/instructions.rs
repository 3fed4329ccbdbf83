//! Instructions and allocations of a produce request, counted by callgrind in the broker itself. The cost of a request is the difference
//! between a run of so many requests and one of twice as many, so that connecting and creating topics cancel out.

use std::cell::Cell;
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
use crate::clock::now;

/// So many that what a shard does once a second is far below a hundredth of it.
const BATCHES: [u64; 2] = [10_000, 20_000];

/// Of one record of 200 bytes. A run ends at the batch that reaches its bytes.
const BATCH_BYTES: u64 = 270;

/// Which shards get a run's connections and partitions is a matter of chance. That of so many runs none suits is one of one in thousands.
const RUNS_MAX: usize = 40;

/// Shards publish what they have counted once a second, under valgrind a little later.
const METRICS_POLL: Duration = Duration::from_millis(200);
const METRICS_REST: Duration = Duration::from_millis(1_500);
const METRICS_MAX: Duration = Duration::from_secs(20);
const PRODUCED: &str = "millrace_request_seconds_count{api=\"Produce\",stage=\"total\"}";
const HOPPED: &str = "millrace_request_seconds_count{api=\"Produce\",stage=\"hop\"}";

/// Below this share a run has no hops, above its complement it has nothing else.
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

/// One connection and one partition.
fn one_shard(lab: &Lab) -> Result<PerRequest> {
    let counted = Counted::start(lab, 1)?;
    // The first run meets what is done once only.
    counted.run(lab, 1, BATCHES[0])?;
    let [once, twice] = BATCHES.map(|batches| counted.run(lab, 1, batches));
    per_request(&once?, &twice?)
}

/// Two connections and two partitions, one of each on each shard, so that a shard finds as much to do in a turn as the one shard did. Both
/// partitions are on the shards that serve their connections, or neither is.
fn two_shards(lab: &Lab) -> Result<(PerRequest, PerRequest)> {
    let counted = Counted::start(lab, 2)?;
    counted.run(lab, 2, BATCHES[0])?;
    let (mut local, mut hop) = ([const { None }; 2], [const { None }; 2]);
    for number in 0..RUNS_MAX {
        let size = number % BATCHES.len();
        let run = counted.run(lab, 2, BATCHES[size])?;
        progress(&format!(
            "shards: {:.2} of the requests hopped",
            run.hop_share
        ));
        if run.hop_share < STRAY_SHARE {
            local[size].get_or_insert(run);
        } else if run.hop_share > 1.0 - STRAY_SHARE {
            hop[size].get_or_insert(run);
        }
        if let ([Some(once), Some(twice)], [Some(hop_once), Some(hop_twice)]) = (&local, &hop) {
            return Ok((per_request(once, twice)?, per_request(hop_once, hop_twice)?));
        }
    }
    bail!("{RUNS_MAX} runs gave none without hops or none of hops alone")
}

/// What a run of so many requests made all shards do.
#[derive(Clone, Debug)]
struct CountedRun {
    requests: u64,
    counts: Counts,
    hop_share: f64,
}

/// A broker that runs under callgrind.
struct Counted<'a> {
    cluster: Cluster<'a>,
    directory: PathBuf,
    preload_name: String,
    /// So far.
    runs: Cell<u32>,
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
            runs: Cell::new(0),
        })
    }

    /// Produces to a new topic, with a connection to each of its partitions.
    fn run(&self, lab: &Lab, connections: u32, batches: u64) -> Result<CountedRun> {
        let number = self.runs.get() + 1;
        self.runs.set(number);
        let name = format!("counted-{connections}-{number}");
        let (produced, hopped) = (self.settled_metric(PRODUCED)?, self.cluster.metric(HOPPED)?);
        self.dump("before")?;
        let outcome = self.produce(lab, &name, connections, batches)?;
        let counts = self.dump("after")?;
        let produced = self.settled_metric(PRODUCED)? - produced;
        ensure!(produced > 0.0, "the broker counted no requests");
        Ok(CountedRun {
            requests: outcome.requests,
            counts,
            hop_share: (self.cluster.metric(HOPPED)? - hopped) / produced,
        })
    }

    /// A metric once it no longer changes.
    fn settled_metric(&self, name: &str) -> Result<f64> {
        let deadline = now() + METRICS_MAX;
        let mut last = (self.cluster.metric(name)?, now());
        while now() < deadline && now() - last.1 < METRICS_REST {
            sleep(METRICS_POLL);
            let value = self.cluster.metric(name)?;
            if value > last.0 {
                last = (value, now());
            }
        }
        Ok(last.0)
    }

    fn produce(&self, lab: &Lab, name: &str, connections: u32, batches: u64) -> Result<Outcome> {
        let bytes = batches * BATCH_BYTES;
        let words = format!(
            "--partitions {connections} --connections {connections} --in-flight 16 --acks 1 \
             --config write.caching=true --record-bytes 200 --batch-bytes 300 --bytes {bytes}"
        );
        // Not settled: valgrind is never at rest.
        self.cluster
            .begin_produce(name, name, &words)?
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

/// What the second run did more, by request that it had more.
fn per_request(once: &CountedRun, twice: &CountedRun) -> Result<PerRequest> {
    ensure!(
        twice.requests > once.requests,
        "the second run was no longer than the first"
    );
    let requests = (twice.requests - once.requests) as f64;
    let more = twice.counts - once.counts;
    Ok(PerRequest {
        instructions: more.instructions as f64 / requests,
        allocations: more.allocations as f64 / requests,
        requests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(requests: u64, instructions: u64, allocations: u64) -> CountedRun {
        CountedRun {
            requests,
            counts: Counts {
                instructions,
                allocations,
            },
            hop_share: 0.0,
        }
    }

    #[test]
    fn what_happens_once_a_run_cancels_out() {
        let once = counted(1_000, 5_000_000 + 7, 3_000 + 9);
        let twice = counted(2_000, 10_000_000 + 7, 6_000 + 9);
        let expected = PerRequest {
            instructions: 5_000.0,
            allocations: 3.0,
            requests: 1_000.0,
        };
        assert_eq!(per_request(&once, &twice).unwrap(), expected);
    }

    #[test]
    fn what_happens_now_and_then_is_no_allocation_of_a_request() {
        let once = counted(1_000, 1, 0);
        let rare = per_request(&once, &counted(2_000, 2, 4)).unwrap();
        assert_eq!(allocations(rare).value, 0.0);
        let each = per_request(&once, &counted(2_000, 2, 1_004)).unwrap();
        assert_eq!(allocations(each).value, 1_000.0);
    }

    #[test]
    fn a_second_run_that_was_cut_short_gives_no_figure() {
        assert!(per_request(&counted(1_000, 1, 1), &counted(1_000, 2, 2)).is_err());
    }
}
