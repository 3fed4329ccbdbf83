//! What a written batch says about itself, so that a reader can tell a gap from a duplicate.
//!
//! ```text
//! value of a batch's first record, closed loop = marker 8 | stream u64 | sequence u64 | filler
//! value of every record, open loop             = marker 8 | stream u64 | sequence u64 | intended u64 | filler
//! ```
//! The sequence is the batch's; `intended` is when the record was meant to be sent, in nanoseconds since the run's start.
//! A stream is what one connection of one run writes to one partition; its batches count from 0. A compressed batch that is sent again
//! and again cannot be numbered: it belongs to stream 0, in which only the broker's offsets tell a gap.

use std::hash::{BuildHasher, Hasher, RandomState};

const MARKER: [u8; 8] = *b"millrace";
const STREAM_AT: usize = 8;
const SEQUENCE_AT: usize = 16;

pub const STAMP_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub stream: u64,
    pub sequence: u64,
}

/// A stream that no other run writes.
pub fn random_stream() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

impl Stamp {
    pub const UNSEQUENCED: Stamp = Stamp {
        stream: 0,
        sequence: 0,
    };

    pub fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..STREAM_AT].copy_from_slice(&MARKER);
        bytes[STREAM_AT..SEQUENCE_AT].copy_from_slice(&self.stream.to_be_bytes());
        bytes[SEQUENCE_AT..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    /// The stamp at the start of a value, if there is one.
    pub fn read(value: &[u8]) -> Option<Self> {
        let (marker, rest) = value.split_first_chunk()?;
        let (stream, rest) = rest.split_first_chunk()?;
        let (sequence, _) = rest.split_first_chunk()?;
        let stamp = Self {
            stream: u64::from_be_bytes(*stream),
            sequence: u64::from_be_bytes(*sequence),
        };
        (*marker == MARKER).then_some(stamp)
    }

    /// Where a stamp lies in a batch that holds one.
    pub fn find(batch: &[u8]) -> Option<usize> {
        batch
            .windows(MARKER.len())
            .position(|window| *window == MARKER)
    }
}

/// A stamp that says when its record was meant to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedStamp {
    pub stamp: Stamp,
    pub intended_ns: u64,
}

pub const TIMED_STAMP_BYTES: usize = STAMP_BYTES + 8;

impl TimedStamp {
    pub fn to_bytes(self) -> [u8; TIMED_STAMP_BYTES] {
        let mut bytes = [0; TIMED_STAMP_BYTES];
        bytes[..STAMP_BYTES].copy_from_slice(&self.stamp.to_bytes());
        bytes[STAMP_BYTES..].copy_from_slice(&self.intended_ns.to_be_bytes());
        bytes
    }

    /// The stamp at the start of a value, if there is one.
    pub fn read(value: &[u8]) -> Option<Self> {
        let stamp = Stamp::read(value)?;
        let intended_ns = value.get(STAMP_BYTES..)?.first_chunk()?;
        Some(Self {
            stamp,
            intended_ns: u64::from_be_bytes(*intended_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_from_where_it_is_found() {
        let stamp = Stamp {
            stream: u64::MAX - 1,
            sequence: 7,
        };
        let bytes = [&[1, 2, 3][..], &stamp.to_bytes(), &[9]].concat();
        assert_eq!(Stamp::find(&bytes), Some(3));
        assert_eq!(Stamp::read(&bytes[3..]), Some(stamp));
    }

    #[test]
    fn a_timed_stamp_is_a_stamp_too() {
        let stamp = Stamp {
            stream: 5,
            sequence: 6,
        };
        let timed = TimedStamp {
            stamp,
            intended_ns: 7,
        };
        assert_eq!(TimedStamp::read(&timed.to_bytes()), Some(timed));
        assert_eq!(Stamp::read(&timed.to_bytes()), Some(stamp));
        assert_eq!(TimedStamp::read(&stamp.to_bytes()), None);
    }

    #[test]
    fn other_values_hold_no_stamp() {
        assert_eq!(Stamp::read(&[0; 40]), None);
        assert_eq!(Stamp::read(&MARKER), None);
        assert_eq!(Stamp::find(b"millstream"), None);
    }
}
