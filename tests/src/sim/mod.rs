//! A simulated world: the data plane's [`Io`](dataplane::io::Io) in memory, in one thread, under a virtual clock, from a seed.
//!
//! A test boots a host, runs shards or logs on its [`SimIo`], crashes it, boots it again on the same disk, and looks at what is
//! left. The same seed gives the same run, event for event; [`Simulation::trace_hash`] proves it. The code under test knows nothing
//! of this: it is the code that runs in production.
//!
//! ```text
//!   Simulation ── hosts ── disk       outlives crashes
//!       │            └──── SimIo      one incarnation: tasks, timers, open files, sockets
//!       ├── executor                  ready tasks and due events, in an order drawn from the seed
//!       ├── network                   streams between incarnations
//!       └── faults, trace
//! ```
//! What is honest: nothing completes at once or in order; files know which bytes are written and which are synced; streams arrive in
//! chunks of any size; pools run dry. What is not modelled: CPU time (a task runs in no time) and the page cache's memory.

mod disk;
mod executor;
mod faults;
mod file;
mod io;
mod network;
mod random;
mod trace;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Weak;
use std::task::{Context, Poll, Waker};

use ring::memory::Pool;

use disk::{Disk, Operation, Outcome};
use executor::{Executor, MAIN_TASK, Step};
use faults::Faults;
use network::{End, Network};
use random::Random;
use trace::Trace;

pub use disk::DiskCounters;
pub use faults::{FaultPlan, FileFault};
pub use io::{SimFile, SimHandoff, SimIo, SimListener, SimSocket};
pub use trace::TraceEvent;

/// The shape of a simulated world.
#[derive(Clone, Copy, Debug)]
pub struct SimOptions {
    pub seed: u64,
    /// Memory for each incarnation, as the ring would be given.
    pub buffer_bytes: usize,
    pub buffers: usize,
    pub receive_buffers: usize,
    /// Bytes that each host's disk has.
    pub disk_bytes: u64,
    pub wall_clock_ms: i64,
    pub faults: FaultPlan,
    /// Polls and events after which a run is taken for endless.
    pub steps_max: u64,
}

impl SimOptions {
    pub fn seeded(seed: u64) -> SimOptions {
        SimOptions {
            seed,
            buffer_bytes: 256 * 1024,
            buffers: 64,
            receive_buffers: 64,
            disk_bytes: u64::MAX,
            wall_clock_ms: 1_767_225_600_000,
            faults: FaultPlan::default(),
            steps_max: 50_000_000,
        }
    }
}

/// How an incarnation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// SIGKILL: completed writes stay; each one in flight stays, goes, or is torn at 512-byte sectors.
    ProcessKilled,
    /// Of what was not synced, any block and any name may be lost.
    PowerLost,
}

/// Why a run ended before its future did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The incarnation that the future belonged to is gone.
    Crashed,
    /// Every task waits for something that will never happen.
    Stuck,
    /// `steps_max` was reached.
    Endless,
}

/// One life of one host's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Incarnation {
    host: usize,
    life: u64,
}

/// Owns a simulated world. Dropping it drops every task in it.
pub struct Simulation {
    shared: Rc<Shared>,
}

impl Simulation {
    pub fn new(options: SimOptions) -> Simulation {
        let shared = Shared {
            options,
            world: RefCell::new(World::new(options)),
        };
        Simulation {
            shared: Rc::new(shared),
        }
    }

    pub fn seeded(seed: u64) -> Simulation {
        Simulation::new(SimOptions::seeded(seed))
    }

    /// Starts a new incarnation of a host, crashing the one before if it still runs; the first one of a name gets an empty disk.
    pub fn boot(&self, host: &str) -> SimIo {
        let number = self.host(host);
        self.shared.crash(number, CrashKind::ProcessKilled);
        let mut world = self.shared.world.borrow_mut();
        world.hosts[number].life += 1;
        let life = world.hosts[number].life;
        world.hosts[number].running = true;
        world.record("boot", &[number as u64, life]);
        drop(world);
        SimIo::new(Rc::clone(&self.shared), Incarnation { host: number, life })
    }

