//! A log whose process runs out of descriptors, memory or room on the disk: it waits, tells its producers, and goes on by itself.

use std::cell::Cell;
use std::path::PathBuf;

use dataplane::log::{Level, WaitError, spare};
use dataplane::select;
use millrace_tests::sim::{CrashKind, FaultPlan, FileFault, Shortage};

use super::*;

const SEGMENT_BYTES: u64 = 256 * 1024;

fn small_segments() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT_BYTES,
        retention_ms: -1,
        ..durable()
    }
}

/// Appends until the log says that it is stalled; returns the values that were appended, in order.
async fn fill(io: &SimIo, log: &Log<SimIo>, first: u64) -> Vec<Vec<u8>> {
    let mut appended = Vec::new();
    for number in first.. {
        let value = value(number, 30_000);
        let bytes = one(&value);
        loop {
            match try_append(log, &bytes) {
                Ok(_) => break appended.push(value),
                Err(AppendError::Busy) => {
                    let patience = io.now().after_ms(60_000);
                    let room = select::until(io, patience, log.room(bytes.len()));
                    assert_eq!(room.await, Some(()), "it goes on or it stalls");
                }
                Err(AppendError::Stalled) => return appended,
                Err(error) => panic!("{error}"),
            }
        }
        io.sleep_until(io.now().after_ms(10)).await;
    }
    appended
}

async fn pause(io: &SimIo, ms: u64) {
    io.sleep_until(io.now().after_ms(ms)).await;
}

/// A log rolls while one operation on such a path is refused, after `skip` that go well. False if it has done all without coming to that.
fn refuse_one(shortage: Shortage, path: &str, skip: u64, wanted: usize) -> bool {
    let simulation = simulation(skip);
    let io = simulation.boot(HOST);
    let context = format!("{shortage:?}, {path}, {skip}, {wanted} prepared");
    let appended: Vec<_> = (0..20).map(|number| value(number, 30_000)).collect();
    let refused = io.run(async {
        let shared = match wanted {
            0 => LogShared::new(Vec::new(), SpareSegments::none()),
            wanted => prepared(&io, wanted).await,
        };
        let log = open_beside(&io, &shared, DIRECTORY, small_segments()).await;
        simulation.fail_once(FileFault::Refused(shortage), path, skip);
        for (number, value) in appended.iter().enumerate() {
            let appended = append(&log, &one(value)).await;
            let flushed = log.wait(appended.next_offset, Level::Flushed);
            assert_eq!(flushed.await, Ok(()), "{context}");
            if number % 4 == 0 {
                // May be what is refused; the next one goes well.
                let _ = log.checkpoint().await;
            }
        }
        while shared.spares.ready() < wanted {
            pause(&io, 100).await;
        }
        pause(&io, 1000).await;
        assert!(!log.is_poisoned(), "{context}");
        assert!(values(&log).await == appended, "{context}");
        let paths = simulation.paths(HOST);
        let spares = paths.iter().filter(|path| path.starts_with("/data/spare"));
        assert_eq!(spares.count(), wanted, "{context}");
        simulation.aimed_faults() == 0
    });
    simulation.set_faults(FaultPlan::default());
    simulation.crash(HOST, CrashKind::PowerLost);
    let io = simulation.boot(HOST);
    let found = io.run(async { values(&open(&io, small_segments()).await).await });
    assert!(found.unwrap() == appended, "{context}");
    refused.unwrap()
}

/// Each operation that a rolling log does, refused once, wherever it stands in the order of things; the first ones for each reason.
#[test]
fn no_single_refusal_costs_a_log_a_record() {
    for wanted in [0, 2] {
        for path in [".log", ".tmp", "topic-0", "checkpoint", ".spare", "spare/0"] {
            for shortage in Shortage::ALL {
                // Every kind of operation needs memory.
                let most = if shortage == Shortage::Memory { 500 } else { 2 };
                let all = (0..most).find(|skip| !refuse_one(shortage, path, *skip, wanted));
                assert!(all.is_some() || most == 2, "{path} has no end");
            }
        }
    }
}

