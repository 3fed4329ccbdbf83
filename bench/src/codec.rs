//! The codecs of record batches, framed as Kafka's clients frame them.

use std::borrow::Cow;
use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use wire::{Batch, Compression};

/// What comes before the blocks of a snappy stream (of snappy-java): a magic number, the version and the oldest compatible version.
const SNAPPY_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Bytes of records in a snappy block, as Kafka's clients cut them.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;
const BLOCK_LENGTH_BYTES: usize = 4;

/// Kafka's default level.
const ZSTD_LEVEL: i32 = 3;

/// More than any batch of this program holds; a damaged one may claim anything.
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// `--compression`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Compression::None,
            Codec::Gzip => Compression::Gzip,
            Codec::Snappy => Compression::Snappy,
            Codec::Lz4 => Compression::Lz4,
            Codec::Zstd => Compression::Zstd,
        }
    }
}

/// The payload of a batch of these records.
pub fn compress(compression: Compression, records: &[u8]) -> Result<Cow<'_, [u8]>> {
    let payload = match compression {
        Compression::None => return Ok(Cow::Borrowed(records)),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(records)?;
            encoder.finish()?
        }
        Compression::Snappy => compress_snappy(records)?,
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(records)?;
            encoder.finish()?
        }
        Compression::Zstd => zstd::bulk::compress(records, ZSTD_LEVEL)?,
    };
    Ok(Cow::Owned(payload))
}

/// The records of a batch, in one piece.
pub fn records<'a>(batch: &Batch<'a>) -> Result<Cow<'a, [u8]>> {
    let payload = batch
        .records
        .contiguous()
        .context("the batch lies in one piece")?;
    let records = match batch.header.attributes.compression()? {
        Compression::None => return Ok(Cow::Borrowed(payload)),
        Compression::Gzip => read_all(MultiGzDecoder::new(payload)),
        Compression::Snappy => decompress_snappy(payload),
        Compression::Lz4 => read_all(lz4_flex::frame::FrameDecoder::new(payload)),
        Compression::Zstd => zstd::Decoder::new(payload)
            .context("no zstd stream")
            .and_then(read_all),
    };
    Ok(Cow::Owned(records.context("cannot decompress the batch")?))
}

fn read_all(decoder: impl Read) -> Result<Vec<u8>> {
    let mut records = Vec::new();
    decoder.take(RECORD_BYTES_MAX).read_to_end(&mut records)?;
    Ok(records)
}

fn compress_snappy(records: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = snap::raw::Encoder::new();
    let mut payload = SNAPPY_HEADER.to_vec();
    for block in records.chunks(SNAPPY_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block)?;
        payload.extend_from_slice(&(compressed.len() as u32).to_be_bytes());
        payload.extend_from_slice(&compressed);
    }
    Ok(payload)
}

fn decompress_snappy(payload: &[u8]) -> Result<Vec<u8>> {
    let mut decoder = snap::raw::Decoder::new();
    // Some clients send one block without a frame around it.
    let Some(mut blocks) = payload.strip_prefix(&SNAPPY_HEADER) else {
        return Ok(decoder.decompress_vec(payload)?);
    };
    let mut records = Vec::new();
    while let Some((length, rest)) = blocks.split_first_chunk::<BLOCK_LENGTH_BYTES>() {
        let length = u32::from_be_bytes(*length) as usize;
        ensure!(length <= rest.len(), "a snappy block is cut short");
        let (block, rest) = rest.split_at(length);
        records.extend_from_slice(&decoder.decompress_vec(block)?);
        blocks = rest;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use wire::{BatchBuilder, RecordIter, Records};

    use super::*;
    use crate::filler::Filler;

    const CODECS: [Codec; 5] = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];

    fn builder(records: usize) -> BatchBuilder {
        let mut filler = Filler::new(1000);
        let mut builder = BatchBuilder::new(0);
        for _ in 0..records {
            builder.record(0, None, Some(filler.next(1000)), &[]);
        }
        builder
    }

    #[test]
    fn a_batch_of_every_codec_is_valid_and_gives_its_records_back() {
        for codec in CODECS {
            // Several blocks of every codec.
            let builder = builder(300);
            let compression = codec.into();
            let payload = compress(compression, builder.records()).unwrap();
            let bytes = builder.build_compressed(compression, &payload);
            let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
            assert_eq!(batch.validate().err(), None, "{codec:?}");
            assert_eq!(batch.header.attributes.compression(), Ok(compression));
            let found = records(&batch).unwrap();
            assert!(*found == *builder.records(), "{codec:?}");
            assert_eq!(RecordIter::new(&found).count(), 300);
            assert!(codec == Codec::None || payload.len() < builder.records().len());
        }
    }

    #[test]
    fn frames_are_those_that_other_clients_read() {
        let builder = builder(100);
        let payload = |codec: Codec| compress(codec.into(), builder.records()).unwrap();
        assert_eq!(payload(Codec::Gzip)[..2], [0x1f, 0x8b]);
        assert_eq!(payload(Codec::Lz4)[..4], 0x184d_2204_u32.to_le_bytes());
        // Version 1, and blocks that do not refer to each other, which is all that Kafka's Java client reads.
        assert_eq!(payload(Codec::Lz4)[4] & 0b1110_0000, 0b0110_0000);
        assert_eq!(payload(Codec::Zstd)[..4], 0xfd2f_b528_u32.to_le_bytes());
        let snappy = payload(Codec::Snappy);
        assert_eq!(&snappy[1..7], b"SNAPPY");
        let length = u32::from_be_bytes(*snappy[16..].first_chunk().unwrap()) as usize;
        let block = &snappy[20..20 + length];
        assert_eq!(snap::raw::decompress_len(block), Ok(SNAPPY_BLOCK_BYTES));
    }

    #[test]
    fn damaged_payloads_are_errors() {
        for codec in &CODECS[1..] {
            let bytes = builder(1).build_compressed((*codec).into(), b"\x82SNAPPY and no more");
            let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
            assert!(records(&batch).is_err(), "{codec:?}");
        }
    }
}
