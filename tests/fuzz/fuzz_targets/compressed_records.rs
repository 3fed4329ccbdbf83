//! Lookups by time in a batch whose compressed records are whatever the input says.
//!
//! The broker stores compressed records as they came; only a lookup by time looks into them. Few inputs are something that a codec
//! made, so another batch has records that it did make, in which some bytes were changed.
#![no_main]

use std::io::Write;
use std::path::Path;

use std::rc::Rc;
use dataplane::log::{Log, LogConfig, LogShared, SpareSegments};
use dataplane::partition::Leadership;
use libfuzzer_sys::fuzz_target;
use millrace_tests::sim::{SimOptions, Simulation};
use wire::{Batch, BatchBuilder, Compression, Records};

const BASE_TIMESTAMP: i64 = 1_700_000_000_000;
const RECORDS: i64 = 20;

fuzz_target!(|input: (u8, u8, Vec<(u16, u8)>, &[u8])| {
    let (codec, later_ms, damage, payload) = input;
    let codec = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ][usize::from(codec) % 5];
    let later_ms = i64::from(later_ms) % RECORDS;
    look_up(&builder().build_compressed(codec, payload), later_ms);

    let mut made = compress(codec, builder().records());
    let undamaged = made.clone();
    for (position, bits) in damage {
        let position = usize::from(position) % made.len();
        made[position] ^= bits;
    }
    let found = look_up(&builder().build_compressed(codec, &made), later_ms);
    if made == undamaged {
        assert_eq!(found, Some((later_ms, BASE_TIMESTAMP + later_ms)));
    }
});

/// Offset and timestamp of the first record that is at least so much later than the batch's first.
fn look_up(batch: &[u8], later_ms: i64) -> Option<(i64, i64)> {
    let simulation = Simulation::new(SimOptions {
        buffers: 8,
        buffer_bytes: 64 * 1024,
        receive_buffers: 1,
        ..SimOptions::seeded(1)
    });
    let io = simulation.boot("broker");
    let looked_up = io.run(async {
        let directory = Path::new("/data/topic-0");
        let config = LogConfig::default();
        let log = Log::open(io.clone(), LogShared::new(Vec::new(), SpareSegments::none()), directory, config, Rc::new(Leadership::default()))
            .await
            .expect("a new log");
        log.begin_epoch(log.latest_epoch().unwrap_or_default());
        let batch = Batch::first(&Records::from_slice(batch)).expect("a good batch");
        log.append_as_leader(&batch, log.latest_epoch().unwrap_or_default()).expect("a good batch");
        log.flush().await.expect("a good disk");
        let found = log.offset_for_timestamp(BASE_TIMESTAMP + later_ms).await;
        let found = found.expect("a good disk")?;
        assert!((0..RECORDS).contains(&found.offset.0), "one of the batch's");
        log.max_timestamp().await.expect("a good disk");
        Some((found.offset.0, found.timestamp))
    });
    looked_up.expect("a lookup ends")
}

fn builder() -> BatchBuilder {
    let mut builder = BatchBuilder::new(BASE_TIMESTAMP);
    for number in 0..RECORDS {
        builder.record(BASE_TIMESTAMP + number, Some(b"key"), Some(b"value"), &[]);
    }
    builder
}

fn compress(codec: Compression, records: &[u8]) -> Vec<u8> {
    let made = match codec {
        Compression::None => Ok(records.to_vec()),
        Compression::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(records).and_then(|()| encoder.finish())
        }
        Compression::Snappy => Ok(snap::raw::Encoder::new()
            .compress_vec(records)
            .expect("it is short")),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder
                .write_all(records)
                .and_then(|()| encoder.finish().map_err(std::io::Error::other))
        }
        Compression::Zstd => zstd::encode_all(records, 1),
    };
    made.expect("writing to a Vec cannot fail")
}
