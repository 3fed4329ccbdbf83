//! Calls that a shard has open to other shards and to the control plane, each waiting for one reply through the inbox.

use crate::limits::CALLS_MAX;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Names an open call in messages. A reply to a call that was given up finds its generation gone and is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId {
    index: usize,
    generation: u64,
}

struct Slot<R> {
    generation: u64,
    reply: Option<R>,
    waiter: Option<Waker>,
}

/// The table of open calls of one shard.
pub struct Calls<R> {
    table: RefCell<Table<R>>,
}

struct Table<R> {
    slots: Vec<Slot<R>>,
    free: Vec<usize>,
}

/// An open call: resolves to the reply. Dropping it gives the call up.
pub struct Call<R> {
    calls: Rc<Calls<R>>,
    id: CallId,
}

impl<R> Default for Calls<R> {
    fn default() -> Self {
        let table = Table {
            slots: Vec::new(),
            free: Vec::new(),
        };
        Calls {
            table: RefCell::new(table),
        }
    }
}

impl<R> Calls<R> {
    /// Opens a call, or `None` when [`CALLS_MAX`] are open.
    pub fn open(self: &Rc<Self>) -> Option<Call<R>> {
        let mut table = self.table.borrow_mut();
        let index = match table.free.pop() {
            Some(index) => index,
            None if table.slots.len() < CALLS_MAX => {
                table.slots.push(Slot {
                    generation: 0,
                    reply: None,
                    waiter: None,
                });
                table.slots.len() - 1
            }
            None => return None,
        };
        let generation = table.slots[index].generation;
        Some(Call {
            calls: self.clone(),
            id: CallId { index, generation },
        })
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        let table = self.table.borrow();
        table.slots.len() - table.free.len()
    }

    /// Delivers a reply. One for a call that was given up is dropped.
    pub fn complete(&self, id: CallId, reply: R) {
        let waiter = {
            let mut table = self.table.borrow_mut();
            let Some(slot) = table.slots.get_mut(id.index) else {
                return;
            };
            if slot.generation != id.generation {
                return;
            }
            slot.reply = Some(reply);
            slot.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl<R> Call<R> {
    pub fn id(&self) -> CallId {
        self.id
    }

    /// Whether the reply has arrived.
    pub fn is_ready(&self) -> bool {
        self.calls.table.borrow().slots[self.id.index]
            .reply
            .is_some()
    }

    /// The reply, if it has arrived.
    pub fn take(&self) -> Option<R> {
        self.calls.table.borrow_mut().slots[self.id.index]
            .reply
            .take()
    }
}

impl<R> Future for Call<R> {
    type Output = R;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        let mut table = self.calls.table.borrow_mut();
        let slot = &mut table.slots[self.id.index];
        match slot.reply.take() {
            Some(reply) => Poll::Ready(reply),
            None => {
                slot.waiter = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        let mut table = self.calls.table.borrow_mut();
        let slot = &mut table.slots[self.id.index];
        slot.generation += 1;
        slot.reply = None;
        slot.waiter = None;
        table.free.push(self.id.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_to_a_call_given_up_does_not_reach_the_next_call() {
        let calls: Rc<Calls<u32>> = Rc::default();
        let given_up = calls.open().expect("room");
        let stale = given_up.id();
        drop(given_up);
        let next = calls.open().expect("room");
        calls.complete(stale, 1);
        assert!(!next.is_ready());
        calls.complete(next.id(), 2);
        assert!(next.is_ready());
        assert_eq!(next.take(), Some(2));
    }

    #[test]
    fn open_calls_are_bounded() {
        let calls: Rc<Calls<u32>> = Rc::default();
        let open: Vec<_> = std::iter::from_fn(|| calls.open()).collect();
        assert_eq!(open.len(), CALLS_MAX);
        drop(open);
        assert!(calls.open().is_some());
    }
}
