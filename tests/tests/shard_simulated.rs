//! Real shards in the simulated world: clients produce and fetch over simulated sockets while the host crashes under them.
//!
//! Behind the control link's machine is the control plane's pure state machine, without tokio or Raft. Shards and machine are those
//! of production, every seed is another run, and one seed is always the same run.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with the test")]

#[path = "shard_simulated/broker.rs"]
mod broker;
#[path = "shard_simulated/client.rs"]
mod client;
#[path = "shard_simulated/control.rs"]
mod control;
#[path = "shard_simulated/fetching.rs"]
mod fetching;
#[path = "shard_simulated/floods.rs"]
mod floods;
#[path = "shard_simulated/idle.rs"]
mod idle;
#[path = "shard_simulated/link.rs"]
mod link;
#[path = "shard_simulated/lives.rs"]
mod lives;
#[path = "shard_simulated/metadata.rs"]
mod metadata;
#[path = "shard_simulated/naming_much.rs"]
mod naming_much;
#[path = "shard_simulated/ready.rs"]
mod ready;
#[path = "shard_simulated/shortage.rs"]
mod shortage;
#[path = "shard_simulated/slow_disk.rs"]
mod slow_disk;
#[path = "shard_simulated/stages.rs"]
mod stages;
#[path = "shard_simulated/stopping.rs"]
mod stopping;
#[path = "shard_simulated/together.rs"]
mod together;
#[path = "shard_simulated/twins.rs"]
mod twins;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use dataplane::io::Io;
use millrace_tests::sim::{CrashKind, FaultPlan, SimIo, Simulation};

use broker::{PORT, Process, start_process};
use client::{Client, Produced};
use control::ControlPlane;

const TOPIC: &str = "events";
const PARTITIONS: i32 = 4;
const PRODUCERS: u64 = 3;
const RECORDS_EACH: u64 = 25;

/// What was acknowledged: where, and what is there.
type Acknowledged = Rc<RefCell<Vec<(i32, i64, Vec<u8>)>>>;

struct World {
    simulation: Simulation,
    control: Rc<RefCell<ControlPlane>>,
    shards: usize,
    /// Segments that each shard prepares.
    spares: usize,
}

impl World {
    fn new(seed: u64, shards: usize) -> World {
        let mut control = ControlPlane::new();
        control.create_topic(TOPIC, PARTITIONS);
        World::with(control, seed, shards)
    }

    fn with(control: ControlPlane, seed: u64, shards: usize) -> World {
        let world = World {
            simulation: Simulation::seeded(seed),
            control: Rc::new(RefCell::new(control)),
            shards,
            spares: 0,
        };
        let controllers = world.simulation.boot("controllers");
        let control = Rc::clone(&world.control);
        let io = controllers.clone();
        controllers.spawn(async move {
            loop {
                io.sleep_until(io.now().after_ms(50)).await;
                control.borrow_mut().look_for_dead(io.now());
            }
        });
        world
    }

    fn boot(&self) -> SimIo {
        self.boot_process("broker", PORT).0
    }

    fn boot_process(&self, host: &str, port: u16) -> (SimIo, Process) {
        let io = self.simulation.boot(host);
        let process = start_process(&io, self.shards, port, self.spares, &self.control);
        (io, process)
    }

    /// Runs a client's work to its end.
    fn run<F: Future>(&self, clients: &SimIo, work: F) -> F::Output {
        clients.run(work).unwrap_or_else(|stopped| {
            let events = self.simulation.recent_events();
            let last = events.iter().rev().take(20).rev();
            last.for_each(|event| println!("{event}"));
            panic!("the run ended {stopped:?}")
        })
    }

    fn pass(&self, clients: &SimIo, ms: u64) {
        self.run(clients, clients.sleep_until(clients.now().after_ms(ms)));
    }

    /// How often one task had its turn at one moment, of late: the world's tasks take no time.
    fn turns_at_once(&self) -> usize {
        let mut turns: BTreeMap<(u64, Vec<u64>), usize> = BTreeMap::new();
        for event in self.simulation.recent_events() {
            if event.name == "poll" {
                *turns.entry((event.at_nanos, event.numbers)).or_default() += 1;
            }
        }
        turns.into_values().max().unwrap_or(0)
    }

