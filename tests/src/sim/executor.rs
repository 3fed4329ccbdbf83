//! The tasks and the clock of a simulation.
//!
//! Any ready task may be the next to run; the seed decides which. Time moves only when no task is ready, to the next event that is
//! due; events due at the same moment come in an order that the seed decides too.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use super::random::Random;
use super::world::{Event, Incarnation};

pub(super) type TaskNumber = u64;
pub(super) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// The future that `run` was called with; it is not kept here.
pub(super) const MAIN_TASK: TaskNumber = 0;

/// Due time, chance, number.
pub(super) type EventKey = (u64, u64, u64);

pub(super) struct Executor {
    tasks: BTreeMap<TaskNumber, Task>,
    next_task: TaskNumber,
    main: Arc<TaskWaker>,
    ready: Vec<TaskNumber>,
    /// Processes that are stopped, and their tasks that were to run.
    stopped: Vec<(Incarnation, Vec<TaskNumber>)>,
    woken: Woken,
    events: BTreeMap<EventKey, (Option<Incarnation>, Event)>,
    next_event: u64,
    now: u64,
}

type Woken = Arc<Mutex<Vec<TaskNumber>>>;

struct Task {
    owner: Incarnation,
    /// Absent while it is being polled.
    future: Option<TaskFuture>,
    waker: Arc<TaskWaker>,
}

struct TaskWaker {
    task: TaskNumber,
    queued: AtomicBool,
    woken: Woken,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
            woken.push(self.task);
        }
    }
}

/// What happens next.
pub(super) enum Step {
    PollMain(Waker),
    Poll(TaskNumber, TaskFuture, Waker),
    Event(Event),
    /// Nothing is ready and nothing will ever be.
    Stuck,
}

impl Executor {
    pub(super) fn new() -> Executor {
        let woken = Woken::default();
        Executor {
            tasks: BTreeMap::new(),
            next_task: MAIN_TASK + 1,
            main: new_waker(MAIN_TASK, &woken),
            ready: Vec::new(),
            stopped: Vec::new(),
            woken,
            events: BTreeMap::new(),
            next_event: 0,
            now: 0,
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn spawn(&mut self, owner: Incarnation, future: TaskFuture) -> TaskNumber {
        let number = self.next_task;
        self.next_task += 1;
        let waker = new_waker(number, &self.woken);
        Arc::clone(&waker).wake();
        let future = Some(future);
        let task = Task {
            owner,
            future,
            waker,
        };
        self.tasks.insert(number, task);
        number
    }

    /// The main future is new and wants its first poll.
    pub(super) fn start_main(&mut self) {
        self.main = new_waker(MAIN_TASK, &self.woken);
        Arc::clone(&self.main).wake();
    }

    pub(super) fn schedule(
        &mut self,
        at: u64,
        owner: Option<Incarnation>,
        event: Event,
        random: &mut Random,
    ) -> EventKey {
        let key = (at.max(self.now), random.next(), self.next_event);
        self.next_event += 1;
        self.events.insert(key, (owner, event));
        key
    }

    pub(super) fn unschedule(&mut self, key: &EventKey) {
        self.events.remove(key);
    }

    pub(super) fn next(&mut self, random: &mut Random) -> Step {
        loop {
            let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
            self.ready.append(&mut woken);
            drop(woken);
            if self.ready.is_empty() {
                break;
            }
            let number = self.ready.swap_remove(random.index(self.ready.len()));
            if number == MAIN_TASK {
                self.main.queued.store(false, Ordering::Relaxed);
                return Step::PollMain(Waker::from(Arc::clone(&self.main)));
            }
            // A task that has ended may still be woken.
            let Some(task) = self.tasks.get_mut(&number) else {
                continue;
            };
            let mut stopped = self.stopped.iter_mut();
            if let Some((_, waiting)) = stopped.find(|(owner, _)| *owner == task.owner) {
                waiting.push(number);
                continue;
            }
            task.waker.queued.store(false, Ordering::Relaxed);
            if let Some(future) = task.future.take() {
                return Step::Poll(number, future, Waker::from(Arc::clone(&task.waker)));
            }
        }
        match self.events.pop_first() {
            Some(((at, _, _), (_, event))) => {
                self.now = at;
                Step::Event(event)
            }
            None => Step::Stuck,
        }
    }

    /// From now on no task of this incarnation runs, while time and what it has begun go on.
    pub(super) fn stop(&mut self, owner: Incarnation) {
        self.stopped.push((owner, Vec::new()));
    }

    /// Everything that was to run meanwhile runs now.
    pub(super) fn go_on(&mut self, owner: Incarnation) {
        let of_owner = |stopped: &mut (Incarnation, Vec<TaskNumber>)| stopped.0 == owner;
        for (_, waiting) in self.stopped.extract_if(.., of_owner) {
            self.ready.extend(waiting);
        }
    }

    pub(super) fn put_back(
        &mut self,
        number: TaskNumber,
        future: TaskFuture,
    ) -> Option<TaskFuture> {
        match self.tasks.get_mut(&number) {
            Some(task) => {
                task.future = Some(future);
                None
            }
            // It crashed while it was being polled, so the caller drops it.
            None => Some(future),
        }
    }

    pub(super) fn ended(&mut self, number: TaskNumber) {
        self.tasks.remove(&number);
    }

    /// Takes all tasks and events of an incarnation, or of all. The caller drops the tasks when it holds no borrow, because dropping
    /// them closes sockets.
    pub(super) fn remove_all(&mut self, owner: Option<Incarnation>) -> Vec<TaskFuture> {
        self.events
            .retain(|_, (event_owner, _)| owner.is_some() && *event_owner != owner);
        let mut removed = Vec::new();
        self.tasks.retain(|_, task| {
            let goes = owner.is_none_or(|owner| task.owner == owner);
            if goes {
                removed.extend(task.future.take());
            }
            !goes
        });
        removed
    }

    pub(super) fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

fn new_waker(task: TaskNumber, woken: &Woken) -> Arc<TaskWaker> {
    Arc::new(TaskWaker {
        task,
        queued: AtomicBool::new(false),
        woken: Arc::clone(woken),
    })
}
