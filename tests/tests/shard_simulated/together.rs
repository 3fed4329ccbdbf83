//! Everything that a broker does with its files at once, until the process dies or the power fails: topics come and go, records old and
//! new are written, segments are sealed, deleted and taken from the prepared ones, checkpoints are stored. What was acknowledged and is
//! not due is there, once, at its offset.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use dataplane::io::Io;
use dataplane::strays::topic_directory;
use millrace_tests::sim::{CrashKind, FaultPlan, SimIo};
use millrace_tests::sweep::for_each_seed;
use wire::{BatchBuilder, ErrorCode};

use super::World;
use super::broker::{DATA, PORT, Process};
use super::client::{Client, TIMEOUT_MS};
use super::control::SESSION_MS;

const BROKER: &str = "broker";
const WRITERS: u64 = 3;
const PARTITIONS_EACH: i32 = 2;
const LIVES: u64 = 3;
const VALUE_BYTES_MAX: usize = 30_000;
/// Shards look for what is due this often, and store all checkpoints this often.
const RETENTION_EVERY_MS: u64 = 10_000;
const CHECKPOINT_EVERY_MS: u64 = 60_000;

const HOUR_MS: i64 = 3_600_000;
const RETENTION_BYTES: usize = 100_000;

/// What may be deleted of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Nothing,
    Older,
    TooMuch,
}

impl Policy {
    /// A segment ends where the time of the next record is more than a second later.
    fn configs(self) -> [(&'static str, &'static str); 3] {
        let (retention_ms, retention_bytes) = match self {
            Policy::Nothing => ("-1", "-1"),
            Policy::Older => ("3600000", "-1"),
            Policy::TooMuch => ("-1", "100000"),
        };
        [
            ("segment.ms", "1000"),
            ("retention.ms", retention_ms),
            ("retention.bytes", retention_bytes),
        ]
    }
}

struct Acknowledged {
    value: Vec<u8>,
    is_old: bool,
}

struct Topic {
    policy: Policy,
    /// By partition and offset.
    records: BTreeMap<(i32, i64), Acknowledged>,
}

/// What clients know and are told. A topic goes from it before it is asked to be deleted.
#[derive(Default)]
struct Shared {
    kept: RefCell<BTreeMap<String, Topic>>,
    /// Whether to write as fast as it goes.
    busy: Cell<bool>,
    stop: Cell<bool>,
    writers_done: Cell<u64>,
    /// Whether the world refuses operations, which a client may hear of as an error of the storage.
    refuses: bool,
}

/// A topic as its writer goes on with it. Records of an old stretch come as a backfill brings them.
struct Stretch {
    topic: String,
    policy: Policy,
    is_old: bool,
    drift_ms: i64,
    written: u64,
}

impl Stretch {
    fn next_time(&mut self, io: &SimIo) -> i64 {
        self.drift_ms =
            (self.drift_ms + i64::from(io.random_u64().is_multiple_of(3)) * 1500).min(HOUR_MS / 2);
        let now = io.wall_clock_ms();
        let base = if self.is_old { now - 2 * HOUR_MS } else { now };
        base + self.drift_ms
    }

    fn next_value(&mut self, io: &SimIo) -> Vec<u8> {
        self.written += 1;
        let mut value = format!("{}:{}:", self.topic, self.written).into_bytes();
        let scale = [200, 2_000, VALUE_BYTES_MAX - value.len()][(io.random_u64() % 3) as usize];
        value.resize(value.len() + io.random_u64() as usize % scale, b'.');
        value
    }
}

fn batch_of(value: &[u8], time: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(time);
    builder.record(time, None, Some(value), &[]);
    builder.build()
}

struct Writer {
    io: SimIo,
    client: Client,
    number: u64,
    created: u64,
    own: Vec<Stretch>,
    shared: Rc<Shared>,
}