/// As on a full disk. Segments are closed all the same, or none could be deleted, and whoever reads them builds their indexes.
#[test]
fn segments_that_no_index_can_be_stored_for_are_closed_and_deleted_and_read() {
    let simulation = simulation(8);
    for _ in 0..1000 {
        simulation.fail_once(FileFault::Refused(Shortage::Space), ".tmp", 0);
    }
    let io = simulation.boot(HOST);
    let appended: Vec<_> = (0..40).map(|number| value(number, 30_000)).collect();
    let kept = LogConfig {
        retention_bytes: 3 * SEGMENT_BYTES as i64,
        ..small_segments()
    };
    let start = io.run(async {
        let log = open(&io, kept).await;
        for value in &appended {
            append(&log, &one(value)).await;
        }
        log.flush().await.unwrap();
        pause(&io, 1000).await;
        assert!(log.enforce_retention(io.wall_clock_ms()).await.unwrap() > 0);
        log.log_start()
    });
    simulation.crash(HOST, CrashKind::PowerLost);
    let start = start.unwrap().0 as usize;
    let io = simulation.boot(HOST);
    io.run(async {
        let log = open(&io, kept).await;
        assert!(log.segments() > 2);
        assert!(values(&log).await == appended[start..]);
    })
    .unwrap();
    let paths = simulation.paths(HOST);
    assert!(
        paths
            .iter()
            .all(|path| !path.to_string_lossy().ends_with(".index"))
    );
}

/// A disk that is nearly full is filled by smaller steps than those that space is made in while there is enough.
#[test]
fn a_log_uses_the_room_that_is_left() {
    let simulation = simulation(9);
    let io = simulation.boot(HOST);
    let disk_bytes = 3 << 20;
    io.run(async {
        let config = LogConfig {
            segment_bytes: 64 << 20,
            ..small_segments()
        };
        let log = open(&io, config).await;
        simulation.set_disk_bytes(HOST, disk_bytes);
        fill(&io, &log, 0).await;
    })
    .unwrap();
    let used = simulation.file_bytes(HOST, FIRST_SEGMENT).unwrap().len() as u64;
    // Of this log's own files, and of less than one of the smallest steps.
    assert!(used + 128 * 1024 > disk_bytes, "{used}");
}

/// The room for what is written now is there, whatever becomes of the room for what comes later.
#[test]
fn a_write_does_not_wait_for_space_that_is_made_ahead_of_it() {
    let simulation = simulation(10);
    let io = simulation.boot(HOST);
    io.run(async {
        let config = LogConfig {
            segment_bytes: 64 << 20,
            ..small_segments()
        };
        let log = open(&io, config).await;
        for number in 0..100 {
            // Now there is room and now there is not a block more than is used.
            simulation.set_disk_bytes(HOST, [u64::MAX, 1][number as usize % 2]);
            let begun = io.now();
            let appended = append(&log, &one(&value(number, 10_000))).await;
            let flushed = log.wait(appended.next_offset, Level::Flushed).await;
            assert_eq!(flushed, Ok(()), "{number}");
            assert!(io.now().nanos_since(begun) < 50_000_000, "{number}");
            pause(&io, 20).await;
        }
    })
    .unwrap();
}

#[test]
fn a_write_that_finds_the_disk_full_is_written_again() {
    for seed in 0..4 {
        for config in [durable(), cached()] {
            let simulation = simulation(seed);
            let io = simulation.boot(HOST);
            let appended: Vec<_> = (0..40).map(|number| value(number, 50_000)).collect();
            io.run(async {
                let log = open(&io, config).await;
                for skip in [1, 4, 5, 9] {
                    simulation.fail_once(FileFault::NoSpace, ".log", skip);
                }
                for value in &appended {
                    append(&log, &one(value)).await;
                }
                log.flush().await.unwrap();
                assert!(values(&log).await == appended);
            })
            .unwrap();
            assert_eq!(simulation.disk_counters(HOST).overlapping_writes, 0);
            simulation.crash(HOST, CrashKind::PowerLost);
            let io = simulation.boot(HOST);
            let found = io.run(async { values(&open(&io, config).await).await });
            assert!(found.unwrap() == appended);
        }
    }
}

