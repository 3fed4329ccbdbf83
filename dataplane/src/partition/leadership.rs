//! Who leads a partition, how far consumers see, and who waits for its log.
//!
//! The log tells how far it has come ([`LogOwner`]); answers to producers and parked fetches wait here. An answer is for a batch of one
//! leader epoch: after another leader's, an offset may belong to another batch.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::Waker;

use control_api::ids::LeaderEpoch;

use crate::event::Event;
use crate::log::{Level, LogOffsets, LogOwner, Offset};

/// Where a partition stands among its replicas. The log and those who wait share it.
pub struct Leadership {
    leads: Cell<bool>,
    epoch: Cell<LeaderEpoch>,
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
    leadership: Weak<Leadership>,
    place: Rc<Cell<usize>>,
}

impl Default for Leadership {
    /// It leads nothing yet.
    fn default() -> Leadership {
        Leadership {
            leads: Cell::new(false),
            epoch: Cell::new(LeaderEpoch(0)),
            answers: RefCell::default(),
            fetches: RefCell::default(),
        }
    }
}

impl Leadership {
    pub fn leads(&self) -> bool {
        self.leads.get()
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch.get()
    }

    /// This broker leads in `epoch`, or does not; false for an epoch older than the known one, which changes nothing.
    pub fn set(&self, leads: bool, epoch: LeaderEpoch) -> bool {
        let current = self.epoch.get();
        if epoch < current {
            return false;
        }
        self.epoch.set(epoch);
        if self.leads.replace(leads) != leads || epoch != current {
            self.hindered();
        }
        true
    }

    /// Wakes the task once everything before `end` has reached `level`, and whenever it has to look again.
    pub(super) fn wake_at(&self, end: Offset, level: Level, waker: &Waker) {
        let mut answers = self.answers.borrow_mut();
        let mut newest = answers.iter().rev().take(4);
        if !newest.any(|(of, _, known)| *of == end && known.will_wake(waker)) {
            answers.push((end, level, waker.clone()));
        }
    }

    /// Notifies `event` each time the high watermark moves past `beyond`, and when the log stops or changes hands.
    pub fn register_fetch(self: &Rc<Self>, beyond: Offset, event: &Rc<Event>) -> FetchWaiter {
        let mut fetches = self.fetches.borrow_mut();
        let place = Rc::new(Cell::new(fetches.len()));
        fetches.push(FetchEntry {
            place: Rc::clone(&place),
            beyond,
            event: Rc::clone(event),
        });
        FetchWaiter {
            leadership: Rc::downgrade(self),
            place,
        }
    }

    /// Fetches that wait for what comes next.
    pub fn parked_fetches(&self) -> usize {
        self.fetches.borrow().len()
    }

    fn wake_fetches(&self, of: impl Fn(&FetchEntry) -> bool) {
        let fetches = self.fetches.borrow();
        let woken = fetches.iter().filter(|entry| of(entry));
        woken.for_each(|entry| entry.event.notify());
    }
}

impl LogOwner for Leadership {
    /// The only replica in sync is this one.
    fn advanced(&self, offsets: LogOffsets) -> Offset {
        let safe = match offsets.write_caching {
            true => offsets.written,
            false => offsets.flushed,
        };
        let high_watermark = safe.max(offsets.high_watermark);
        let mut answers = self.answers.borrow_mut();
        for (_, _, waker) in answers.extract_if(.., |(end, level, _)| match level {
            Level::Written => *end <= offsets.written,
            Level::Flushed => *end <= offsets.flushed,
        }) {
            waker.wake();
        }
        drop(answers);
        if high_watermark > offsets.high_watermark {
            self.wake_fetches(|entry| entry.beyond < high_watermark);
        }
        high_watermark
    }

    fn hindered(&self) {
        let answers = std::mem::take(&mut *self.answers.borrow_mut());
        answers.into_iter().for_each(|(_, _, waker)| waker.wake());
        self.wake_fetches(|_| true);
    }
}

impl Drop for FetchWaiter {
    fn drop(&mut self) {
        let Some(leadership) = self.leadership.upgrade() else {
            return;
        };
        // The last of the list takes the place, however many there are.
        let mut fetches = leadership.fetches.borrow_mut();
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

    fn advance(leadership: &Leadership, from: i64, to: i64) -> Offset {
        leadership.advanced(LogOffsets {
            written: Offset(to),
            flushed: Offset(from),
            write_caching: true,
            high_watermark: Offset(from),
        })
    }

    #[test]
    fn consumers_see_what_is_flushed_or_what_is_written_where_writes_are_cached() {
        let leadership = Leadership::default();
        for (write_caching, high_watermark, seen) in [(false, 2, 3), (true, 2, 5), (false, 5, 5)] {
            let offsets = LogOffsets {
                written: Offset(5),
                flushed: Offset(3),
                write_caching,
                high_watermark: Offset(high_watermark),
            };
            assert_eq!(leadership.advanced(offsets), Offset(seen));
        }
    }

    #[test]
    fn an_older_epoch_changes_nothing() {
        let leadership = Leadership::default();
        assert!(leadership.set(true, LeaderEpoch(4)));
        assert!(!leadership.set(false, LeaderEpoch(3)));
        assert!(leadership.leads());
        assert!(leadership.set(false, LeaderEpoch(4)));
        assert!(!leadership.leads());
    }

    #[test]
    fn parked_fetches_leave_in_any_order_and_the_others_are_still_told() {
        let leadership = Rc::new(Leadership::default());
        let event = || Rc::new(Event::default());
        let events: Vec<_> = (0..7).map(|_| event()).collect();
        let mut waiters: Vec<_> = events
            .iter()
            .map(|event| leadership.register_fetch(Offset(0), event))
            .collect();
        for gone in [0, 5, 2] {
            waiters.remove(gone);
        }
        advance(&leadership, 0, 1);
        let told: Vec<u64> = events.iter().map(|event| event.generation()).collect();
        assert_eq!(told, [0, 1, 1, 0, 1, 1, 0]);
        drop(waiters);
        assert_eq!(leadership.parked_fetches(), 0);
    }

    /// Each looked through the list for its own place, which took a shard 14 s for a fetch that named a partition 200,000 times.
    #[test]
    fn very_many_parked_fetches_leave_without_looking_for_their_places() {
        let leadership = Rc::new(Leadership::default());
        let event = Rc::new(Event::default());
        let waiters: Vec<_> = (0..1_000_000)
            .map(|_| leadership.register_fetch(Offset(0), &event))
            .collect();
        drop(waiters);
        assert_eq!(leadership.parked_fetches(), 0);
    }
}
