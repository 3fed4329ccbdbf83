//! Decompresses the records of a batch step by step, for those who look into them: produce and lookups by time.
//!
//! What comes out is never held as a whole. Each call takes and gives a buffer's bytes at most, so that a caller can let other tasks
//! run between, and can stop: some streams are long and come to nothing. A stream that a consumer would stumble over (cut, with bytes behind its end, LZ4 blocks that depend on
//! each other, which Kafka's own clients cannot read) is an error.

use std::cell::Cell;
use std::io::{self, BufRead, Chain, ErrorKind, Read};

use wire::Compression;
use zstd::zstd_safe::{DCtx, ResetDirective};

use crate::limits::{DECOMPRESSED_BYTES_FREE, DECOMPRESSED_BYTES_PER_BYTE, SNAPPY_BLOCK_BYTES_MAX};

/// What decompressing takes besides the compressed bytes, so that it can be used again.
pub struct Decompressor {
    zstd: Option<DCtx<'static>>,
    buffer: Vec<u8>,
    /// Compressed bytes that the step at hand may still take.
    allowance: Cell<usize>,
    /// The largest Snappy block, which comes out as a whole.
    block_bytes_max: usize,
}

impl Default for Decompressor {
    fn default() -> Self {
        Decompressor {
            zstd: None,
            buffer: vec![0; STEP_BYTES],
            allowance: Cell::new(0),
            block_bytes_max: SNAPPY_BLOCK_BYTES_MAX,
        }
    }
}

/// What one call takes and gives at most.
pub const STEP_BYTES: usize = 64 * 1024;

/// What a call counts for at least.
const STEP_WORK_MIN: usize = 1024;

/// The records of one batch on their way out.
pub struct Decompression<'a> {
    stream: Box<dyn Read + 'a>,
    buffer: &'a mut [u8],
    allowance: &'a Cell<usize>,
    left: u64,
    work: u64,
}

impl Decompressor {
    /// One that leaves blocks of more than so many bytes to another: they are an error of the kind `ResourceBusy`.
    pub fn for_blocks_of(bytes_max: usize) -> Self {
        Decompressor {
            block_bytes_max: bytes_max,
            ..Self::default()
        }
    }

    /// Begins with `records`, what follows a batch's header.
    pub fn begin<'a>(
        &'a mut self,
        codec: Compression,
        records: &'a [u8],
    ) -> io::Result<Decompression<'a>> {
        let allowance = &self.allowance;
        allowance.set(STEP_BYTES);
        let metered = Metered {
            left: records,
            allowance,
        };
        let stream: Box<dyn Read + 'a> = match codec {
            Compression::None => Box::new(records),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(metered)),
            Compression::Snappy => Box::new(Snappy::new(records, self.block_bytes_max)),
            Compression::Lz4 => Box::new(Lz4::new(records)?),
            Compression::Zstd => {
                let context = self.zstd.get_or_insert_with(DCtx::create);
                // It may stand in the middle of a stream that was given up.
                context
                    .reset(ResetDirective::SessionOnly)
                    .map_err(|_| ErrorKind::InvalidData)?;
                Box::new(zstd::stream::read::Decoder::with_context(metered, context))
            }
        };
        Ok(Decompression {
            stream,
            buffer: &mut self.buffer,
            allowance,
            work: 0,
            left: decompressed_bytes_max(records.len()),
        })
    }
}

impl Decompression<'_> {
    /// The next bytes, perhaps none yet; `None` at the end. More of them than a batch may hold are an error of the kind `FileTooLarge`.
    pub fn step(&mut self) -> io::Result<Option<&[u8]>> {
        self.allowance.set(STEP_BYTES);
        let bytes = match self.stream.read(self.buffer) {
            Ok(0) => return Ok(None),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let taken = STEP_BYTES - self.allowance.get();
        self.work += bytes.max(taken).max(STEP_WORK_MIN) as u64;
        self.left = self
            .left
            .checked_sub(bytes as u64)
            .ok_or(ErrorKind::FileTooLarge)?;
        Ok(Some(&self.buffer[..bytes]))
    }

    /// What the steps so far have cost, in bytes.
    pub fn work(&self) -> u64 {
        self.work
    }
}

/// Compressed bytes, of which a step takes no more than its allowance.
struct Metered<'a> {
    left: &'a [u8],
    allowance: &'a Cell<usize>,
}

impl BufRead for Metered<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.left.len().min(self.allowance.get());
        if bytes == 0 && !self.left.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(&self.left[..bytes])
    }

    fn consume(&mut self, bytes: usize) {
        self.left = &self.left[bytes..];
        self.allowance.set(self.allowance.get() - bytes);
    }
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

/// What so many compressed bytes may come to.
fn decompressed_bytes_max(compressed: usize) -> u64 {
    DECOMPRESSED_BYTES_FREE + compressed as u64 * DECOMPRESSED_BYTES_PER_BYTE
}