/// For longer than a producer is kept waiting, in the middle of which the process may die.
#[test]
fn a_log_without_descriptors_stalls_and_goes_on_when_there_are_some() {
    for crash in [false, true] {
        let simulation = simulation(1);
        let io = simulation.boot(HOST);
        let answered = Rc::new(Cell::new(0));
        let all = io.run(async {
            let log = open(&io, small_segments()).await;
            append(&log, &one(b"first value")).await;
            log.flush().await.unwrap();
            pause(&io, 1000).await;
            simulation.set_descriptors(HOST, simulation.descriptors(HOST));
            let mut all = vec![b"first value".to_vec()];
            all.extend(fill(&io, &log, 1).await);
            assert!(log.is_stalled() && !log.is_poisoned());
            let end = log.log_end();
            assert_eq!(end.0 as usize, all.len());
            assert_eq!(log.wait(end, Level::Written).await, Err(WaitError::Stalled));
            assert!(log.checkpoint().await.is_err());
            answered.set(log.flushed().0 as usize);
            assert!(answered.get() > 4 && answered.get() < all.len());
            if crash {
                return all;
            }
            pause(&io, 30_000).await;
            assert!(log.is_stalled());
            simulation.set_descriptors(HOST, 100);
            pause(&io, 1000).await;
            assert!(!log.is_stalled());
            assert_eq!(log.wait(end, Level::Flushed).await, Ok(()));
            append(&log, &one(b"last value")).await;
            all.push(b"last value".to_vec());
            log.close().await.unwrap();
            answered.set(all.len());
            all
        });
        let all = all.unwrap();
        simulation.crash(HOST, CrashKind::PowerLost);
        simulation.set_descriptors(HOST, 100);
        let io = simulation.boot(HOST);
        let found = io.run(async { values(&open(&io, small_segments()).await).await });
        let found = found.unwrap();
        assert!(found.len() >= answered.get());
        assert!(found == all[..found.len()]);
    }
}

/// Two logs fill a disk between them. Retention of the one makes room for both, although a checkpoint finds none.
#[test]
fn a_full_disk_is_full_until_retention_has_made_room() {
    for seed in 0..4 {
        let simulation = simulation(seed);
        let io = simulation.boot(HOST);
        let config = small_segments();
        let kept = LogConfig {
            retention_bytes: 2 * SEGMENT_BYTES as i64,
            ..config
        };
        let shared = LogShared::new(Vec::new(), SpareSegments::none());
        let other_directory = "/data/other-0";
        let (all, others, start) = io
            .run(async {
                let log = open(&io, config).await;
                let other = open_beside(&io, &shared, other_directory, config).await;
                for log in [&log, &other] {
                    append(log, &one(b"first value")).await;
                    log.flush().await.unwrap();
                }
                simulation.set_disk_bytes(HOST, 3 << 20);
                let mut all = vec![b"first value".to_vec()];
                let mut others = all.clone();
                all.extend(fill(&io, &log, 1).await);
                others.extend(fill(&io, &other, 1).await);
                let (end, other_end) = (log.log_end(), other.log_end());
                pause(&io, 5000).await;
                assert!(log.is_stalled() && other.is_stalled());
                log.set_config(kept);
                let deleted = log.enforce_retention(io.wall_clock_ms()).await.unwrap();
                assert!(deleted > 4, "{deleted}");
                pause(&io, 1000).await;
                assert!(!log.is_stalled() && !other.is_stalled());
                assert_eq!(log.wait(end, Level::Flushed).await, Ok(()));
                assert_eq!(other.wait(other_end, Level::Flushed).await, Ok(()));
                for (log, all) in [(&log, &mut all), (&other, &mut others)] {
                    append(log, &one(b"last value")).await;
                    all.push(b"last value".to_vec());
                    log.flush().await.unwrap();
                }
                (all, others, log.log_start())
            })
            .unwrap();
        simulation.crash(HOST, CrashKind::PowerLost);
        let io = simulation.boot(HOST);
        io.run(async {
            let log = open(&io, kept).await;
            assert_eq!(log.log_start(), start);
            assert!(values(&log).await == all[start.0 as usize..]);
            let other = open_beside(&io, &shared, other_directory, config).await;
            assert!(values(&other).await == others);
        })
        .unwrap();
    }
}