impl Writer {
    async fn run(mut self) {
        while !self.shared.stop.get() {
            match self.draw(16) {
                0 => self.create().await,
                1 if self.own.len() > 2 => self.delete().await,
                _ if self.own.is_empty() => self.create().await,
                _ => self.append().await,
            }
            let pause_ms = if self.shared.busy.get() { 6 } else { 1_500 };
            let pause_ms = self.draw(pause_ms);
            self.io.sleep_until(self.io.now().after_ms(pause_ms)).await;
        }
        let done = &self.shared.writers_done;
        done.set(done.get() + 1);
    }

    fn draw(&self, below: u64) -> u64 {
        self.io.random_u64() % below
    }

    async fn create(&mut self) {
        self.created += 1;
        let topic = format!("topic-{}-{}", self.number, self.created);
        let policies = [Policy::Nothing, Policy::Older, Policy::TooMuch];
        let policy = policies[self.draw(3) as usize];
        self.client
            .create_topic_with(&topic, PARTITIONS_EACH, &policy.configs())
            .await;
        let kept = Topic {
            policy,
            records: BTreeMap::new(),
        };
        self.shared.kept.borrow_mut().insert(topic.clone(), kept);
        self.own.push(Stretch {
            topic,
            policy,
            is_old: policy == Policy::Older,
            drift_ms: 0,
            written: 0,
        });
        self.append().await;
    }

    async fn delete(&mut self) {
        let gone = self.draw(self.own.len() as u64) as usize;
        let gone = self.own.swap_remove(gone);
        self.shared.kept.borrow_mut().remove(&gone.topic);
        self.client.delete_topic(&gone.topic).await;
    }

    /// Writes a few records to one of the topics, mostly the last one.
    async fn append(&mut self) {
        let last = self.own.len() as u64 - 1;
        let chosen = [last, self.draw(last + 1)][self.draw(2) as usize] as usize;
        if self.own[chosen].policy == Policy::Older && self.draw(6) == 0 {
            self.own[chosen].is_old ^= true;
        }
        for _ in 0..1 + self.draw(6) {
            let partition = self.draw(PARTITIONS_EACH as u64) as i32;
            let stretch = &mut self.own[chosen];
            let value = stretch.next_value(&self.io);
            let batch = batch_of(&value, stretch.next_time(&self.io));
            let (topic, is_old) = (stretch.topic.clone(), stretch.is_old);
            let offset = self.produce(&topic, partition, &batch).await;
            let mut kept = self.shared.kept.borrow_mut();
            let known = kept.get_mut(&topic).unwrap();
            let acknowledged = Acknowledged { value, is_old };
            let before = known.records.insert((partition, offset), acknowledged);
            assert!(
                before.is_none(),
                "{topic}-{partition}@{offset} was acknowledged twice"
            );
        }
    }

    async fn produce(&mut self, topic: &str, partition: i32, batch: &[u8]) -> i64 {
        loop {
            let answer = self
                .client
                .try_produce_batch(topic, partition, batch, TIMEOUT_MS);
            match answer.await {
                Some((ErrorCode::None, offset)) => return offset,
                Some((ErrorCode::KafkaStorageError, _)) if !self.shared.refuses => {
                    panic!("{topic}-{partition} was poisoned")
                }
                _ => self.io.sleep_until(self.io.now().after_ms(5)).await,
            }
        }
    }
}

/// Reads here and there, so that some of what is deleted is being read.
async fn read(io: SimIo, shared: Rc<Shared>) {
    let mut client = Client::new(io.clone());
    while !shared.stop.get() {
        let pause_ms = if shared.busy.get() { 5 } else { 1_000 };
        io.sleep_until(io.now().after_ms(io.random_u64() % pause_ms))
            .await;
        let chosen = {
            let kept = shared.kept.borrow();
            let all = kept.iter().flat_map(|(topic, known)| {
                let offsets = known.records.keys();
                offsets.map(move |place| (topic, *place))
            });
            let count = all.clone().count().max(1) as u64;
            let mut from = all.skip((io.random_u64() % count) as usize);
            from.next().map(|(topic, place)| (topic.clone(), place))
        };
        let Some((topic, (partition, offset))) = chosen else {
            continue;
        };
        let Some((found, _)) = client.try_fetch(&topic, partition, offset).await else {
            continue;
        };
        let kept = shared.kept.borrow();
        let Some(known) = kept.get(&topic) else {
            continue;
        };
        for record in found {
            let acknowledged = known.records.get(&(partition, record.offset));
            let same = acknowledged.is_none_or(|acknowledged| acknowledged.value == record.value);
            assert!(same, "{topic}-{partition}@{} differs", record.offset);
        }
    }
}

