//! Little-endian numbers in a frame with a magic, a version and a CRC-32C: the outer form of index and checkpoint files.
//!
//! ```text
//! magic u32 | version u16 | body … | crc32c u32 of everything before
//! ```
//! Nothing is believed before the CRC has been checked, and every count is bounded by the bytes that are left. A damaged file is made
//! anew from the segments; a whole one of another kind or of a later version is not ours to replace, and is refused.

use std::io;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("it is a file of another kind")]
    WrongMagic,
    #[error("it is of version {found}, and this program knows versions 1 to {newest}")]
    UnknownVersion { found: u16, newest: u16 },
    #[error("the checksum does not match")]
    WrongCrc,
    #[error("the file ends too early or says something impossible")]
    Malformed,
}

impl CodecError {
    /// The file at `path` is damaged, so what it said is found out anew; an error that names it if another program wrote it.
    pub(super) fn damage_of(self, path: &Path) -> io::Result<CodecError> {
        match self {
            CodecError::WrongCrc | CodecError::Malformed => Ok(self),
            CodecError::WrongMagic | CodecError::UnknownVersion { .. } => {
                let text = format!("{} cannot be read: {self}", path.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        }
    }
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
    /// Checks the frame and stands at the start of its body, which is of the version beside it: `newest` or an older one.
    pub(super) fn new(
        bytes: &'a [u8],
        magic: u32,
        newest: u16,
    ) -> Result<(Decoder<'a>, u16), CodecError> {
        let (framed, crc) = bytes.split_last_chunk::<4>().ok_or(CodecError::Malformed)?;
        if crc32c::crc32c(framed) != u32::from_le_bytes(*crc) {
            return Err(CodecError::WrongCrc);
        }
        let mut decoder = Decoder(framed);
        if decoder.u32()? != magic {
            return Err(CodecError::WrongMagic);
        }
        match decoder.u16()? {
            0 => Err(CodecError::Malformed),
            found if found <= newest => Ok((decoder, found)),
            found => Err(CodecError::UnknownVersion { found, newest }),
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

/// A file as an earlier or this version wrote it, which is never changed: data directories outlive the program that wrote them.
#[cfg(test)]
pub(super) fn golden(name: &str, current: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let path = directory.join(name);
    if !path.exists() && std::env::var_os("MILLRACE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, current()).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
