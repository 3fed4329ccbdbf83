//! Little-endian numbers in a frame with a magic, a version and a CRC-32C: the outer form of index and checkpoint files.
//!
//! ```text
//! magic u32 | version u16 | body … | crc32c u32 of everything before
//! ```
//! Nothing is believed before the CRC has been checked, and every count is bounded by the bytes that are left.

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("not a file of this kind")]
    WrongMagic,
    #[error("version {0} is not known here")]
    UnknownVersion(u16),
    #[error("the checksum does not match")]
    WrongCrc,
    #[error("the file ends too early or says something impossible")]
    Malformed,
}

pub(super) struct Encoder(Vec<u8>);

impl Encoder {
    pub(super) fn new(magic: u32, version: u16, bytes: usize) -> Encoder {
        let mut encoder = Encoder(Vec::with_capacity(bytes));
        encoder.u32(magic);
        encoder.u16(version);
        encoder
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let crc = crc32c::crc32c(&self.0);
        self.u32(crc);
        self.0
    }
}

pub(super) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    /// Checks the frame and stands at the start of its body.
    pub(super) fn new(
        bytes: &'a [u8],
        magic: u32,
        version: u16,
    ) -> Result<Decoder<'a>, CodecError> {
        let (framed, crc) = bytes.split_last_chunk::<4>().ok_or(CodecError::Malformed)?;
        let mut decoder = Decoder(framed);
        if decoder.u32()? != magic {
            return Err(CodecError::WrongMagic);
        }
        if crc32c::crc32c(framed) != u32::from_le_bytes(*crc) {
            return Err(CodecError::WrongCrc);
        }
        match decoder.u16()? {
            found if found == version => Ok(decoder),
            found => Err(CodecError::UnknownVersion(found)),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(CodecError::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.take::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(super) fn i16(&mut self) -> Result<i16, CodecError> {
        Ok(i16::from_le_bytes(self.take()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, CodecError> {
        Ok(i32::from_le_bytes(self.take()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, CodecError> {
        Ok(i64::from_le_bytes(self.take()?))
    }

    /// A count of items that take at least `item_bytes` each, so that what is left can hold them.
    pub(super) fn count(&mut self, item_bytes: usize) -> Result<usize, CodecError> {
        let count = self.u32()? as usize;
        if count
            .checked_mul(item_bytes)
            .is_none_or(|bytes| bytes > self.0.len())
        {
            return Err(CodecError::Malformed);
        }
        Ok(count)
    }

    pub(super) fn end(self) -> Result<(), CodecError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Malformed)
        }
    }
}
