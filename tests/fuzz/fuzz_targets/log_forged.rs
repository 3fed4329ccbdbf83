//! A partition's directory in which bytes were changed and every checksum was made right again, as if a faulty program had written it.
//!
//! Other damage is refused by its checksum (see `log_directory`); here what stands behind the checksums is read. The log opens or
//! refuses, and neither panics nor hangs whatever it is then asked; what it serves may be as wrong as its files.
#![no_main]

use std::path::Path;

use control_api::ids::LeaderEpoch;
use std::rc::Rc;
use dataplane::log::{Bound, Log, LogConfig, Offset, LogShared, SpareSegments};
use dataplane::partition::Leadership;
use libfuzzer_sys::fuzz_target;
use millrace_tests::sim::{CrashKind, SimIo, SimOptions, Simulation};
use wire::{BATCH_HEADER_BYTES, Batch, BatchBuilder, BatchHeader, Records};

const HOST: &str = "broker";
const DIRECTORY: &str = "/data/topic-0";
const TIMESTAMP: i64 = 1_700_000_000_000;
const READS_MAX: usize = 64;

/// Which bits are changed where.
type Damage = Vec<(u16, u8)>;

/// Batches of the log, whether it is closed or killed, and what is changed in checkpoint, indexes and segments.
type Input = (u64, u8, bool, Damage, Damage, Damage);

fuzz_target!(|input: Input| {
    let (seed, batches, closed, checkpoint, index, segment) = input;
    let simulation = Simulation::new(SimOptions {
        buffers: 8,
        buffer_bytes: 64 * 1024,
        receive_buffers: 1,
        steps_max: 1_000_000,
        ..SimOptions::seeded(seed)
    });
    let io = simulation.boot(HOST);
    let written = io.run(write(&io, i64::from(batches % 32), closed));
    written.expect("nothing is wrong yet");
    io.crash(CrashKind::ProcessKilled);

    for path in simulation.paths(HOST) {
        let mut bytes = simulation.file_bytes(HOST, &path).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("log") => {
                change(&mut bytes, &segment);
                seal_batches(&mut bytes);
            }
            Some("index") => {
                change(&mut bytes, &index);
                seal(&mut bytes);
            }
            _ => {
                change(&mut bytes, &checkpoint);
                seal(&mut bytes);
            }
        }
        simulation.plant_file(HOST, &path, &bytes);
    }
    let io = simulation.boot(HOST);
    let used = io.run(use_all(&io));
    used.expect("a log neither hangs nor works for ever");
});

async fn open(io: &SimIo) -> Option<Log<SimIo>> {
    let config = LogConfig {
        segment_bytes: 1000,
        index_interval_bytes: 200,
        ..LogConfig::default()
    };
    let directory = Path::new(DIRECTORY);
    let log = Log::open(io.clone(), LogShared::new(Vec::new(), SpareSegments::none()), directory, config, Rc::new(Leadership::default()));
    log.await.ok()
}

async fn write(io: &SimIo, batches: i64, closed: bool) {
    let log = open(io).await.expect("a new log");
    for number in 0..batches {
        log.begin_epoch(epoch(number / 7));
        append(&log, number);
        log.flush().await.expect("a good disk");
        if number == 20 {
            log.checkpoint().await.expect("a good disk");
        }
    }
    assert_eq!(log.log_end(), Offset(batches));
    if closed {
        log.close().await.expect("a good disk");
    }
}

fn epoch(epoch: i64) -> LeaderEpoch {
    LeaderEpoch(epoch as i32)
}

fn append(log: &Log<SimIo>, number: i64) {
    let mut builder = BatchBuilder::new(TIMESTAMP);
    builder.producer(number % 3, 0, (number / 3) as i32);
    builder.record(TIMESTAMP + number, None, Some(b"value"), &[]);
    let bytes = builder.build();
    let batch = Batch::first(&Records::from_slice(&bytes)).expect("a good batch");
    // A log with forged producers may refuse it.
    let _ = log.append_as_leader(&batch, log.latest_epoch().unwrap_or_default());
}

async fn use_all(io: &SimIo) {
    let Some(log) = open(io).await else {
        return;
    };
    log.begin_epoch(log.latest_epoch().unwrap_or_default());
    let mut next = log.log_start();
    for _ in 0..READS_MAX {
        let Ok(read) = log.read(next, 64 * 1024, true, Bound::LogEnd).await else {
            break;
        };
        if read.bytes == 0 {
            break;
        }
        next = read.next_offset;
    }
    for offset in [0, 5, 30, i64::MAX] {
        let _ = log.read(Offset(offset), 100, true, Bound::LogEnd).await;
        let _ = log.epoch_at(Offset(offset));
        let _ = log.offset_for_leader_epoch(epoch(offset));
        let _ = log
            .offset_for_timestamp(TIMESTAMP.saturating_add(offset))
            .await;
    }
    let _ = log.max_timestamp().await;
    for number in 100..110 {
        append(&log, number);
    }
    let _ = log.flush().await;
    let _ = log.checkpoint().await;
    let _ = log.close().await;
}

fn change(bytes: &mut [u8], damage: &Damage) {
    for (position, bits) in damage {
        // Segments are mostly the zeros behind their batches.
        let length = bytes.len().clamp(1, 1200);
        if let Some(byte) = bytes.get_mut(usize::from(*position) % length) {
            *byte ^= bits;
        }
    }
}

/// The checksum of a checkpoint or an index.
fn seal(bytes: &mut [u8]) {
    if let Some((framed, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32c::crc32c(framed).to_le_bytes();
    }
}

fn seal_batches(segment: &mut [u8]) {
    let mut rest = segment;
    while let Some(header) = rest.first_chunk::<BATCH_HEADER_BYTES>() {
        let Ok(length) = BatchHeader::parse(header).batch_bytes() else {
            return;
        };
        let Some((batch, after)) = rest.split_at_mut_checked(length) else {
            return;
        };
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        rest = after;
    }
}
