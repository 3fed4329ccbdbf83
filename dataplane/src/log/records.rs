//! Finds one record inside a batch by its timestamp: the only place where the log looks into records.
//!
//! Compressed records are decompressed step by step, while other tasks have their turns. A batch that is not what its codec says,
//! which only an older version can have stored, is answered for by its header.

use wire::{BatchHeader, RecordWalk, TimestampType};

use super::types::Offset;
use crate::decompress::Decompressor;
use crate::limits::INSPECTED_BYTES_AT_ONCE;
use crate::pace;

/// The first record of a batch with a timestamp of at least `timestamp`; `records` is what follows the header.
pub(super) async fn first_at_or_after(
    header: &BatchHeader,
    records: &[u8],
    timestamp: i64,
) -> Option<(Offset, i64)> {
    if header.max_timestamp < timestamp {
        return None;
    }
    let whole_batch = (Offset(header.base_offset), header.max_timestamp);
    if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
        return Some(whole_batch);
    }
    let found = find(header, records, timestamp).await;
    Some(found.map_or(whole_batch, |(delta, found)| {
        let offset = header.base_offset.saturating_add(i64::from(delta));
        (Offset(offset), found)
    }))
}

/// The offset delta and the time of the record, or `None` where the records end or make no sense before it.
async fn find(header: &BatchHeader, records: &[u8], timestamp: i64) -> Option<(i32, i64)> {
    let codec = header.attributes.compression().ok()?;
    let mut decompressor = Decompressor::default();
    let mut decompression = decompressor.begin(codec, records).ok()?;
    let mut walk = RecordWalk::seeking(header, timestamp);
    let mut turn_ends = INSPECTED_BYTES_AT_ONCE;
    while let Some(bytes) = decompression.step().ok()? {
        if walk.feed(bytes).is_err() || walk.found().is_some() {
            break;
        }
        if decompression.work() >= turn_ends {
            turn_ends = decompression.work() + INSPECTED_BYTES_AT_ONCE;
            pace::give_way().await;
        }
    }
    walk.found()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use wire::{Batch, BatchBuilder, Compression, Records};

    use super::*;
    use crate::decompress::tests::{CODECS, compress};

    fn builder() -> BatchBuilder {
        let mut builder = BatchBuilder::new(1000);
        for timestamp in [1000, 1005, 1003, 1010] {
            builder.record(timestamp, Some(b"key"), Some(&[7; 500]), &[]);
        }
        builder
    }

    fn find(bytes: &[u8], timestamp: i64) -> Option<(i64, i64)> {
        let batch = Batch::first(&Records::from_slice(bytes)).unwrap();
        let records = batch.records.contiguous().unwrap();
        let mut found = pin!(first_at_or_after(&batch.header, records, timestamp));
        loop {
            if let Poll::Ready(found) = found.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                return found.map(|(offset, at)| (offset.0, at));
            }
        }
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
        for codec in CODECS {
            check(&builder.build_compressed(codec, &compress(codec, builder.records())));
        }
    }

    #[test]
    fn a_record_behind_more_than_one_turn_is_found() {
        let mut builder = BatchBuilder::new(1000);
        for number in 0..1000 {
            builder.record(1000 + number, None, Some(&[7; 2000]), &[]);
        }
        for codec in CODECS {
            let bytes = builder.build_compressed(codec, &compress(codec, builder.records()));
            assert_eq!(find(&bytes, 1990), Some((990, 1990)), "{codec:?}");
        }
    }

    #[test]
    fn records_that_make_no_sense_are_answered_for_by_their_batch() {
        let builder = builder();
        for codec in CODECS {
            let bytes = builder.build_compressed(codec, &[0xee; 64]);
            assert_eq!(find(&bytes, 1001), Some((0, 1010)));
        }
        let bytes = builder.build_compressed(Compression::None, &builder.records()[..600]);
        assert_eq!(find(&bytes, 1010), Some((0, 1010)));
    }

    #[test]
    fn under_log_append_time_every_record_has_the_batches_time() {
        let mut bytes = builder().build();
        wire::stamp_log_append_time(&mut bytes, 5000);
        assert_eq!(find(&bytes, 4000), Some((0, 5000)));
    }
}
