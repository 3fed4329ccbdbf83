//! Segments that go: beside their own sealing, while the power fails, and in whatever order the disk forgets their names.

use dataplane::log::Level;
use millrace_tests::sim::{CrashKind, FileFault, Shortage};
use millrace_tests::sweep::for_each_seed;

use super::*;

fn keeps_all() -> LogConfig {
    LogConfig {
        retention_ms: -1,
        ..durable()
    }
}

/// Nothing was set aside.
fn assert_followed(simulation: &Simulation) {
    let paths = simulation.paths(HOST);
    let aside = |path: &&std::path::PathBuf| path.to_string_lossy().contains("set-aside");
    assert_eq!(paths.iter().find(aside), None);
}

/// Records older than retention, as a backfill brings them: the active segment is rolled and due while it is still being zeroed or
/// sealed. A sealing that made the file again would leave zeros where a segment was, and a gap behind them.
#[test]
fn a_segment_that_is_being_sealed_is_not_deleted() {
    for_each_seed(100, |seed| {
        let simulation = simulation(seed);
        let io = simulation.boot(HOST);
        let config = LogConfig {
            retention_ms: 1000,
            ..durable()
        };
        let start = io.run(async {
            let log = open(&io, config).await;
            for round in 0..3 {
                append(&log, &one(&value(round, 3000))).await;
                log.flush().await.unwrap();
                log.enforce_retention(io.wall_clock_ms()).await.unwrap();
            }
            io.sleep_until(io.now().after_ms(500)).await;
            log.set_config(keeps_all());
            for round in 10..15 {
                append(&log, &one(&value(round, 3000))).await;
                log.flush().await.unwrap();
            }
            log.checkpoint().await.unwrap();
            log.log_start()
        });
        let left = bases(&simulation, DIRECTORY);
        assert_eq!(left.first(), Some(&start.unwrap().0), "{left:?}");
        simulation.crash(HOST, CrashKind::ProcessKilled);
        let io = simulation.boot(HOST);
        let end = io.run(async { open(&io, keeps_all()).await.log_end() });
        assert_eq!(end.unwrap(), Offset(8));
        assert_followed(&simulation);
    });
}

/// The last file is then all that says which offset comes next: a log without it began at 0 again after a crash.
#[test]
fn a_log_that_can_store_no_checkpoint_keeps_the_file_that_knows_its_end() {
    for kind in [CrashKind::ProcessKilled, CrashKind::PowerLost] {
        let simulation = simulation(1);
        let io = simulation.boot(HOST);
        let config = LogConfig {
            retention_ms: 1000,
            ..durable()
        };
        let run = io.run(async {
            let log = open(&io, config).await;
            append(&log, &one(b"value")).await;
            log.flush().await.unwrap();
            let full = FileFault::Refused(Shortage::Space);
            simulation.fail_once(full, "checkpoint.tmp", 0);
            log.enforce_retention(io.wall_clock_ms()).await.unwrap();
            assert_eq!((log.log_start(), log.log_end()), (Offset(1), Offset(1)));
        });
        run.unwrap();
        assert_eq!(simulation.aimed_faults(), 0);
        simulation.crash(HOST, kind);
        let io = simulation.boot(HOST);
        let run = io.run(async {
            let log = open(&io, config).await;
            assert_eq!(log.log_end(), Offset(1));
            log.enforce_retention(io.wall_clock_ms()).await.unwrap();
        });
        run.unwrap();
        assert_eq!(bases(&simulation, DIRECTORY), [0; 0], "now it can go");
        simulation.crash(HOST, kind);
        let io = simulation.boot(HOST);
        let end = io.run(async { open(&io, config).await.log_end() });
        assert_eq!(end.unwrap(), Offset(1));
    }
}

/// Of several segments that were deleted any may still be there after a power loss, behind a gap or alone.
#[test]
fn a_power_loss_while_segments_are_deleted_loses_none_of_the_others() {
    for_each_seed(30, |seed| {
        let simulation = simulation(seed);
        let io = simulation.boot(HOST);
        let all = seed % 3 == 0;
        let expected = io.run(async {
            let log = open(&io, keeps_all()).await;
            for number in 0..120 {
                append(&log, &one(&value(number, 50_000))).await;
            }
            log.flush().await.unwrap();
            io.sleep_until(io.now().after_ms(1000)).await;
            log.set_config(LogConfig {
                retention_bytes: 2 << 20,
                retention_ms: if all { 1000 } else { -1 },
                ..durable()
            });
            // Twice: what was rolled for its age is sealed by then.
            for _ in 0..2 {
                log.enforce_retention(io.wall_clock_ms()).await.unwrap();
                io.sleep_until(io.now().after_ms(100)).await;
            }
            (log.log_start(), log.log_end())
        });
        simulation.crash(HOST, CrashKind::PowerLost);
        let io = simulation.boot(HOST);
        let found = io.run(async {
            let log = open(&io, keeps_all()).await;
            let found = (log.log_start(), log.log_end());
            assert_eq!(values(&log).await.len() as i64, found.1.0 - found.0.0);
            append(&log, &one(b"one more")).await;
            log.flush().await.unwrap();
            found
        });
        assert_eq!(found.unwrap(), expected.unwrap());
        assert_followed(&simulation);
        let first = bases(&simulation, DIRECTORY)[0];
        assert_eq!(first, expected.unwrap().0.0, "what was deleted is gone");
    });
}

/// A checkpoint and the sealing of the segment that was active when it began both store that segment's index.
#[test]
fn a_checkpoint_beside_a_seal_stores_the_index_after_it_or_before() {
    for_each_seed(20, |seed| {
        let simulation = simulation(seed);
        let io = simulation.boot(HOST);
        io.run(async {
            let log = open(&io, durable()).await;
            for number in 0..160 {
                append(&log, &one(&value(number, 30_000))).await;
                if io.random_u64().is_multiple_of(8) {
                    log.wait(log.log_end(), Level::Written).await.unwrap();
                }
                // Just before the segment is full.
                if number % 34 == 30 + seed % 4 {
                    let log = log.clone();
                    io.spawn(async move { log.checkpoint().await.unwrap() });
                }
            }
            log.flush().await.unwrap();
            assert!(log.segments() > 3);
            io.sleep_until(io.now().after_ms(1000)).await;
            assert!(!log.is_poisoned());
            log.close().await.unwrap();
        })
        .unwrap();
        simulation.crash(HOST, CrashKind::PowerLost);
        let io = simulation.boot(HOST);
        io.run(async {
            let log = open(&io, durable()).await;
            assert_eq!(values(&log).await.len(), 160);
        })
        .unwrap();
        let temporary = |path: &std::path::PathBuf| path.to_string_lossy().ends_with(".tmp");
        assert!(!simulation.paths(HOST).iter().any(temporary));
    });
}
