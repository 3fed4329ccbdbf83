//! Where the suite measures: its directories and ports, the servers it starts, and single runs of this program against them.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::children::{Children, Core, Process, Program};
use crate::clock::now;
use crate::process::processor_seconds;

/// What a run may take beyond its own seconds: connecting, creating a topic, the wait for a silent server.
const RUN_EXTRA: Duration = Duration::from_secs(60);

/// A generator that was busy for more than this share of a run was itself the limit.
pub(super) const SATURATED: f64 = 0.95;

/// Runs that only choose how a ceiling is measured.
pub(super) const CALIBRATION_SECONDS: u64 = 1;

const SETTLE_POLL: Duration = Duration::from_millis(200);
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Two of the ticks in which Linux counts: a server that rests still looks at its timers.
const SETTLED_CPU_SECONDS: f64 = 0.025;

pub(super) struct Lab {
    pub(super) broker: PathBuf,
    pub(super) controller: PathBuf,
    pub(super) preload: Option<PathBuf>,
    pub(super) rounds: u32,
    pub(super) seconds: u64,
    pub(super) port: u16,
    pub(super) children: Children,
    pub(super) runs: PathBuf,
    pub(super) scratch: PathBuf,
    /// Rounds that gave no figure since the last line, each with its reason.
    pub(super) stalls: RefCell<Vec<String>>,
}

/// What one run wrote, as far as the suite needs it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Outcome {
    pub(super) seconds: f64,
    pub(super) bytes: u64,
    pub(super) records: u64,
    pub(super) requests: u64,
    pub(super) megabytes_per_second: f64,
    pub(super) requests_per_second: f64,
    pub(super) latency_ms: Latency,
    pub(super) server_cpu_seconds_per_gigabyte: Option<f64>,
    client_cpu_seconds_per_gigabyte: Option<f64>,
    client_cores_busy: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Latency {
    pub(super) p99: f64,
}

impl Outcome {
    /// The share of the run for which the generator kept its core busy.
    pub(super) fn generator_busy(&self) -> f64 {
        let gigabytes = self.bytes as f64 / 1e9;
        self.client_cpu_seconds_per_gigabyte.unwrap_or(0.0) * gigabytes / self.seconds
    }

    pub(super) fn server_cpu(&self) -> Result<f64> {
        self.server_cpu_seconds_per_gigabyte
            .context("the run gave no processor time of the server")
    }
}

/// Says so where a generator was the limit and not the server: it kept its core busy, or shared a full one with the kernel, whose workers
/// for the server's files run there.
pub(super) fn generator_note(broker: &Outcome, ceiling: &Outcome) -> Option<String> {
    let bound = |what: &str, outcome: &Outcome| {
        let busy = outcome.generator_busy();
        let core_busy = outcome.client_cores_busy.unwrap_or(0.0);
        if busy >= SATURATED {
            Some(format!("{what} generator-bound ({busy:.2} of its core)"))
        } else if core_busy >= SATURATED {
            Some(format!(
                "{what} bound by the generator's core ({core_busy:.2} busy, {busy:.2} the generator's own)"
            ))
        } else {
            None
        }
    };
    let notes: Vec<String> = [bound("broker", broker), bound("ceiling", ceiling)]
        .into_iter()
        .flatten()
        .collect();
    (!notes.is_empty()).then(|| notes.join(", "))
}

/// A sink that runs; it keeps its file from one to the next, because writing one anew takes longer than a run.
pub(super) struct Sink {
    process: Process,
    port: String,
}

impl Sink {
    pub(super) fn load(&self, lab: &Lab, run: &str, words: &str) -> Result<Outcome> {
        let program = Program::new(lab.own_program()?)
            .arg("sink-load")
            .args(&format!("--port {}", self.port))
            .args(words);
        settle(self.process.pid());
        lab.measure(run, program, self.process.pid())
    }
}

impl Lab {
    pub(super) fn own_program(&self) -> Result<PathBuf> {
        std::env::current_exe().context("cannot find this program's own file")
    }

    pub(super) fn sink(&self, mode: &str, words: &str) -> Result<Sink> {
        let program = Program::new(self.own_program()?)
            .args(&format!("sink --port 0 --mode {mode}"))
            .arg("--data")
            .arg(self.scratch.join("sink"))
            .args(words);
        let log = self.scratch.join(format!("sink-{mode}.log"));
        let mut process = Process::start_piped(&self.children, Core::Server, &program, log)?;
        let port = listening_port(&mut process)
            .with_context(|| format!("the sink did not start in mode {mode}"))?;
        Ok(Sink { process, port })
    }

