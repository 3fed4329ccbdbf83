//! A log that nobody interrupts: what goes in comes out, in order, from memory and from files, under every setting.

use std::cell::Cell;

use dataplane::log::{Level, ReadError, WaitError};
use millrace_tests::sim::FileFault;

use super::*;

#[test]
fn what_was_appended_is_read_back_from_every_offset() {
    for seed in 0..2 {
        for config in [durable(), cached()] {
            let simulation = simulation(seed);
            let io = simulation.boot(HOST);
            let run = io.run(async {
                let log = open(&io, config).await;
                let mut written = Vec::new();
                for number in 0..150 {
                    let value = value(number, size(&io));
                    let appended = append(&log, &one(&value)).await;
                    assert_eq!(appended.base_offset.0, number as i64);
                    written.push(value);
                    if io.random_u64().is_multiple_of(4) {
                        log.wait(appended.next_offset, Level::Written)
                            .await
                            .unwrap();
                    }
                }
                log.flush().await.unwrap();
                assert_eq!(log.flushed(), log.log_end());
                assert!(log.segments() > 1, "the log was rolled");
                assert_eq!(values(&log).await, written);
                for from in (0..150).step_by(7) {
                    let found = read_from(&log, Offset(from), 10_000).await;
                    assert_eq!(found.first().map(|(offset, _)| *offset), Some(from));
                    assert_eq!(found.len() as i64, 150 - from);
                }
            });
            run.unwrap();
        }
    }
}

/// Wherever it begins and whatever it may carry: the index shortens the way to where it ends, and changes nothing of that.
#[test]
fn a_read_carries_every_whole_batch_that_fits_and_no_other() {
    const BATCHES: usize = 3_000;
    let simulation = simulation(11);
    let io = simulation.boot(HOST);
    let run = io.run(async {
        // From an index of every batch to one of hardly any.
        for index_interval_bytes in [1, 4_096, 100_000] {
            let config = LogConfig {
                index_interval_bytes,
                ..cached()
            };
            let directory = format!("/data/every-{index_interval_bytes}");
            let shared = LogShared::new(Vec::new(), SpareSegments::none());
            let log = Log::open(
                io.clone(),
                shared,
                Path::new(&directory),
                config,
                Rc::new(Leadership::default()),
            );
            let log = log.await.unwrap();
            log.begin_epoch(LeaderEpoch(1));
            let mut bytes_of = Vec::new();
            for number in 0..BATCHES {
                let batch = one(&value(number as u64, io.random_u64() as usize % 1_500));
                append(&log, &batch).await;
                bytes_of.push(batch.len());
            }
            log.flush().await.unwrap();
            assert!(log.segments() > 1, "the log was rolled");
            let paths = simulation.paths(HOST);
            let segments = paths.iter().filter(|path| path.starts_with(&directory));
            let starts: Vec<i64> = segments
                .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
                .map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
                .collect();
            assert_eq!(starts.len(), log.segments());
            for _ in 0..500 {
                let from = io.random_u64() as usize % BATCHES;
                let bytes_max = io.random_u64() as usize % 300_000;
                let from_offset = Offset(from as i64);
                let read = log.read(from_offset, bytes_max, true, Bound::HighWatermark);
                let read = read.await.unwrap();
                let to = read.next_offset.0 as usize;
                assert!(to > from);
                assert_eq!(read.bytes, bytes_of[from..to].iter().sum::<usize>());
                assert!(read.bytes <= bytes_max || to == from + 1);
                // It ends where the next one would be too much, or a segment does.
                let next = bytes_of.get(to);
                let fits_another = next.is_some_and(|next| read.bytes + next <= bytes_max);
                assert!(!fits_another || starts.contains(&read.next_offset.0));
            }
        }
    });
    run.unwrap();
}

#[test]
fn appends_of_many_tasks_interleave_and_each_is_answered() {
    for seed in 0..2 {
        let simulation = simulation(seed);
        let io = simulation.boot(HOST);
        let run = io.run(async {
            let log = open(&io, durable()).await;
            let done = Rc::new(Cell::new(0));
            for task in 0..8u64 {
                let (log, io, done) = (log.clone(), io.clone(), Rc::clone(&done));
                io.clone().spawn(async move {
                    for number in 0..20 {
                        let appended =
                            append(&log, &one(&value(task * 1000 + number, size(&io)))).await;
                        log.wait(appended.next_offset, Level::Flushed)
                            .await
                            .unwrap();
                        assert!(log.high_watermark() >= appended.next_offset);
                        done.set(done.get() + 1);
                    }
                });
            }
            while done.get() < 160 {
                io.sleep_until(io.now().after_ms(1)).await;
            }
            let mut found = values(&log).await;
            assert_eq!(found.len(), 160);
            found.sort();
            found.dedup();
            assert_eq!(found.len(), 160);
        });
        run.unwrap();
    }
}

