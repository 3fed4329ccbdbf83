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

impl Limits {
    /// How long a run may last.
    fn seconds(&self) -> Option<u64> {
        self.seconds
            .or(self.bytes.is_none().then_some(SECONDS_DEFAULT))
    }

    /// How many records are sent at a fixed rate.
    pub fn records(&self, records_per_second: u64, record_bytes: usize) -> u64 {
        let in_time = self
            .seconds()
            .map(|seconds| seconds.saturating_mul(records_per_second));
        let in_bytes = self.bytes.map(|bytes| bytes.div_ceil(record_bytes as u64));
        let all = [in_time, in_bytes].into_iter().flatten();
        all.min().unwrap_or(u64::MAX).max(1)
    }
}

pub struct Run {
    pub started: Instant,
    stopped: Cell<Option<Instant>>,
    deadline: Option<Instant>,
    bytes_left: Cell<u64>,
    pub counts: RefCell<Counts>,
    /// Answers of any kind that brought something: as long as there are more, the broker is not silent.
    pub answers: Cell<u64>,
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
        Self::until(limits.seconds(), limits.bytes)
    }

    /// A run that ends by itself, when everything there is has been read.
    pub fn unlimited() -> Self {
        Self::until(None, None)
    }

    fn until(seconds: Option<u64>, bytes: Option<u64>) -> Self {
        let started = now();
        Self {
            started,
            deadline: seconds.map(|seconds| started + Duration::from_secs(seconds)),
            bytes_left: Cell::new(bytes.unwrap_or(u64::MAX)),
            counts: RefCell::new(Counts {
                bytes: 0,
                records: 0,
                requests: 0,
                latency_us: latency_histogram(),
            }),
            stopped: Cell::new(None),
            answers: Cell::new(0),
        }
    }

    pub fn elapsed_ns(&self) -> u64 {
        u64::try_from(now().duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// What comes after this does not count as time of the run.
    pub fn stop_clock(&self) {
        self.stopped.set(Some(now()));
    }

    /// How long the run lasted or has lasted so far.
    pub fn seconds(&self) -> f64 {
        let end = self.stopped.get().unwrap_or_else(now);
        end.duration_since(self.started).as_secs_f64()
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

    /// Notes an answer that brought something.
    pub fn answered(&self) {
        self.answers.set(self.answers.get() + 1);
    }

    /// Counts a request that was answered well.
    pub fn count(&self, bytes: u64, records: u64, sent_at: Instant) {
        let mut counts = self.counts.borrow_mut();
        counts.bytes += bytes;
        counts.records += records;
        counts.requests += 1;
        self.answered();
        let latency = now().duration_since(sent_at).as_micros();
        counts
            .latency_us
            .saturating_record(u64::try_from(latency).unwrap_or(u64::MAX));
    }
    /// Counts a request of an open loop that was answered well, each record from when it was meant to be sent.
    pub fn count_records(&self, bytes: u64, intended_ns: &[u64]) {
        if intended_ns.is_empty() {
            return;
        }
        let at_ns = self.elapsed_ns();
        let mut counts = self.counts.borrow_mut();
        counts.bytes += bytes;
        counts.records += intended_ns.len() as u64;
        counts.requests += 1;
        self.answered();
        for intended_ns in intended_ns {
            let latency_us = at_ns.saturating_sub(*intended_ns) / 1000;
            counts.latency_us.saturating_record(latency_us);
        }
    }
}

/// Of microseconds.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_US_MAX, LATENCY_DIGITS).expect("these bounds are supported")
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
    fn a_rate_is_kept_for_the_time_or_until_the_bytes_are_sent() {
        let records = |bytes, seconds| Limits { bytes, seconds }.records(100, 50);
        assert_eq!(records(None, Some(3)), 300);
        assert_eq!(records(None, None), 1000);
        assert_eq!(records(Some(101), None), 3);
        assert_eq!(records(Some(1_000_000), Some(1)), 100);
    }

    #[test]
    fn each_record_of_a_request_counts_from_when_it_was_meant_to_be_sent() {
        let mut run = Run::unlimited();
        run.started = run.started.checked_sub(Duration::from_secs(10)).unwrap();
        run.count_records(500, &[0, 9_000_000_000]);
        let counts = run.counts.borrow();
        assert_eq!((counts.records, counts.requests), (2, 1));
        assert!(counts.latency_us.max() >= 9_990_000);
        assert!(counts.latency_us.min() < 2_000_000);
    }

    #[test]
    fn latencies_of_seconds_are_kept_apart_from_those_of_microseconds() {
        let run = Run::unlimited();
        let sent_at = run.started.checked_sub(Duration::from_secs(20)).unwrap();
        run.count(1, 1, sent_at);
        assert!(run.counts.borrow().latency_us.max() >= 20_000_000);
    }
}