    /// Runs this program to its end and reads what it wrote; `server` is whose processor time it measures.
    pub(super) fn measure(&self, run: &str, program: Program, server: u32) -> Result<Outcome> {
        self.begin(run, program, server)?.finish(self.seconds)
    }

    pub(super) fn begin(&self, run: &str, program: Program, server: u32) -> Result<Running> {
        let json = self.runs.join(format!("{run}.json"));
        let program = program
            .args(&format!("--pid {server}"))
            .arg("--json")
            .arg(&json);
        let log = self.scratch.join(format!("{run}.log"));
        let process = Process::start(&self.children, Core::Client, &program, log)?;
        Ok(Running {
            process,
            json,
            run: run.to_owned(),
        })
    }

    /// Runs `ceiling` and `broker` in turn, so that whatever the host does meanwhile meets both. A round in which one of them fails is said
    /// and left out: one that stalls is worth knowing, and no reason to lose the others.
    pub(super) fn interleave<B, C>(
        &self,
        name: &str,
        mut ceiling: impl FnMut(&str) -> Result<C>,
        mut broker: impl FnMut(&str) -> Result<B>,
    ) -> Result<Vec<(B, C)>> {
        let mut pairs = Vec::new();
        let mut last_error = None;
        for round in 1..=self.rounds {
            progress(&format!("{name}: round {round} of {}", self.rounds));
            let measured = self
                .timed(round, "the ceiling", || {
                    ceiling(&format!("{name}-{round}-ceiling"))
                })
                .and_then(|against| {
                    let value = self.timed(round, "the broker", || {
                        broker(&format!("{name}-{round}-broker"))
                    })?;
                    Ok((value, against))
                });
            match measured {
                Ok(pair) => pairs.push(pair),
                Err(error) => last_error = Some(error),
            }
        }
        match last_error {
            Some(error) if pairs.is_empty() => Err(error),
            _ => Ok(pairs),
        }
    }

    /// One side's turn. If it fails, which side it was, when and why is noted for the line.
    fn timed<T>(&self, round: u32, side: &str, turn: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = now();
        turn().inspect_err(|error| {
            let seconds = begun.elapsed().as_secs_f64();
            let stall =
                format!("round {round} left out: {side} failed after {seconds:.1} s: {error:#}");
            progress(&stall);
            self.stalls.borrow_mut().push(stall);
        })
    }

    /// What was noted since this was last asked.
    pub(super) fn take_stalls(&self) -> Vec<String> {
        self.stalls.take()
    }
}

/// The candidate whose run had the highest rate.
pub(super) fn fastest<T: Copy>(
    candidates: &[T],
    mut run: impl FnMut(T) -> Result<Outcome>,
) -> Result<T> {
    let mut rates = Vec::new();
    for candidate in candidates {
        rates.push((run(*candidate)?.megabytes_per_second, *candidate));
    }
    let best = rates
        .iter()
        .max_by(|left, right| left.0.total_cmp(&right.0));
    Ok(best.context("there is nothing to choose from")?.1)
}

/// A run that has been started.
pub(super) struct Running {
    process: Process,
    json: PathBuf,
    run: String,
}

impl Running {
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        self.process.has_ended()
    }

    pub(super) fn finish(mut self, seconds: u64) -> Result<Outcome> {
        self.process
            .wait(Duration::from_secs(seconds) + RUN_EXTRA)
            .with_context(|| format!("run {} failed", self.run))?;
        read_outcome(&self.json)
    }
}

fn read_outcome(path: &Path) -> Result<Outcome> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no run", path.display()))
}

/// The port in the line that a sink prints once it serves.
fn listening_port(sink: &mut Process) -> Result<String> {
    let mut line = String::new();
    if let Some(stdout) = sink.stdout() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let port = parse_listening_port(&line);
    port.with_context(|| sink.last_words().unwrap_or_default())
}

fn parse_listening_port(line: &str) -> Option<String> {
    let rest = line.strip_prefix("listening on 127.0.0.1:")?;
    let (port, _) = rest.split_once(',')?;
    Some(port.to_owned())
}

