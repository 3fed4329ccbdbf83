//! One measured run: when it ends and what it has counted.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::clock::now;

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

    /// Whether nothing more may be sent.
    pub fn is_over(&self, at: Instant) -> bool {
        self.deadline.is_some_and(|deadline| at >= deadline)
    }

    /// Whether a request of `bytes` bytes may still be sent at `at`.
    pub fn claim(&self, bytes: u64, at: Instant) -> bool {
        if self.is_over(at) {
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
}
