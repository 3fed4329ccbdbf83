//! The state behind a simulation and the loop that moves it: one step is one poll of a task or one event.
//!
//! Only the public face in `mod.rs`, the `Io` in `io.rs` and this loop reach in here. The world is never borrowed while a task runs,
//! a waker is woken or a future is dropped, because all three may come back for it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Weak;
use std::task::{Context, Poll, Waker};

use ring::memory::Pool;

use super::disk::Disk;
use super::executor::{Executor, MAIN_TASK, Step, TaskFuture};
use super::faults::{Faults, FileFault};
use super::network::{End, Network};
use super::operation::{Operation, Outcome};
use super::random::Random;
use super::trace::{self, Trace};
use super::{CrashKind, SimOptions, Stopped};

/// One life of one host's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Incarnation {
    pub(super) host: usize,
    pub(super) life: u64,
}

/// What every handle of a world shares.
pub(super) struct Shared {
    pub(super) options: SimOptions,
    pub(super) world: RefCell<World>,
}

/// All state. It is never borrowed while a task runs or a waker is woken.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) executor: Executor,
    pub(super) network: Network,
    pub(super) faults: Faults,
    pub(super) trace: Trace,
    pub(super) hosts: Vec<Host>,
    pub(super) disk_bytes: u64,
    allocates: bool,
    pub(super) wall_clock_ms: i64,
    /// Tasks that wait for a buffer of a pool.
    pub(super) memory_waiters: Vec<(Pool, Waker)>,
    /// Sockets between two shards.
    pub(super) handed_off: Vec<(End, Weak<()>)>,
}

pub(super) struct Host {
    pub(super) name: String,
    pub(super) life: u64,
    pub(super) running: bool,
    pub(super) disk: Disk,
    pub(super) crash_after: Option<(u64, CrashKind)>,
    /// How many times as long as usual its disk takes.
    pub(super) disk_slowness: u64,
}

/// What happens at a moment rather than in a task.
pub(super) enum Event {
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
pub(super) struct Completion {
    state: RefCell<(Option<std::io::Result<Outcome>>, Option<Waker>)>,
}

impl Completion {
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<std::io::Result<Outcome>> {
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
    pub(super) fn run<F: Future>(
        &self,
        owner: Option<Incarnation>,
        future: F,
    ) -> Result<F::Output, Stopped> {
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

    pub(super) fn crash(&self, host: usize, kind: CrashKind) {
        let tasks = self.world.borrow_mut().crash(host, kind);
        drop(tasks);
        self.wake_waiting();
    }

    pub(super) fn is_running(&self, incarnation: Incarnation) -> bool {
        let world = self.world.borrow();
        let host = &world.hosts[incarnation.host];
        host.running && host.life == incarnation.life
    }

    /// Begins a file operation.
    pub(super) fn begin(&self, incarnation: Incarnation, operation: Operation) -> Rc<Completion> {
        let done = Rc::new(Completion::default());
        if self.is_running(incarnation) {
            let mut world = self.world.borrow_mut();
            world.begin(incarnation, operation, Rc::clone(&done));
        }
        done
    }
}

impl World {
    pub(super) fn new(options: SimOptions) -> World {
        World {
            random: Random::new(options.seed),
            executor: Executor::new(),
            network: Network::default(),
            faults: Faults::new(options.faults),
            trace: Trace::new(),
            hosts: Vec::new(),
            disk_bytes: options.disk_bytes,
            allocates: options.allocates,
            wall_clock_ms: options.wall_clock_ms,
            memory_waiters: Vec::new(),
            handed_off: Vec::new(),
        }
    }

    pub(super) fn host(&mut self, name: &str) -> usize {
        let known = self.hosts.iter().position(|host| host.name == name);
        known.unwrap_or_else(|| {
            self.hosts.push(Host {
                name: name.to_owned(),
                life: 0,
                running: false,
                disk: Disk::new(self.disk_bytes, self.allocates),
                crash_after: None,
                disk_slowness: 1,
            });
            self.hosts.len() - 1
        })
    }

    pub(super) fn record(&mut self, name: &'static str, numbers: &[u64]) {
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

    pub(super) fn begin(
        &mut self,
        incarnation: Incarnation,
        operation: Operation,
        done: Rc<Completion>,
    ) {
        let (name, [first, second]) = operation.summary();
        let path = trace::hash_bytes(operation.path().as_bytes());
        let usual = operation.usual_nanos();
        let fault = self
            .faults
            .draw(&operation, &operation.path(), &mut self.random);
        let host = &mut self.hosts[incarnation.host];
        let usual = usual * host.disk_slowness;
        let id = host.disk.begin(operation);
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

    pub(super) fn wall_clock_ms(&self) -> i64 {
        self.wall_clock_ms + (self.executor.now() / 1_000_000) as i64
    }

    fn finish(
        &mut self,
        incarnation: Incarnation,
        id: u64,
        fault: Option<FileFault>,
    ) -> (std::io::Result<Outcome>, Option<CrashKind>) {
        let now_ms = self.wall_clock_ms();
        let host = &mut self.hosts[incarnation.host];
        host.disk.set_clock(now_ms);
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
            Ok(Outcome::Time(ms)) => [0, *ms as u64],
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
    pub(super) fn crash(&mut self, host: usize, kind: CrashKind) -> Vec<TaskFuture> {
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
