//! Segment files that are prepared ahead of need and used again: no log ever takes another life's batches for its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use dataplane::log::{Level, spare};
use millrace_tests::sim::CrashKind;

use super::*;

const SEGMENT_BYTES: u64 = 256 * 1024;
const SPARES: usize = 3;
const SPARE_DIRECTORY: &str = "/data/spare/0";
const LOGS: u64 = 2;

/// Values of one log by offset.
type Answered = Rc<RefCell<BTreeMap<i64, Vec<u8>>>>;

fn shared() -> Rc<LogShared> {
    let spares = SpareSegments::new(PathBuf::from(SPARE_DIRECTORY), SPARES, SEGMENT_BYTES);
    LogShared::new(Vec::new(), spares)
}

/// Segments of the size of a spare file, of which few are kept.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT_BYTES,
        retention_bytes: 2 * SEGMENT_BYTES as i64,
        ..durable()
    }
}

async fn open_log(io: &SimIo, shared: &Rc<LogShared>, number: u64) -> Log<SimIo> {
    open_beside(io, shared, &format!("/data/topic-{number}"), config()).await
}

/// What a log holds is its own, without a gap, and what was answered and not deleted is there.
async fn check(log: &Log<SimIo>, number: u64, answered: &BTreeMap<i64, Vec<u8>>, context: &str) {
    let found = read_from(log, log.log_start(), 100_000).await;
    for (offset, value) in &found {
        assert_eq!(value[0], number as u8, "{context}: offset {offset}");
    }
    for (offset, value) in answered.range(log.log_start().0..) {
        let held = found.get((offset - log.log_start().0) as usize);
        assert_eq!(held, Some(&(*offset, value.clone())), "{context}");
    }
}

fn lives(seed: u64, kind: CrashKind) -> usize {
    let simulation = simulation(seed);
    let answered: [Answered; LOGS as usize] = Default::default();
    let mut taken = 0;
    for life in 0..5u64 {
        let io = simulation.boot(HOST);
        let shared = shared();
        let logs: Vec<Log<SimIo>> = io
            .run(async {
                let mut logs = Vec::new();
                for number in 0..LOGS {
                    let log = open_log(&io, &shared, number).await;
                    let context = format!("seed {seed}, life {life}, log {number}");
                    let answered = answered[number as usize].borrow().clone();
                    check(&log, number, &answered, &context).await;
                    logs.push(log);
                }
                logs
            })
            .unwrap();
        io.spawn(spare::replenish(io.clone(), Rc::clone(&shared)));
        simulation.crash_after(HOST, 400 + seed * 97 % 900, kind);
        let run: Result<(), _> = io.run(async {
            loop {
                for (number, log) in (0..LOGS).zip(&logs) {
                    let mut value = value(io.random_u64(), 20_000);
                    value[0] = number as u8;
                    let appended = append(log, &one(&value)).await;
                    if log.wait(appended.next_offset, Level::Flushed).await.is_ok() {
                        let mut answered = answered[number as usize].borrow_mut();
                        answered.insert(appended.base_offset.0, value);
                    }
                    log.enforce_retention(0).await.unwrap();
                }
            }
        });
        assert!(run.is_err(), "the crash ends the run");
        taken += simulation
            .paths(HOST)
            .iter()
            .filter(|path| path.starts_with(SPARE_DIRECTORY))
            .count();
    }
    taken
}

#[test]
fn freed_segments_are_used_again_and_no_crash_makes_their_old_batches_appear() {
    for kind in [CrashKind::ProcessKilled, CrashKind::PowerLost] {
        let prepared: usize = (0..8).map(|seed| lives(seed, kind)).sum();
        assert!(prepared > 0, "no file was ever prepared");
    }
}

/// Prepares files, then loses power after so many operations of a log that takes one; returns whether its batch was answered.
fn take_and_lose_power(operations: u64) -> bool {
    let simulation = simulation(operations);
    let io = simulation.boot(HOST);
    let shared_then = shared();
    io.spawn(spare::replenish(io.clone(), Rc::clone(&shared_then)));
    io.run(async {
        while shared_then.spares.ready() < SPARES {
            io.sleep_until(io.now().after_ms(10)).await;
        }
    })
    .unwrap();
    simulation.crash_after(HOST, operations, CrashKind::PowerLost);
    let answered = Rc::new(RefCell::new(false));
    let run: Result<(), _> = io.run(async {
        let log = open_log(&io, &shared_then, 0).await;
        let appended = append(&log, &one(&value(1, 9000))).await;
        let flushed = log.wait(appended.next_offset, Level::Flushed).await;
        answered.replace(flushed.is_ok());
        loop {
            append(&log, &one(&value(2, 9000))).await;
            log.flush().await.unwrap();
        }
    });
    assert!(run.is_err(), "the crash ends the run");
    let io = simulation.boot(HOST);
    io.run(async {
        let left = io.list(Path::new(SPARE_DIRECTORY)).await;
        for name in left.unwrap_or_default() {
            let path = Path::new(SPARE_DIRECTORY).join(&name);
            let bytes = io.read_file(&path, SEGMENT_BYTES as usize).await.unwrap();
            let clean = bytes.iter().all(|byte| *byte == 0);
            assert!(clean || name.ends_with(".raw"), "{operations}: {name}");
        }
        let log = open_log(&io, &shared(), 0).await;
        if *answered.borrow() {
            assert_eq!(
                values(&log).await.first(),
                Some(&value(1, 9000)),
                "{operations}"
            );
        }
    })
    .unwrap();
    *answered.borrow()
}

