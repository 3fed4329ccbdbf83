//! Everything that a log does at once, until the process dies or the power fails: appends, sealing, retention, checkpoints, reading,
//! prepared files, a kernel that refuses, a disk that is full. Nothing that was answered is lost, and no log takes an error that passes
//! for one that does not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use dataplane::log::{Level, is_shortage, spare};
use millrace_tests::sim::{CrashKind, FaultPlan};
use millrace_tests::sweep::for_each_seed;

use super::*;

const SEGMENT_BYTES: u64 = 128 * 1024;
const LOGS: usize = 2;
const LIVES: u64 = 3;

/// Values by offset.
type Values = BTreeMap<i64, Vec<u8>>;

/// What one log's producers were told, by how safe they were told it is.
#[derive(Default)]
struct Answered {
    written: Values,
    flushed: Values,
}

/// What is different from seed to seed and stays for all lives of one.
#[derive(Clone, Copy)]
struct Plan {
    config: LogConfig,
    spares: usize,
    refusals: u32,
    disk_bytes: u64,
    operations: u64,
}

impl Plan {
    fn of_seed(seed: u64) -> Plan {
        // Old records, as a backfill brings them, are due as soon as they are read; or only so many bytes are kept; or all.
        let (retention_ms, retention_bytes) = match seed % 3 {
            0 => (1000, -1),
            1 => (-1, 2 * SEGMENT_BYTES as i64),
            _ => (1000, SEGMENT_BYTES as i64),
        };
        Plan {
            config: LogConfig {
                segment_bytes: SEGMENT_BYTES,
                retention_ms,
                retention_bytes,
                write_caching: seed / 3 % 2 == 1,
                flush_ms: 5,
                ..LogConfig::default()
            },
            spares: [0, 1, 3][(seed / 6 % 3) as usize],
            refusals: [0, 2_000, 30_000][(seed / 18 % 3) as usize],
            disk_bytes: [u64::MAX, 2 << 20][(seed / 54 % 2) as usize],
            operations: 150 + seed * 7919 % 1200,
        }
    }
}

struct World {
    simulation: Simulation,
    plan: Plan,
    context: String,
    answered: [Rc<RefCell<Answered>>; LOGS],
}

