//! The partition log on the real ring and a real file system: direct writes, fallocate, the page cache, a reopening.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with the test")]

use std::path::{Path, PathBuf};
use std::rc::Rc;

use control_api::ids::LeaderEpoch;
use dataplane::io::ring::RingIo;
use dataplane::log::{
    AppendError, Appended, Bound, Level, Log, LogConfig, LogShared, Offset, SpareSegments,
};
use dataplane::partition::Leadership;
use ring::{Ring, RingConfig};
use wire::{Batch, BatchBuilder, Records};

/// Removed with all in it when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A leftover is harmless.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ring() -> Ring {
    Ring::new(RingConfig {
        pool_buffers: 32,
        ..RingConfig::default()
    })
    .unwrap()
}

fn batch(number: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(number as i64);
    let value: Vec<u8> = (0..number * 997 % 60_000)
        .map(|at| (at * 31 + number) as u8)
        .collect();
    builder.record(
        number as i64,
        Some(&number.to_be_bytes()),
        Some(&value),
        &[],
    );
    builder.build()
}

async fn append(log: &Log<RingIo>, bytes: &[u8]) -> Appended {
    loop {
        match log.append_as_leader(
            &Batch::first(&Records::from_slice(bytes)).unwrap(),
            log.latest_epoch().unwrap(),
        ) {
            Ok(appended) => return appended,
            Err(AppendError::Busy) => log.room(bytes.len()).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Checks that the log holds exactly the batches `0..count`.
async fn check(log: &Log<RingIo>, count: usize) {
    assert_eq!(log.high_watermark(), Offset(count as i64));
    let mut next = log.log_start();
    while next < log.high_watermark() {
        let read = log
            .read(next, 500_000, true, Bound::HighWatermark)
            .await
            .unwrap();
        let bytes: Vec<u8> = read
            .slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        for found in Records::from_slice(&bytes).batches() {
            let found = found.unwrap();
            let mut expected = batch(next.0 as usize);
            wire::stamp_offset_and_epoch(
                &mut expected,
                next.0,
                found.header.partition_leader_epoch,
            );
            assert!(found.bytes.to_vec() == expected, "batch {next}");
            next.0 += 1;
        }
        assert_eq!(next, read.next_offset);
    }
}

fn round_trip(name: &str, config: LogConfig) {
    let directory = Directory::new(name);
    let path = directory.0.join("topic").join("0");
    let ring = ring();
    let io = RingIo::new(ring.clone());
    ring.block_on(async move {
        let open = async || {
            let shared = LogShared::new(Vec::new(), SpareSegments::none());
            let log = Log::open(
                io.clone(),
                shared,
                &path,
                config,
                Rc::new(Leadership::default()),
            )
            .await
            .unwrap();
            log.begin_epoch(LeaderEpoch(
                log.latest_epoch().map_or(1, |epoch| epoch.0 + 1),
            ));
            log
        };
        let log = open().await;
        for number in 0..200 {
            let appended = append(&log, &batch(number)).await;
            if number % 50 == 0 {
                log.wait(appended.next_offset, Level::Flushed)
                    .await
                    .unwrap();
            }
        }
        log.flush().await.unwrap();
        assert!(log.segments() > 3);
        check(&log, 200).await;
        // As after a kill: the old handle goes on living, but nothing of it is used.
        log.checkpoint().await.unwrap();
        drop(log);
        let log = open().await;
        assert!(!log.opened_clean());
        check(&log, 200).await;
        for number in 200..250 {
            append(&log, &batch(number)).await;
        }
        log.flush().await.unwrap();
        check(&log, 250).await;
        log.close().await.unwrap();
        let log = open().await;
        assert!(log.opened_clean());
        check(&log, 250).await;
        log.delete().await.unwrap();
        assert!(!path.exists());
    });
}

#[test]
fn durable_writes_come_back_after_a_reopening() {
    round_trip(
        "durable",
        LogConfig {
            segment_bytes: 1 << 20,
            ..LogConfig::default()
        },
    );
}

#[test]
fn cached_writes_come_back_after_a_reopening() {
    round_trip(
        "cached",
        LogConfig {
            segment_bytes: 1 << 20,
            write_caching: true,
            ..LogConfig::default()
        },
    );
}
