//! Waking a ring from another thread.
//!
//! ```text
//!              before it blocks                 wake()
//!   AWAKE ---------------------------> ASLEEP ---------> NOTIFIED (and one eventfd write)
//!     ^ \____________ wake() ______________________________^ |
//!     |_______________________ at each turn ________________|
//! ```
//! Any number of wakes cost one system call, and none while the ring is awake: it looks at the state before it would block.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::slots::Key;

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const NOTIFIED: u32 = 2;

/// Wakes one ring from any thread. Wakes that come before the ring has looked are one wake.
#[derive(Clone)]
pub struct RemoteWaker(Arc<Shared>);

struct Shared {
    state: AtomicU32,
    /// Read by the ring through an operation that is always in flight. Blocking, so that the operation waits.
    eventfd: File,
    /// Tasks woken from other threads; a task is in here once at most.
    woken: Mutex<Vec<Key>>,
}

impl RemoteWaker {
    pub fn wake(&self) {
        if self.0.state.swap(NOTIFIED, Ordering::SeqCst) == ASLEEP {
            let result = (&self.0.eventfd).write(&1u64.to_ne_bytes());
            assert!(
                result.is_ok(),
                "an eventfd takes more wakes than a machine can count"
            );
        }
    }

    pub(crate) fn new() -> io::Result<RemoteWaker> {
        // SAFETY: a plain system call without pointers.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above succeeded, so the descriptor is ours alone.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let shared = Shared {
            state: AtomicU32::new(AWAKE),
            eventfd: File::from(descriptor),
            woken: Mutex::new(Vec::new()),
        };
        Ok(RemoteWaker(Arc::new(shared)))
    }

    /// Queues a task on its ring and wakes it.
    pub(crate) fn wake_task(&self, task: Key) {
        self.0
            .woken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(task);
        self.wake();
    }

    /// Moves the tasks that were woken remotely into `tasks`, which must be empty.
    pub(crate) fn take_woken(&self, tasks: &mut Vec<Key>) {
        assert!(tasks.is_empty(), "what was taken before has been run");
        std::mem::swap(
            &mut *self.0.woken.lock().unwrap_or_else(PoisonError::into_inner),
            tasks,
        );
    }

    /// The ring is about to block. False if a wake came first.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.0
            .state
            .compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The ring is awake. True if someone has called since it last looked.
    pub(crate) fn was_notified(&self) -> bool {
        self.0.state.swap(AWAKE, Ordering::SeqCst) == NOTIFIED
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }

    pub(crate) fn is_same(&self, other: &RemoteWaker) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn only_the_first_wake_of_a_sleeper_writes() {
        let waker = RemoteWaker::new().unwrap();
        waker.wake();
        assert!(!waker.fall_asleep(), "a wake while awake forbids sleep");
        assert!(waker.was_notified());
        assert!(waker.fall_asleep());
        waker.wake();
        waker.clone().wake();
        let mut count = [0; 8];
        (&waker.0.eventfd).read_exact(&mut count).unwrap();
        assert_eq!(
            u64::from_ne_bytes(count),
            1,
            "one write for two wakes, and none for the wake while awake"
        );
        assert!(waker.was_notified());
        assert!(!waker.was_notified());
    }
}
