//! How long a figure is measured, and latencies of operations that are repeated until that time has passed.

use std::cell::Cell;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::clock::now;

/// Latencies are counted to three digits, up to a minute.
const LATENCY_DIGITS: u8 = 3;
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;

pub(super) struct Timing {
    pub(super) quick: bool,
    /// Of each figure.
    pub(super) duration: Duration,
    pub(super) file_bytes: u64,
    /// More than any processor caches.
    pub(super) cold_bytes: usize,
}

impl Timing {
    pub(super) fn new(quick: bool) -> Self {
        if quick {
            Self {
                quick,
                duration: Duration::from_millis(200),
                file_bytes: 64 << 20,
                cold_bytes: 64 << 20,
            }
        } else {
            Self {
                quick,
                duration: Duration::from_millis(700),
                file_bytes: 1 << 30,
                cold_bytes: 256 << 20,
            }
        }
    }
}

/// Nanoseconds each.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_NANOS_MAX, LATENCY_DIGITS).expect("these bounds are supported")
}

/// Operations that several tasks of one thread repeat until a deadline.
pub(super) struct Repeats {
    started: Instant,
    duration: Duration,
    begun: Cell<u64>,
    nanos: std::cell::RefCell<Histogram<u64>>,
}

impl Repeats {
    pub(super) fn new(duration: Duration) -> Self {
        Self {
            started: now(),
            duration,
            begun: Cell::new(0),
            nanos: latencies().into(),
        }
    }

    /// The number of the next operation and its start, or `None` when time is up.
    pub(super) fn next(&self) -> Option<(u64, Instant)> {
        let at = now();
        let number = self.begun.get();
        self.begun.set(number + 1);
        (at < self.started + self.duration).then_some((number, at))
    }

    pub(super) fn done(&self, begun_at: Instant) {
        let nanos = now().duration_since(begun_at).as_nanos() as u64;
        self.nanos.borrow_mut().saturating_record(nanos);
    }

    pub(super) fn finish(self) -> Repeated {
        Repeated {
            seconds: now().duration_since(self.started).as_secs_f64(),
            nanos: self.nanos.into_inner(),
        }
    }
}

pub(super) struct Repeated {
    pub(super) seconds: f64,
    /// Of every operation.
    pub(super) nanos: Histogram<u64>,
}

impl Repeated {
    pub(super) fn per_second(&self) -> f64 {
        self.nanos.len() as f64 / self.seconds
    }

    pub(super) fn micros(&self, quantile: f64) -> f64 {
        self.nanos.value_at_quantile(quantile) as f64 / 1e3
    }
}
