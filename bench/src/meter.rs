//! What a run costs the broker and this program while it lasts: processor time, memory, and the line that shows people that it goes on.

use std::cell::Cell;
use std::future::Future;
use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use futures::future::{Either, select, try_join_all};
use monoio::time::sleep;

use crate::clock::now;
use crate::process::{CoreTime, Memory, memory, processor_seconds};
use crate::report::{self, Report};
use crate::run::Run;

const PROGRESS_PAUSE: Duration = Duration::from_secs(1);
/// How long a broker may answer nothing.
pub const SILENT_SECONDS_MAX: u64 = 10;

/// Flags that every measured command has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Output {
    /// The broker's process id, to measure its processor time and memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// Writes the results to this file too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Shows a line of progress every second, even if stderr is no terminal
    #[arg(long)]
    pub progress: bool,
}

/// What was used before the run, and the most since.
pub struct Meter {
    output: Output,
    server: Option<Usage>,
    client_seconds: f64,
    client_cores: Option<CoreTime>,
}

struct Usage {
    pid: u32,
    processor_seconds: f64,
    memory: Memory,
    memory_bytes_seen_max: Cell<u64>,
}

/// What a run has cost so far.
pub struct Costs {
    pub server_processor_seconds: Option<f64>,
    pub server_memory_bytes_max: Option<u64>,
    pub client_processor_seconds: f64,
    /// The share of the cores this program may run on that anyone used, the kernel included.
    pub client_cores_busy: Option<f64>,
}

impl Meter {
    pub fn start(output: Output) -> Result<Self> {
        let usage = |pid| {
            Usage::start(pid).ok_or_else(|| anyhow!("there is no process {pid} to be measured"))
        };
        Ok(Self {
            server: output.pid.map(usage).transpose()?,
            output,
            client_seconds: own_processor_seconds(),
            client_cores: CoreTime::now(),
        })
    }

    pub fn costs(&self) -> Costs {
        let server = self.server.as_ref();
        Costs {
            server_processor_seconds: server.and_then(Usage::processor_seconds),
            server_memory_bytes_max: server.map(Usage::memory_bytes_max),
            client_processor_seconds: own_processor_seconds() - self.client_seconds,
            client_cores_busy: self
                .client_cores
                .and_then(|before| CoreTime::now()?.busy_since(&before)),
        }
    }