#[test]
fn a_read_is_cut_at_a_batch_and_the_first_is_whole_if_asked_for() {
    let simulation = simulation(1);
    let io = simulation.boot(HOST);
    let run = io.run(async {
        let log = open(&io, durable()).await;
        let bytes = one(&value(1, 1000));
        for _ in 0..10 {
            append(&log, &bytes).await;
        }
        let unseen = log
            .read(Offset(0), 1 << 20, true, Bound::HighWatermark)
            .await
            .unwrap();
        assert_eq!(unseen.bytes, 0, "nothing is flushed yet");
        let early = log
            .read(Offset(0), 1 << 20, true, Bound::LogEnd)
            .await
            .unwrap();
        assert_eq!(early.bytes, bytes.len() * 10);
        log.flush().await.unwrap();
        for (bytes_max, at_least_one, batches) in [
            (0, true, 1),
            (0, false, 0),
            (bytes.len() - 1, false, 0),
            (bytes.len() - 1, true, 1),
            (bytes.len(), false, 1),
            (bytes.len() * 3 + 10, false, 3),
            (bytes.len() * 10, false, 10),
        ] {
            let read = log
                .read(Offset(0), bytes_max, at_least_one, Bound::HighWatermark)
                .await
                .unwrap();
            assert_eq!(read.bytes, batches * bytes.len(), "{bytes_max}");
            assert_eq!(read.next_offset, Offset(batches as i64));
        }
        assert!(matches!(
            log.read(Offset(11), 1, true, Bound::LogEnd).await,
            Err(ReadError::OffsetOutOfRange { .. })
        ));
        assert!(matches!(
            log.read(Offset(-1), 1, true, Bound::LogEnd).await,
            Err(ReadError::OffsetOutOfRange { .. })
        ));
    });
    run.unwrap();
}

