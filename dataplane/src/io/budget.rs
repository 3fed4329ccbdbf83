//! A bound on memory, and charges on it that give themselves back wherever they end.
//!
//! A charge belongs to the budget that it was taken from, however many shards it travels to with the bytes it stands for: whoever holds
//! those holds it too, so no path on which they are dropped can forget to give it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Clones are handles to the same budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    charged: AtomicUsize,
    bytes_max: usize,
    /// How often somebody could get nothing and nothing in its place.
    shortages: AtomicUsize,
}

/// Bytes of a budget that are in use until this is dropped, on whichever thread.
#[derive(Debug)]
#[must_use = "a charge that is dropped is given back"]
pub struct Charge {
    ledger: Arc<Ledger>,
    bytes: usize,
}

impl MemoryBudget {
    pub fn new(bytes_max: usize) -> MemoryBudget {
        MemoryBudget(Arc::new(Ledger {
            charged: AtomicUsize::new(0),
            bytes_max,
            shortages: AtomicUsize::new(0),
        }))
    }

    pub fn charged(&self) -> usize {
        self.0.charged.load(Ordering::Relaxed)
    }

    /// Bytes that can still be charged.
    pub fn left(&self) -> usize {
        self.0.bytes_max.saturating_sub(self.charged())
    }

    /// Somebody could get nothing, and has nothing to take in its place: who holds charges may hear of it.
    pub fn note_shortage(&self) {
        self.0.shortages.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes `bytes` bytes of the budget, or nothing if it has not that many left.
    pub fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let mut charge = Charge {
            ledger: Arc::clone(&self.0),
            bytes: 0,
        };
        charge.resize(bytes).then_some(charge)
    }
}

impl Charge {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How often its budget was short so far.
    pub fn shortages(&self) -> usize {
        self.ledger.shortages.load(Ordering::Relaxed)
    }

    /// Makes it a charge of `bytes` bytes. False, and nothing changes, if the budget has not that many more left.
    pub fn resize(&mut self, bytes: usize) -> bool {
        let charged = &self.ledger.charged;
        if bytes <= self.bytes {
            charged.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        } else {
            let more = bytes - self.bytes;
            let taken = charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |charged| {
                let charged = charged.checked_add(more)?;
                (charged <= self.ledger.bytes_max).then_some(charged)
            });
            if taken.is_err() {
                return false;
            }
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_given_back_where_it_ends() {
        let budget = MemoryBudget::new(100);
        let charge = budget.try_charge(60).expect("there is room");
        assert!(budget.try_charge(41).is_none());
        let other = budget.try_charge(40).expect("there is room");
        assert_eq!(budget.left(), 0);
        std::thread::scope(|scope| scope.spawn(move || drop(charge)).join()).expect("it ends");
        assert_eq!(budget.charged(), 40);
        drop(other);
        assert_eq!(budget.charged(), 0);
    }

    #[test]
    fn a_charge_shrinks_and_grows_within_the_budget() {
        let budget = MemoryBudget::new(100);
        let mut charge = budget.try_charge(60).expect("there is room");
        assert!(charge.resize(10));
        assert_eq!(budget.left(), 90);
        assert!(!charge.resize(101) && charge.bytes() == 10);
        assert!(charge.resize(100));
        assert_eq!(budget.left(), 0);
    }
}
