//! Checks the records of a batch while their bytes pass, in whatever pieces they come, and learns the times that they carry.
//!
//! Produce walks what producers send, decompressed where it is compressed; lookups by time walk until they found their record. Keys,
//! values and headers are skipped, not looked at. The format is drawn in `record.rs`.
//!
//! A record must fill its length, the records their batch, and their offset deltas must count from 0. Kafka takes some records that
//! are not so (a negative length other than -1, offset deltas of plain records that do not count); they are refused here, because
//! consumers stop at them.

use crate::batch_header::BatchHeader;
use crate::record::{RecordError, signed};

/// The time of a record that has none.
pub const NO_TIMESTAMP: i64 = -1;

/// The largest and smallest number of bytes of the integers in a record.
const VARINT_BYTES: u32 = 5;
const VARLONG_BYTES: u32 = 10;

/// The times of a batch's records, those without a time left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTimes {
    oldest: i64,
    newest: i64,
}

impl RecordTimes {
    const NONE: RecordTimes = RecordTimes {
        oldest: i64::MAX,
        newest: i64::MIN,
    };

    /// What belongs into the header as the batch's max timestamp: -1 if no record has a time.
    pub fn max_timestamp(&self) -> i64 {
        self.newest.max(NO_TIMESTAMP)
    }

    /// Whether every record that has a time has one from `oldest` to `newest`.
    pub fn lie_within(&self, oldest: i64, newest: i64) -> bool {
        self.oldest >= oldest && self.newest <= newest
    }
}

/// What the next integer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Length,
    TimestampDelta,
    OffsetDelta,
    Key,
    Value,
    HeaderCount,
    HeaderKey,
    HeaderValue,
}

/// A walk through the records of one batch.
#[derive(Clone, Debug)]
pub struct RecordWalk {
    base_timestamp: i64,
    count: i32,
    /// Records that passed whole; the offset delta of the one at hand.
    passed: i32,
    field: Field,
    /// The part that has passed of the integer at hand.
    integer: u64,
    integer_bytes: u32,
    /// Bytes of a key or a value that are still to pass.
    skip: usize,
    /// Bytes of the record at hand behind what was read and what is skipped.
    body: usize,
    headers: i32,
    times: RecordTimes,
    sought: i64,
    found: Option<(i32, i64)>,
}

impl RecordWalk {
    /// `header` says how many records there must be.
    pub fn new(header: &BatchHeader) -> Self {
        Self {
            base_timestamp: header.base_timestamp,
            count: header.records_count,
            passed: 0,
            field: Field::Length,
            integer: 0,
            integer_bytes: 0,
            skip: 0,
            body: 0,
            headers: 0,
            times: RecordTimes::NONE,
            sought: i64::MAX,
            found: None,
        }
    }

    /// As `new`, and keeps an eye open for the first record with a time of at least `timestamp`.
    pub fn seeking(header: &BatchHeader, timestamp: i64) -> Self {
        Self {
            sought: timestamp,
            ..Self::new(header)
        }
    }

    /// The offset delta and the time of the record that was sought, once it has passed.
    pub fn found(&self) -> Option<(i32, i64)> {
        self.found
    }