/// One LZ4 frame as Kafka knows it: a version, blocks that stand for themselves, an end mark, nothing behind it.
struct Lz4<'a> {
    frame: lz4_flex::frame::FrameDecoder<Chain<&'a [u8], &'static [u8]>>,
}

impl<'a> Lz4<'a> {
    const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
    /// Version 1, independent blocks; the bits left out say what checksums and sizes there are.
    const FLAGS: u8 = 0b0110_0000;
    const FLAGS_FIXED: u8 = 0b1110_0011;
    /// The decoder takes the end of the input for the end mark. With another one behind it, it does so only if there was none.
    const END_MARK: &'static [u8] = &[0; 4];

    fn new(records: &'a [u8]) -> io::Result<Self> {
        let sound = records
            .strip_prefix(&Self::MAGIC)
            .and_then(|rest| rest.first())
            .is_some_and(|flags| flags & Self::FLAGS_FIXED == Self::FLAGS);
        if !sound {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(Lz4 {
            frame: lz4_flex::frame::FrameDecoder::new(records.chain(Self::END_MARK)),
        })
    }
}

impl Read for Lz4<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.frame.read(buffer)?;
        let (left, end_mark) = self.frame.get_ref().get_ref();
        if bytes == 0 && (!left.is_empty() || end_mark.len() != Self::END_MARK.len()) {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(bytes)
    }
}

/// Java's framing (magic, two versions, then blocks with their lengths), or one raw block as librdkafka sends.
struct Snappy<'a> {
    left: &'a [u8],
    framed: bool,
    block_bytes_max: usize,
    block: Vec<u8>,
    given: usize,
}

impl<'a> Snappy<'a> {
    const MAGIC: &'static [u8] = b"\x82SNAPPY\0";
    const HEADER_BYTES: usize = 16;

    fn new(records: &'a [u8], block_bytes_max: usize) -> Self {
        Snappy {
            left: records,
            block_bytes_max,
            framed: records.starts_with(Self::MAGIC),
            block: Vec::new(),
            given: 0,
        }
    }

    /// The next block's bytes; empty at the end.
    fn next(&mut self) -> io::Result<&'a [u8]> {
        if !self.framed {
            return Ok(std::mem::take(&mut self.left));
        }
        // Streams may follow each other.
        if self.left.starts_with(Self::MAGIC) {
            self.left = self
                .left
                .get(Self::HEADER_BYTES..)
                .ok_or(ErrorKind::UnexpectedEof)?;
        }
        if self.left.is_empty() {
            return Ok(&[]);
        }
        let (length, rest) = self
            .left
            .split_first_chunk::<4>()
            .ok_or(ErrorKind::UnexpectedEof)?;
        let (block, rest) = rest
            .split_at_checked(u32::from_be_bytes(*length) as usize)
            .ok_or(ErrorKind::UnexpectedEof)?;
        self.left = rest;
        if block.is_empty() {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(block)
    }

    fn decompress(&mut self, block: &[u8]) -> io::Result<()> {
        let bytes = snap::raw::decompress_len(block)?;
        // A block comes out as a whole, so it must not claim more than it can hold.
        if bytes > SNAPPY_BLOCK_BYTES_MAX {
            return Err(ErrorKind::FileTooLarge.into());
        }
        if bytes > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
            return Err(ErrorKind::InvalidData.into());
        }
        if bytes > self.block_bytes_max {
            return Err(ErrorKind::ResourceBusy.into());
        }
        self.block.resize(bytes, 0);
        let filled = snap::raw::Decoder::new().decompress(block, &mut self.block)?;
        self.block.truncate(filled);
        self.given = 0;
        // Nobody makes a block of nothing, and many of them would be a long step.
        match filled {
            0 => Err(ErrorKind::InvalidData.into()),
            _ => Ok(()),
        }
    }
}

/// A copy of 64 bytes takes at least two.
const SNAPPY_RATIO_MAX: usize = 32;