/// Checks one partition; returns where its log starts.
async fn check(client: &mut Client, name: &str, topic: &Topic, partition: i32) -> i64 {
    let (start, found) = client.fetch_kept(name, partition).await;
    for (expected, record) in (start..).zip(&found) {
        assert_eq!(record.offset, expected, "a gap in {name}-{partition}");
    }
    let own = topic.records.iter().filter(|((of, _), _)| *of == partition);
    for ((_, offset), acknowledged) in own {
        if *offset < start {
            let is_due = match topic.policy {
                Policy::Nothing => false,
                Policy::Older => acknowledged.is_old,
                Policy::TooMuch => true,
            };
            assert!(is_due, "{name}-{partition}@{offset} was not due");
            continue;
        }
        let record = found.get((offset - start) as usize);
        let record = record.unwrap_or_else(|| panic!("{name}-{partition}@{offset} is lost"));
        assert!(
            record.value == acknowledged.value,
            "{name}-{partition}@{offset} differs"
        );
    }
    if topic.policy == Policy::TooMuch && start > 0 {
        let kept = found.iter().map(|record| batch_of(&record.value, 0).len());
        let kept: usize = kept.sum();
        // One that was on its way when the power failed may have counted.
        let least = RETENTION_BYTES - 2 * VALUE_BYTES_MAX;
        assert!(kept > least, "{name}-{partition} keeps {kept} bytes only");
    }
    start
}

/// Checks all partitions; returns where their logs start.
fn check_all(world: &World, clients: &SimIo, shared: &Shared) -> BTreeMap<(String, i32), i64> {
    let kept = shared.kept.borrow();
    let mut client = Client::new(clients.clone());
    let mut starts = BTreeMap::new();
    for (name, topic) in kept.iter() {
        for partition in 0..PARTITIONS_EACH {
            let checked = check(&mut client, name, topic, partition);
            let start = world.run(clients, checked);
            assert_deleted(world, name, partition, start);
            starts.insert((name.clone(), partition), start);
        }
    }
    starts
}

/// What a run came to.
#[derive(Default)]
struct Seen {
    topics: usize,
    /// Partitions of which something was deleted.
    started_later: usize,
    /// Whether prepared files were used.
    used_spares: bool,
}

/// The gauge of a life, which shards set every second. No disk fails here for good, so no partition does.
fn assert_none_is_poisoned(process: &Process) {
    for running in process.shards.borrow().iter() {
        let poisoned = &running.shard.metrics.families.poisoned_partitions;
        let label = running.shard.id.0.to_string();
        assert_eq!(poisoned.with_label_values(&[&label]).get(), 0, "poisoned");
    }
}

/// No file of a partition is there any more that lies below its log start, as its shards know it.
fn assert_deleted(world: &World, name: &str, partition: i32, start: i64) {
    let control = world.control.borrow();
    let mut topics = control.image().topics.iter();
    let (id, _) = topics.find(|(_, topic)| topic.name == name).unwrap();
    let directory = topic_directory(Path::new(DATA), name, *id).join(partition.to_string());
    for path in world.simulation.paths(BROKER) {
        let segment = path.parent() == Some(&directory) && path.extension() == Some("log".as_ref());
        let base = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        let below = segment && base.is_some_and(|base: i64| base < start);
        assert!(!below, "{} is back, below {start}", path.display());
    }
}

/// Clients write as fast as it goes, for a while.
fn be_busy(world: &World, clients: &SimIo, shared: &Shared, busy_ms: u64) {
    shared.busy.set(true);
    world.pass(clients, 100 + clients.random_u64() % busy_ms);
    shared.busy.set(false);
}