    /// Runs the world until a future of the outside, such as a test's clients, has ended.
    pub fn run<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        self.shared.run(None, future)
    }

    pub fn crash(&self, host: &str, kind: CrashKind) {
        let number = self.host(host);
        self.shared.crash(number, kind);
    }

    /// Crashes a host as soon as it has finished `operations` more file operations.
    pub fn crash_after(&self, host: &str, operations: u64, kind: CrashKind) {
        let number = self.host(host);
        self.shared.world.borrow_mut().hosts[number].crash_after = Some((operations, kind));
    }

    pub fn set_faults(&self, plan: FaultPlan) {
        self.shared.world.borrow_mut().faults.plan = plan;
    }

    /// Makes one file operation fail: the first one that suits and whose path ends so, after `skip` that go well.
    pub fn fail_once(&self, fault: FileFault, path_end: impl Into<PathBuf>, skip: u64) {
        let mut world = self.shared.world.borrow_mut();
        world.faults.aim(fault, path_end.into(), skip);
    }

    pub fn set_disk_bytes(&self, host: &str, bytes: u64) {
        self.with_disk(host, |disk| disk.set_capacity(bytes));
    }

    pub fn move_wall_clock(&self, ms: i64) {
        self.shared.world.borrow_mut().wall_clock_ms += ms;
    }

    /// A file's bytes, looked at from outside.
    pub fn file_bytes(&self, host: &str, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.with_disk(host, |disk| disk.peek(path.as_ref()))
    }

    /// Puts a durable file on a host's disk, over any that has its name. Meant for a host that is not running.
    pub fn plant_file(&self, host: &str, path: impl AsRef<Path>, bytes: &[u8]) {
        let planted = self.with_disk(host, |disk| disk.plant(path.as_ref(), bytes));
        planted.expect("a test plants files where there is room for them");
    }

    /// Paths of all files of a host, sorted.
    pub fn paths(&self, host: &str) -> Vec<PathBuf> {
        self.with_disk(host, |disk| disk.paths())
    }

    pub fn disk_counters(&self, host: &str) -> DiskCounters {
        self.with_disk(host, |disk| disk.counters)
    }

    pub fn connections(&self) -> usize {
        self.shared.world.borrow().network.connections()
    }

    pub fn tasks(&self) -> usize {
        self.shared.world.borrow().executor.tasks()
    }

    pub fn now_nanos(&self) -> u64 {
        self.shared.world.borrow().executor.now()
    }

    pub fn trace_hash(&self) -> u64 {
        self.shared.world.borrow().trace.hash()
    }

    pub fn events(&self) -> u64 {
        self.shared.world.borrow().trace.events()
    }

    /// The last events, to print when a test fails.
    pub fn recent_events(&self) -> Vec<TraceEvent> {
        self.shared.world.borrow().trace.recent()
    }

    fn host(&self, name: &str) -> usize {
        self.shared.world.borrow_mut().host(name)
    }

    fn with_disk<R>(&self, host: &str, work: impl FnOnce(&mut Disk) -> R) -> R {
        let mut world = self.shared.world.borrow_mut();
        let number = world.host(host);
        work(&mut world.hosts[number].disk)
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        // Tasks hold the world and the world holds the tasks, so someone has to let go first.
        let tasks = self.shared.world.borrow_mut().executor.remove_all(None);
        drop(tasks);
    }
}

/// What every handle of a world shares.
struct Shared {
    options: SimOptions,
    world: RefCell<World>,
}

/// All state. It is never borrowed while a task runs or a waker is woken.
struct World {
    random: Random,
    executor: Executor,
    network: Network,
    faults: Faults,
    trace: Trace,
    hosts: Vec<Host>,
    disk_bytes: u64,
    wall_clock_ms: i64,
    /// Tasks that wait for a buffer of a pool.
    memory_waiters: Vec<(Pool, Waker)>,
    /// Sockets between two shards.
    handed_off: Vec<(End, Weak<()>)>,
}

struct Host {
    name: String,
    life: u64,
    running: bool,
    disk: Disk,
    crash_after: Option<(u64, CrashKind)>,
}

/// What happens at a moment rather than in a task.
enum Event {
    Wake(Waker),
    FinishOperation {
        incarnation: Incarnation,
        id: u64,
        fault: Option<FileFault>,
        done: Rc<Completion>,
    },
    Deliver(End),
}

/// Where a file operation leaves its result for the task that waits.
#[derive(Default)]
struct Completion {
    state: RefCell<(Option<std::io::Result<Outcome>>, Option<Waker>)>,
}