impl Read for Snappy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.block.len() {
            let block = self.next()?;
            if block.is_empty() {
                return Ok(0);
            }
            self.decompress(block)?;
        }
        let bytes = buffer.len().min(self.block.len() - self.given);
        buffer[..bytes].copy_from_slice(&self.block[self.given..][..bytes]);
        self.given += bytes;
        Ok(bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    pub(crate) const CODECS: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    pub(crate) fn compress(codec: Compression, records: &[u8]) -> Vec<u8> {
        match codec {
            Compression::None => records.to_vec(),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(records).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Snappy => snap::raw::Encoder::new().compress_vec(records).unwrap(),
            Compression::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(records).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(records, 1).unwrap(),
        }
    }

    /// As snappy-java frames it.
    fn framed(records: &[u8]) -> Vec<u8> {
        let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
        for chunk in records.chunks(300) {
            let block = compress(Compression::Snappy, chunk);
            framed.extend((block.len() as u32).to_be_bytes());
            framed.extend(block);
        }
        framed
    }

    fn all(codec: Compression, records: &[u8]) -> io::Result<Vec<u8>> {
        let mut decompressor = Decompressor::default();
        let mut decompression = decompressor.begin(codec, records)?;
        let mut all = Vec::new();
        loop {
            match decompression.step()? {
                None => return Ok(all),
                Some(bytes) => all.extend_from_slice(bytes),
            }
        }
    }

    /// Text that compresses somewhat, longer than a step.
    fn text() -> Vec<u8> {
        (0..40_000u32)
            .flat_map(|number| {
                format!("{} ", number.wrapping_mul(2_654_435_761) % 1000).into_bytes()
            })
            .collect()
    }

    #[test]
    fn what_every_codec_made_comes_out_in_steps() {
        let text = text();
        assert!(text.len() > 2 * STEP_BYTES);
        for codec in CODECS {
            assert!(
                all(codec, &compress(codec, &text)).unwrap() == text,
                "{codec:?}"
            );
        }
        assert!(all(Compression::Snappy, &framed(&text)).unwrap() == text);
        let twice = [framed(&text), framed(&text)].concat();
        assert_eq!(
            all(Compression::Snappy, &twice).unwrap().len(),
            2 * text.len()
        );
    }

    #[test]
    fn a_stream_that_is_cut_or_goes_on_is_an_error() {
        let text = &text()[..2000];
        let streams = CODECS[1..]
            .iter()
            .map(|codec| (*codec, compress(*codec, text)))
            .chain([(Compression::Snappy, framed(text))]);
        for (codec, stream) in streams {
            for end in 0..stream.len() {
                let cut = all(codec, &stream[..end]);
                // Where a stream ends between two of Java's blocks, only the records can say that some are missing.
                let shorter = cut.as_ref().is_ok_and(|cut| cut.len() < text.len());
                assert!(
                    cut.is_err() || codec == Compression::Snappy && shorter || end == 0,
                    "{codec:?} cut at {end}: {cut:?}"
                );
            }
            for rest in [&b"\0"[..], b"rest", &[0; 40]] {
                let longer = [&stream[..], rest].concat();
                // To a raw block its end is known, so bytes behind it are damage.
                assert!(all(codec, &longer).is_err(), "{codec:?} and {rest:?}");
            }
        }
    }

    #[test]
    fn what_is_no_stream_is_an_error() {
        for codec in &CODECS[1..] {
            assert!(all(*codec, &[0xee; 64]).is_err(), "{codec:?}");
            assert!(
                all(*codec, b"this is no stream of any kind").is_err(),
                "{codec:?}"
            );
        }
        // Raw blocks that claim 4 GiB and a little more than they can hold, and a framed one that claims more than is there.
        assert!(all(Compression::Snappy, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]).is_err());
        assert!(all(Compression::Snappy, &[0xe8, 0x07, 0, 1]).is_err());
        assert!(
            all(
                Compression::Snappy,
                b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff"
            )
            .is_err()
        );
    }

    #[test]
    fn lz4_blocks_that_depend_on_each_other_are_refused() {
        let info = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Linked);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&text()).unwrap();
        assert!(all(Compression::Lz4, &encoder.finish().unwrap()).is_err());
    }

    #[test]
    fn a_bomb_is_given_up_at_the_limit() {
        let zeros = vec![0; decompressed_bytes_max(0) as usize * 5 / 4];
        for codec in [Compression::Zstd, Compression::Gzip] {
            let bomb = compress(codec, &zeros);
            assert!(decompressed_bytes_max(bomb.len()) < zeros.len() as u64);
            let error = all(codec, &bomb).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{codec:?}");
        }
        let block = compress(Compression::Snappy, &zeros[..SNAPPY_BLOCK_BYTES_MAX + 1]);
        let error = all(Compression::Snappy, &block).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_large_block_can_be_left_to_another() {
        let block = compress(Compression::Snappy, &text()[..20_000]);
        let mut small = Decompressor::for_blocks_of(10_000);
        let refused = small
            .begin(Compression::Snappy, &block)
            .unwrap()
            .step()
            .map(drop);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ResourceBusy);
        assert_eq!(all(Compression::Snappy, &block).unwrap().len(), 20_000);
    }

    #[test]
    fn a_stream_that_was_given_up_does_not_harm_the_next() {
        let mut decompressor = Decompressor::default();
        let text = text();
        let stream = compress(Compression::Zstd, &text);
        for _ in 0..2 {
            let mut decompression = decompressor.begin(Compression::Zstd, &stream).unwrap();
            let start = decompression.step().unwrap().unwrap();
            assert!(!start.is_empty());
            assert_eq!(start, &text[..start.len()]);
        }
    }
}