/// One life of the broker up to its end, mostly while shards delete what is due.
fn live(world: &World, clients: &SimIo, shared: &Shared) {
    let (broker, process) = world.boot_process(BROKER, PORT);
    let kinds = [CrashKind::ProcessKilled, CrashKind::PowerLost];
    let kind = kinds[(clients.random_u64() % 2) as usize];
    let short_ms = SESSION_MS / 2 + clients.random_u64() % (2 * SESSION_MS);
    // Shards take a while for what is due, so that they come to it later each time.
    let (due_ms, busy_ms) = match clients.random_u64() % 8 {
        // The next life hardly comes to serve; the image on disk is up to half a second old each time.
        0..=2 => (short_ms, 0),
        3..=6 => (RETENTION_EVERY_MS, 1_000),
        _ => (CHECKPOINT_EVERY_MS, 2_500),
    };
    world.pass(clients, due_ms - 100);
    if busy_ms > 0 {
        if clients.random_u64().is_multiple_of(2) {
            let operations = 1 + clients.random_u64() % 1500;
            world.simulation.crash_after(BROKER, operations, kind);
        }
        be_busy(world, clients, shared, busy_ms);
    }
    assert_none_is_poisoned(&process);
    broker.crash(kind);
}

fn run(seed: u64) -> (Seen, u64) {
    let mut world = World::new(seed, 1 + (seed % 2) as usize);
    world.spares = [1, 3, 0][(seed / 2 % 3) as usize];
    let refusals = [0, 0, 1_000][(seed / 6 % 3) as usize];
    world.simulation.set_faults(FaultPlan {
        refusals,
        ..FaultPlan::default()
    });
    let clients = world.simulation.boot("clients");
    let shared = Rc::new(Shared {
        refuses: refusals > 0,
        ..Shared::default()
    });
    for number in 0..WRITERS {
        let writer = Writer {
            io: clients.clone(),
            client: Client::new(clients.clone()),
            number,
            created: 0,
            own: Vec::new(),
            shared: shared.clone(),
        };
        clients.spawn(writer.run());
    }
    clients.spawn(read(clients.clone(), shared.clone()));
    for _ in 0..LIVES {
        live(&world, &clients, &shared);
    }
    // The last life goes on until all that is due is gone, and then another one finds the same.
    let (broker, process) = world.boot_process(BROKER, PORT);
    world.pass(&clients, RETENTION_EVERY_MS - 100);
    be_busy(&world, &clients, &shared, 1_000);
    shared.stop.set(true);
    world.run(&clients, async {
        while shared.writers_done.get() < WRITERS {
            clients.sleep_until(clients.now().after_ms(10)).await;
        }
    });
    world.simulation.set_faults(FaultPlan::default());
    world.pass(&clients, 2 * RETENTION_EVERY_MS);
    assert_none_is_poisoned(&process);
    let starts = check_all(&world, &clients, &shared);
    broker.crash(CrashKind::PowerLost);
    let _broker = world.boot();
    assert_eq!(check_all(&world, &clients, &shared), starts);
    world.check_strays();
    let seen_later = starts.iter().filter(|(_, start)| **start > 0);
    let mut seen = Seen {
        topics: starts.len() / PARTITIONS_EACH as usize,
        started_later: seen_later.count(),
        used_spares: false,
    };
    let used = |path: &std::path::PathBuf| {
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        path.starts_with("/data/spare")
            && number.is_some_and(|number: usize| number >= world.spares)
    };
    seen.used_spares = world.simulation.paths(BROKER).iter().any(used);
    (seen, world.simulation.trace_hash())
}

/// 2,000 seeds with `MILLRACE_SEEDS=2000`.
#[test]
fn whatever_happens_at_once_nothing_acknowledged_is_lost() {
    let all = RefCell::new(Vec::new());
    for_each_seed(12, |seed| all.borrow_mut().push(run(seed).0));
    let all = all.into_inner();
    assert!(all.iter().all(|seen| seen.topics > 0));
    if all.len() >= 12 {
        assert!(all.iter().any(|seen| seen.started_later > 0));
        assert!(all.iter().any(|seen| seen.used_spares));
    }
}

#[test]
fn one_seed_is_one_run() {
    assert_eq!(run(1).1, run(1).1);
}
