//! A line in which tasks of one shard wait for something of which there is not enough, in the order in which they came.
//!
//! Only the first looks again and again, once in a millisecond, because what it waits for may come back on another thread; the others
//! cost nothing, however many there are. Nobody who comes later goes before those who wait.

use crate::event::Event;
use crate::io::Io;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// How often the first one looks.
const LOOK_MS: u64 = 1;

#[derive(Default)]
pub struct Line {
    waiting: RefCell<VecDeque<Rc<Ticket>>>,
}

#[derive(Default)]
struct Ticket {
    left: Cell<bool>,
    moved_up: Event,
}

/// A task's ticket, which is given back when this is dropped.
struct Waiting<'a> {
    line: &'a Line,
    ticket: Rc<Ticket>,
}

impl Line {
    /// Whether somebody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// What `attempt` gives, at once if nobody waits, else in turn.
    pub async fn until<I: Io, T>(&self, io: &I, mut attempt: impl FnMut() -> Option<T>) -> T {
        if self.is_empty()
            && let Some(given) = attempt()
        {
            return given;
        }
        let waiting = self.join();
        loop {
            waiting.is_first().await;
            if let Some(given) = attempt() {
                return given;
            }
            io.sleep_until(io.now().after_ms(LOOK_MS)).await;
        }
    }

    fn join(&self) -> Waiting<'_> {
        let ticket = Rc::new(Ticket::default());
        self.waiting.borrow_mut().push_back(ticket.clone());
        Waiting { line: self, ticket }
    }
}

impl Waiting<'_> {
    async fn is_first(&self) {
        loop {
            let seen = self.ticket.moved_up.generation();
            let first = self.line.waiting.borrow().front().cloned();
            if first.is_some_and(|first| Rc::ptr_eq(&first, &self.ticket)) {
                return;
            }
            self.ticket.moved_up.changed_since(seen).await;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.ticket.left.set(true);
        let mut waiting = self.line.waiting.borrow_mut();
        while waiting.front().is_some_and(|first| first.left.get()) {
            waiting.pop_front();
        }
        if let Some(first) = waiting.front() {
            first.moved_up.notify();
        }
    }
}