impl Completion {
    fn poll(&self, context: &Context<'_>) -> Poll<std::io::Result<Outcome>> {
        let mut state = self.state.borrow_mut();
        match state.0.take() {
            Some(result) => Poll::Ready(result),
            None => {
                state.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn complete(&self, result: std::io::Result<Outcome>) {
        let waker = {
            let mut state = self.state.borrow_mut();
            state.0 = Some(result);
            state.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Shared {
    fn run<F: Future>(&self, owner: Option<Incarnation>, future: F) -> Result<F::Output, Stopped> {
        let mut main = pin!(future);
        self.world.borrow_mut().executor.start_main();
        for _ in 0..self.options.steps_max {
            if owner.is_some_and(|owner| !self.is_running(owner)) {
                return Err(Stopped::Crashed);
            }
            let step = self.world.borrow_mut().next_step();
            match step {
                Step::PollMain(waker) => {
                    if let Poll::Ready(output) =
                        main.as_mut().poll(&mut Context::from_waker(&waker))
                    {
                        return Ok(output);
                    }
                }
                Step::Poll(number, mut future, waker) => {
                    let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
                    let mut world = self.world.borrow_mut();
                    let dropped = match poll {
                        Poll::Ready(()) => {
                            world.executor.ended(number);
                            Some(future)
                        }
                        Poll::Pending => world.executor.put_back(number, future),
                    };
                    drop(world);
                    drop(dropped);
                }
                Step::Event(event) => self.fire(event),
                Step::Stuck => return Err(Stopped::Stuck),
            }
            self.wake_waiting();
        }
        Err(Stopped::Endless)
    }

    fn fire(&self, event: Event) {
        match event {
            Event::Wake(waker) => waker.wake(),
            Event::Deliver(end) => self.world.borrow_mut().deliver(end),
            Event::FinishOperation {
                incarnation,
                id,
                fault,
                done,
            } => {
                let (result, crash) = self.world.borrow_mut().finish(incarnation, id, fault);
                done.complete(result);
                if let Some(kind) = crash {
                    self.crash(incarnation.host, kind);
                }
            }
        }
    }

    /// Wakes whoever waited for the network or for memory.
    fn wake_waiting(&self) {
        let woken = self.world.borrow_mut().take_woken();
        woken.into_iter().for_each(Waker::wake);
    }

    fn crash(&self, host: usize, kind: CrashKind) {
        let tasks = self.world.borrow_mut().crash(host, kind);
        drop(tasks);
        self.wake_waiting();
    }

    fn is_running(&self, incarnation: Incarnation) -> bool {
        let world = self.world.borrow();
        let host = &world.hosts[incarnation.host];
        host.running && host.life == incarnation.life
    }

    /// Begins a file operation.
    fn begin(&self, incarnation: Incarnation, operation: Operation) -> Rc<Completion> {
        let done = Rc::new(Completion::default());
        if self.is_running(incarnation) {
            let mut world = self.world.borrow_mut();
            world.begin(incarnation, operation, Rc::clone(&done));
        }
        done
    }
}

impl World {
    fn new(options: SimOptions) -> World {
        World {
            random: Random::new(options.seed),
            executor: Executor::new(),
            network: Network::default(),
            faults: Faults::new(options.faults),
            trace: Trace::new(),
            hosts: Vec::new(),
            disk_bytes: options.disk_bytes,
            wall_clock_ms: options.wall_clock_ms,
            memory_waiters: Vec::new(),
            handed_off: Vec::new(),
        }
    }

    fn host(&mut self, name: &str) -> usize {
        let known = self.hosts.iter().position(|host| host.name == name);
        known.unwrap_or_else(|| {
            self.hosts.push(Host {
                name: name.to_owned(),
                life: 0,
                running: false,
                disk: Disk::new(self.disk_bytes),
                crash_after: None,
            });
            self.hosts.len() - 1
        })
    }

    fn record(&mut self, name: &'static str, numbers: &[u64]) {
        self.trace.record(self.executor.now(), name, numbers);
    }

    fn next_step(&mut self) -> Step {
        let step = self.executor.next(&mut self.random);
        match &step {
            Step::PollMain(_) => self.record("poll", &[MAIN_TASK]),
            Step::Poll(task, ..) => {
                let task = *task;
                self.record("poll", &[task]);
            }
            Step::Event(Event::Wake(_)) => self.record("timer", &[]),
            // These say more of themselves.
            Step::Event(Event::FinishOperation { .. } | Event::Deliver(_)) => {}
            Step::Stuck => self.record("stuck", &[]),
        }
        step
    }

    fn begin(&mut self, incarnation: Incarnation, operation: Operation, done: Rc<Completion>) {
        let (name, [first, second]) = operation.summary();
        let path = trace::hash_bytes(operation.path().as_bytes());
        let usual = operation.usual_nanos();
        let fault = self
            .faults
            .draw(&operation, &operation.path(), &mut self.random);
        let disk = &mut self.hosts[incarnation.host].disk;
        let id = disk.begin(operation);
        self.record(name, &[incarnation.host as u64, id, path, first, second]);
        let at = self.executor.now() + self.random.latency(usual);
        let event = Event::FinishOperation {
            incarnation,
            id,
            fault,
            done,
        };
        self.executor
            .schedule(at, Some(incarnation), event, &mut self.random);
    }

    fn finish(
        &mut self,
        incarnation: Incarnation,
        id: u64,
        fault: Option<FileFault>,
    ) -> (std::io::Result<Outcome>, Option<CrashKind>) {
        let host = &mut self.hosts[incarnation.host];
        let result = host.disk.finish(id, fault, &mut self.random);
        let mut crash = None;
        host.crash_after = match host.crash_after.take() {
            Some((0 | 1, kind)) => {
                crash = Some(kind);
                None
            }
            Some((left, kind)) => Some((left - 1, kind)),
            None => None,
        };
        let numbers = match &result {
            Ok(Outcome::Bytes(bytes)) => [0, trace::hash_bytes(bytes)],
            Ok(Outcome::Length(bytes)) => [0, *bytes],
            Ok(Outcome::Names(names)) => [0, names.len() as u64],
            Ok(Outcome::Done | Outcome::File(_)) => [0, 0],
            Err(error) => [1, error.kind() as u64],
        };
        self.record(
            "finish",
            &[incarnation.host as u64, id, numbers[0], numbers[1]],
        );
        (result, crash)
    }

    fn deliver(&mut self, end: End) {
        if self.random.happens(self.faults.plan.dropped_connections) {
            self.record("drop", &[end.connection]);
            self.network.reset(end.connection);
            return;
        }
        let (bytes, more) = self.network.deliver(end, &mut self.random);
        self.record("deliver", &[end.connection, end.side as u64, bytes as u64]);
        if more {
            self.schedule_delivery(end);
        }
    }

    fn schedule_delivery(&mut self, end: End) {
        let at = self.executor.now() + self.random.latency(20_000);
        // A delivery belongs to the network: it happens although the sender may be gone.
        self.executor
            .schedule(at, None, Event::Deliver(end), &mut self.random);
    }

    fn take_woken(&mut self) -> Vec<Waker> {
        let lost = |(_, held): &mut (End, Weak<()>)| held.strong_count() == 0;
        for (end, _) in self.handed_off.extract_if(.., lost) {
            self.network.close(end);
        }
        for end in std::mem::take(&mut self.network.deliveries) {
            self.schedule_delivery(end);
        }
        let mut woken = std::mem::take(&mut self.network.woken);
        if !self.memory_waiters.is_empty() {
            let waiters = std::mem::take(&mut self.memory_waiters);
            let (free, dry) = waiters
                .into_iter()
                .partition(|(pool, _)| pool.available() > 0);
            self.memory_waiters = dry;
            let free: Vec<(Pool, Waker)> = free;
            woken.extend(free.into_iter().map(|(_, waker)| waker));
        }
        woken
    }

    /// Ends the incarnation of a host that runs, if any, and returns its tasks to be dropped.
    fn crash(&mut self, host: usize, kind: CrashKind) -> Vec<executor::TaskFuture> {
        if !std::mem::replace(&mut self.hosts[host].running, false) {
            return Vec::new();
        }
        let life = self.hosts[host].life;
        let incarnation = Incarnation { host, life };
        self.record("crash", &[host as u64, life, kind as u64]);
        self.hosts[host].crash_after = None;
        let disk = &mut self.hosts[host].disk;
        match kind {
            CrashKind::ProcessKilled => disk.kill_process(&mut self.random),
            CrashKind::PowerLost => disk.lose_power(&mut self.random),
        }
        self.network.crash(incarnation, &mut self.random);
        self.executor.remove_all(Some(incarnation))
    }
}
