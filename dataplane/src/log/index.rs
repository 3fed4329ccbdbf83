//! A segment's sparse index: where to begin reading for an offset or a timestamp.
//!
//! One entry per `index.interval.bytes` of log names a batch by relative offset and position, with the largest timestamp of all
//! batches *before* it. The append path and recovery add to it, readers search it, and sealing and checkpoints store it:
//!
//! ```text
//! "MRIX" | version | base offset i64 | covered bytes u64 | next offset i64 | max timestamp i64 | its batch's offset i64
//!        | count u32 | count x { relative offset u32, position u32, max timestamp before i64 } | crc32c
//! ```

use super::codec::{CodecError, Decoder, Encoder};
use super::limits::INDEX_ENTRIES_MAX;
use super::types::Offset;

const MAGIC: u32 = u32::from_be_bytes(*b"MRIX");
const VERSION: u16 = 1;
const ENTRY_BYTES: usize = 16;

/// No batch was seen, so no timestamp.
pub(super) const NO_TIMESTAMP: i64 = -1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    relative_offset: u32,
    position: u32,
    max_timestamp_before: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    base: Offset,
    entries: Vec<Entry>,
    /// Batches up to this position have been seen, and they end before this offset.
    covered_bytes: u64,
    next_offset: Offset,
    max_timestamp: i64,
    max_timestamp_offset: Offset,
}

impl Index {
    pub(super) fn new(base: Offset) -> Index {
        Index {
            base,
            entries: Vec::new(),
            covered_bytes: 0,
            next_offset: base,
            max_timestamp: NO_TIMESTAMP,
            max_timestamp_offset: base,
        }
    }

    /// The segment's base offset.
    pub(super) fn base(&self) -> Offset {
        self.base
    }

    pub(super) fn covered_bytes(&self) -> u64 {
        self.covered_bytes
    }

    pub(super) fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The largest timestamp and the base offset of the first batch that has it.
    pub(super) fn max_timestamp(&self) -> (i64, Offset) {
        (self.max_timestamp, self.max_timestamp_offset)
    }

    /// Notes the batch that stands at `covered_bytes`.
    pub(super) fn append(
        &mut self,
        base_offset: Offset,
        next_offset: Offset,
        bytes: usize,
        max_timestamp: i64,
        interval_bytes: u32,
    ) {
        assert!(
            base_offset >= self.next_offset,
            "batches are indexed in order"
        );
        let due = self.entries.last().is_none_or(|last| {
            self.covered_bytes - u64::from(last.position) > u64::from(interval_bytes)
        });
        let relative_offset = u32::try_from(base_offset.0 - self.base.0);
        let position = u32::try_from(self.covered_bytes);
        if let (true, Ok(relative_offset), Ok(position)) = (
            due && self.entries.len() < INDEX_ENTRIES_MAX,
            relative_offset,
            position,
        ) {
            self.entries.push(Entry {
                relative_offset,
                position,
                max_timestamp_before: self.max_timestamp,
            });
        }
        self.covered_bytes += bytes as u64;
        self.next_offset = next_offset;
        if max_timestamp > self.max_timestamp {
            self.max_timestamp = max_timestamp;
            self.max_timestamp_offset = base_offset;
        }
    }

    /// Where a batch stands that is not after the one with `offset`.
    pub(super) fn position_of(&self, offset: Offset) -> u64 {
        let relative = offset.0.saturating_sub(self.base.0);
        let after = self
            .entries
            .partition_point(|entry| i64::from(entry.relative_offset) <= relative);
        self.position_before(after)
    }

    /// The last batch that is known to stand at `position` or before it, with an offset of at most `offset`: where, and its base offset.
    pub(super) fn last_up_to(&self, position: u64, offset: Offset) -> Option<(u64, Offset)> {
        let relative = offset.0.saturating_sub(self.base.0);
        let after = self.entries.partition_point(|entry| {
            u64::from(entry.position) <= position && i64::from(entry.relative_offset) <= relative
        });
        let entry = self.entries.get(after.checked_sub(1)?)?;
        let base_offset = self.base.0 + i64::from(entry.relative_offset);
        Some((u64::from(entry.position), Offset(base_offset)))
    }

    /// Where a batch stands that is not after the first one with a timestamp of at least `timestamp`.
    pub(super) fn position_of_timestamp(&self, timestamp: i64) -> u64 {
        let after = self
            .entries
            .partition_point(|entry| entry.max_timestamp_before < timestamp);
        self.position_before(after)
    }

    fn position_before(&self, after: usize) -> u64 {
        after
            .checked_sub(1)
            .map_or(0, |index| u64::from(self.entries[index].position))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(MAGIC, VERSION, 64 + self.entries.len() * ENTRY_BYTES);
        encoder.i64(self.base.0);
        encoder.u64(self.covered_bytes);
        encoder.i64(self.next_offset.0);
        encoder.i64(self.max_timestamp);
        encoder.i64(self.max_timestamp_offset.0);
        encoder.u32(self.entries.len() as u32);
        for entry in &self.entries {
            encoder.u32(entry.relative_offset);
            encoder.u32(entry.position);
            encoder.i64(entry.max_timestamp_before);
        }
        encoder.finish()
    }