    /// Prints and writes the results, then passes on how the run ended.
    pub fn finish(
        &self,
        run: &Run,
        command: &str,
        settings: &[(&'static str, String)],
        ended: Result<()>,
    ) -> Result<()> {
        let report = Report::new(run, command, settings, &self.costs(), &ended);
        Self::publish(&self.output, &report, ended)
    }

    /// As `finish`, for a report that was made already.
    pub fn publish(output: &Output, report: &Report, ended: Result<()>) -> Result<()> {
        let printed = report.print().context("cannot print the results");
        let json = output.json.as_deref();
        let written = json.map_or(Ok(()), |path| report::write(path, report));
        ended.and(printed).and(written)
    }

    /// Runs all connections to their end, or to the first error, which ends the others too.
    pub async fn supervise(
        &self,
        run: &Run,
        connections: Vec<impl Future<Output = Result<()>>>,
    ) -> Result<()> {
        let all = pin!(try_join_all(connections));
        let silence = pin!(self.watch(run));
        let ended = match select(all, silence).await {
            Either::Left((ended, _)) => ended.map(drop),
            Either::Right((silent, _)) => Err(silent),
        };
        if stderr().is_terminal() {
            // Results begin on an empty line.
            let _ = write!(stderr(), "\r\x1b[K");
        }
        ended
    }

    /// Shows progress every second; ends when nothing has been answered for too long.
    async fn watch(&self, run: &Run) -> Error {
        let mut last = Seen::now(run);
        let mut silent_seconds = 0;
        loop {
            sleep(PROGRESS_PAUSE).await;
            if let Some(server) = &self.server {
                server.look();
            }
            let seen = Seen::now(run);
            silent_seconds = if seen.answers > last.answers {
                0
            } else {
                silent_seconds + 1
            };
            if silent_seconds >= SILENT_SECONDS_MAX {
                return anyhow!("the broker has answered nothing for {SILENT_SECONDS_MAX} s");
            }
            self.show_progress(&seen.since(&last, run.started));
            last = seen;
        }
    }

    /// For people only: results go to stdout.
    fn show_progress(&self, line: &str) {
        // A progress line that cannot be shown is no reason to stop measuring.
        let _ = if stderr().is_terminal() {
            write!(stderr(), "\r\x1b[K{line}")
        } else if self.output.progress {
            writeln!(stderr(), "{line}")
        } else {
            Ok(())
        };
    }
}

impl Usage {
    fn start(pid: u32) -> Option<Self> {
        let memory = memory(pid)?;
        Some(Self {
            pid,
            processor_seconds: processor_seconds(pid)?,
            memory,
            memory_bytes_seen_max: Cell::new(memory.bytes),
        })
    }

    fn look(&self) -> Option<Memory> {
        let memory = memory(self.pid)?;
        let seen_max = self.memory_bytes_seen_max.get().max(memory.bytes);
        self.memory_bytes_seen_max.set(seen_max);
        Some(memory)
    }

    /// The kernel's own peak if the run raised it, else the most that was seen.
    fn memory_bytes_max(&self) -> u64 {
        let raised = self
            .look()
            .map(|memory| memory.bytes_max)
            .filter(|bytes_max| *bytes_max > self.memory.bytes_max);
        raised.unwrap_or_else(|| self.memory_bytes_seen_max.get())
    }

    fn processor_seconds(&self) -> Option<f64> {
        processor_seconds(self.pid).map(|seconds| seconds - self.processor_seconds)
    }
}

/// The counts of a run at one moment.
struct Seen {
    at: Instant,
    bytes: u64,
    records: u64,
    requests: u64,
    answers: u64,
}

impl Seen {
    fn now(run: &Run) -> Self {
        let counts = run.counts.borrow();
        Self {
            at: now(),
            bytes: counts.bytes,
            records: counts.records,
            requests: counts.requests,
            answers: run.answers.get(),
        }
    }

    /// The rates between two moments.
    fn since(&self, last: &Seen, started: Instant) -> String {
        let seconds = self.at.duration_since(last.at).as_secs_f64();
        let rate = |now: u64, then: u64| (now - then) as f64 / seconds;
        format!(
            "{:.0} s  {:.1} MB/s  {:.0} records/s  {:.0} requests/s",
            self.at.duration_since(started).as_secs_f64(),
            rate(self.bytes, last.bytes) / 1e6,
            rate(self.records, last.records),
            rate(self.requests, last.requests),
        )
    }
}

fn own_processor_seconds() -> f64 {
    processor_seconds(std::process::id()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_does_not_exist_is_refused_before_the_run() {
        let output = Output {
            pid: Some(u32::MAX),
            ..Output::default()
        };
        assert!(Meter::start(output).is_err());
    }

    #[test]
    fn the_memory_of_a_process_is_at_least_what_was_seen_of_it() {
        let output = Output {
            pid: Some(std::process::id()),
            ..Output::default()
        };
        let meter = Meter::start(output).unwrap();
        let seen = memory(std::process::id()).unwrap().bytes;
        let bytes_max = meter.costs().server_memory_bytes_max.unwrap();
        assert!(bytes_max >= seen / 2, "{bytes_max} of {seen}");
    }

    #[test]
    fn progress_is_the_rate_since_the_last_line_and_not_a_total() {
        let started = now();
        let at = |seconds| started + Duration::from_secs(seconds);
        let last = Seen {
            at: at(1),
            bytes: 7_000_000,
            records: 70,
            requests: 7,
            answers: 7,
        };
        let seen = Seen {
            at: at(3),
            bytes: 9_000_000,
            records: 90,
            requests: 9,
            answers: 9,
        };
        assert_eq!(
            seen.since(&last, started),
            "3 s  1.0 MB/s  10 records/s  1 requests/s"
        );
    }

    #[test]
    fn the_first_error_ends_all_connections() {
        let run = Run::unlimited();
        let connections: Vec<std::pin::Pin<Box<dyn Future<Output = Result<()>>>>> = vec![
            Box::pin(std::future::pending()),
            Box::pin(async { Err(anyhow!("broken")) }),
        ];
        let meter = Meter::start(Output::default()).unwrap();
        let result = crate::block_on(async { meter.supervise(&run, connections).await });
        assert_eq!(result.unwrap_err().to_string(), "broken");
    }
}
