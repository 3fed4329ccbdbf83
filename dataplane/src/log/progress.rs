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

/// Whether the log's writer has what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Supply {
    Enough,
    /// It was refused something and tries again.
    Short,
    /// It has been for long: nothing is appended until it has it.
    Stalled,
}

pub(super) struct Progress {
    log_start: Cell<Offset>,
    log_end: Cell<Offset>,
    written: Cell<Offset>,
    flushed: Cell<Offset>,
    high_watermark: Cell<Offset>,
    leader_epoch: Cell<LeaderEpoch>,
    poisoned: Cell<bool>,
    supply: Cell<Supply>,
    answers: RefCell<Vec<(Offset, Level, Waker)>>,
    fetches: RefCell<Vec<FetchEntry>>,
}

struct FetchEntry {
    /// Where in the list it stands, which its waiter has to know to leave.
    place: Rc<Cell<usize>>,
    beyond: Offset,
    event: Rc<Event>,
}

/// A parked fetch's interest in a partition; it ends when this is dropped.
pub struct FetchWaiter {
    progress: Weak<Progress>,
    place: Rc<Cell<usize>>,
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
            supply: Cell::new(Supply::Enough),
            answers: RefCell::default(),
            fetches: RefCell::default(),
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
        self.supply.get() == Supply::Stalled
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

    /// The writer has no better supply than this until [`Progress::go_on`]; true if that is news.
    pub(super) fn lacks(&self, supply: Supply) -> bool {
        let worse = supply > self.supply.get();
        if worse {
            self.supply.set(supply);
            self.wake_all();
        }
        worse
    }

    /// True if it was stalled.
    pub(super) fn go_on(&self) -> bool {
        self.supply.replace(Supply::Enough) == Supply::Stalled
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

    /// Fetches that wait for what comes next.
    pub(super) fn parked_fetches(&self) -> usize {
        self.fetches.borrow().len()
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

    /// Resolves once everything before `end` has reached `level`; an error as soon as the leader epoch is another than `epoch`, or the
    /// supply as bad as `given_up_at`.
    pub(super) async fn wait(
        &self,
        end: Offset,
        level: Level,
        epoch: LeaderEpoch,
        given_up_at: Supply,
    ) -> Result<(), WaitError> {
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
            if self.supply.get() >= given_up_at {
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
        let mut fetches = self.fetches.borrow_mut();
        let place = Rc::new(Cell::new(fetches.len()));
        fetches.push(FetchEntry {
            place: Rc::clone(&place),
            beyond,
            event: Rc::clone(event),
        });
        FetchWaiter {
            progress: Rc::downgrade(self),
            place,
        }
    }
}

impl Drop for FetchWaiter {
    fn drop(&mut self) {
        let Some(progress) = self.progress.upgrade() else {
            return;
        };
        // The last of the list takes the place, however many there are.
        let mut fetches = progress.fetches.borrow_mut();
        let place = self.place.get();
        fetches.swap_remove(place);
        if let Some(moved) = fetches.get(place) {
            moved.place.set(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Rc<Progress> {
        Rc::new(Progress::new(Offset(0), Offset(0), LeaderEpoch(0)))
    }

    fn move_high_watermark(progress: &Progress, to: i64) {
        progress.appended(Offset(to));
        progress.advance_written(Offset(to));
        progress.publish(true);
    }

    #[test]
    fn parked_fetches_leave_in_any_order_and_the_others_are_still_told() {
        let progress = progress();
        let event = || Rc::new(Event::default());
        let events: Vec<_> = (0..7).map(|_| event()).collect();
        let mut waiters: Vec<_> = events
            .iter()
            .map(|event| progress.register_fetch(Offset(0), event))
            .collect();
        for gone in [0, 5, 2] {
            waiters.remove(gone);
        }
        move_high_watermark(&progress, 1);
        let told: Vec<u64> = events.iter().map(|event| event.generation()).collect();
        assert_eq!(told, [0, 1, 1, 0, 1, 1, 0]);
        drop(waiters);
        assert!(progress.fetches.borrow().is_empty());
    }

    /// Each looked through the list for its own place, which took a shard 14 s for a fetch that named a partition 200,000 times.
    #[test]
    fn very_many_parked_fetches_leave_without_looking_for_their_places() {
        let progress = progress();
        let event = Rc::new(Event::default());
        let waiters: Vec<_> = (0..1_000_000)
            .map(|_| progress.register_fetch(Offset(0), &event))
            .collect();
        drop(waiters);
        assert!(progress.fetches.borrow().is_empty());
    }
}