/// A write into a file whose new name was not safe yet: after the crash the file was a prepared one again, with a batch in it.
#[test]
fn no_write_begins_before_the_taken_file_has_its_name_for_good() {
    let answered = (1..120)
        .filter(|operations| take_and_lose_power(*operations))
        .count();
    assert!(
        (1..119).contains(&answered),
        "some crashes came before, some after"
    );
}

#[test]
fn a_new_segment_takes_a_prepared_file_and_a_freed_one_comes_back() {
    let simulation = simulation(1);
    let io = simulation.boot(HOST);
    io.run(async {
        let shared = shared();
        io.spawn(spare::replenish(io.clone(), Rc::clone(&shared)));
        while shared.spares.ready() < SPARES {
            io.sleep_until(io.now().after_ms(10)).await;
        }
        let log = open_log(&io, &shared, 0).await;
        let appended = append(&log, &one(b"first value")).await;
        log.wait(appended.next_offset, Level::Flushed)
            .await
            .unwrap();
        assert_eq!(shared.spares.ready(), SPARES - 1);
        while shared.spares.ready() < SPARES {
            io.sleep_until(io.now().after_ms(10)).await;
        }
        log.delete().await.unwrap();
        let names = io.list(Path::new(SPARE_DIRECTORY)).await.unwrap();
        assert_eq!(names.len(), SPARES, "there are enough: {names:?}");
    })
    .unwrap();
}

/// One that holds something else than zeros would be taken for a segment, or zeroed.
#[test]
fn what_a_later_version_prepared_is_neither_taken_nor_changed_nor_removed() {
    for wanted in [SPARES, 0] {
        let simulation = simulation(3);
        let later = [
            format!("{SPARE_DIRECTORY}/7.spare2"),
            format!("{SPARE_DIRECTORY}/notes"),
        ];
        for path in &later {
            simulation.plant_file(HOST, path, &[7; SEGMENT_BYTES as usize]);
        }
        let io = simulation.boot(HOST);
        io.run(async {
            let spares = SpareSegments::new(SPARE_DIRECTORY.into(), wanted, SEGMENT_BYTES);
            let shared = LogShared::new(Vec::new(), spares);
            io.spawn(spare::replenish(io.clone(), Rc::clone(&shared)));
            io.sleep_until(io.now().after_ms(20_000)).await;
            assert_eq!(shared.spares.ready(), wanted);
        })
        .unwrap();
        for path in &later {
            let left = simulation.file_bytes(HOST, path);
            assert_eq!(
                left.as_deref(),
                Some(&[7; SEGMENT_BYTES as usize][..]),
                "{path}"
            );
        }
    }
}

#[test]
fn a_file_that_was_not_zeroed_to_its_end_is_not_taken() {
    let simulation = simulation(2);
    let io = simulation.boot(HOST);
    io.run(async {
        let shared = shared();
        io.spawn(spare::replenish(io.clone(), Rc::clone(&shared)));
        let log = open_log(&io, &shared, 0).await;
        let mut names = Vec::new();
        while !names.iter().any(|name: &String| name.ends_with(".raw")) {
            append(&log, &one(&value(1, 20_000))).await;
            log.flush().await.unwrap();
            log.enforce_retention(0).await.unwrap();
            names = io
                .list(Path::new(SPARE_DIRECTORY))
                .await
                .unwrap_or_default();
        }
    })
    .unwrap();
    simulation.crash(HOST, CrashKind::ProcessKilled);
    let io = simulation.boot(HOST);
    io.run(async {
        let names = io.list(Path::new(SPARE_DIRECTORY)).await.unwrap();
        assert!(
            names.iter().any(|name| name.ends_with(".raw")),
            "one was being zeroed: {names:?}"
        );
        let shared = shared();
        io.spawn(spare::replenish(io.clone(), Rc::clone(&shared)));
        while shared.spares.ready() < SPARES {
            io.sleep_until(io.now().after_ms(10)).await;
        }
        for name in io.list(Path::new(SPARE_DIRECTORY)).await.unwrap() {
            let path = Path::new(SPARE_DIRECTORY).join(&name);
            let bytes = io.read_file(&path, SEGMENT_BYTES as usize).await.unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0), "{name}");
        }
    })
    .unwrap();
}
