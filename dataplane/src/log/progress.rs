//! How far a log has come: its offsets, and who waits for them.
//!
//! ```text
//! log start <= flushed <= written <= log end
//!              high watermark = flushed, or written when write.caching is on (one replica)
//! ```

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use control_api::ids::LeaderEpoch;

use super::types::{Level, Offset, WaitError};
use crate::event::Event;

pub(super) struct Progress {
    log_start: Cell<Offset>,
    log_end: Cell<Offset>,
    written: Cell<Offset>,
    flushed: Cell<Offset>,
    high_watermark: Cell<Offset>,
    leader_epoch: Cell<LeaderEpoch>,
    poisoned: Cell<bool>,
    stalled: Cell<bool>,
    answers: RefCell<Vec<(Offset, Level, Waker)>>,
    fetches: RefCell<Vec<FetchEntry>>,
    next_fetch: Cell<u64>,
}

struct FetchEntry {
    id: u64,
    beyond: Offset,
    event: Rc<Event>,
}

/// A parked fetch's interest in a partition; it ends when this is dropped.
pub struct FetchWaiter {
    progress: Weak<Progress>,
    id: u64,
}

impl Progress {
    /// Everything up to `log_end` is flushed.
    pub(super) fn new(log_start: Offset, log_end: Offset, leader_epoch: LeaderEpoch) -> Progress {
        assert!(log_start <= log_end, "a log does not end before it starts");
        Progress {
            log_start: Cell::new(log_start),
            log_end: Cell::new(log_end),
            written: Cell::new(log_end),
            flushed: Cell::new(log_end),
            high_watermark: Cell::new(log_end),
            leader_epoch: Cell::new(leader_epoch),
            poisoned: Cell::new(false),
            stalled: Cell::new(false),
            answers: RefCell::default(),
            fetches: RefCell::default(),
            next_fetch: Cell::new(0),
        }
    }

    pub(super) fn log_start(&self) -> Offset {
        self.log_start.get()
    }

    pub(super) fn log_end(&self) -> Offset {
        self.log_end.get()
    }

    pub(super) fn written(&self) -> Offset {
        self.written.get()
    }

    pub(super) fn flushed(&self) -> Offset {
        self.flushed.get()
    }

    pub(super) fn high_watermark(&self) -> Offset {
        self.high_watermark.get()
    }

    pub(super) fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch.get()
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.get()
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.get()
    }

    pub(super) fn appended(&self, log_end: Offset) {
        assert!(log_end > self.log_end.get(), "an append moves the end");
        self.log_end.set(log_end);
    }

    pub(super) fn advance_written(&self, written: Offset) {
        assert!(
            written <= self.log_end.get(),
            "only what was appended is written"
        );
        self.written.set(self.written.get().max(written));
    }

    pub(super) fn advance_flushed(&self, flushed: Offset) {
        assert!(
            flushed <= self.written.get(),
            "only what was written is flushed"
        );
        self.flushed.set(self.flushed.get().max(flushed));
    }

    pub(super) fn advance_log_start(&self, log_start: Offset) {
        assert!(
            log_start <= self.high_watermark.get(),
            "only what consumers could read is deleted"
        );
        self.log_start.set(self.log_start.get().max(log_start));
    }

    /// Moves the high watermark after the other offsets moved and wakes everyone who waited for this.
    pub(super) fn publish(&self, write_caching: bool) {
        let visible = if write_caching {
            self.written.get()
        } else {
            self.flushed.get()
        };
        let moved = visible > self.high_watermark.get();
        self.high_watermark
            .set(self.high_watermark.get().max(visible));
        let mut answers = self.answers.borrow_mut();
        for (_, _, waker) in
            answers.extract_if(.., |(end, level, _)| self.has_reached(*end, *level))
        {
            waker.wake();
        }
        drop(answers);
        if moved {
            self.fetches
                .borrow()
                .iter()
                .filter(|entry| entry.beyond < visible)
                .for_each(|entry| entry.event.notify());
        }
    }

    /// No append and no answer from now on.
    pub(super) fn poison(&self) {
        self.poisoned.set(true);
        self.wake_all();
    }

    /// No append, and no wait for what is not there yet, until [`Progress::go_on`]; true if it was not so already.
    pub(super) fn stall(&self) -> bool {
        let begins = !self.stalled.replace(true);
        if begins {
            self.wake_all();
        }
        begins
    }

    /// True if it was stalled.
    pub(super) fn go_on(&self) -> bool {
        self.stalled.replace(false)
    }

    pub(super) fn set_leader_epoch(&self, epoch: LeaderEpoch) {
        if self.leader_epoch.replace(epoch) != epoch {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        self.answers
            .borrow_mut()
            .drain(..)
            .for_each(|(_, _, waker)| waker.wake());
        self.wake_fetches();
    }

    pub(super) fn wake_fetches(&self) {
        self.fetches
            .borrow()
            .iter()
            .for_each(|entry| entry.event.notify());
    }

    fn has_reached(&self, end: Offset, level: Level) -> bool {
        match level {
            Level::Written => end <= self.written.get(),
            Level::Flushed => end <= self.flushed.get(),
        }
    }

    pub(super) async fn wait(&self, end: Offset, level: Level) -> Result<(), WaitError> {
        let epoch = self.leader_epoch.get();
        poll_fn(|context| {
            if self.has_reached(end, level) {
                return Poll::Ready(Ok(()));
            }
            if self.poisoned.get() {
                return Poll::Ready(Err(WaitError::Poisoned));
            }
            if self.leader_epoch.get() != epoch {
                return Poll::Ready(Err(WaitError::LeaderEpochChanged));
            }
            if self.stalled.get() {
                return Poll::Ready(Err(WaitError::Stalled));
            }
            let mut answers = self.answers.borrow_mut();
            let waker = context.waker();
            if !answers
                .iter()
                .rev()
                .take(4)
                .any(|(of, _, known)| *of == end && known.will_wake(waker))
            {
                answers.push((end, level, waker.clone()));
            }
            Poll::Pending
        })
        .await
    }

    /// Notifies `event` each time the high watermark moves past `beyond`, and when the log stops or changes hands.
    pub(super) fn register_fetch(
        self: &Rc<Self>,
        beyond: Offset,
        event: &Rc<Event>,
    ) -> FetchWaiter {
        let id = self.next_fetch.get();
        self.next_fetch.set(id + 1);
        self.fetches.borrow_mut().push(FetchEntry {
            id,
            beyond,
            event: Rc::clone(event),
        });
        FetchWaiter {
            progress: Rc::downgrade(self),
            id,
        }
    }
}

impl Drop for FetchWaiter {
    fn drop(&mut self) {
        let Some(progress) = self.progress.upgrade() else {
            return;
        };
        let mut fetches = progress.fetches.borrow_mut();
        if let Some(index) = fetches.iter().position(|entry| entry.id == self.id) {
            fetches.swap_remove(index);
        }
    }
}