    /// The next bytes of the records.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), RecordError> {
        loop {
            if self.skip >= bytes.len() {
                self.skip -= bytes.len();
                return Ok(());
            }
            bytes = &bytes[self.skip..];
            self.skip = 0;
            if self.field == Field::Length && self.integer_bytes == 0 {
                bytes = self.pass_whole(bytes);
            }
            let Some(value) = self.integer(&mut bytes)? else {
                return Ok(());
            };
            self.take(value)?;
        }
    }

    /// Nothing follows: all records must have passed.
    pub fn finish(&self) -> Result<RecordTimes, RecordError> {
        if self.skip > 0 || self.integer_bytes > 0 || self.field != Field::Length {
            return Err(RecordError::Truncated);
        }
        if self.passed != self.count {
            return Err(RecordError::WrongCount {
                counted: self.count,
                found: self.passed,
            });
        }
        Ok(self.times)
    }

    /// Passes records as long as they lie whole in `bytes` and nothing is wrong with them, which is three times as fast as field by
    /// field; returns what is left. Whatever is wrong with the next one is found, and named, by its fields.
    #[inline]
    fn pass_whole<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while self.passed < self.count
            && let Some((record, rest)) = WholeRecord::first(bytes)
            && record.offset_delta == self.passed as u64 * 2
        {
            self.note_time(
                self.base_timestamp
                    .wrapping_add(signed(record.timestamp_delta)),
            );
            self.passed += 1;
            bytes = rest;
        }
        bytes
    }

    /// The integer at hand, once its last byte has come.
    #[inline]
    fn integer(&mut self, bytes: &mut &[u8]) -> Result<Option<u64>, RecordError> {
        // Most integers are one byte.
        if self.integer_bytes == 0
            && let Some((byte, rest)) = bytes.split_first()
            && *byte < 0x80
        {
            *bytes = rest;
            self.count_bytes(1)?;
            return Ok(Some(u64::from(*byte)));
        }
        let (bytes_max, last_max) = match self.field {
            Field::TimestampDelta => (VARLONG_BYTES, 0x01),
            _ => (VARINT_BYTES, 0x0f),
        };
        while let Some((byte, rest)) = bytes.split_first() {
            *bytes = rest;
            // The last byte has room for the highest bits alone.
            if self.integer_bytes == bytes_max - 1 && *byte > last_max {
                return Err(RecordError::OverlongVarint);
            }
            self.integer |= u64::from(byte & 0x7f) << (7 * self.integer_bytes);
            self.integer_bytes += 1;
            if *byte < 0x80 {
                let value = self.integer;
                self.count_bytes(self.integer_bytes as usize)?;
                (self.integer, self.integer_bytes) = (0, 0);
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// An integer of so many bytes is part of its record's body, unless it is the body's length.
    #[inline]
    fn count_bytes(&mut self, bytes: usize) -> Result<(), RecordError> {
        if self.field != Field::Length {
            self.body = self.body.checked_sub(bytes).ok_or(RecordError::Truncated)?;
        }
        Ok(())
    }

    #[inline]
    fn take(&mut self, value: u64) -> Result<(), RecordError> {
        match self.field {
            Field::Length => {
                if self.passed >= self.count {
                    return Err(RecordError::WrongCount {
                        counted: self.count,
                        found: self.passed + 1,
                    });
                }
                self.body = length(value)?;
                // No attribute of a record is in use.
                self.skip(1)?;
                self.field = Field::TimestampDelta;
            }
            Field::TimestampDelta => {
                self.note_time(self.base_timestamp.wrapping_add(signed(value)));
                self.field = Field::OffsetDelta;
            }
            Field::OffsetDelta => {
                let delta = signed(value);
                if delta != i64::from(self.passed) {
                    return Err(RecordError::WrongOffset {
                        due: self.passed,
                        found: delta,
                    });
                }
                self.field = Field::Key;
            }
            Field::Key => {
                self.skip_nullable(value)?;
                self.field = Field::Value;
            }
            Field::Value => {
                self.skip_nullable(value)?;
                self.field = Field::HeaderCount;
            }
            Field::HeaderCount => {
                let count = length(value)?;
                // Each header takes two bytes at least.
                if count > self.body / 2 {
                    return Err(RecordError::Truncated);
                }
                self.headers = count as i32;
                self.end_header()?;
            }
            Field::HeaderKey => {
                let bytes = length(value)?;
                self.skip(bytes)?;
                self.field = Field::HeaderValue;
            }
            Field::HeaderValue => {
                self.skip_nullable(value)?;
                self.headers -= 1;
                self.end_header()?;
            }
        }
        Ok(())
    }

    /// Goes on with the next header, or with the next record if there is none.
    #[inline]
    fn end_header(&mut self) -> Result<(), RecordError> {
        if self.headers > 0 {
            self.field = Field::HeaderKey;
            return Ok(());
        }
        if self.body > 0 {
            return Err(RecordError::LeftOver);
        }
        self.passed += 1;
        self.field = Field::Length;
        Ok(())
    }

    #[inline]
    fn note_time(&mut self, timestamp: i64) {
        if timestamp == NO_TIMESTAMP {
            return;
        }
        self.times.oldest = self.times.oldest.min(timestamp);
        self.times.newest = self.times.newest.max(timestamp);
        if timestamp >= self.sought && self.found.is_none() {
            self.found = Some((self.passed, timestamp));
        }
    }

    #[inline]
    fn skip_nullable(&mut self, value: u64) -> Result<(), RecordError> {
        // -1, which is no bytes at all.
        if value == 1 {
            return Ok(());
        }
        self.skip(length(value)?)
    }

    #[inline]
    fn skip(&mut self, bytes: usize) -> Result<(), RecordError> {
        self.body = self.body.checked_sub(bytes).ok_or(RecordError::Truncated)?;
        self.skip = bytes;
        Ok(())
    }
}

/// What matters of a record that lies in one piece, still in zigzag encoding.
struct WholeRecord {
    timestamp_delta: u64,
    offset_delta: u64,
}

impl WholeRecord {
    /// The record at the start of `bytes` and what follows it; `None` if it does not lie there whole or is not as it should be.
    #[inline]
    fn first(bytes: &[u8]) -> Option<(WholeRecord, &[u8])> {
        let mut at = 0;
        let body_bytes = length(small_integer(bytes, &mut at)?).ok()?;
        let (body, rest) = bytes[at..].split_at_checked(body_bytes)?;
        // The attributes, of which none is in use.
        let mut at = 1;
        let timestamp_delta = small_integer(body, &mut at)?;
        let offset_delta = small_integer(body, &mut at)?;
        skip_small(body, &mut at, true)?;
        skip_small(body, &mut at, true)?;
        let headers = length(small_integer(body, &mut at)?).ok()?;
        for _ in 0..headers {
            skip_small(body, &mut at, false)?;
            skip_small(body, &mut at, true)?;
        }
        let record = WholeRecord {
            timestamp_delta,
            offset_delta,
        };
        (at == body.len()).then_some((record, rest))
    }
}

/// An integer of up to four bytes.
#[inline]
fn small_integer(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Skips a key or a value with its length.
#[inline]
fn skip_small(bytes: &[u8], at: &mut usize, nullable: bool) -> Option<()> {
    let value = small_integer(bytes, at)?;
    if !(nullable && value == 1) {
        *at += length(value).ok()?;
    }
    // Where this is past the end, the next integer finds nothing.
    Some(())
}

/// A length or a count, which is not below zero.
#[inline]
fn length(value: u64) -> Result<usize, RecordError> {
    if value & 1 != 0 {
        return Err(RecordError::WrongLength(signed(value) as i32));
    }
    Ok((value >> 1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::write_varlong;
    use crate::{Batch, BatchBuilder, RecordIter, Records};

    const BASE: i64 = 1_000;

    fn builder() -> BatchBuilder {
        let mut builder = BatchBuilder::new(BASE);
        builder.record(
            BASE,
            Some(b"key"),
            Some(&[7; 300]),
            &[("h", Some(b"1")), ("none", None)],
        );
        builder.record(BASE - 500, None, None, &[]);
        builder.record(
            BASE + 70_000,
            Some(b""),
            Some(b"x"),
            &[("", Some(&[1; 200]))],
        );
        builder
    }

    fn header(count: i32) -> BatchHeader {
        let bytes = builder().build();
        let mut header = Batch::first(&Records::from_slice(&bytes)).unwrap().header;
        header.records_count = count;
        header
    }

    fn walk<'a>(
        count: i32,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<RecordTimes, RecordError> {
        let mut walk = RecordWalk::new(&header(count));
        for piece in pieces {
            walk.feed(piece)?;
        }
        walk.finish()
    }

    fn record(fields: &[i64], rest: &[u8]) -> Vec<u8> {
        let mut body = vec![0];
        for field in fields {
            write_varlong(&mut body, *field);
        }
        body.extend_from_slice(rest);
        let mut record = Vec::new();
        write_varlong(&mut record, body.len() as i64);
        record.extend(body);
        record
    }

    #[test]
    fn whatever_the_pieces_the_times_are_the_same() {
        let builder = builder();
        let bytes = builder.records();
        let times = RecordTimes {
            oldest: BASE - 500,
            newest: BASE + 70_000,
        };
        assert_eq!(walk(3, [bytes]), Ok(times));
        assert_eq!(walk(3, bytes.chunks(1)), Ok(times));
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(walk(3, [head, tail]), Ok(times), "cut at {cut}");
            assert!(walk(3, [head]).is_err(), "only {cut} bytes");
        }
        assert_eq!(times.max_timestamp(), BASE + 70_000);
        assert!(times.lie_within(BASE - 500, BASE + 70_000));
        assert!(!times.lie_within(BASE - 499, i64::MAX));
        assert!(!times.lie_within(0, BASE + 69_999));
    }

    #[test]
    fn records_without_a_time_are_left_out() {
        let without = record(&[-1 - BASE, 0, -1, -1, 0], &[]);
        let times = walk(1, [&without[..]]).unwrap();
        assert_eq!(times.max_timestamp(), NO_TIMESTAMP);
        assert!(
            times.lie_within(i64::MAX, i64::MIN),
            "there is none to lie outside"
        );
        let with = [without, record(&[5, 1, -1, -1, 0], &[])].concat();
        assert_eq!(walk(2, [&with[..]]).unwrap().max_timestamp(), BASE + 5);
        assert!(walk(2, [&with[..]]).unwrap().lie_within(BASE + 5, BASE + 5));
    }

    #[test]
    fn the_first_record_that_is_late_enough_is_found() {
        let builder = builder();
        for (timestamp, found) in [
            (0, Some((0, BASE))),
            (BASE + 1, Some((2, BASE + 70_000))),
            (BASE + 70_001, None),
        ] {
            let mut walk = RecordWalk::seeking(&header(3), timestamp);
            walk.feed(builder.records()).unwrap();
            assert_eq!(walk.found(), found);
        }
    }

    #[test]
    fn what_lies_is_named() {
        let good = record(&[0, 0, -1, -1, 0], &[]);
        let counted = |counted, found| Err(RecordError::WrongCount { counted, found });
        let cases = [
            (good.clone(), 0, counted(0, 1)),
            (good.clone(), 2, counted(2, 1)),
            (Vec::new(), 1, counted(1, 0)),
            ([&good[..], &[0]].concat(), 1, counted(1, 2)),
            (vec![0], 1, Err(RecordError::Truncated)),
            (vec![1], 1, Err(RecordError::WrongLength(-1))),
            (vec![0x80; 6], 1, Err(RecordError::OverlongVarint)),
            (
                record(&[0, 1, -1, -1, 0], &[]),
                1,
                Err(RecordError::WrongOffset { due: 0, found: 1 }),
            ),
            (
                record(&[0, 0, -2, -1, 0], &[]),
                1,
                Err(RecordError::WrongLength(-2)),
            ),
            (
                record(&[0, 0, 100], b"abcd"),
                1,
                Err(RecordError::Truncated),
            ),
            (record(&[0, 0, -1], &[]), 1, Err(RecordError::Truncated)),
            (
                record(&[0, 0, -1, -1, 1000], &[]),
                1,
                Err(RecordError::Truncated),
            ),
            (
                record(&[0, 0, -1, -1, -1], &[]),
                1,
                Err(RecordError::WrongLength(-1)),
            ),
            (
                record(&[0, 0, -1, -1, 1, -1, -1], &[]),
                1,
                Err(RecordError::WrongLength(-1)),
            ),
            (
                record(&[0, 0, -1, -1, 0], b"rest"),
                1,
                Err(RecordError::LeftOver),
            ),
        ];
        for (bytes, count, expected) in cases {
            // A record that is cut short looks unfinished until something follows it.
            let followed = [&bytes[..], &good[..]].concat();
            let whole = walk(count, [&bytes[..]]);
            let result = match (expected, whole) {
                (Err(RecordError::Truncated), Ok(_)) => walk(count, [&followed[..]]),
                _ => whole,
            };
            assert_eq!(result, expected, "{bytes:?} counted as {count}");
            assert_eq!(
                walk(count, bytes.chunks(1)),
                result,
                "{bytes:?} in single bytes"
            );
        }
    }

    /// The walk and the iterator that tests and clients use agree on what records are, for every single damage.
    #[test]
    fn the_walk_takes_no_records_that_the_iterator_refuses() {
        let builder = builder();
        let bytes = builder.records();
        let mut taken = 0;
        for position in 0..bytes.len() {
            for change in 1..=255 {
                let mut damaged = bytes.to_vec();
                damaged[position] ^= change;
                let walked = walk(3, damaged.chunks(7));
                assert_eq!(
                    walked,
                    walk(3, [&damaged[..]]),
                    "byte {position} ^ {change}"
                );
                let iterated: Result<Vec<_>, _> = RecordIter::new(&damaged).collect();
                if let (Ok(times), Ok(records)) = (walked, &iterated) {
                    let newest = records
                        .iter()
                        .map(|record| BASE + record.timestamp_delta)
                        .max();
                    assert_eq!(
                        Some(times.max_timestamp()),
                        newest.map(|newest| newest.max(-1))
                    );
                    taken += 1;
                }
                let refused_for_its_text = iterated == Err(RecordError::InvalidUtf8);
                assert!(
                    walked.is_err() || iterated.is_ok() || refused_for_its_text,
                    "byte {position} ^ {change}"
                );
            }
        }
        assert!(taken > 1000, "{taken} damages changed contents only");
    }
}
