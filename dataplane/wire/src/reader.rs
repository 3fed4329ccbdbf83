//! A bounded cursor over one request frame. The connection makes one for each frame and the messages decode from it.
//!
//! A frame may lie in several receive buffers. Everything that lies whole in one of them is borrowed; a string that straddles two
//! is copied once into a [`Scratch`]. Record bytes are never copied. No length read from the frame is trusted before it is compared with
//! what is left of the frame, so nothing here allocates more than the frame holds.

use std::cell::OnceCell;

use thiserror::Error;

use crate::Records;

/// Why bytes are not a valid message. The fault is always the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A length or a fixed-size field reaches past the end of the frame.
    #[error("{wanted} bytes wanted where {left} are left")]
    Truncated { wanted: usize, left: usize },
    /// A length below zero where null is not allowed, or below -1.
    #[error("a length of {0}")]
    NegativeLength(i32),
    /// Null where the message's version has no null.
    #[error("null in `{0}`, which is not nullable in this version")]
    UnexpectedNull(&'static str),
    /// An array that claims more elements than the rest of the frame could hold.
    #[error("an array of {count} elements where {left} bytes are left")]
    TooManyElements { count: usize, left: usize },
    /// More elements in all arrays together than the reader was told to take.
    #[error("an array of {count} elements where {left} may be taken")]
    ElementsLimited { count: usize, left: usize },
    /// A variable-length integer that does not fit its type.
    #[error("a variable-length integer is too long")]
    OverlongVarint,
    #[error("a string is not UTF-8")]
    InvalidUtf8,
    /// A tagged field whose content is not as long as its size says.
    #[error("tagged field {tag} does not fill its size")]
    TaggedFieldSize { tag: u32 },
    /// A version outside the range in the API table.
    #[error("version {0} is not supported")]
    UnsupportedVersion(i16),
    /// The [`Scratch`] holds a string of another frame or version.
    #[error("a scratch space was used for two decodings")]
    ScratchReused,
}

/// Owns the copies of strings that straddle two receive buffers. One serves one frame decoded at one version, and lives as long as the message.
#[derive(Debug, Default)]
pub struct Scratch {
    /// One place for each piece of the frame, because at most one value can start in a piece and end in a later one. Lazy arrays
    /// decode the same value many times and find the first copy again, so all copies together are no longer than the frame.
    places: OnceCell<Box<[PieceCopy]>>,
}

type PieceCopy = OnceCell<(usize, Box<[u8]>)>;

impl Scratch {
    pub fn new() -> Self {
        Self::default()
    }

    fn place(&self, piece: usize, pieces: usize) -> Result<&PieceCopy, DecodeError> {
        let places = self
            .places
            .get_or_init(|| (0..pieces).map(|_| PieceCopy::new()).collect());
        places.get(piece).ok_or(DecodeError::ScratchReused)
    }
}

/// A cursor over a frame. Cloning copies a few words; lazy arrays keep a clone that stands at their first element.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    /// The unread part of the piece at hand, cut to `remaining`.
    current: &'a [u8],
    /// All pieces of the frame, and the index of the one after `current`.
    parts: &'a [&'a [u8]],
    next: usize,
    /// Unread bytes, those in `current` included.
    remaining: usize,
    /// Elements that arrays may still have, over all of them.
    elements_left: usize,
    scratch: Option<&'a Scratch>,
}

