//! Between the pacer, which makes records, and the connection that sends them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::pending::{Pending, PendingBatch};

pub struct Outbox(RefCell<State>);

struct State {
    pending: Pending,
    closed: bool,
    sender: Option<Waker>,
}

impl Outbox {
    pub fn new(pending: Pending) -> Self {
        Self(RefCell::new(State {
            pending,
            closed: false,
            sender: None,
        }))
    }

    /// Changes what is pending and wakes the sender if something may leave.
    pub fn with<R>(&self, change: impl FnOnce(&mut Pending) -> R) -> R {
        let mut state = self.0.borrow_mut();
        let result = change(&mut state.pending);
        if state.pending.is_ready() {
            wake(&mut state);
        }
        result
    }

    /// No record follows, so there is nothing left to linger for.
    pub fn close(&self) {
        let mut state = self.0.borrow_mut();
        state.pending.ripen(u64::MAX);
        state.closed = true;
        wake(&mut state);
    }

    /// Waits until a batch may leave. False once all have left and no record follows.
    pub async fn ready(&self) -> bool {
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            if state.pending.is_ready() {
                return Poll::Ready(true);
            }
            if state.closed {
                return Poll::Ready(false);
            }
            state.sender = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    pub fn take(&self) -> Option<(usize, PendingBatch)> {
        self.0.borrow_mut().pending.take()
    }
}

fn wake(state: &mut State) {
    if let Some(waker) = state.sender.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_still_lingers_leaves_when_no_record_follows() {
        let outbox = Outbox::new(Pending::new(1, 1000, 1_000_000));
        outbox.with(|pending| pending.append(0, 5, 0, b"value"));
        assert_eq!(outbox.ready().now_or_never(), None);
        outbox.close();
        assert_eq!(outbox.ready().now_or_never(), Some(true));
        assert!(outbox.take().is_some());
        assert_eq!(outbox.ready().now_or_never(), Some(false));
    }
}