#[test]
fn a_failed_write_or_sync_ends_the_log_and_keeps_what_could_be_read() {
    let faults = [
        (FileFault::WriteError, durable()),
        (FileFault::ShortWrite, cached()),
        (FileFault::SyncError, cached()),
    ];
    for (fault, config) in faults {
        let simulation = simulation(3);
        let io = simulation.boot(HOST);
        let run = io.run(async {
            let log = open(&io, config).await;
            let first = append(&log, &one(b"first value")).await;
            log.flush().await.unwrap();
            // So that the next flush, write or allocation is the one that fails.
            io.sleep_until(io.now().after_ms(1000)).await;
            simulation.fail_once(fault, "00000000000000000000.log", 0);
            let mut next = first;
            for number in 0..40 {
                let bytes = one(&value(number, 50_000));
                match try_append(&log, &bytes) {
                    Ok(appended) => next = appended,
                    Err(AppendError::Poisoned) => break,
                    Err(AppendError::Busy) => log.room(bytes.len()).await,
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(
                log.wait(next.next_offset, Level::Flushed).await,
                Err(WaitError::Poisoned),
                "{fault:?}"
            );
            assert!(log.is_poisoned());
            assert_eq!(
                try_append(&log, &one(b"later value")),
                Err(AppendError::Poisoned)
            );
            assert!(log.flush().await.is_err());
            assert!(log.close().await.is_err());
            let read = log
                .read(Offset(0), 100, true, Bound::HighWatermark)
                .await
                .unwrap();
            assert_eq!(read.next_offset, Offset(1));
        });
        run.unwrap();
    }
}

#[test]
fn a_pool_that_runs_dry_answers_busy_and_then_has_room() {
    let simulation = Simulation::new(SimOptions {
        buffers: 4,
        buffer_bytes: 64 * 1024,
        ..SimOptions::seeded(6)
    });
    let io = simulation.boot(HOST);
    let run = io.run(async {
        let log = open(&io, durable()).await;
        let bytes = one(&value(1, 100_000));
        let mut busy = 0;
        for _ in 0..40 {
            while let Err(error) = try_append(&log, &bytes) {
                assert_eq!(error, AppendError::Busy);
                busy += 1;
                log.room(bytes.len()).await;
            }
        }
        assert!(busy > 0);
        log.flush().await.unwrap();
        // A producer that has gone away while it waited keeps nothing.
        while try_append(&log, &bytes).is_ok() {}
        let mut gone = Box::pin(log.room(bytes.len()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(gone.as_mut().poll(&mut context).is_pending());
        drop(gone);
        log.flush().await.unwrap();
        assert!(try_append(&log, &bytes).is_ok());
        log.flush().await.unwrap();
        assert_eq!(values(&log).await.len() as i64, log.log_end().0);
    });
    run.unwrap();
}

#[test]
fn records_are_found_by_time() {
    let simulation = simulation(7);
    let io = simulation.boot(HOST);
    let run = io.run(async {
        let log = open(&io, durable()).await;
        assert_eq!(log.max_timestamp().await.unwrap(), None);
        for number in 0..200i64 {
            let mut builder = BatchBuilder::new(1000 + number * 10);
            // The fifth record of the 77th batch is far ahead of its time.
            let ahead = if number == 77 { 100_000 } else { 0 };
            for record in 0..5 {
                let timestamp = 1000 + number * 10 + record + if record == 4 { ahead } else { 0 };
                builder.record(timestamp, None, Some(&value(1, 3000)), &[]);
            }
            append(&log, &builder.build()).await;
        }
        log.flush().await.unwrap();
        assert!(log.segments() > 1);
        let find = async |timestamp| {
            let found = log.offset_for_timestamp(timestamp).await.unwrap();
            found.map(|found| (found.offset.0, found.timestamp, found.leader_epoch.0))
        };
        assert_eq!(find(0).await, Some((0, 1000, 1)));
        assert_eq!(find(1003).await, Some((3, 1003, 1)));
        assert_eq!(find(1005).await, Some((5, 1010, 1)));
        assert_eq!(find(1500).await, Some((250, 1500, 1)));
        assert_eq!(
            find(3000).await,
            Some((389, 101_774, 1)),
            "the first that is late enough"
        );
        assert_eq!(find(200_000).await, None);
        let newest = log.max_timestamp().await.unwrap().unwrap();
        assert_eq!((newest.offset, newest.timestamp), (Offset(389), 101_774));
    });
    run.unwrap();
}

#[test]
fn log_append_time_replaces_the_producers_time_and_the_crc_holds() {
    let simulation = simulation(8);
    let io = simulation.boot(HOST);
    let run = io.run(async {
        let log = open(
            &io,
            LogConfig {
                log_append_time: true,
                ..durable()
            },
        )
        .await;
        let appended = append(&log, &one(&value(1, 100_000))).await;
        assert!(appended.log_append_time_ms > 1_700_000_000_000);
        log.flush().await.unwrap();
        assert_eq!(values(&log).await.len(), 1);
        let found = log.max_timestamp().await.unwrap().unwrap();
        assert_eq!(found.timestamp, appended.log_append_time_ms);
    });
    run.unwrap();
}

#[test]
fn retention_deletes_the_oldest_closed_segments_and_the_start_lasts() {
    let simulation = simulation(9);
    let io = simulation.boot(HOST);
    let run = io.run(async {
        let log = open(
            &io,
            LogConfig {
                retention_bytes: 2 << 20,
                retention_ms: -1,
                ..durable()
            },
        )
        .await;
        for number in 0..100 {
            append(&log, &one(&value(number, 50_000))).await;
        }
        log.flush().await.unwrap();
        let deleted = log.enforce_retention(io.wall_clock_ms()).await.unwrap();
        assert!(deleted > 0);
        assert!(log.bytes() >= 2 << 20, "no more than the excess is deleted");
        assert!(log.bytes() < 3 << 20);
        let start = log.log_start();
        assert!(start > Offset(0));
        let gone = log.read(Offset(0), 1, true, Bound::HighWatermark).await;
        assert!(matches!(gone, Err(ReadError::OffsetOutOfRange { .. })));
        assert_eq!(values(&log).await.len() as i64, 100 - start.0);
        // By age everything is due, the active segment too.
        log.set_config(LogConfig {
            retention_ms: 1000,
            ..durable()
        });
        log.enforce_retention(io.wall_clock_ms()).await.unwrap();
        assert_eq!(
            (log.log_start(), log.log_end(), log.bytes()),
            (Offset(100), Offset(100), 0)
        );
        let appended = append(&log, &one(b"after all")).await;
        assert_eq!(appended.base_offset, Offset(100));
        log.close().await.unwrap();
        let log = open(&io, durable()).await;
        assert_eq!((log.log_start(), log.log_end()), (Offset(100), Offset(101)));
    });
    run.unwrap();
}

#[test]
fn a_deleted_log_leaves_no_file() {
    let simulation = simulation(10);
    let io = simulation.boot(HOST);
    io.run(async {
        let log = open(&io, durable()).await;
        for number in 0..50 {
            append(&log, &one(&value(number, 50_000))).await;
        }
        log.checkpoint().await.unwrap();
        log.delete().await.unwrap();
        assert_eq!(
            try_append(&log, &one(b"late value")),
            Err(AppendError::Closed)
        );
    })
    .unwrap();
    assert_eq!(simulation.paths(HOST), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_idle_log_gives_its_buffers_to_others() {
    let simulation = simulation(11);
    let io = simulation.boot(HOST);
    let run = io.run(async {
        let shared = LogShared::new(Vec::new(), SpareSegments::none());
        let mut logs = Vec::new();
        for number in 0..40 {
            let path = format!("/data/topic-{number}");
            let log = Log::open(
                io.clone(),
                Rc::clone(&shared),
                Path::new(&path),
                durable(),
                Rc::new(Leadership::default()),
            )
            .await
            .unwrap();
            log.begin_epoch(LeaderEpoch(1));
            logs.push(log);
        }
        for round in 0..3 {
            for log in &logs {
                append(log, &one(&value(round, 3000))).await;
                log.flush().await.unwrap();
            }
        }
        for log in &logs {
            assert_eq!(
                values(log).await,
                (0..3).map(|round| value(round, 3000)).collect::<Vec<_>>()
            );
        }
    });
    run.unwrap();
}

/// More logs than may write at once: most wait for their turn, also those that are closed, deleted or fail meanwhile.
#[test]
fn logs_that_wait_for_their_turn_are_written_closed_and_deleted() {
    for seed in 0..4 {
        let simulation = Simulation::new(SimOptions {
            buffers: 256,
            buffer_bytes: 64 * 1024,
            ..SimOptions::seeded(seed)
        });
        let io = simulation.boot(HOST);
        let run = io.run(async {
            let shared = LogShared::new(Vec::new(), SpareSegments::none());
            let mut logs = Vec::new();
            for number in 0..100 {
                let path = format!("/data/topic-{number}");
                let shared = Rc::clone(&shared);
                let log = Log::open(
                    io.clone(),
                    shared,
                    Path::new(&path),
                    durable(),
                    Rc::new(Leadership::default()),
                );
                let log = log.await.unwrap();
                log.begin_epoch(LeaderEpoch(1));
                logs.push(log);
            }
            simulation.fail_once(
                FileFault::WriteError,
                "topic-70/00000000000000000000.log",
                0,
            );
            for round in 0..3 {
                for log in &logs {
                    try_append(log, &one(&value(round, 6000))).unwrap();
                }
                io.sleep_until(io.now()).await;
            }
            let ended = Rc::new(Cell::new(0));
            for (number, log) in logs.iter().enumerate() {
                let (log, ended) = (log.clone(), Rc::clone(&ended));
                io.spawn(async move {
                    let end = log.log_end();
                    match number {
                        70 => {
                            let failed = log.wait(end, Level::Flushed).await;
                            assert_eq!(failed, Err(WaitError::Poisoned));
                            assert!(log.close().await.is_err());
                        }
                        number if number % 3 == 0 => log.delete().await.unwrap(),
                        number if number % 3 == 1 => log.close().await.unwrap(),
                        _ => log.wait(end, Level::Flushed).await.unwrap(),
                    }
                    ended.set(ended.get() + 1);
                });
            }
            while ended.get() < logs.len() {
                io.sleep_until(io.now().after_ms(1)).await;
            }
            for (number, log) in logs.iter().enumerate() {
                if number != 70 && number % 3 != 0 {
                    let expected: Vec<_> = (0..3).map(|round| value(round, 6000)).collect();
                    assert_eq!(values(log).await, expected);
                }
            }
        });
        run.unwrap();
    }
}
