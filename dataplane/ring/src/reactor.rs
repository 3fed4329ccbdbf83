//! One io_uring, driven by the thread that made it: submissions, completions, and the turn between them.
//!
//! ```text
//!   +--> run ready tasks --> settle receivers --> io_uring_enter: submit, sleep until --> completions --> due sleeps --+
//!   |    (they queue         (buffers back to     a completion, a deadline                 wake tasks     wake tasks  |
//!   |     submissions)        the kernel)         or another thread                                                  |
//!   +-----------------------------------------------------------------------------------------------------------------+
//! ```
//! There is one system call per turn and no other on the path of a record.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::types::CancelBuilder;
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use crate::enter::Enter;
use crate::error::{RingError, io_uring_disabled, kernel_release, missing_feature};
use crate::executor::Executor;
use crate::memory::{Buffer, Pool};
use crate::operation::{InFlight, Stage};
use crate::outgoing::Outgoing;
use crate::receive_buffers::ReceiveBuffers;
use crate::registered::{PIECE_BYTES_MAX, Registered};
use crate::request::Request;
use crate::slots::{Key, Slots};
use crate::socket::{self, SocketState};
use crate::timer::{Alarm, Timers, cpu_nanos, now_nanos};
use crate::wake::RemoteWaker;
use crate::{Counters, RingConfig};

/// Completions that nobody waits for: those of cancellations.
const NOBODY: u64 = u64::MAX;

/// Messages kept for reuse, so that a send does not allocate.
const SPARE_MESSAGES_MAX: usize = 256;

/// A ring that is dropped waits this long for the kernel to let go of its memory. Then the memory is leaked.
const FAREWELL_NANOS_MAX: u64 = 10_000_000_000;

pub(crate) struct Reactor {
    // Dropped first: it is registered with the ring.
    enter: Enter,
    uring: RefCell<IoUring>,
    /// Submissions that found the queue full, in order.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    in_flight: RefCell<Slots<InFlight>>,
    completed: RefCell<Vec<Completion>>,
    pub(crate) executor: Executor,
    pub(crate) remote: RemoteWaker,
    timers: RefCell<Timers>,
    pub(crate) pool: Pool,
    registered: Option<Registered>,
    pool_waiters: RefCell<VecDeque<Waker>>,
    notified_waiters: RefCell<Vec<Waker>>,
    pub(crate) receive_buffers: RefCell<ReceiveBuffers>,
    /// Sockets whose receive ended for want of a buffer, in order.
    starved: RefCell<VecDeque<Rc<SocketState>>>,
    /// Sockets with something queued for their readers.
    unread: RefCell<Vec<Rc<SocketState>>>,
    /// What was copied out of the receive buffers for them, and how much that may be.
    pub(crate) unread_bytes: Cell<usize>,
    pub(crate) unread_bytes_max: usize,
    pub(crate) copies: Pool,
    #[expect(
        clippy::vec_box,
        reason = "a message must not move while the kernel reads it, so it lives in its box"
    )]
    spare_messages: RefCell<Vec<Box<Outgoing>>>,
    pub(crate) truncates: bool,
    pub(crate) unbuffered_files: bool,
    closing: Cell<bool>,
    counts: Counts,
}

#[derive(Clone, Copy)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

#[derive(Default)]
struct Counts {
    started_nanos: u64,
    started_cpu_nanos: u64,
    enters: Cell<u64>,
    submissions: Cell<u64>,
    completions: Cell<u64>,
    receive_starvations: Cell<u64>,
    backlogged: Cell<u64>,
}