    /// Starts producers on the clients' host; the counter says how many have finished.
    fn start_producers(&self, clients: &SimIo, acknowledged: &Acknowledged) -> Rc<Cell<u64>> {
        let finished = Rc::new(Cell::new(0));
        for producer in 0..PRODUCERS {
            let (io, acknowledged) = (clients.clone(), Rc::clone(acknowledged));
            let finished = Rc::clone(&finished);
            clients.spawn(async move {
                let mut client = Client::new(io.clone());
                for number in 0..RECORDS_EACH {
                    let partition = (io.random_u64() % PARTITIONS as u64) as i32;
                    let bytes = 1 + io.random_u64() as usize % 3000;
                    let mut value = format!("{producer}:{number}:").into_bytes();
                    value.resize(value.len() + bytes, b'.');
                    let offset = client.produce(TOPIC, partition, &value).await;
                    acknowledged.borrow_mut().push((partition, offset, value));
                    io.sleep_until(io.now().after_ms(io.random_u64() % 20))
                        .await;
                }
                finished.set(finished.get() + 1);
            });
        }
        finished
    }

    /// No partition of a topic that exists was set aside, whatever became of those that were deleted.
    fn check_strays(&self) {
        let topics = self.control.borrow().image().topics.clone();
        for path in self.simulation.paths("broker") {
            let path = path.to_string_lossy();
            let exists = topics.keys().any(|id| path.contains(&id.to_string()));
            assert!(
                !(exists && path.contains("/stray/")),
                "{path} was set aside"
            );
        }
    }

    /// Everything in the topic, read from the start of each partition to its end.
    async fn read_all(&self, clients: &SimIo) -> Vec<Vec<Produced>> {
        let mut client = Client::new(clients.clone());
        let mut partitions = Vec::new();
        for partition in 0..PARTITIONS {
            partitions.push(client.fetch_all(TOPIC, partition).await);
        }
        partitions
    }
}

fn check(acknowledged: &Acknowledged, partitions: &[Vec<Produced>], seed: u64) {
    for records in partitions {
        for (expected, record) in records.iter().enumerate() {
            assert_eq!(record.offset, expected as i64, "a gap, seed {seed}");
        }
    }
    for (partition, offset, value) in acknowledged.borrow().iter() {
        let found = partitions[*partition as usize].get(*offset as usize);
        let found = found.unwrap_or_else(|| panic!("{partition}@{offset} is lost, seed {seed}"));
        assert!(
            &found.value == value,
            "{partition}@{offset} differs, seed {seed}"
        );
    }
}

/// Runs producers to their end through any crashes, then reads everything back. Returns the trace's hash.
fn run(seed: u64, shards: usize, crashes: &[CrashKind]) -> u64 {
    run_in(&World::new(seed, shards), seed, crashes)
}

fn run_in(world: &World, seed: u64, crashes: &[CrashKind]) -> u64 {
    let clients = world.simulation.boot("clients");
    let acknowledged = Acknowledged::default();
    let mut broker = world.boot();
    let finished = world.start_producers(&clients, &acknowledged);
    for (life, &kind) in crashes.iter().enumerate() {
        // A new process serves only once the session of the last one is over.
        let idle = if life == 0 { 0 } else { control::SESSION_MS };
        world.pass(&clients, idle + 20 + clients.random_u64() % 300);
        broker.crash(kind);
        broker = world.boot();
    }
    let partitions = world.run(&clients, async {
        while finished.get() < PRODUCERS {
            clients.sleep_until(clients.now().after_ms(10)).await;
        }
        world.read_all(&clients).await
    });
    check(&acknowledged, &partitions, seed);
    assert_eq!(acknowledged.borrow().len() as u64, PRODUCERS * RECORDS_EACH);
    if crashes.is_empty() {
        let found: usize = partitions.iter().map(Vec::len).sum();
        assert_eq!(found as u64, PRODUCERS * RECORDS_EACH, "seed {seed}");
    }
    world.simulation.trace_hash()
}

#[test]
fn one_shard_serves_what_it_was_given() {
    for seed in 0..12 {
        run(seed, 1, &[]);
    }
}

#[test]
fn two_shards_serve_each_others_clients() {
    for seed in 0..12 {
        run(seed, 2, &[]);
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    for seed in 0..12 {
        run(seed, 2, &[CrashKind::ProcessKilled; 3]);
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails() {
    for seed in 0..12 {
        run(seed, 2, &[CrashKind::PowerLost; 3]);
    }
}

/// One file operation in fifty is refused, those that open a partition's log too: all are served all the same.
#[test]
fn nothing_acknowledged_is_lost_while_the_kernel_refuses() {
    for seed in 0..8 {
        let world = World::new(seed, 2);
        world.simulation.set_faults(FaultPlan {
            refusals: 20_000,
            ..FaultPlan::default()
        });
        run_in(&world, seed, &[CrashKind::ProcessKilled; 3]);
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..4 {
        let crashes = [CrashKind::PowerLost, CrashKind::ProcessKilled];
        assert_eq!(
            run(seed, 2, &crashes),
            run(seed, 2, &crashes),
            "seed {seed}"
        );
    }
}