/// Without a checkpoint that says so, a power loss must find no gap either.
#[test]
fn a_poisoned_log_deletes_what_is_due() {
    for seed in 0..20 {
        let simulation = simulation(seed);
        let io = simulation.boot(HOST);
        let (start, flushed) = io
            .run(async {
                let log = open(&io, small_segments()).await;
                for number in 0..80 {
                    append(&log, &one(&value(number, 30_000))).await;
                    if number == 10 {
                        log.checkpoint().await.unwrap();
                    }
                }
                log.flush().await.unwrap();
                pause(&io, 1000).await;
                simulation.fail_once(FileFault::WriteError, ".log", 0);
                append(&log, &one(b"fails")).await;
                assert!(log.flush().await.is_err() && log.is_poisoned());
                log.set_config(LogConfig {
                    retention_bytes: 2 * SEGMENT_BYTES as i64,
                    ..small_segments()
                });
                // Crashes in the middle of it, sooner or later.
                simulation.crash_after(HOST, 1 + seed * 2, CrashKind::PowerLost);
                let (now_ms, deleting) = (io.wall_clock_ms(), log.clone());
                io.spawn(async move {
                    let deleted = deleting.enforce_retention(now_ms).await;
                    assert!(deleted.unwrap() > 5);
                });
                let seen = (log.log_start(), log.flushed());
                pause(&io, 0).await;
                seen
            })
            .unwrap();
        let _ = io.run(pause(&io, 10_000));
        simulation.crash(HOST, CrashKind::PowerLost);
        let io = simulation.boot(HOST);
        io.run(async {
            let log = open(&io, small_segments()).await;
            assert!(log.log_start() >= start && log.log_start().0 < 70);
            assert!(log.log_end() >= flushed, "seed {seed}");
            values(&log).await;
        })
        .unwrap();
    }
}

#[test]
fn a_stalled_log_is_closed_and_deleted_without_waiting_for_room() {
    for delete in [false, true] {
        let simulation = simulation(3);
        let io = simulation.boot(HOST);
        let flushed = io
            .run(async {
                let log = open(&io, small_segments()).await;
                simulation.set_disk_bytes(HOST, 1 << 20);
                fill(&io, &log, 0).await;
                let before = io.now();
                if delete {
                    log.delete().await.unwrap();
                } else {
                    assert!(log.close().await.is_err());
                }
                assert!(io.now().nanos_since(before) < 1_000_000_000);
                log.flushed()
            })
            .unwrap();
        if delete {
            assert_eq!(simulation.paths(HOST), Vec::<PathBuf>::new());
            continue;
        }
        simulation.crash(HOST, CrashKind::PowerLost);
        let io = simulation.boot(HOST);
        // The disk is as full as it was.
        let end = io.run(async { open(&io, small_segments()).await.log_end() });
        assert!(end.unwrap() >= flushed);
    }
}

fn shared_spares(wanted: usize) -> Rc<LogShared> {
    let spares = SpareSegments::new(PathBuf::from("/data/spare/0"), wanted, SEGMENT_BYTES);
    LogShared::new(Vec::new(), spares)
}

async fn prepared(io: &SimIo, wanted: usize) -> Rc<LogShared> {
    let shared = shared_spares(wanted);
    io.spawn(spare::replenish(io.clone(), Rc::clone(&shared)));
    while shared.spares.ready() < wanted {
        pause(io, 10).await;
    }
    shared
}

