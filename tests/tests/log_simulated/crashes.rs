//! Crashes at any moment: what was answered is there, what is there is whole, and the log goes on.

use std::cell::{Cell, RefCell};

use dataplane::log::Level;
use millrace_tests::sim::CrashKind;

use super::*;

/// Offset and value of a batch.
type Answered = (i64, Vec<u8>);

/// Ten, or as many as MILLRACE_SEEDS says.
fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("MILLRACE_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(10)
}

/// Appends until the crash, reopens, and checks; then once more on the recovered log.
fn crash_and_recover(seed: u64, config: LogConfig, kind: CrashKind, level: Level) {
    crash_and_recover_in(&simulation(seed), seed, config, kind, level);
}

fn crash_and_recover_in(
    simulation: &Simulation,
    seed: u64,
    config: LogConfig,
    kind: CrashKind,
    level: Level,
) {
    let answered: Rc<RefCell<Vec<Answered>>> = Rc::default();
    for life in 0..4u64 {
        let io = simulation.boot(HOST);
        let log = io.run(open(&io, config)).unwrap();
        let found = io.run(read_from(&log, log.log_start(), 100_000)).unwrap();
        for (offset, value) in answered.borrow().iter() {
            let same = found
                .get(*offset as usize)
                .is_some_and(|(_, found)| found == value);
            assert!(
                same,
                "seed {seed}, life {life}: offset {offset} of {}",
                found.len()
            );
        }
        // What was not answered may be gone; its offsets are given anew.
        simulation.crash_after(HOST, 20 + seed * 7 % 90, kind);
        let run = io.run(async {
            let mut checkpoint_due = 0;
            loop {
                let value = value(life << 32 | io.random_u64() >> 40, size(&io));
                let appended = append(&log, &one(&value)).await;
                let (waiting, answered) = (log.clone(), Rc::clone(&answered));
                io.spawn(async move {
                    if waiting.wait(appended.next_offset, level).await.is_ok() {
                        answered.borrow_mut().push((appended.base_offset.0, value));
                    }
                });
                checkpoint_due += 1;
                if checkpoint_due % 10 == 0 {
                    log.checkpoint().await.unwrap();
                }
                if io.random_u64().is_multiple_of(3) {
                    log.wait(appended.next_offset, level).await.unwrap();
                }
            }
        });
        let _: Result<(), _> = run;
    }
    assert!(
        !answered.borrow().is_empty(),
        "seed {seed} answered nothing"
    );
}

#[test]
fn what_was_answered_as_written_survives_a_kill() {
    for seed in seeds() {
        crash_and_recover(seed, cached(), CrashKind::ProcessKilled, Level::Written);
        crash_and_recover(seed, durable(), CrashKind::ProcessKilled, Level::Written);
    }
}

#[test]
fn what_was_answered_as_flushed_survives_the_loss_of_power() {
    for seed in seeds() {
        crash_and_recover(seed, durable(), CrashKind::PowerLost, Level::Flushed);
        crash_and_recover(seed, cached(), CrashKind::PowerLost, Level::Flushed);
    }
}

#[test]
fn a_file_system_that_can_reserve_no_space_loses_nothing() {
    for seed in seeds() {
        let simulation = || {
            Simulation::new(SimOptions {
                allocates: false,
                buffers: 16,
                buffer_bytes: 64 * 1024,
                ..SimOptions::seeded(seed)
            })
        };
        let (killed, lost) = (CrashKind::ProcessKilled, CrashKind::PowerLost);
        crash_and_recover_in(&simulation(), seed, cached(), killed, Level::Written);
        crash_and_recover_in(&simulation(), seed, durable(), lost, Level::Flushed);
    }
}

/// Batches that fill several buffers before the writer runs, so that they go in one write, and a crash at every operation from the first
/// on. Returns whether the host lived to the end.
fn write_several_buffers(operations: u64, config: LogConfig, kind: CrashKind) -> bool {
    let simulation = simulation(operations);
    let answered = Rc::new(Cell::new(0));
    let values: Vec<_> = (0..6).map(|number| value(number, 40_000)).collect();
    let io = simulation.boot(HOST);
    simulation.crash_after(HOST, operations, kind);
    let run = io.run(async {
        let log = open(&io, config).await;
        for half in values.chunks(3) {
            for value in half {
                try_append(&log, &one(value)).unwrap();
            }
            log.wait(log.log_end(), Level::Flushed).await.unwrap();
            answered.set(log.log_end().0 as usize);
        }
    });
    let lived = run.is_ok();
    if lived {
        simulation.crash(HOST, kind);
    }
    let io = simulation.boot(HOST);
    let log = io.run(open(&io, config)).unwrap();
    let found: Vec<_> = io
        .run(read_from(&log, Offset(0), 1 << 20))
        .unwrap()
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    assert!(found.len() >= answered.get(), "{operations}, {kind:?}");
    assert!(found == values[..found.len()], "{operations}, {kind:?}");
    lived
}

#[test]
fn a_write_over_several_buffers_may_be_torn_anywhere() {
    for config in [durable(), cached()] {
        for kind in [CrashKind::ProcessKilled, CrashKind::PowerLost] {
            let mut operations = 1;
            while !write_several_buffers(operations, config, kind) {
                operations += 1;
            }
            assert!(operations > 4, "the host crashed in the middle");
        }
    }
}

#[test]
fn an_idempotent_producer_is_recognised_after_a_kill() {
    for checkpointed in [false, true] {
        let simulation = simulation(1);
        let io = simulation.boot(HOST);
        let batch = |sequence: i32| {
            let mut builder = BatchBuilder::new(1);
            builder.record(1, None, Some(b"some value"), &[]);
            builder.producer(5, 0, sequence).build()
        };
        io.run(async {
            let log = open(&io, durable()).await;
            for sequence in 0..10 {
                append(&log, &batch(sequence)).await;
                if checkpointed && sequence == 6 {
                    log.checkpoint().await.unwrap();
                }
            }
            log.wait(Offset(10), Level::Written).await.unwrap();
        })
        .unwrap();
        simulation.crash(HOST, CrashKind::ProcessKilled);
        let io = simulation.boot(HOST);
        io.run(async {
            let log = open(&io, durable()).await;
            assert!(!log.opened_clean());
            for sequence in 5..10 {
                let again = append(&log, &batch(sequence)).await;
                assert_eq!(
                    (again.base_offset, again.duplicate),
                    (Offset(i64::from(sequence)), true)
                );
            }
            assert_eq!(
                try_append(&log, &batch(11)),
                Err(AppendError::OutOfOrderSequence {
                    expected: 10,
                    found: 11
                })
            );
            assert_eq!(append(&log, &batch(10)).await.base_offset, Offset(10));
        })
        .unwrap();
    }
}
