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
    awaited: bool,
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
    /// Calls that are open: a reply that nobody has looked at yet keeps its slot and is not in anybody's way.
    awaited: usize,
}

/// A call: resolves to the reply. Dropping it gives the call up.
pub struct Call<R> {
    calls: Rc<Calls<R>>,
    id: CallId,
}

impl<R> Default for Calls<R> {
    fn default() -> Self {
        let table = Table {
            slots: Vec::new(),
            free: Vec::new(),
            awaited: 0,
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
        if table.awaited >= CALLS_MAX {
            return None;
        }
        table.awaited += 1;
        let index = table.free.pop().unwrap_or_else(|| {
            table.slots.push(Slot {
                generation: 0,
                awaited: false,
                reply: None,
                waiter: None,
            });
            table.slots.len() - 1
        });
        let slot = &mut table.slots[index];
        slot.awaited = true;
        let generation = slot.generation;
        Some(Call {
            calls: self.clone(),
            id: CallId { index, generation },
        })
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.table.borrow().awaited
    }

    /// Delivers a reply. One for a call that was given up is dropped.
    pub fn complete(&self, id: CallId, reply: R) {
        let waiter = {
            let mut table = self.table.borrow_mut();
            let table = &mut *table;
            let Some(slot) = table.slots.get_mut(id.index) else {
                return;
            };
            if slot.generation != id.generation {
                return;
            }
            assert!(slot.awaited, "a call has one reply");
            slot.awaited = false;
            table.awaited -= 1;
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
        let table = &mut *table;
        let slot = &mut table.slots[self.id.index];
        table.awaited -= usize::from(std::mem::take(&mut slot.awaited));
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
        assert_eq!(calls.count(), 0);
    }

    /// A request may need more calls than may be open at a time, and a client that does not read its answers leaves replies lying: neither
    /// may keep others from theirs.
    #[test]
    fn a_reply_that_nobody_has_looked_at_is_not_in_the_way_of_the_next_call() {
        let calls: Rc<Calls<usize>> = Rc::default();
        let mut replied = Vec::new();
        for number in 0..3 * CALLS_MAX {
            let call = calls.open().expect("the ones before have their replies");
            calls.complete(call.id(), number);
            replied.push(call);
        }
        assert_eq!(calls.count(), 0);
        let replies: Vec<_> = replied.iter().filter_map(Call::take).collect();
        assert!(replies.into_iter().eq(0..3 * CALLS_MAX));
        drop(replied);
        let open: Vec<_> = std::iter::from_fn(|| calls.open()).collect();
        assert_eq!((open.len(), calls.count()), (CALLS_MAX, CALLS_MAX));
    }
}