/// As a shard does it: what is refused is tried again.
async fn open_log(io: &SimIo, shared: &Rc<LogShared>, number: usize, plan: Plan) -> Log<SimIo> {
    let path = PathBuf::from(format!("/data/topic-{number}"));
    loop {
        let shared = Rc::clone(shared);
        match Log::open(
            io.clone(),
            shared,
            &path,
            plan.config,
            Rc::new(Leadership::default()),
        )
        .await
        {
            Ok(log) => {
                log.begin_epoch(LeaderEpoch(
                    log.latest_epoch().map_or(1, |epoch| epoch.0 + 1),
                ));
                return log;
            }
            Err(dataplane::log::LogError::Io(error)) if is_shortage(&error) => {
                io.sleep_until(io.now().after_ms(100)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Appends batches of all sizes and remembers what was answered.
async fn produce(io: SimIo, log: Log<SimIo>, answered: Rc<RefCell<Answered>>) {
    loop {
        let value = value(io.random_u64(), 1 + size(&io) / 2);
        let bytes = one(&value);
        let appended = match try_append(&log, &bytes) {
            Ok(appended) => appended,
            Err(AppendError::Busy) => {
                log.room(bytes.len()).await;
                continue;
            }
            Err(AppendError::Stalled) => {
                io.sleep_until(io.now().after_ms(50)).await;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let (offset, end) = (appended.base_offset.0, appended.next_offset);
        let told = async |level| log.wait(end, level).await.is_ok();
        if told(Level::Written).await {
            answered.borrow_mut().written.insert(offset, value.clone());
            if told(Level::Flushed).await {
                answered.borrow_mut().flushed.insert(offset, value);
            }
        }
        io.sleep_until(io.now().after_ms(io.random_u64() % 3)).await;
    }
}

/// Deletes, writes checkpoints and reads old records, each from time to time; what is refused is tried again the next time.
async fn keep_house(io: SimIo, log: Log<SimIo>) {
    loop {
        io.sleep_until(io.now().after_ms(io.random_u64() % 20))
            .await;
        match io.random_u64() % 3 {
            0 => drop(log.enforce_retention(io.wall_clock_ms()).await),
            1 => drop(log.checkpoint().await),
            _ => {
                let from = log.log_start();
                drop(log.read(from, 1000, true, Bound::HighWatermark).await);
            }
        }
    }
}

impl World {
    fn new(seed: u64) -> World {
        let plan = Plan::of_seed(seed);
        World {
            simulation: simulation(seed),
            plan,
            context: format!("seed {seed}"),
            answered: Default::default(),
        }
    }

    /// One life, which ends in a crash. What was answered before is there when it begins.
    fn live(&self, life: u64, kind: CrashKind) {
        let (simulation, plan) = (&self.simulation, self.plan);
        simulation.set_faults(FaultPlan {
            refusals: plan.refusals,
            ..FaultPlan::default()
        });
        let io = simulation.boot(HOST);
        let directory = PathBuf::from("/data/spare/0");
        let spares = SpareSegments::new(directory, plan.spares, SEGMENT_BYTES);
        let shared = LogShared::new(Vec::new(), spares);
        let logs = io.run(async {
            let mut logs = Vec::new();
            for number in 0..LOGS {
                logs.push(open_log(&io, &shared, number, plan).await);
            }
            logs
        });
        let logs = logs.expect("nothing ends the opening");
        simulation.set_faults(FaultPlan::default());
        for (log, answered) in logs.iter().zip(&self.answered) {
            let found = io.run(read_from(log, log.log_start(), 100_000));
            let found: Values = found.unwrap().into_iter().collect();
            self.check(life, log, &found, &answered.borrow());
            // Whatever was found is flushed now, and nothing else was ever promised.
            *answered.borrow_mut() = Answered {
                written: found.clone(),
                flushed: found,
            };
        }
        simulation.set_faults(FaultPlan {
            refusals: plan.refusals,
            ..FaultPlan::default()
        });
        simulation.set_disk_bytes(HOST, plan.disk_bytes);
        io.spawn(spare::replenish(io.clone(), shared));
        for (log, answered) in logs.iter().zip(&self.answered) {
            for _ in 0..2 {
                let answered = Rc::clone(answered);
                io.spawn(produce(io.clone(), log.clone(), answered));
            }
            io.spawn(keep_house(io.clone(), log.clone()));
        }
        simulation.crash_after(HOST, plan.operations, kind);
        let run: Result<(), _> = io.run(std::future::pending());
        assert!(run.is_err());
        for (log, answered) in logs.iter().zip(&self.answered) {
            assert!(!log.is_poisoned(), "{}, life {life}", self.context);
            let mut answered = answered.borrow_mut();
            // Deleted, or about to be, when the process died.
            answered.written = answered.written.split_off(&log.log_start().0);
            answered.flushed = answered.flushed.split_off(&log.log_start().0);
            if kind == CrashKind::PowerLost {
                answered.written = answered.flushed.clone();
            }
        }
    }

    fn check(&self, life: u64, log: &Log<SimIo>, found: &Values, answered: &Answered) {
        let context = format!("{}, life {life}", self.context);
        for (offset, value) in &answered.written {
            let there = found.get(offset);
            assert!(there.is_some(), "{context}: offset {offset} is lost");
            assert!(there == Some(value), "{context}: offset {offset} differs");
        }
        assert!(log.log_start() <= log.log_end(), "{context}");
    }
}

fn run(seed: u64) -> u64 {
    let world = World::new(seed);
    for life in 0..LIVES {
        let kind = match (seed / 2 + life) % 2 {
            0 => CrashKind::PowerLost,
            _ => CrashKind::ProcessKilled,
        };
        world.live(life, kind);
    }
    // The last life ends in order, with all the room it wants.
    world.simulation.set_disk_bytes(HOST, u64::MAX);
    world.simulation.set_faults(FaultPlan::default());
    let io = world.simulation.boot(HOST);
    let shared = LogShared::new(Vec::new(), SpareSegments::none());
    io.run(async {
        for (number, answered) in world.answered.iter().enumerate() {
            let log = open_log(&io, &shared, number, world.plan).await;
            let found = read_from(&log, log.log_start(), 100_000).await;
            let found: Values = found.into_iter().collect();
            world.check(LIVES, &log, &found, &answered.borrow());
            for round in 0..4 {
                append(&log, &one(&value(round, 3_000))).await;
                log.flush().await.unwrap();
                log.enforce_retention(io.wall_clock_ms()).await.unwrap();
            }
            // Once what was begun has ended, no file is left or back of what was deleted.
            io.sleep_until(io.now().after_ms(1_000)).await;
            let left = bases(&world.simulation, &format!("/data/topic-{number}"));
            let (start, context) = (log.log_start().0, &world.context);
            let is_there = |base: &i64| *base >= start;
            assert!(left.iter().all(is_there), "{context}: {left:?} of {start}");
            log.close().await.unwrap();
        }
    })
    .unwrap();
    world.simulation.trace_hash()
}

/// 2,000 seeds with `MILLRACE_SEEDS=2000`.
#[test]
fn whatever_happens_at_once_nothing_answered_is_lost() {
    for_each_seed(120, |seed| {
        run(seed);
    });
}

#[test]
fn one_seed_is_one_run() {
    for seed in [5, 77] {
        assert_eq!(run(seed), run(seed));
    }
}