impl Reactor {
    pub(crate) fn new(config: &RingConfig) -> Result<Rc<Reactor>, RingError> {
        check(config)?;
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(config.completions)
            .setup_clamp()
            .build(config.entries)
            .map_err(|error| RingError::of_setup(error, io_uring_disabled(), kernel_release()))?;
        let mut probe = Probe::new();
        uring
            .submitter()
            .register_probe(&mut probe)
            .map_err(RingError::other("asking io_uring what it can do"))?;
        if let Some(feature) = missing_feature(uring.params(), &probe) {
            return Err(RingError::MissingFeature {
                feature,
                kernel: kernel_release(),
            });
        }
        let memory_error = RingError::other("mapping buffers");
        let pool =
            Pool::new(config.pool_buffer_bytes, config.pool_buffers).map_err(memory_error)?;
        let registered = if config.register_memory {
            Registered::register(&uring, &pool)?
        } else {
            None
        };
        let memory_error = RingError::other("mapping receive buffers");
        let receive_pool =
            Pool::new(config.receive_buffer_bytes, config.receive_buffers).map_err(memory_error)?;
        let receive_buffers = ReceiveBuffers::new(&uring, receive_pool)?;
        let remote = RemoteWaker::new().map_err(RingError::other("making an eventfd"))?;
        for pool in [&pool, receive_buffers.pool()] {
            let remote = remote.clone();
            pool.on_return(Box::new(move || remote.wake()));
        }
        let reactor = Rc::new(Reactor {
            enter: Enter::new(&uring),
            uring: RefCell::new(uring),
            backlog: RefCell::default(),
            in_flight: RefCell::new(Slots::new()),
            completed: RefCell::default(),
            executor: Executor::new(remote.clone()),
            remote,
            timers: RefCell::default(),
            pool,
            registered,
            pool_waiters: RefCell::default(),
            notified_waiters: RefCell::default(),
            receive_buffers: RefCell::new(receive_buffers),
            starved: RefCell::default(),
            unread: RefCell::default(),
            unread_bytes: Cell::new(0),
            unread_bytes_max: config.unread_bytes_max,
            copies: socket::copies()?,
            spare_messages: RefCell::default(),
            truncates: probe.is_supported(opcode::Ftruncate::CODE),
            unbuffered_files: config.unbuffered_files,
            closing: Cell::new(false),
            counts: Counts {
                started_nanos: now_nanos(),
                started_cpu_nanos: cpu_nanos(),
                ..Counts::default()
            },
        });
        reactor.read_remote_wakes();
        Ok(reactor)
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let _entered = self.executor.enter();
        let waker = self.executor.main_waker();
        loop {
            if self.executor.take_main_is_ready()
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return output;
            }
            self.executor.run_ready();
            self.turn();
        }
    }

    pub(crate) fn memory_is_registered(&self) -> bool {
        self.registered.is_some()
    }

    /// One system call ends a turn.
    pub(crate) fn turn_number(&self) -> u64 {
        self.counts.enters.get()
    }

    pub(crate) fn counters(&self) -> Counters {
        let total_nanos = now_nanos().saturating_sub(self.counts.started_nanos);
        // The kernel receives and writes inside of io_uring_enter, so only the thread's own clock tells sleep from work.
        let busy_nanos = cpu_nanos().saturating_sub(self.counts.started_cpu_nanos);
        Counters {
            enters: self.counts.enters.get(),
            submissions: self.counts.submissions.get(),
            completions: self.counts.completions.get(),
            parked_nanos: total_nanos.saturating_sub(busy_nanos),
            total_nanos,
            receive_starvations: self.counts.receive_starvations.get(),
            submissions_backlogged: self.counts.backlogged.get(),
        }
    }

    // Operations.

    /// Submits an operation, which keeps its place until its last completion.
    pub(crate) fn start(&self, operation: InFlight) -> Key {
        let mut in_flight = self.in_flight.borrow_mut();
        let key = in_flight.insert_with(|_| operation);
        let operation = in_flight
            .get_mut(key)
            .expect("the operation was just put there");
        let entry = operation.entry(self.registered).user_data(key.0);
        drop(in_flight);
        self.submit(entry);
        key
    }

    pub(crate) fn poll_single(&self, key: Key, waker: &Waker) -> Option<(i32, Request)> {
        let mut in_flight = self.in_flight.borrow_mut();
        let Some(InFlight::Single { stage, .. }) = in_flight.get_mut(key) else {
            unreachable!("an operation keeps its place until its future has the result");
        };
        match stage {
            Stage::Done(result) => {
                let result = *result;
                let Some(InFlight::Single { request, .. }) = in_flight.remove(key) else {
                    return None;
                };
                Some((result, request))
            }
            Stage::Waiting(stored) => {
                stored.clone_from(waker);
                None
            }
            Stage::Started => {
                *stage = Stage::Waiting(waker.clone());
                None
            }
            Stage::Abandoned => unreachable!("only a dropped future abandons its operation"),
        }
    }

    pub(crate) fn abandon(&self, key: Key) {
        let mut in_flight = self.in_flight.borrow_mut();
        let Some(InFlight::Single { stage, .. }) = in_flight.get_mut(key) else {
            return;
        };
        if let Stage::Done(result) = *stage {
            let removed = in_flight.remove(key);
            drop(in_flight);
            discard(removed, result);
        } else {
            *stage = Stage::Abandoned;
            drop(in_flight);
            self.cancel(key);
        }
    }

    /// Asks the kernel to end an operation, whose completion says how it ended.
    pub(crate) fn cancel(&self, key: Key) {
        self.submit(opcode::AsyncCancel::new(key.0).build().user_data(NOBODY));
    }

    // What waits for something other than a completion.

    pub(crate) fn set_alarm(&self, deadline: u64, waker: &Waker) -> Alarm {
        self.timers.borrow_mut().insert(deadline, waker.clone())
    }

    pub(crate) fn update_alarm(&self, alarm: Alarm, waker: &Waker) -> bool {
        self.timers.borrow_mut().update(alarm, waker)
    }

    pub(crate) fn remove_alarm(&self, alarm: Alarm) {
        self.timers.borrow_mut().remove(alarm);
    }

    pub(crate) fn poll_buffer(&self, waker: &Waker) -> Option<Buffer> {
        let buffer = self.pool.take();
        let mut waiters = self.pool_waiters.borrow_mut();
        if buffer.is_none() && !waiters.iter().any(|known| known.will_wake(waker)) {
            waiters.push_back(waker.clone());
        }
        buffer
    }

    pub(crate) fn wait_for_notice(&self, waker: &Waker) {
        let mut waiters = self.notified_waiters.borrow_mut();
        if !waiters.iter().any(|known| known.will_wake(waker)) {
            waiters.push(waker.clone());
        }
    }

    pub(crate) fn wait_for_receive_buffer(&self, socket: Rc<SocketState>) {
        self.counts
            .receive_starvations
            .set(self.counts.receive_starvations.get() + 1);
        self.starved.borrow_mut().push_back(socket);
    }

    pub(crate) fn look_if_unread(&self, socket: Rc<SocketState>) {
        self.unread.borrow_mut().push(socket);
    }

    pub(crate) fn spare_message(&self) -> Box<Outgoing> {
        self.spare_messages
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Box::new(Outgoing::new()))
    }

    pub(crate) fn keep_message(&self, message: Box<Outgoing>) {
        let mut spare = self.spare_messages.borrow_mut();
        if spare.len() < SPARE_MESSAGES_MAX {
            spare.push(message);
        }
    }

    // The turn.

    fn turn(&self) {
        self.rest_unread_receivers();
        self.receive_buffers.borrow_mut().provide();
        self.restart_starved_receivers();
        self.wake_pool_waiters();
        self.flush_backlog();
        let timeout = self.sleep_nanos();
        self.enter_kernel(timeout);
        if self.remote.was_notified() {
            self.executor.collect_remote_wakes();
            let waiters = self.notified_waiters.take();
            waiters.into_iter().for_each(Waker::wake);
        }
        self.reap();
        let now = now_nanos();
        // Bound first: a waker must not run while the timers are borrowed.
        while let Some(waker) = { self.timers.borrow_mut().pop_due(now) } {
            waker.wake();
        }
    }

    /// How long this turn may sleep: 0 for not at all, `None` for as long as nothing happens.
    fn sleep_nanos(&self) -> Option<u64> {
        let busy = self.executor.has_ready()
            || !self.backlog.borrow().is_empty()
            || self.buffers_can_move();
        if busy {
            return Some(0);
        }
        self.timers
            .borrow()
            .next_deadline()
            .map(|deadline| deadline.saturating_sub(now_nanos()))
    }

    /// Whether a buffer that is free now would set something in motion. Asks the pools to tell of the next one that is.
    fn buffers_can_move(&self) -> bool {
        let starved = !self.starved.borrow().is_empty();
        let waiting = !self.pool_waiters.borrow().is_empty();
        let receive_buffers = self.receive_buffers.borrow();
        if starved {
            receive_buffers.pool().want();
        }
        if waiting {
            self.pool.want();
        }
        (starved && (receive_buffers.can_provide() || receive_buffers.with_kernel() > 0))
            || (waiting && self.pool.available() > 0)
    }

    fn enter_kernel(&self, timeout: Option<u64>) {
        let submissions = self.uring.borrow_mut().submission().len() as u32;
        let sleeps = timeout != Some(0) && self.remote.fall_asleep();
        let result = if sleeps {
            self.enter.enter(submissions, 1, timeout)
        } else {
            self.enter.enter(submissions, 0, None)
        };
        self.counts.enters.set(self.counts.enters.get() + 1);
        if let Err(error) = result {
            match error.raw_os_error() {
                // The time is up, a signal came, or completions must be taken before more can be submitted: all go on below.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => panic!("io_uring_enter failed for a reason that is our own: {error}"),
            }
        }
    }

    fn reap(&self) {
        let mut completed = self.completed.take();
        completed.extend(
            self.uring
                .borrow_mut()
                .completion()
                .map(|entry| Completion {
                    user_data: entry.user_data(),
                    result: entry.result(),
                    flags: entry.flags(),
                }),
        );
        self.counts
            .completions
            .set(self.counts.completions.get() + completed.len() as u64);
        for completion in completed.drain(..) {
            if completion.user_data != NOBODY {
                self.complete(completion);
            }
        }
        self.completed.replace(completed);
    }

    fn complete(&self, completion: Completion) {
        let Completion {
            user_data,
            result,
            flags,
        } = completion;
        let key = Key(user_data);
        let ended = !cqueue::more(flags);
        let mut in_flight = self.in_flight.borrow_mut();
        match in_flight.get_mut(key) {
            None => unreachable!("every operation keeps its place until its last completion"),
            Some(InFlight::Single { stage, .. }) => {
                match std::mem::replace(stage, Stage::Done(result)) {
                    Stage::Waiting(waker) => {
                        drop(in_flight);
                        waker.wake();
                    }
                    Stage::Abandoned => {
                        let removed = in_flight.remove(key);
                        drop(in_flight);
                        discard(removed, result);
                    }
                    Stage::Started | Stage::Done(_) => {}
                }
            }
            Some(InFlight::Accept(listener)) => {
                let listener = Rc::clone(listener);
                let removed = ended.then(|| in_flight.remove(key));
                drop(in_flight);
                listener.accepted(self, descriptor_of(result), ended);
                drop(removed);
            }
            Some(InFlight::Receive(socket)) => {
                let socket = Rc::clone(socket);
                let removed = ended.then(|| in_flight.remove(key));
                drop(in_flight);
                let bytes = cqueue::buffer_select(flags).map(|number| {
                    self.receive_buffers
                        .borrow_mut()
                        .take(number, result.max(0) as usize)
                });
                socket.received(self, result, bytes, ended);
                drop(removed);
            }
            Some(InFlight::RemoteWake { .. }) => {
                in_flight.remove(key);
                drop(in_flight);
                if !self.closing.get() {
                    self.read_remote_wakes();
                }
            }
        }
    }

    /// Keeps a read of the eventfd in flight, so that a write to it ends the sleep.
    fn read_remote_wakes(&self) {
        self.start(InFlight::RemoteWake {
            eventfd: self.remote.descriptor(),
            count: Box::new(0),
        });
    }

    /// Stops receiving on sockets whose reader has not kept up, now that it had its chance.
    fn rest_unread_receivers(&self) {
        let scarce = self.receive_buffers.borrow().are_scarce();
        let mut unread = self.unread.take();
        unread.retain(|socket| socket.rest_if_unread(self, scarce));
        self.unread.replace(unread);
    }

    /// As many as there are buffers: each takes at least one.
    fn restart_starved_receivers(&self) {
        for _ in 0..self.receive_buffers.borrow().with_kernel() {
            let Some(socket) = ({ self.starved.borrow_mut().pop_front() }) else {
                return;
            };
            socket.restart(self);
        }
    }

    fn wake_pool_waiters(&self) {
        for _ in 0..self.pool.available() {
            let Some(waker) = ({ self.pool_waiters.borrow_mut().pop_front() }) else {
                return;
            };
            waker.wake();
        }
    }

    fn submit(&self, entry: squeue::Entry) {
        let mut backlog = self.backlog.borrow_mut();
        if !backlog.is_empty() || !self.push(&entry) {
            self.counts.backlogged.set(self.counts.backlogged.get() + 1);
            backlog.push_back(entry);
        }
    }

    fn flush_backlog(&self) {
        let mut backlog = self.backlog.borrow_mut();
        while let Some(entry) = backlog.front() {
            if !self.push(entry) {
                return;
            }
            backlog.pop_front();
        }
    }

    /// False when the submission queue is full.
    fn push(&self, entry: &squeue::Entry) -> bool {
        let mut uring = self.uring.borrow_mut();
        // SAFETY: entries come from `InFlight::entry`, whose pointers lead into what the operation owns, and from `cancel`, without any. The
        // table of operations gives nothing up before the last completion, and outlives the ring's use of it (`drop`).
        let pushed = unsafe { uring.submission().push(entry) }.is_ok();
        self.counts
            .submissions
            .set(self.counts.submissions.get() + u64::from(pushed));
        pushed
    }
}

