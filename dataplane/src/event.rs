//! A wake-up for tasks of one shard: "something changed, look again".

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Tasks wait for the next change; a change wakes all of them. Wakers live in a reused vector.
#[derive(Default)]
pub struct Event {
    generation: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl Event {
    /// Wakes everyone who waits for a change after [`Event::generation`].
    pub fn notify(&self) {
        self.generation.set(self.generation.get().wrapping_add(1));
        // A woken task may register again at once only when it runs, which is after this loop.
        self.waiters.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Read before looking at the state, then handed to [`Event::changed_since`], so that no change is missed.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Resolves once there was a change after `generation`.
    pub async fn changed_since(&self, generation: u64) {
        poll_fn(|context| {
            if self.generation.get() != generation {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            if !waiters
                .iter()
                .any(|waiter| waiter.will_wake(context.waker()))
            {
                waiters.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}
