//! Tasks of one ring: a table of futures and a queue of those that are ready.
//!
//! A wake from the ring's own thread, while it runs, pushes a key to a thread-local queue; from anywhere else it goes through the
//! ring's [`RemoteWaker`]. A task is in a queue once at most, so queues are never longer than there are tasks. Ended tasks leave
//! their memory to the next ones (`task_memory.rs`), so that a task per write costs no allocation.
//!
//! A task that wakes itself while it is polled gives way: it has long work, and goes on once the ring has looked at the kernel. Of all
//! that do, one has its turn between two looks, so what others wait for long work does not grow with how much of it there is.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::task::{Context, Wake, Waker};

use crate::slots::{Key, Slots};
use crate::task_memory::{TaskFuture, TaskMemory};
use crate::wake::RemoteWaker;

/// The future given to `block_on` has this key; no slot ever has.
const MAIN: Key = Key(u64::MAX);

/// Rounds over the ready queue before the reactor looks at the kernel again: tasks that wake each other need no system call between,
/// and tasks that never stop waking each other cannot keep completions waiting.
const ROUNDS_PER_TURN: usize = 4;

/// Handles of ended tasks that are kept for the next ones.
const SPARE_HANDLES_MAX: usize = 256;

thread_local! {
    /// The ring that runs on this thread now, and its ready queue.
    static RUNNING: RefCell<Option<RemoteWaker>> = const { RefCell::new(None) };
    static READY: RefCell<VecDeque<Key>> = const { RefCell::new(VecDeque::new()) };
    /// The task that is polled now, by its handle, and whether it has woken itself.
    static POLLED: Cell<*const Handle> = const { Cell::new(std::ptr::null()) };
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

pub(crate) struct Executor {
    /// A task is out of its slot while it is polled.
    tasks: RefCell<Slots<Option<Task>>>,
    memory: RefCell<TaskMemory>,
    spare_handles: RefCell<Vec<(Arc<Handle>, Waker)>>,
    /// The ready queue while the ring does not run.
    resting: RefCell<VecDeque<Key>>,
    woken_remotely: RefCell<Vec<Key>>,
    /// Tasks that gave way, in the order in which they did.
    later: RefCell<VecDeque<Key>>,
    main_is_ready: Cell<bool>,
    main: Arc<Handle>,
    remote: RemoteWaker,
}

struct Task {
    future: Pin<TaskFuture>,
    handle: Arc<Handle>,
    waker: Waker,
}

/// What a waker points to.
struct Handle {
    /// A [`Key`]; set anew when the handle is used again, which needs that no other waker points to it.
    key: AtomicU64,
    /// Set from the wake until the poll, so that a task is queued once.
    queued: AtomicBool,
    remote: RemoteWaker,
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let key = Key(self.key.load(Ordering::Relaxed));
        if std::ptr::eq(Arc::as_ptr(self), POLLED.get()) {
            GIVES_WAY.set(true);
        } else if runs_here(&self.remote) {
            READY.with_borrow_mut(|ready| ready.push_back(key));
        } else {
            self.remote.wake_task(key);
        }
    }
}

fn runs_here(remote: &RemoteWaker) -> bool {
    // A thread that is ending has no thread-locals left and runs no ring.
    RUNNING
        .try_with(|running| {
            running
                .borrow()
                .as_ref()
                .is_some_and(|running| running.is_same(remote))
        })
        .unwrap_or(false)
}

impl Executor {
    pub(crate) fn new(remote: RemoteWaker) -> Executor {
        Executor {
            tasks: RefCell::new(Slots::new()),
            memory: RefCell::default(),
            spare_handles: RefCell::default(),
            resting: RefCell::new(VecDeque::new()),
            woken_remotely: RefCell::new(Vec::new()),
            later: RefCell::default(),
            main_is_ready: Cell::new(false),
            main: Arc::new(Handle {
                key: AtomicU64::new(MAIN.0),
                queued: AtomicBool::new(false),
                remote: remote.clone(),
            }),
            remote,
        }
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let future = self.memory.borrow_mut().place(future);
        let mut tasks = self.tasks.borrow_mut();
        let key = tasks.insert_with(|_| None);
        let (handle, waker) = self.handle(key);
        waker.wake_by_ref();
        *tasks.get_mut(key).expect("the place was just made") = Some(Task {
            future,
            handle,
            waker,
        });
    }