impl<'a> Reader<'a> {
    /// Reads a frame that lies in one piece.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            current: bytes,
            parts: &[],
            next: 0,
            remaining: bytes.len(),
            elements_left: usize::MAX,
            scratch: None,
        }
    }

    /// Reads a frame that lies in `parts`, in order. Empty parts are allowed.
    pub fn fragments(parts: &'a [&'a [u8]], scratch: &'a Scratch) -> Self {
        let remaining = parts.iter().map(|part| part.len()).sum();
        let mut reader = Self {
            current: &[],
            parts,
            next: 0,
            remaining,
            elements_left: usize::MAX,
            scratch: Some(scratch),
        };
        reader.advance_piece();
        reader
    }

    /// Takes so many elements over all arrays from here on, and refuses a message that has more: what becomes of an element may be a
    /// hundred times as long as the element.
    #[must_use]
    pub fn with_elements_max(mut self, elements: usize) -> Self {
        self.elements_left = elements;
        self
    }

    /// Elements that may still come.
    pub fn elements_left(&self) -> usize {
        self.elements_left
    }

    #[inline]
    pub(crate) fn take_elements(&mut self, count: usize) -> Result<(), DecodeError> {
        let left = self.elements_left;
        let rest = left.checked_sub(count);
        self.elements_left = rest.ok_or(DecodeError::ElementsLimited { count, left })?;
        Ok(())
    }

    /// Bytes not read yet.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    #[inline]
    pub fn read_i8(&mut self) -> Result<i8, DecodeError> {
        self.read_array().map(i8::from_be_bytes)
    }

    #[inline]
    pub fn read_u8(&mut self) -> Result<u8, DecodeError> {
        self.read_array().map(u8::from_be_bytes)
    }

    #[inline]
    pub fn read_i16(&mut self) -> Result<i16, DecodeError> {
        self.read_array().map(i16::from_be_bytes)
    }

    #[inline]
    pub fn read_i32(&mut self) -> Result<i32, DecodeError> {
        self.read_array().map(i32::from_be_bytes)
    }

    #[inline]
    pub fn read_i64(&mut self) -> Result<i64, DecodeError> {
        self.read_array().map(i64::from_be_bytes)
    }

    /// The next `N` bytes by value, wherever they lie.
    #[inline]
    pub fn read_array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        if let Some((bytes, rest)) = self.current.split_first_chunk::<N>() {
            let bytes = *bytes;
            self.current = rest;
            self.remaining -= N;
            return Ok(bytes);
        }
        let mut bytes = [0; N];
        self.copy(&mut bytes)?;
        Ok(bytes)
    }

    /// An unsigned variable-length integer of at most 32 bits: seven bits a byte, lowest first, the high bit set on all but the last.
    #[inline]
    pub fn read_unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let first = self.read_u8()?;
        if first < 0x80 {
            return Ok(u32::from(first));
        }
        let mut value = u32::from(first & 0x7f);
        for shift in [7, 14, 21] {
            let byte = self.read_u8()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        // The fifth byte has room for the last four bits alone.
        let last = self.read_u8()?;
        if last > 0x0f {
            return Err(DecodeError::OverlongVarint);
        }
        Ok(value | u32::from(last) << 28)
    }

    /// The next `len` bytes: borrowed when they lie in one piece, else copied once into the scratch.
    #[inline]
    pub fn read_bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        if let Some((bytes, rest)) = self.current.split_at_checked(len) {
            self.current = rest;
            self.remaining -= len;
            return Ok(bytes);
        }
        self.read_straddling(len)
    }

    /// The next `len` bytes as the pieces they lie in. Never copies.
    pub fn read_records(&mut self, len: usize) -> Result<Records<'a>, DecodeError> {
        self.check(len)?;
        if self.current.is_empty() && len > 0 {
            self.advance_piece();
        }
        let records = Records::from_pieces(
            self.current,
            self.parts.get(self.next..).unwrap_or(&[]),
            len,
        );
        self.skip(len)?;
        Ok(records)
    }

    /// Passes over `len` bytes.
    pub fn skip(&mut self, mut len: usize) -> Result<(), DecodeError> {
        self.check(len)?;
        self.remaining -= len;
        while len > self.current.len() {
            len -= self.current.len();
            self.load_piece(self.remaining + len);
        }
        self.current = &self.current[len..];
        Ok(())
    }

    /// A reader of the next `len` bytes alone. This one stays where it is.
    pub(crate) fn limited(&self, len: usize) -> Result<Self, DecodeError> {
        self.check(len)?;
        let mut limited = self.clone();
        limited.remaining = len;
        limited.current = &self.current[..len.min(self.current.len())];
        Ok(limited)
    }

    /// Refuses a length that reaches past the end of the frame.
    #[inline]
    pub(crate) fn check(&self, wanted: usize) -> Result<(), DecodeError> {
        if wanted > self.remaining {
            return Err(DecodeError::Truncated {
                wanted,
                left: self.remaining,
            });
        }
        Ok(())
    }

    #[cold]
    fn read_straddling(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        self.check(len)?;
        if self.current.is_empty() {
            // The value starts with the next piece, and may lie whole in it.
            self.advance_piece();
            if let Some((bytes, rest)) = self.current.split_at_checked(len) {
                self.current = rest;
                self.remaining -= len;
                return Ok(bytes);
            }
        }
        // A contiguous reader never comes here: its `current` is all that remains.
        let scratch = self.scratch.ok_or(DecodeError::ScratchReused)?;
        let place = scratch.place(self.next - 1, self.parts.len())?;
        let start = self.current.as_ptr() as usize;
        if let Some((known_start, bytes)) = place.get() {
            if *known_start != start || bytes.len() != len {
                return Err(DecodeError::ScratchReused);
            }
            self.skip(len)?;
            return Ok(bytes);
        }
        let mut bytes = vec![0; len].into_boxed_slice();
        self.copy(&mut bytes)?;
        Ok(&place.get_or_init(|| (start, bytes)).1)
    }

    #[cold]
    fn copy(&mut self, target: &mut [u8]) -> Result<(), DecodeError> {
        self.check(target.len())?;
        let mut filled = 0;
        while filled < target.len() {
            if self.current.is_empty() {
                self.advance_piece();
            }
            let len = self.current.len().min(target.len() - filled);
            let (bytes, rest) = self.current.split_at(len);
            target[filled..filled + len].copy_from_slice(bytes);
            self.current = rest;
            self.remaining -= len;
            filled += len;
        }
        Ok(())
    }

    /// Steps to the next piece that is not empty. The caller knows that bytes remain and that `current` is used up.
    fn advance_piece(&mut self) {
        while self.current.is_empty() && self.remaining > 0 {
            self.load_piece(self.remaining);
        }
    }

    /// Makes the next piece the one at hand, cut to `limit` bytes.
    fn load_piece(&mut self, limit: usize) {
        let piece = self.parts[self.next];
        self.next += 1;
        self.current = &piece[..piece.len().min(limit)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_across_every_boundary() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        for cut in 0..=bytes.len() {
            let parts = [&bytes[..cut], &[], &bytes[cut..]];
            let scratch = Scratch::new();
            let mut reader = Reader::fragments(&parts, &scratch);
            assert_eq!(reader.read_i64(), Ok(0x0102_0304_0506_0708));
            assert_eq!(reader.remaining(), 0);
            assert_eq!(
                reader.read_i8(),
                Err(DecodeError::Truncated { wanted: 1, left: 0 })
            );
        }
    }

    #[test]
    fn a_straddling_string_is_copied_once_and_whole_ones_are_borrowed() {
        let parts: [&[u8]; 3] = [b"abc", b"def", b"ghi"];
        let scratch = Scratch::new();
        let reader = Reader::fragments(&parts, &scratch);
        let mut first = reader.clone();
        let mut second = reader;
        let copied = first.read_bytes(5).unwrap();
        assert_eq!(copied, b"abcde");
        assert_eq!(second.read_bytes(5).unwrap().as_ptr(), copied.as_ptr());
        assert_eq!(
            first.read_bytes(1).unwrap().as_ptr(),
            parts[1][2..].as_ptr()
        );
        assert_eq!(first.read_bytes(3).unwrap().as_ptr(), parts[2].as_ptr());
    }

    #[test]
    fn a_scratch_refuses_a_second_frame() {
        let scratch = Scratch::new();
        let one: [&[u8]; 2] = [b"ab", b"cd"];
        let two: [&[u8]; 2] = [b"xy", b"zw"];
        assert!(Reader::fragments(&one, &scratch).read_bytes(3).is_ok());
        assert_eq!(
            Reader::fragments(&two, &scratch).read_bytes(3),
            Err(DecodeError::ScratchReused)
        );
    }

    #[test]
    fn a_varint_of_more_than_32_bits_is_refused() {
        let read = |bytes: &[u8]| Reader::new(bytes).read_unsigned_varint();
        assert_eq!(read(&[0x7f]), Ok(127));
        assert_eq!(read(&[0x80, 0x01]), Ok(128));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0x1f]),
            Err(DecodeError::OverlongVarint)
        );
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0x8f, 0]),
            Err(DecodeError::OverlongVarint)
        );
        assert_eq!(
            read(&[0x80]),
            Err(DecodeError::Truncated { wanted: 1, left: 0 })
        );
    }

    #[test]
    fn a_limited_reader_stops_inside_a_piece_and_across_pieces() {
        let parts: [&[u8]; 2] = [b"abc", b"def"];
        let scratch = Scratch::new();
        let reader = Reader::fragments(&parts, &scratch);
        for len in 0..=6 {
            let mut limited = reader.limited(len).unwrap();
            limited.skip(len).unwrap();
            assert!(limited.read_u8().is_err());
        }
        assert!(reader.limited(7).is_err());
    }
}
