//! Finds one record inside a batch by its timestamp: the only place where the log looks into records.
//!
//! Compressed records are decompressed up to a limit; a batch that exceeds it, or that is not what its codec says, is answered for
//! by its header.

use std::io::{self, Read};

use wire::{BatchHeader, Compression, RecordIter, TimestampType};

use super::limits::DECOMPRESSED_BYTES_MAX;
use super::types::Offset;

/// The first record of a batch with a timestamp of at least `timestamp`; `records` is what follows the header.
pub(super) fn first_at_or_after(
    header: &BatchHeader,
    records: &[u8],
    timestamp: i64,
) -> Option<(Offset, i64)> {
    if header.max_timestamp < timestamp {
        return None;
    }
    let whole_batch = Some((Offset(header.base_offset), header.max_timestamp));
    if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
        return whole_batch;
    }
    let Some(records) = header
        .attributes
        .compression()
        .ok()
        .and_then(|codec| decompress(codec, records).ok())
    else {
        return whole_batch;
    };
    RecordIter::new(&records)
        .map_while(Result::ok)
        .map(|record| {
            let offset = header
                .base_offset
                .saturating_add(i64::from(record.offset_delta));
            (
                Offset(offset),
                header.base_timestamp.saturating_add(record.timestamp_delta),
            )
        })
        .find(|(_, found)| *found >= timestamp)
        .or(whole_batch)
}

fn decompress(codec: Compression, records: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Compression::None => Ok(records.to_vec()),
        Compression::Gzip => bounded(flate2::read::MultiGzDecoder::new(records)),
        Compression::Snappy => snappy(records),
        Compression::Lz4 => bounded(lz4_flex::frame::FrameDecoder::new(records)),
        Compression::Zstd => bounded(zstd::stream::read::Decoder::with_buffer(records)?),
    }
}

fn bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(DECOMPRESSED_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > DECOMPRESSED_BYTES_MAX {
        Err(io::ErrorKind::FileTooLarge.into())
    } else {
        Ok(bytes)
    }
}

/// Java's framing (magic, two versions, then blocks with their lengths), or one raw block as librdkafka may send.
fn snappy(records: &[u8]) -> io::Result<Vec<u8>> {
    const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
    const XERIAL_HEADER_BYTES: usize = 16;
    let mut bytes = Vec::new();
    if !records.starts_with(XERIAL_MAGIC) {
        snappy_block(records, &mut bytes)?;
        return Ok(bytes);
    }
    let mut blocks = records
        .get(XERIAL_HEADER_BYTES..)
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (block, rest) = rest
            .split_at_checked(length)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        snappy_block(block, &mut bytes)?;
        blocks = rest;
    }
    Ok(bytes)
}

fn snappy_block(block: &[u8], bytes: &mut Vec<u8>) -> io::Result<()> {
    let length = snap::raw::decompress_len(block)?;
    let start = bytes.len();
    if length > DECOMPRESSED_BYTES_MAX - start {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    bytes.resize(start + length, 0);
    let filled = snap::raw::Decoder::new().decompress(block, &mut bytes[start..])?;
    bytes.truncate(start + filled);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use wire::{Batch, BatchBuilder, Records};

    use super::*;

    fn builder() -> BatchBuilder {
        let mut builder = BatchBuilder::new(1000);
        for timestamp in [1000, 1005, 1003, 1010] {
            builder.record(timestamp, Some(b"key"), Some(&[7; 500]), &[]);
        }
        builder
    }

    fn compress(codec: Compression, records: &[u8]) -> Vec<u8> {
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

    fn xerial(records: &[u8]) -> Vec<u8> {
        let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
        for chunk in records.chunks(300) {
            let block = compress(Compression::Snappy, chunk);
            framed.extend((block.len() as u32).to_be_bytes());
            framed.extend(block);
        }
        framed
    }

    fn find(bytes: &[u8], timestamp: i64) -> Option<(i64, i64)> {
        let batch = Batch::first(&Records::from_slice(bytes)).unwrap();
        first_at_or_after(
            &batch.header,
            batch.records.contiguous().unwrap(),
            timestamp,
        )
        .map(|(offset, at)| (offset.0, at))
    }

    fn check(bytes: &[u8]) {
        assert_eq!(find(bytes, 0), Some((0, 1000)));
        assert_eq!(find(bytes, 1001), Some((1, 1005)));
        assert_eq!(find(bytes, 1006), Some((3, 1010)));
        assert_eq!(find(bytes, 1011), None);
    }

    #[test]
    fn the_first_record_late_enough_is_found_under_every_codec() {
        let builder = builder();
        for codec in [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ] {
            check(&builder.build_compressed(codec, &compress(codec, builder.records())));
        }
        check(&builder.build_compressed(Compression::Snappy, &xerial(builder.records())));
    }

    #[test]
    fn records_that_cannot_be_decompressed_are_answered_for_by_their_batch() {
        let builder = builder();
        for codec in [
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ] {
            assert_eq!(
                find(&builder.build_compressed(codec, &[0xee; 64]), 1001),
                Some((0, 1010))
            );
        }
        // A raw block that claims 4 GiB, and a framed one that claims more than is there.
        assert!(snappy(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]).is_err());
        assert!(snappy(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff").is_err());
    }

    #[test]
    fn a_bomb_is_given_up_at_the_limit() {
        let zeros = vec![0; DECOMPRESSED_BYTES_MAX + 1];
        assert!(decompress(Compression::Zstd, &compress(Compression::Zstd, &zeros)).is_err());
    }

    #[test]
    fn under_log_append_time_every_record_has_the_batches_time() {
        let mut bytes = builder().build();
        wire::stamp_log_append_time(&mut bytes, 5000);
        assert_eq!(find(&bytes, 4000), Some((0, 5000)));
    }
}
