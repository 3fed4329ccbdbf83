//! The one door between threads: a bounded inbox per shard, and one for the control link.
//!
//! Everything a shard hears from outside its own ring comes through its inbox: requests for its partitions from other shards, the
//! answers to its own, accepted sockets, metadata, and answers of the control plane. Senders never block: a full inbox gives the
//! message back and the sender waits, which stops it from reading its socket. A receiver gives way after a few messages: others may
//! fill its inbox as fast as it empties it, and everything else on its shard would wait for ever.

use crate::limits::{INBOX_MESSAGES_MAX, INBOX_MESSAGES_PER_TURN_MAX};
use atomic_waker::AtomicWaker;
use crossbeam_queue::ArrayQueue;
use std::cell::Cell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

/// A shard's number, 0 to the number of shards minus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub usize);

struct Inbox<M> {
    queue: ArrayQueue<M>,
    receiver: AtomicWaker,
}

/// Sends into one inbox, from any thread.
pub struct Sender<M>(Arc<Inbox<M>>);

/// The one reader of an inbox.
pub struct Receiver<M> {
    inbox: Arc<Inbox<M>>,
    /// Messages since it last waited.
    in_a_row: Cell<usize>,
}

/// An inbox of [`INBOX_MESSAGES_MAX`] messages.
pub fn inbox<M>() -> (Sender<M>, Receiver<M>) {
    let inbox = Arc::new(Inbox {
        queue: ArrayQueue::new(INBOX_MESSAGES_MAX),
        receiver: AtomicWaker::new(),
    });
    let receiver = Receiver {
        inbox: inbox.clone(),
        in_a_row: Cell::new(0),
    };
    (Sender(inbox), receiver)
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<M> Sender<M> {
    /// Puts a message last in the inbox; gives it back when the inbox is full.
    pub fn try_send(&self, message: M) -> Result<(), M> {
        self.0.queue.push(message)?;
        self.0.receiver.wake();
        Ok(())
    }

    /// Puts a message last in the inbox once there is room. `pause` is a short sleep of the caller's thread: whoever empties the inbox
    /// wakes nobody, as there may be many who wait, and an inbox is seldom full.
    pub async fn send(&self, mut message: M, pause: impl AsyncFn()) {
        while let Err(back) = self.try_send(message) {
            message = back;
            pause().await;
        }
    }

    /// Messages that wait in the inbox.
    pub fn waiting(&self) -> usize {
        self.0.queue.len()
    }
}

impl<M> Receiver<M> {
    /// The oldest message, if there is one.
    pub fn try_receive(&self) -> Option<M> {
        self.inbox.queue.pop()
    }

    /// The oldest message, once there is one. Every [`INBOX_MESSAGES_PER_TURN_MAX`] messages the shard's other tasks have their turn
    /// first.
    pub async fn receive(&self) -> M {
        poll_fn(|context| {
            if self.in_a_row.get() == INBOX_MESSAGES_PER_TURN_MAX {
                self.in_a_row.set(0);
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(message) = self.next_in_a_row() {
                return Poll::Ready(message);
            }
            // Register first and look again: a message pushed in between would otherwise wake no one.
            self.inbox.receiver.register(context.waker());
            if let Some(message) = self.next_in_a_row() {
                return Poll::Ready(message);
            }
            self.in_a_row.set(0);
            Poll::Pending
        })
        .await
    }

    fn next_in_a_row(&self) -> Option<M> {
        let message = self.inbox.queue.pop()?;
        self.in_a_row.set(self.in_a_row.get() + 1);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn messages_arrive_in_order() {
        let (sender, receiver) = inbox();
        for number in 0..10 {
            sender.try_send(number).expect("room");
        }
        let received: Vec<i32> = std::iter::from_fn(|| receiver.try_receive()).collect();
        assert_eq!(received, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_inbox_gives_the_message_back() {
        let (sender, receiver) = inbox();
        for number in 0..INBOX_MESSAGES_MAX {
            sender.try_send(number).expect("room");
        }
        assert_eq!(sender.try_send(7), Err(7));
        assert_eq!(receiver.try_receive(), Some(0));
        assert_eq!(sender.try_send(7), Ok(()));
    }

    #[test]
    fn a_message_waits_for_room_and_arrives_last() {
        let (sender, receiver) = inbox();
        for number in 0..INBOX_MESSAGES_MAX {
            sender.try_send(number).expect("room");
        }
        let mut context = Context::from_waker(Waker::noop());
        let yield_once = async || {
            let mut yielded = false;
            poll_fn(|_| match std::mem::replace(&mut yielded, true) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
        };
        let mut sending = pin!(sender.send(INBOX_MESSAGES_MAX, yield_once));
        for _ in 0..3 {
            assert!(sending.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(receiver.try_receive(), Some(0));
        assert!(sending.as_mut().poll(&mut context).is_ready());
        let rest: Vec<_> = std::iter::from_fn(|| receiver.try_receive()).collect();
        assert!(rest.into_iter().eq(1..=INBOX_MESSAGES_MAX));
    }

    /// A receiver that never waits would keep its thread from everything else.
    #[test]
    fn a_full_inbox_does_not_keep_its_receiver_from_giving_way() {
        let (sender, receiver) = inbox();
        for number in 0..INBOX_MESSAGES_MAX {
            sender.try_send(number).expect("room");
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut received = 0;
        let mut turns = 0;
        while received < INBOX_MESSAGES_MAX {
            let mut in_this_turn = 0;
            while let Poll::Ready(number) = pin!(receiver.receive()).poll(&mut context) {
                assert_eq!(number, received);
                received += 1;
                in_this_turn += 1;
                assert!(in_this_turn <= INBOX_MESSAGES_PER_TURN_MAX);
            }
            turns += 1;
        }
        assert!(turns >= INBOX_MESSAGES_MAX / INBOX_MESSAGES_PER_TURN_MAX);
    }
}
