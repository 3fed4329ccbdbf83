//! The records inside an uncompressed batch, for clients and tests. The broker checks them with `record_walk.rs`.
//!
//! ```text
//! record = length | attributes i8 | timestamp delta | offset delta | key | value | header count | headers
//! header = key | value
//! ```
//! Numbers without a type are zigzag variable-length integers; a key or value is its length, -1 for null, and its bytes.

use thiserror::Error;

/// Why bytes are not records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("a record ends early")]
    Truncated,
    #[error("a variable-length integer is too long")]
    OverlongVarint,
    #[error("a length of {0} in a record")]
    WrongLength(i32),
    #[error("a record does not fill its length")]
    LeftOver,
    #[error("a header key is not UTF-8")]
    InvalidUtf8,
    #[error("{counted} records counted where at least {found} are")]
    WrongCount { counted: i32, found: i32 },
    #[error("an offset delta of {found} where {due} is due")]
    WrongOffset { due: i32, found: i64 },
}

/// One record, borrowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<'a> {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// The headers of a record, decoded as they are walked; they have been decoded once without an error.
#[derive(Clone, Debug, PartialEq)]
pub struct Headers<'a> {
    bytes: Bytes<'a>,
    count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub key: &'a str,
    pub value: Option<&'a [u8]>,
}

/// Walks the records of an uncompressed (or decompressed) records section. Ends after the first error.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    bytes: Bytes<'a>,
}

impl<'a> RecordIter<'a> {
    /// `records` is what follows a batch's header, decompressed.
    pub fn new(records: &'a [u8]) -> Self {
        Self {
            bytes: Bytes(records),
        }
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.0.is_empty() {
            return None;
        }
        let record = read_record(&mut self.bytes);
        if record.is_err() {
            self.bytes = Bytes(&[]);
        }
        Some(record)
    }
}

impl<'a> Headers<'a> {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.count = self.count.checked_sub(1)?;
        Some(read_header(&mut self.bytes).expect("the same bytes were decoded before"))
    }
}

/// Appends a zigzag variable-length integer.
pub(crate) fn write_varlong(bytes: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// The integer that a zigzag encoding stands for.
#[inline]
pub(crate) fn signed(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn read_record<'a>(bytes: &mut Bytes<'a>) -> Result<Record<'a>, RecordError> {
    let len = bytes.varint()?;
    let mut body = Bytes(bytes.take(len)?);
    // No attribute of a record is in use.
    body.take(1)?;
    let timestamp_delta = body.varlong()?;
    let offset_delta = body.varint()?;
    let key = body.nullable()?;
    let value = body.nullable()?;
    let count = body.varint()?;
    let first = body;
    // Each header takes two bytes at least, so the record bounds the loop.
    for _ in 0..usize::try_from(count).map_err(|_| RecordError::WrongLength(count))? {
        read_header(&mut body)?;
    }
    if !body.0.is_empty() {
        return Err(RecordError::LeftOver);
    }
    let headers = Headers {
        bytes: first,
        count: count as usize,
    };
    Ok(Record {
        timestamp_delta,
        offset_delta,
        key,
        value,
        headers,
    })
}

fn read_header<'a>(bytes: &mut Bytes<'a>) -> Result<Header<'a>, RecordError> {
    let len = bytes.varint()?;
    let key = str::from_utf8(bytes.take(len)?).map_err(|_| RecordError::InvalidUtf8)?;
    Ok(Header {
        key,
        value: bytes.nullable()?,
    })
}

/// What is left to read.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: i32) -> Result<&'a [u8], RecordError> {
        let len = usize::try_from(len).map_err(|_| RecordError::WrongLength(len))?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or(RecordError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn nullable(&mut self) -> Result<Option<&'a [u8]>, RecordError> {
        match self.varint()? {
            -1 => Ok(None),
            len => self.take(len).map(Some),
        }
    }

    #[inline]
    fn varint(&mut self) -> Result<i32, RecordError> {
        let value = self.unsigned(5)?;
        let value = u32::try_from(value).map_err(|_| RecordError::OverlongVarint)?;
        Ok(signed(u64::from(value)) as i32)
    }

    #[inline]
    fn varlong(&mut self) -> Result<i64, RecordError> {
        self.unsigned(10).map(signed)
    }

    #[inline]
    fn unsigned(&mut self, bytes_max: u32) -> Result<u64, RecordError> {
        let mut value = 0;
        for index in 0..bytes_max {
            let (byte, rest) = self.0.split_first().ok_or(RecordError::Truncated)?;
            self.0 = rest;
            // The tenth byte has room for the last bit alone.
            if index == 9 && *byte > 1 {
                return Err(RecordError::OverlongVarint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                return Ok(value);
            }
        }
        Err(RecordError::OverlongVarint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_size_come_back() {
        for value in [
            0,
            1,
            -1,
            63,
            64,
            -64,
            -65,
            i64::from(i32::MAX),
            i64::from(i32::MIN),
            i64::MAX,
            i64::MIN,
        ] {
            let mut bytes = Vec::new();
            write_varlong(&mut bytes, value);
            assert_eq!(Bytes(&bytes).varlong(), Ok(value));
            let narrow = Bytes(&bytes).varint();
            assert_eq!(
                narrow,
                i32::try_from(value).map_err(|_| RecordError::OverlongVarint)
            );
        }
        assert_eq!(
            Bytes(&[0xff; 11]).varlong(),
            Err(RecordError::OverlongVarint)
        );
    }

    #[test]
    fn hostile_lengths_are_errors() {
        let walk = |bytes: &[u8]| {
            RecordIter::new(bytes)
                .map(|record| record.map(|_| ()))
                .collect::<Vec<_>>()
        };
        assert_eq!(walk(&[1]), [Err(RecordError::WrongLength(-1))]);
        assert_eq!(
            walk(&[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            [Err(RecordError::Truncated)]
        );
        // A record that claims 2^31 - 1 headers.
        let headers = [20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(walk(&headers), [Err(RecordError::Truncated)]);
        // A key of length -2, and a byte more than the fields need.
        assert_eq!(walk(&[8, 0, 0, 0, 3]), [Err(RecordError::WrongLength(-2))]);
        assert_eq!(
            walk(&[14, 0, 0, 0, 1, 1, 0, 0]),
            [Err(RecordError::LeftOver)]
        );
        assert_eq!(walk(&[12, 0, 0, 0, 1, 1, 0]), [Ok(())]);
    }
}
