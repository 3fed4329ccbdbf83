//! The partition log in the simulated world: round trips, crashes, damaged files, faults, retention.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with the test")]

#[path = "log_simulated/ages.rs"]
mod ages;
#[path = "log_simulated/crashes.rs"]
mod crashes;
#[path = "log_simulated/files.rs"]
mod files;
#[path = "log_simulated/replicas.rs"]
mod replicas;
#[path = "log_simulated/retention.rs"]
mod retention;
#[path = "log_simulated/running.rs"]
mod running;
#[path = "log_simulated/shortages.rs"]
mod shortages;
#[path = "log_simulated/spares.rs"]
mod spares;
#[path = "log_simulated/sweep.rs"]
mod sweep;

use std::path::Path;
use std::rc::Rc;

use control_api::ids::LeaderEpoch;
use dataplane::io::Io;
use dataplane::log::{
    AppendError, Appended, Bound, Log, LogConfig, LogShared, Offset, SpareSegments,
};
use dataplane::partition::Leadership;
use millrace_tests::sim::{SimIo, SimOptions, Simulation};
use wire::{Batch, BatchBuilder, RecordIter, Records};

const HOST: &str = "broker";
const DIRECTORY: &str = "/data/topic-0";
const FIRST_SEGMENT: &str = "/data/topic-0/00000000000000000000.log";
const CHECKPOINT: &str = "/data/topic-0/checkpoint";

fn durable() -> LogConfig {
    LogConfig {
        segment_bytes: 1 << 20,
        ..LogConfig::default()
    }
}

fn cached() -> LogConfig {
    LogConfig {
        write_caching: true,
        ..durable()
    }
}

/// A world with a small pool, so that tails are evicted.
fn simulation(seed: u64) -> Simulation {
    Simulation::new(SimOptions {
        buffers: 16,
        buffer_bytes: 64 * 1024,
        ..SimOptions::seeded(seed)
    })
}

async fn open(io: &SimIo, config: LogConfig) -> Log<SimIo> {
    let shared = LogShared::new(Vec::new(), SpareSegments::none());
    open_beside(io, &shared, DIRECTORY, config).await
}

/// A log that shares what it can with others.
async fn open_beside(
    io: &SimIo,
    shared: &Rc<LogShared>,
    directory: &str,
    config: LogConfig,
) -> Log<SimIo> {
    let (shared, directory) = (Rc::clone(shared), Path::new(directory));
    let log = Log::open(
        io.clone(),
        shared,
        directory,
        config,
        Rc::new(Leadership::default()),
    )
    .await
    .unwrap();
    log.begin_epoch(LeaderEpoch(
        log.latest_epoch().map_or(1, |epoch| epoch.0 + 1),
    ));
    log
}

/// Base offsets of the segment files that a log has, in order.
fn bases(simulation: &Simulation, directory: &str) -> Vec<i64> {
    let paths = simulation.paths(HOST);
    let names = paths.iter().filter_map(|path| path.to_str());
    names
        .filter_map(|name| name.strip_prefix(directory)?.strip_suffix(".log"))
        .map(|name| name.trim_start_matches('/').parse().unwrap())
        .collect()
}

/// A batch of one record.
fn one(value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1_700_000_000_000);
    builder.record(1_700_000_000_000, None, Some(value), &[]);
    builder.build()
}

/// Bytes that name their number and that no block repeats.
fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut value = number.to_be_bytes().to_vec();
    while value.len() < bytes {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(number | 1);
        value.extend((state ^ state >> 31).to_be_bytes());
    }
    value.truncate(bytes.max(8));
    value
}

fn try_append(log: &Log<SimIo>, bytes: &[u8]) -> Result<Appended, AppendError> {
    let batch = Batch::first(&Records::from_slice(bytes)).unwrap();
    batch.validate().unwrap();
    log.append_as_leader(&batch, log.latest_epoch().unwrap())
}

async fn append(log: &Log<SimIo>, bytes: &[u8]) -> Appended {
    loop {
        match try_append(log, bytes) {
            Ok(appended) => return appended,
            Err(AppendError::Busy) => log.room(bytes.len()).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Every record from `from` to the bound, each with its offset; checks that batches are whole, valid and without a gap.
async fn read_from(log: &Log<SimIo>, from: Offset, bytes_max: usize) -> Vec<(i64, Vec<u8>)> {
    let mut next = from;
    let mut found = Vec::new();
    loop {
        let read = log
            .read(next, bytes_max, true, Bound::HighWatermark)
            .await
            .unwrap();
        let mut bytes = Vec::with_capacity(read.bytes);
        for slice in &read.slices {
            bytes.extend_from_slice(slice);
        }
        assert_eq!(bytes.len(), read.bytes);
        if bytes.is_empty() {
            assert_eq!(next, log.high_watermark());
            return found;
        }
        let mut due = None;
        for batch in Records::from_slice(&bytes).batches() {
            let batch = batch.unwrap();
            batch.check_crc().unwrap();
            assert_eq!(
                due.unwrap_or(batch.header.base_offset),
                batch.header.base_offset,
                "no gap"
            );
            due = Some(batch.header.last_offset() + 1);
            for record in RecordIter::new(batch.records.contiguous().unwrap()) {
                let record = record.unwrap();
                let offset = batch.header.base_offset + i64::from(record.offset_delta);
                if offset >= next.0 {
                    found.push((offset, record.value.unwrap().to_vec()));
                }
            }
        }
        assert_eq!(due, Some(read.next_offset.0));
        next = read.next_offset;
    }
}

async fn values(log: &Log<SimIo>) -> Vec<Vec<u8>> {
    let found = read_from(log, log.log_start(), 200_000).await;
    let offsets: Vec<i64> = found.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(
        offsets,
        (log.log_start().0..log.high_watermark().0).collect::<Vec<_>>()
    );
    found.into_iter().map(|(_, value)| value).collect()
}

/// A size between a few bytes and several buffers, mostly small.
fn size(io: &SimIo) -> usize {
    let random = io.random_u64();
    let scale = [50, 500, 5_000, 20_000, 150_000][(random % 5) as usize];
    (random >> 8) as usize % scale
}
