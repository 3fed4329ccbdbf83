//! The one door between threads: a bounded inbox per shard, and one for the control link.
//!
//! Everything a shard hears from outside its own ring comes through its inbox: requests for its partitions from other shards, the
//! answers to its own, accepted sockets, metadata, and answers of the control plane. Senders never block: a full inbox gives the
//! message back and the sender waits, which stops it from reading its socket.

use crate::limits::INBOX_MESSAGES_MAX;
use atomic_waker::AtomicWaker;
use crossbeam_queue::ArrayQueue;
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
pub struct Receiver<M>(Arc<Inbox<M>>);

/// An inbox of [`INBOX_MESSAGES_MAX`] messages.
pub fn inbox<M>() -> (Sender<M>, Receiver<M>) {
    let inbox = Arc::new(Inbox {
        queue: ArrayQueue::new(INBOX_MESSAGES_MAX),
        receiver: AtomicWaker::new(),
    });
    (Sender(inbox.clone()), Receiver(inbox))
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
}

impl<M> Receiver<M> {
    /// The oldest message, if there is one.
    pub fn try_receive(&self) -> Option<M> {
        self.0.queue.pop()
    }

    /// The oldest message, once there is one.
    pub async fn receive(&self) -> M {
        poll_fn(|context| {
            if let Some(message) = self.0.queue.pop() {
                return Poll::Ready(message);
            }
            // Register first and look again: a message pushed in between would otherwise wake no one.
            self.0.receiver.register(context.waker());
            match self.0.queue.pop() {
                Some(message) => Poll::Ready(message),
                None => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