    fn handle(&self, key: Key) -> (Arc<Handle>, Waker) {
        if let Some((handle, waker)) = self.spare_handles.borrow_mut().pop() {
            handle.key.store(key.0, Ordering::Relaxed);
            handle.queued.store(false, Ordering::Relaxed);
            return (handle, waker);
        }
        let handle = Arc::new(Handle {
            key: AtomicU64::new(key.0),
            queued: AtomicBool::new(false),
            remote: self.remote.clone(),
        });
        let waker = Waker::from(Arc::clone(&handle));
        (handle, waker)
    }

    /// Keeps what an ended task leaves.
    fn keep(&self, task: Task) {
        // The future's destructor may spawn, so nothing is borrowed while it runs.
        let left = TaskMemory::empty(task.future);
        self.memory.borrow_mut().keep(left);
        let mut spare = self.spare_handles.borrow_mut();
        // Two: the task's own handle and its waker. A waker held elsewhere may still wake the task that has ended.
        if Arc::strong_count(&task.handle) == 2 && spare.len() < SPARE_HANDLES_MAX {
            // What other threads did with their wakers comes before what is done with the handle from now on.
            fence(Ordering::Acquire);
            spare.push((task.handle, task.waker));
        }
    }

    /// Lets this thread's wakes reach the queue directly until the guard is dropped.
    pub(crate) fn enter(&self) -> Entered<'_> {
        RUNNING.with_borrow_mut(|running| {
            assert!(running.is_none(), "a thread runs one ring at a time");
            *running = Some(self.remote.clone());
        });
        READY.with_borrow_mut(|ready| std::mem::swap(ready, &mut self.resting.borrow_mut()));
        Entered(self)
    }

    /// The waker of the future given to `block_on`, woken already.
    pub(crate) fn main_waker(&self) -> Waker {
        self.main_is_ready.set(true);
        Waker::from(Arc::clone(&self.main))
    }

    pub(crate) fn take_main_is_ready(&self) -> bool {
        let ready = self.main_is_ready.replace(false);
        if ready {
            self.main.queued.store(false, Ordering::Release);
        }
        ready
    }

    pub(crate) fn has_ready(&self) -> bool {
        self.main_is_ready.get()
            || !self.later.borrow().is_empty()
            || READY.with_borrow(|ready| !ready.is_empty())
    }

    /// Runs tasks that are ready, and one of those that gave way.
    pub(crate) fn run_ready(&self) {
        self.run_rounds();
        let later = self.later.borrow_mut().pop_front();
        if let Some(key) = later {
            self.run(key);
        }
    }

    /// Stops early when the main future is ready.
    fn run_rounds(&self) {
        for _ in 0..ROUNDS_PER_TURN {
            let round = READY.with_borrow(VecDeque::len);
            for _ in 0..round {
                let Some(key) = READY.with_borrow_mut(VecDeque::pop_front) else {
                    break;
                };
                self.run(key);
            }
            if self.main_is_ready.get() || round == 0 {
                return;
            }
        }
    }

    /// Queues what other threads have woken.
    pub(crate) fn collect_remote_wakes(&self) {
        let mut woken = self.woken_remotely.take();
        self.remote.take_woken(&mut woken);
        READY.with_borrow_mut(|ready| ready.extend(woken.drain(..)));
        self.woken_remotely.replace(woken);
    }

    /// Drops every task.
    pub(crate) fn clear(&self) {
        // A task's destructor may spawn or wake, so none is dropped while the table is borrowed. Destructors that spawn without end
        // are not ours to survive.
        let tasks = self.tasks.borrow_mut().drain();
        drop(tasks);
    }

    fn run(&self, key: Key) {
        if key == MAIN {
            self.main_is_ready.set(true);
            return;
        }
        let Some(mut task) = self.tasks.borrow_mut().get_mut(key).and_then(Option::take) else {
            return;
        };
        // Before the poll: a wake during it must queue the task again.
        task.handle.queued.store(false, Ordering::Release);
        POLLED.set(Arc::as_ptr(&task.handle));
        let ended = task
            .future
            .as_mut()
            .poll(&mut Context::from_waker(&task.waker))
            .is_ready();
        POLLED.set(std::ptr::null());
        if GIVES_WAY.replace(false) && !ended {
            self.later.borrow_mut().push_back(key);
        }
        if ended {
            self.tasks.borrow_mut().remove(key);
            self.keep(task);
        } else if let Some(place) = self.tasks.borrow_mut().get_mut(key) {
            *place = Some(task);
        }
    }
}

pub(crate) struct Entered<'a>(&'a Executor);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        READY.with_borrow_mut(|ready| std::mem::swap(ready, &mut self.0.resting.borrow_mut()));
        RUNNING.set(None);
    }
}
