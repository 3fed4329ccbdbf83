//! The requests of one connection that wait for their answers. The sending half takes places, the receiving half frees them; each waits
//! for the other here. Answers come in the order of the requests, as Kafka's protocol promises.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// `T` is what is remembered of a request until its answer comes, such as when it was sent.
pub struct Window<T> {
    places: usize,
    state: RefCell<State<T>>,
}

struct State<T> {
    sent: VecDeque<T>,
    finished: bool,
    sender: Option<Waker>,
    receiver: Option<Waker>,
}

impl<T> Window<T> {
    pub fn new(places: usize) -> Self {
        Self {
            places,
            state: RefCell::new(State {
                sent: VecDeque::new(),
                finished: false,
                sender: None,
                receiver: None,
            }),
        }
    }

    /// Waits until at least one place is free and says how many are.
    pub async fn room(&self) -> usize {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            let room = self.places.saturating_sub(state.sent.len());
            if room > 0 {
                return Poll::Ready(room);
            }
            state.sender = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Takes a place for a request that is about to be sent.
    pub fn sent(&self, request: T) {
        let mut state = self.state.borrow_mut();
        state.sent.push_back(request);
        wake(&mut state.receiver);
    }

    /// No request follows.
    pub fn finish(&self) {
        let mut state = self.state.borrow_mut();
        state.finished = true;
        wake(&mut state.receiver);
    }

    /// Waits until an answer is due. False once all have come and no request follows.
    pub async fn answer_due(&self) -> bool {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if !state.sent.is_empty() {
                return Poll::Ready(true);
            }
            if state.finished {
                return Poll::Ready(false);
            }
            state.receiver = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Frees the place of the oldest request and returns what was remembered of it; `None` if no answer was due.
    pub fn answered(&self) -> Option<T> {
        let mut state = self.state.borrow_mut();
        let request = state.sent.pop_front();
        wake(&mut state.sender);
        request
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::clock::now;

    #[test]
    fn a_full_window_has_room_again_after_an_answer() {
        let window = Window::new(2);
        assert_eq!(window.room().now_or_never(), Some(2));
        window.sent(now());
        window.sent(now());
        assert_eq!(window.room().now_or_never(), None);
        assert!(window.answered().is_some());
        assert_eq!(window.room().now_or_never(), Some(1));
    }

    #[test]
    fn answers_are_due_in_the_order_of_their_requests_until_all_have_come() {
        let window = Window::new(2);
        assert_eq!(window.answer_due().now_or_never(), None);
        let first = now();
        window.sent(first);
        window.sent(now());
        window.finish();
        assert_eq!(window.answer_due().now_or_never(), Some(true));
        assert_eq!(window.answered(), Some(first));
        assert!(window.answered().is_some());
        assert_eq!(window.answered(), None);
        assert_eq!(window.answer_due().now_or_never(), Some(false));
    }
}