    /// An index of the segment that begins at `base`; every entry lies in what is covered, in order.
    pub(super) fn decode(bytes: &[u8], base: Offset) -> Result<Index, CodecError> {
        let (mut decoder, _) = Decoder::new(bytes, MAGIC, VERSION)?;
        if decoder.i64()? != base.0 {
            return Err(CodecError::Malformed);
        }
        let mut index = Index {
            base,
            entries: Vec::new(),
            covered_bytes: decoder.u64()?,
            next_offset: Offset(decoder.i64()?),
            max_timestamp: decoder.i64()?,
            max_timestamp_offset: Offset(decoder.i64()?),
        };
        let count = decoder.count(ENTRY_BYTES)?;
        index.entries.reserve_exact(count);
        for _ in 0..count {
            let entry = Entry {
                relative_offset: decoder.u32()?,
                position: decoder.u32()?,
                max_timestamp_before: decoder.i64()?,
            };
            let rises = index.entries.last().is_none_or(|last| {
                last.position < entry.position && last.relative_offset < entry.relative_offset
            });
            if !rises || u64::from(entry.position) >= index.covered_bytes {
                return Err(CodecError::Malformed);
            }
            index.entries.push(entry);
        }
        decoder.end()?;
        if index.next_offset < base {
            return Err(CodecError::Malformed);
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::golden;
    use super::*;

    /// Batches of 10 offsets and 1,000 bytes with rising timestamps, an entry every 2,500 bytes.
    fn index() -> Index {
        let mut index = Index::new(Offset(100));
        for batch in 0..20 {
            index.append(
                Offset(100 + batch * 10),
                Offset(110 + batch * 10),
                1000,
                5000 + batch,
                2500,
            );
        }
        index
    }

    #[test]
    fn a_search_never_lands_behind_what_it_looks_for() {
        let index = index();
        for offset in 100..300 {
            let batch = (offset - 100) as u64 / 10 * 1000;
            let position = index.position_of(Offset(offset));
            assert!(
                position <= batch && batch - position <= 3000,
                "offset {offset}"
            );
            assert!(position.is_multiple_of(1000));
        }
        for batch in 0..20 {
            let position = index.position_of_timestamp(5000 + batch);
            assert!(position <= batch as u64 * 1000 && batch as u64 * 1000 - position <= 3000);
        }
        assert_eq!(index.position_of_timestamp(0), 0);
        assert_eq!(index.max_timestamp(), (5019, Offset(290)));
    }

    #[test]
    fn the_last_known_batch_of_a_range_is_behind_neither_its_position_nor_its_offset() {
        let index = index();
        assert_eq!(index.last_up_to(0, Offset(100)), Some((0, Offset(100))));
        assert_eq!(index.last_up_to(2999, Offset(999)), Some((0, Offset(100))));
        assert_eq!(
            index.last_up_to(3000, Offset(999)),
            Some((3000, Offset(130)))
        );
        assert_eq!(index.last_up_to(9000, Offset(129)), Some((0, Offset(100))));
        assert_eq!(
            index.last_up_to(9000, Offset(130)),
            Some((3000, Offset(130)))
        );
        assert_eq!(index.last_up_to(9000, Offset(99)), None);
        assert_eq!(Index::new(Offset(5)).last_up_to(9, Offset(9)), None);
    }

    #[test]
    fn the_first_batch_with_the_largest_timestamp_is_remembered() {
        let mut index = Index::new(Offset(0));
        for (batch, timestamp) in [3, 9, 9, 4].into_iter().enumerate() {
            index.append(
                Offset(batch as i64),
                Offset(batch as i64 + 1),
                100,
                timestamp,
                4096,
            );
        }
        assert_eq!(index.max_timestamp(), (9, Offset(1)));
    }

    #[test]
    fn an_index_of_every_version_is_still_read() {
        let stored = golden("log-index.1", || index().encode());
        assert_eq!(Index::decode(&stored, Offset(100)), Ok(index()));
        assert_eq!(index().encode(), stored);
    }

    #[test]
    fn what_is_stored_comes_back_and_no_damaged_byte_passes() {
        let index = index();
        let bytes = index.encode();
        assert_eq!(Index::decode(&bytes, Offset(100)), Ok(index));
        assert!(
            Index::decode(&bytes, Offset(101)).is_err(),
            "another segment's index"
        );
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(Index::decode(&damaged, Offset(100)).is_err(), "byte {at}");
            assert!(
                Index::decode(&bytes[..at], Offset(100)).is_err(),
                "cut at {at}"
            );
        }
    }
}
