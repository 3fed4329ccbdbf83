//! Record bytes of a Produce request or a Fetch response, held as the pieces they lie in and never copied.
//!
//! The Produce handler takes them out of a decoded request; the Fetch handler names bytes that the connection sends from elsewhere.

use std::fmt;
use std::ops::Range;

use crate::batch::Batches;

/// Record bytes: pieces of a received frame, or the mere length of bytes that the sender splices in.
#[derive(Clone, Copy)]
pub struct Records<'a> {
    source: Source<'a>,
    len: usize,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    /// The bytes are the first `len` of `first` followed by `more`.
    Pieces {
        first: &'a [u8],
        more: &'a [&'a [u8]],
    },
    External,
}

impl<'a> Records<'a> {
    pub fn from_slice(bytes: &'a [u8]) -> Self {
        Self::from_pieces(bytes, &[], bytes.len())
    }

    /// `len` bytes that are not here: encoding writes their length and notes where they belong, see [`crate::Writer`].
    pub fn external(len: usize) -> Self {
        Self {
            source: Source::External,
            len,
        }
    }

    /// The first `len` bytes of `first` followed by `more`, which hold at least as many.
    pub(crate) fn from_pieces(first: &'a [u8], more: &'a [&'a [u8]], len: usize) -> Self {
        Self {
            source: Source::Pieces { first, more },
            len,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn is_external(&self) -> bool {
        matches!(self.source, Source::External)
    }

    /// The pieces in order, none of them empty. External records have none.
    pub fn pieces(&self) -> Pieces<'a> {
        match self.source {
            Source::Pieces { first, more } => Pieces {
                first,
                more,
                left: self.len,
            },
            Source::External => Pieces {
                first: &[],
                more: &[],
                left: 0,
            },
        }
    }

    /// A part of these records, still where it lies.
    ///
    /// # Panics
    /// If the range does not lie within `0..self.len()`, as slicing does.
    pub fn slice(&self, range: Range<usize>) -> Records<'a> {
        assert!(
            range.start <= range.end,
            "a range that ends before it starts"
        );
        assert!(range.end <= self.len, "a range past the end of the records");
        let len = range.end - range.start;
        let Source::Pieces {
            mut first,
            mut more,
        } = self.source
        else {
            return Self::external(len);
        };
        let mut skip = range.start;
        while skip >= first.len() {
            let Some((next, rest)) = more.split_first() else {
                break;
            };
            skip -= first.len();
            (first, more) = (next, rest);
        }
        Self::from_pieces(&first[skip..], more, len)
    }

    /// Fills `target` with the bytes from `offset` on.
    ///
    /// # Panics
    /// If fewer bytes than that are there.
    pub fn copy_to(&self, offset: usize, target: &mut [u8]) {
        let mut filled = 0;
        for piece in self.slice(offset..offset + target.len()).pieces() {
            target[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        assert!(filled == target.len(), "external records cannot be copied");
    }

    /// The bytes as one slice, if they lie in one piece.
    pub fn contiguous(&self) -> Option<&'a [u8]> {
        let mut pieces = self.pieces();
        let first = pieces.next().unwrap_or(&[]);
        (first.len() == self.len).then_some(first)
    }

    /// The bytes gathered in one allocation. For clients and tests.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().flatten().copied().collect()
    }

    /// Walks the record batches inside.
    pub fn batches(&self) -> Batches<'a> {
        Batches::new(*self)
    }
}

impl PartialEq for Records<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self.is_external() == other.is_external()
            && self.pieces().flatten().eq(other.pieces().flatten())
    }
}

impl fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records({} bytes)", self.len)
    }
}

impl Default for Records<'_> {
    fn default() -> Self {
        Self::from_slice(&[])
    }
}

/// The pieces of [`Records`], in order.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    first: &'a [u8],
    more: &'a [&'a [u8]],
    left: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        while self.first.is_empty() {
            let (next, rest) = self.more.split_first()?;
            (self.first, self.more) = (next, rest);
        }
        let piece = &self.first[..self.first.len().min(self.left)];
        self.left -= piece.len();
        self.first = &[];
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slice_of_every_cutting_holds_the_same_bytes() {
        let bytes: Vec<u8> = (0..9).collect();
        for first in 0..=9 {
            for second in first..=9 {
                let parts: [&[u8]; 3] = [&bytes[first..second], &[], &bytes[second..]];
                let records = Records::from_pieces(&bytes[..first], &parts, 9);
                for start in 0..=9 {
                    for end in start..=9 {
                        let slice = records.slice(start..end);
                        assert_eq!(slice.to_vec(), &bytes[start..end]);
                        assert!(slice.pieces().all(|piece| !piece.is_empty()));
                        let mut copy = vec![0; end - start];
                        records.copy_to(start, &mut copy);
                        assert_eq!(copy, &bytes[start..end]);
                    }
                }
            }
        }
    }

    #[test]
    fn external_records_keep_their_length_alone() {
        let records = Records::external(100).slice(10..30);
        assert_eq!(records.len(), 20);
        assert_eq!(records.pieces().count(), 0);
        assert_ne!(records, Records::from_slice(&[0; 20]));
    }
}
