//! The reactor under a shard: one io_uring, one thread, one executor, and the memory that the kernel shares with it.
//!
//! The only crate of the project with `unsafe`. Everything it offers is safe to call: an operation owns its buffers, paths and
//! descriptors until its completion has been seen, whatever happens to the future that waits for it.
//!
//! ```text
//!   Ring -- socket.rs, listener.rs, file.rs: what can be asked
//!     |
//!   reactor.rs -- the turn: tasks (executor.rs), sleeps (timer.rs), other threads (wake.rs), receive_buffers.rs
//!     |
//!   operation.rs -- what is in flight, and who waits for it     request.rs, leases.rs, outgoing.rs -- what the kernel is told
//! ```

pub mod allocations;
pub mod directory;
mod enter;
mod error;
mod executor;
mod file;
pub mod host;
mod leases;
mod listener;
pub mod memory;
mod operation;
mod outgoing;
mod reactor;
mod receive_buffers;
mod registered;
mod request;
pub mod signals;
mod slots;
mod socket;
mod socket_options;
mod task_memory;
mod timer;
mod wake;

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

pub use error::RingError;
pub use file::File;
pub use leases::WriteLeases;
pub use listener::Listener;
pub use outgoing::Outgoing;
pub use socket::Socket;
pub use timer::now_nanos;
pub use wake::RemoteWaker;

use memory::{Buffer, Pool};
use reactor::Reactor;

/// Sizes of a ring. All memory is mapped when the ring is made and becomes resident with use, or at once if it is registered.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Submissions per turn; more wait for the next one. The kernel rounds up to a power of two.
    pub entries: u32,
    pub completions: u32,
    pub receive_buffer_bytes: usize,
    /// A power of two.
    pub receive_buffers: usize,
    /// What sockets may have copied out of the receive buffers because nobody read it while those were scarce.
    pub unread_bytes_max: usize,
    pub pool_buffer_bytes: usize,
    pub pool_buffers: usize,
    /// Pin the pool for the kernel, which makes unbuffered writes cheaper. Needs room under the memlock limit.
    pub register_memory: bool,
    /// Open files for unbuffered reads and writes where the file system has them; else the page cache is used.
    pub unbuffered_files: bool,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            entries: 1024,
            completions: 4096,
            receive_buffer_bytes: 32 << 10,
            receive_buffers: 64,
            unread_bytes_max: 32 << 20,
            pool_buffer_bytes: 256 << 10,
            pool_buffers: 64,
            register_memory: true,
            unbuffered_files: true,
        }
    }
}

/// What a ring has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// System calls.
    pub enters: u64,
    pub submissions: u64,
    pub completions: u64,
    /// Time in which the thread did not run, asleep or waiting for a CPU. The rest of `total_nanos` it was busy.
    pub parked_nanos: u64,
    pub total_nanos: u64,
    /// Receives that ended because no receive buffer was free.
    pub receive_starvations: u64,
    /// Submissions that found the queue full and waited for the next turn.
    pub submissions_backlogged: u64,
}

/// An io_uring with its executor. Clones are handles to the same ring, all on the thread that made it.
#[derive(Clone)]
pub struct Ring(Rc<Reactor>);

impl Ring {
    /// Makes a ring for this thread.
    pub fn new(config: RingConfig) -> Result<Ring, RingError> {
        Reactor::new(&config).map(Ring)
    }

    /// Runs the ring's tasks until `future` is done.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    /// Runs a task until it ends, whenever the ring runs.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.executor.spawn(task);
    }

    /// Drops every task. Tasks usually hold handles of the ring, which keep it alive.
    pub fn drop_tasks(&self) {
        self.0.executor.clear();
    }

    /// Nanoseconds of the clock that [`now_nanos`] reads.
    pub fn now(&self) -> u64 {
        now_nanos()
    }

    /// Completes once that clock has reached `deadline`.
    pub async fn sleep_until(&self, deadline: u64) {
        let mut sleep = Sleep {
            reactor: &self.0,
            alarm: None,
        };
        poll_fn(|context| {
            let reactor = sleep.reactor;
            match sleep.alarm {
                Some(alarm) if reactor.update_alarm(alarm, context.waker()) => Poll::Pending,
                Some(_) => Poll::Ready(()),
                None if deadline <= now_nanos() => Poll::Ready(()),
                None => {
                    sleep.alarm = Some(reactor.set_alarm(deadline, context.waker()));
                    Poll::Pending
                }
            }
        })
        .await;
    }

    /// The pool of the ring's registered buffers.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Waits until a pooled buffer is free.
    pub async fn wait_buffer(&self) -> Buffer {
        poll_fn(|context| match self.0.poll_buffer(context.waker()) {
            Some(buffer) => Poll::Ready(buffer),
            None => Poll::Pending,
        })
        .await
    }

    /// Wakes this ring from other threads. Task wakers work from other threads too; this is for whoever has no task to name.
    pub fn remote_waker(&self) -> RemoteWaker {
        self.0.remote.clone()
    }

    /// Completes at the next [`RemoteWaker::wake`] that the ring sees. Look for work before and after: wakes are not counted.
    pub async fn notified(&self) {
        let mut waited = false;
        poll_fn(|context| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.0.wait_for_notice(context.waker());
            Poll::Pending
        })
        .await;
    }

    /// False when the memlock limit has not let the pool be registered: writes then cost more CPU.
    pub fn memory_is_registered(&self) -> bool {
        self.0.memory_is_registered()
    }

    /// The number of the turn that runs: what is the same for a turn need not be asked for twice in it.
    pub fn turn(&self) -> u64 {
        self.0.turn_number()
    }

    pub fn counters(&self) -> Counters {
        self.0.counters()
    }
}

/// Removes its alarm when a sleep is dropped early.
struct Sleep<'a> {
    reactor: &'a Reactor,
    alarm: Option<timer::Alarm>,
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(alarm) = self.alarm {
            self.reactor.remove_alarm(alarm);
        }
    }
}