/// Waits until a server has done what its last run left it to do, such as flushing and deleting; for a few seconds at most. What any
/// program of this host has left for the kernel to write is written first: it would fill the device's queue during a run.
pub(super) fn settle(pid: u32) {
    rustix::fs::sync();
    let deadline = now() + SETTLE_MAX;
    let mut last = processor_seconds(pid);
    while now() < deadline {
        sleep(SETTLE_POLL);
        let current = processor_seconds(pid);
        match (last, current) {
            (Some(before), Some(after)) if after - before > SETTLED_CPU_SECONDS => last = current,
            _ => return,
        }
    }
}

/// For people; results go to stdout.
pub(super) fn progress(text: &str) {
    eprintln!("{text}");
}

/// Fails early and in one line where a program is missing.
pub(super) fn require_file(path: &Path) -> Result<PathBuf> {
    ensure!(path.is_file(), "there is no file {}", path.display());
    // Children may run elsewhere.
    path.canonicalize()
        .with_context(|| format!("cannot find {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(client_cpu: f64) -> Outcome {
        let text = format!(
            r#"{{"command":"produce","settings":{{}},"seconds":4.0,"bytes":2000000000,"records":1,"requests":1,
            "megabytes_per_second":500.0,"requests_per_second":1.0,"latency_ms":{{"p50":0.1,"p99":0.2}},
            "server_cpu_seconds_per_gigabyte":null,"client_cpu_seconds_per_gigabyte":{client_cpu},"error":null}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn lab(rounds: u32) -> Lab {
        Lab {
            broker: PathBuf::new(),
            controller: PathBuf::new(),
            preload: None,
            rounds,
            seconds: 1,
            port: 0,
            children: Children::default(),
            runs: PathBuf::new(),
            scratch: PathBuf::new(),
            stalls: RefCell::default(),
        }
    }

    #[test]
    fn a_round_that_stalls_is_said_and_the_others_are_kept() {
        let lab = lab(3);
        let stalled = |run: &str| match run {
            "line-2-broker" => Err(anyhow::anyhow!("it answered nothing for 10 s")),
            _ => Ok(run.to_owned()),
        };
        let pairs = lab
            .interleave("line", |run| Ok(run.to_owned()), stalled)
            .unwrap();
        let values: Vec<&str> = pairs.iter().map(|(value, _)| &value[..]).collect();
        assert_eq!(values, ["line-1-broker", "line-3-broker"]);
        let stalls = lab.take_stalls();
        assert_eq!(stalls.len(), 1);
        assert!(stalls[0].starts_with("round 2 left out: the broker failed after 0.0 s"));
        assert!(stalls[0].ends_with("it answered nothing for 10 s"));
        assert!(lab.take_stalls().is_empty());
    }

    #[test]
    fn a_line_of_which_every_round_stalls_is_not_measured() {
        let lab = lab(2);
        let stalled = |_: &str| -> Result<()> { Err(anyhow::anyhow!("no answer")) };
        assert!(lab.interleave("line", stalled, |_| Ok(())).is_err());
        assert_eq!(lab.take_stalls().len(), 2);
    }

    #[test]
    fn a_run_is_read_whatever_else_it_says() {
        let outcome = outcome(0.5);
        assert_eq!(outcome.latency_ms.p99, 0.2);
        assert!(outcome.server_cpu().is_err());
    }

    #[test]
    fn a_busy_generator_is_named() {
        assert_eq!(outcome(0.5).generator_busy(), 0.25);
        assert_eq!(generator_note(&outcome(0.5), &outcome(0.5)), None);
        let note = generator_note(&outcome(0.5), &outcome(1.96)).unwrap();
        assert_eq!(note, "ceiling generator-bound (0.98 of its core)");
        let mut crowded = outcome(0.5);
        crowded.client_cores_busy = Some(0.99);
        let note = generator_note(&crowded, &outcome(0.5)).unwrap();
        assert_eq!(
            note,
            "broker bound by the generator's core (0.99 busy, 0.25 the generator's own)"
        );
    }

    #[test]
    fn the_fastest_of_the_candidates_is_taken() {
        let run = |rate: f64| {
            let mut outcome = outcome(0.5);
            outcome.megabytes_per_second = rate;
            Ok(outcome)
        };
        assert_eq!(fastest(&[3.0, 7.0, 5.0], run).unwrap(), 7.0);
        assert!(fastest(&[], run).is_err());
    }

    #[test]
    fn the_port_of_a_sink_is_found() {
        let port = parse_listening_port("listening on 127.0.0.1:41234, pid 7\n");
        assert_eq!(port.as_deref(), Some("41234"));
        assert_eq!(parse_listening_port(""), None);
    }
}