impl Drop for Reactor {
    /// Ends every operation before the memory that the kernel uses goes away.
    fn drop(&mut self) {
        self.closing.set(true);
        self.submit(
            opcode::AsyncCancel2::new(CancelBuilder::any())
                .build()
                .user_data(NOBODY),
        );
        let deadline = now_nanos() + FAREWELL_NANOS_MAX;
        while self.in_flight.borrow().len() > 0 {
            let left = deadline.saturating_sub(now_nanos());
            if left == 0 {
                return self.leak();
            }
            self.flush_backlog();
            self.remote.was_notified();
            self.enter_kernel(Some(left));
            self.reap();
        }
    }
}

impl Reactor {
    /// Leaves to the kernel what it may still read and write.
    fn leak(&self) {
        std::mem::forget(self.in_flight.replace(Slots::new()));
        // The pool's mapping and the receive buffers stay mapped with what the kernel may still write to.
        std::mem::forget((
            self.pool.clone(),
            self.receive_buffers.borrow().pool().clone(),
        ));
    }
}

fn check(config: &RingConfig) -> Result<(), RingError> {
    if config.entries == 0 || config.completions < config.entries {
        return Err(RingError::Configuration(
            "a ring needs submissions and at least as many completions",
        ));
    }
    if config.receive_buffer_bytes > PIECE_BYTES_MAX || config.pool_buffer_bytes > PIECE_BYTES_MAX {
        return Err(RingError::Configuration("a buffer may have at most 1 GiB"));
    }
    Ok(())
}

fn discard(removed: Option<InFlight>, result: i32) {
    if let Some(InFlight::Single { request, .. }) = removed {
        request.discard(result);
    }
}

/// What the completion of an accept or open carried.
pub(crate) fn descriptor_of(result: i32) -> Result<OwnedFd, i32> {
    if result < 0 {
        return Err(-result);
    }
    // SAFETY: the kernel made this descriptor for us and nobody else has seen this completion.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}
