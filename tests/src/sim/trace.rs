//! What happened, in order: a hash over every event of a run and the last few of them in words.
//!
//! Two runs of one seed must have one hash; when a test fails, the recent events say what led there.

use std::collections::VecDeque;
use std::fmt;

const RECENT_EVENTS_MAX: usize = 256;

/// One thing that happened. What the numbers mean depends on the event; most are host, object, position, length, result.
#[derive(Clone, Debug)]
pub struct TraceEvent {
    pub at_nanos: u64,
    pub name: &'static str,
    pub numbers: Vec<u64>,
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.at_nanos / 1_000_000_000, self.at_nanos % 1_000_000_000);
        write!(formatter, "{seconds}.{nanos:09} {}", self.name)?;
        self.numbers
            .iter()
            .try_for_each(|number| write!(formatter, " {number}"))
    }
}

pub(super) struct Trace {
    hash: u64,
    events: u64,
    recent: VecDeque<TraceEvent>,
}

impl Trace {
    pub(super) fn new() -> Trace {
        Trace {
            hash: 0xCBF2_9CE4_8422_2325,
            events: 0,
            recent: VecDeque::with_capacity(RECENT_EVENTS_MAX),
        }
    }

    pub(super) fn record(&mut self, at_nanos: u64, name: &'static str, numbers: &[u64]) {
        self.events += 1;
        self.mix(at_nanos);
        self.mix(hash_bytes(name.as_bytes()));
        numbers.iter().for_each(|&number| self.mix(number));
        if self.recent.len() == RECENT_EVENTS_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(TraceEvent {
            at_nanos,
            name,
            numbers: numbers.to_vec(),
        });
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn recent(&self) -> Vec<TraceEvent> {
        self.recent.iter().cloned().collect()
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(5) ^ number).wrapping_mul(0x0000_0100_0000_01B3);
    }
}

/// FNV-1a over eight bytes at a time: contents belong to the trace, and there are many of them.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325 ^ bytes.len() as u64;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = (hash ^ u64::from_be_bytes(*word)).wrapping_mul(0x0000_0100_0000_01B3);
        hash ^= hash >> 29;
    }
    for &byte in rest {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    hash
}