#[test]
fn a_prepared_file_that_is_missing_is_done_without() {
    let simulation = simulation(4);
    let io = simulation.boot(HOST);
    io.run(async {
        let shared = prepared(&io, 2).await;
        for path in simulation.paths(HOST) {
            io.remove_file(&path).await.unwrap();
        }
        let log = open_beside(&io, &shared, DIRECTORY, small_segments()).await;
        append(&log, &one(b"a value")).await;
        log.flush().await.unwrap();
        assert_eq!(values(&log).await, [b"a value".to_vec()]);
    })
    .unwrap();
}

#[test]
fn files_are_prepared_where_no_space_can_be_reserved() {
    let simulation = Simulation::new(SimOptions {
        allocates: false,
        ..SimOptions::seeded(7)
    });
    let io = simulation.boot(HOST);
    io.run(async {
        let shared = shared_spares(2);
        io.spawn(spare::replenish(io.clone(), Rc::clone(&shared)));
        pause(&io, 5_000).await;
        assert_eq!(shared.spares.ready(), 2);
        for path in simulation.paths(HOST) {
            let bytes = simulation.file_bytes(HOST, &path).unwrap();
            assert_eq!(bytes, vec![0; SEGMENT_BYTES as usize]);
        }
        let log = open_beside(&io, &shared, DIRECTORY, small_segments()).await;
        append(&log, &one(b"a value")).await;
        log.flush().await.unwrap();
        let taken = simulation.file_bytes(HOST, FIRST_SEGMENT).unwrap();
        assert_eq!(taken.len(), SEGMENT_BYTES as usize, "one was taken");
    })
    .unwrap();
}

/// Where the directory of prepared files has gone, a freed segment is removed; its file must not stay where it was.
#[test]
fn a_freed_segment_goes_although_it_cannot_be_kept_for_reuse() {
    let simulation = simulation(5);
    let io = simulation.boot(HOST);
    io.run(async {
        let shared = prepared(&io, 3).await;
        let config = LogConfig {
            retention_bytes: SEGMENT_BYTES as i64,
            ..small_segments()
        };
        let log = open_beside(&io, &shared, DIRECTORY, config).await;
        for number in 0..40 {
            append(&log, &one(&value(number, 30_000))).await;
        }
        log.flush().await.unwrap();
        pause(&io, 1000).await;
        for name in io.list(Path::new("/data/spare/0")).await.unwrap() {
            let path = Path::new("/data/spare/0").join(name);
            io.remove_file(&path).await.unwrap();
        }
        io.remove_directory(Path::new("/data/spare/0"))
            .await
            .unwrap();
        // The next segment begins without one, and so more are wanted.
        for number in 40..50 {
            append(&log, &one(&value(number, 30_000))).await;
        }
        log.flush().await.unwrap();
        assert!(log.enforce_retention(io.wall_clock_ms()).await.unwrap() > 0);
        let first = format!("{DIRECTORY}/{:020}.log", log.log_start().0);
        let names = simulation.paths(HOST);
        let log_files = names
            .iter()
            .filter(|path| path.extension().is_some_and(|ext| ext == "log"));
        assert_eq!(log_files.min(), Some(&PathBuf::from(first)));
    })
    .unwrap();
}

#[test]
fn prepared_files_that_are_not_wanted_any_more_are_removed() {
    let simulation = simulation(6);
    for (wanted, shards, left) in [(3, 2, 4), (1, 2, 2), (0, 2, 1), (2, 0, 0)] {
        simulation.plant_file(HOST, "/data/spare/1/0.spare", &[0; 8]);
        let io = simulation.boot(HOST);
        io.run(async {
            let shared = shared_spares(wanted);
            io.spawn(spare::replenish(io.clone(), Rc::clone(&shared)));
            pause(&io, 10_000).await;
            assert_eq!(shared.spares.ready(), wanted);
            let directory = PathBuf::from("/data/spare");
            spare::remove_unused(io.clone(), directory, shards).await;
        })
        .unwrap();
        assert_eq!(simulation.paths(HOST).len(), left, "{wanted}");
        simulation.crash(HOST, CrashKind::ProcessKilled);
    }
}
