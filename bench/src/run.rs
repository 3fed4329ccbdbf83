//! One measured run: when it ends, what it has counted, and the watch that shows progress and ends a run whose broker went silent.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{IsTerminal, Write, stderr};
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};
use futures::future::{Either, select, try_join_all};
use hdrhistogram::Histogram;
use monoio::time::sleep;

use crate::clock::now;

const PROGRESS_PAUSE: Duration = Duration::from_secs(1);
const SILENT_SECONDS_MAX: u32 = 10;

/// Latencies are counted to three digits, up to ten minutes: no answer is waited for as long.
const LATENCY_DIGITS: u8 = 3;
const LATENCY_US_MAX: u64 = 600_000_000;

/// When a run stops sending: after so many bytes or seconds, whichever comes first.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Limits {
    /// Stops after this many bytes of batches
    #[arg(long, value_parser = crate::units::bytes)]
    pub bytes: Option<u64>,
    /// Stops after this many seconds [default: 10, unless --bytes is given]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
}

const SECONDS_DEFAULT: u64 = 10;

pub struct Run {
    pub started: Instant,
    deadline: Option<Instant>,
    bytes_left: Cell<u64>,
    pub counts: RefCell<Counts>,
}

/// What was answered so far.
pub struct Counts {
    pub bytes: u64,
    pub records: u64,
    pub requests: u64,
    pub latency_us: Histogram<u64>,
}

impl Run {
    pub fn new(limits: Limits) -> Self {
        let seconds = limits.seconds.or(if limits.bytes.is_none() {
            Some(SECONDS_DEFAULT)
        } else {
            None
        });
        Self::until(seconds, limits.bytes)
    }

    /// A run that ends by itself, when everything there is has been read.
    pub fn unlimited() -> Self {
        Self::until(None, None)
    }

    fn until(seconds: Option<u64>, bytes: Option<u64>) -> Self {
        let started = now();
        let latency_us = Histogram::new_with_max(LATENCY_US_MAX, LATENCY_DIGITS)
            .expect("these bounds are supported");
        Self {
            started,
            deadline: seconds.map(|seconds| started + Duration::from_secs(seconds)),
            bytes_left: Cell::new(bytes.unwrap_or(u64::MAX)),
            counts: RefCell::new(Counts {
                bytes: 0,
                records: 0,
                requests: 0,
                latency_us,
            }),
        }
    }

    /// Whether a request of `bytes` bytes may still be sent at `at`.
    pub fn claim(&self, bytes: u64, at: Instant) -> bool {
        if self.deadline.is_some_and(|deadline| at >= deadline) {
            return false;
        }
        let left = self.bytes_left.get();
        self.bytes_left.set(left.saturating_sub(bytes));
        left > 0
    }

    /// Counts a request that was answered well.
    pub fn count(&self, bytes: u64, records: u64, sent_at: Instant) {
        let mut counts = self.counts.borrow_mut();
        counts.bytes += bytes;
        counts.records += records;
        counts.requests += 1;
        let latency = now().duration_since(sent_at).as_micros();
        counts
            .latency_us
            .saturating_record(u64::try_from(latency).unwrap_or(u64::MAX));
    }

    /// Runs all connections to their end, or to the first error, which ends the others too.
    pub async fn supervise(
        &self,
        connections: Vec<impl Future<Output = Result<()>>>,
    ) -> Result<()> {
        let all = pin!(try_join_all(connections));
        let silence = pin!(self.watch());
        match select(all, silence).await {
            Either::Left((ended, _)) => ended.map(drop),
            Either::Right((silent, _)) => Err(silent),
        }
    }

    /// Shows progress every second; ends when nothing has been answered for too long.
    async fn watch(&self) -> Error {
        let (mut last_bytes, mut last_requests, mut silent_seconds) = (0, 0, 0);
        loop {
            sleep(PROGRESS_PAUSE).await;
            let (bytes, requests) = {
                let counts = self.counts.borrow();
                (counts.bytes, counts.requests)
            };
            silent_seconds = if requests == last_requests {
                silent_seconds + 1
            } else {
                0
            };
            if silent_seconds >= SILENT_SECONDS_MAX {
                return anyhow!("the broker has answered nothing for {SILENT_SECONDS_MAX} s");
            }
            self.show_progress(bytes - last_bytes, requests - last_requests);
            (last_bytes, last_requests) = (bytes, requests);
        }
    }

    /// For people only: results go to stdout.
    fn show_progress(&self, bytes: u64, requests: u64) {
        if stderr().is_terminal() {
            let seconds = self.started.elapsed().as_secs();
            eprint!(
                "\r\x1b[K{seconds} s  {:.1} MB/s  {requests} requests/s",
                bytes as f64 / 1e6
            );
            // A progress line that cannot be shown is no reason to stop measuring.
            let _ = stderr().flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stops_once_its_bytes_are_claimed() {
        let run = Run::new(Limits {
            bytes: Some(250),
            seconds: None,
        });
        let at = run.started + Duration::from_secs(3600);
        assert!(run.claim(100, at));
        assert!(run.claim(100, at));
        assert!(run.claim(100, at));
        assert!(!run.claim(100, at));
    }

    #[test]
    fn a_run_stops_at_its_deadline() {
        let run = Run::new(Limits {
            bytes: Some(u64::MAX),
            seconds: Some(2),
        });
        assert!(run.claim(100, run.started + Duration::from_secs(1)));
        assert!(!run.claim(100, run.started + Duration::from_secs(2)));
    }

    #[test]
    fn latencies_of_seconds_are_kept_apart_from_those_of_microseconds() {
        let run = Run::unlimited();
        let sent_at = run.started.checked_sub(Duration::from_secs(20)).unwrap();
        run.count(1, 1, sent_at);
        assert!(run.counts.borrow().latency_us.max() >= 20_000_000);
    }

    #[test]
    fn the_first_error_ends_all_connections() {
        let run = Run::unlimited();
        let connections: Vec<std::pin::Pin<Box<dyn Future<Output = Result<()>>>>> = vec![
            Box::pin(std::future::pending()),
            Box::pin(async { Err(anyhow!("broken")) }),
        ];
        let result = crate::block_on(async { run.supervise(connections).await });
        assert_eq!(result.unwrap_err().to_string(), "broken");
    }
}
