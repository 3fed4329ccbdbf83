//! Long loops that give way: whatever a request names, the shard's other tasks have their turn after a few hundred steps of it.

use crate::limits::STEPS_PER_TURN_MAX;

pub use wire::give_way;

/// Counts the steps of one task's loops.
#[derive(Default)]
pub struct Pace {
    steps: usize,
}

impl Pace {
    /// To be awaited once for each step: nearly always goes on at once.
    pub async fn step(&mut self) {
        self.steps(1).await;
    }

    /// For a step that is as long as so many.
    pub async fn steps(&mut self, steps: usize) {
        self.steps += steps;
        if self.steps >= STEPS_PER_TURN_MAX {
            self.steps = 0;
            give_way().await;
        }
    }

    /// Drops items that each took so many steps to make: to give memory back takes its time too.
    pub async fn let_go<T>(&mut self, items: Vec<T>, steps_each: usize) {
        for item in items {
            drop(item);
            self.steps(steps_each).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn a_loop_gives_way_again_and_again() {
        let mut walk = pin!(async {
            let mut pace = Pace::default();
            for _ in 0..3 * STEPS_PER_TURN_MAX {
                pace.step().await;
            }
        });
        let mut context = Context::from_waker(Waker::noop());
        let turns =
            std::iter::from_fn(|| walk.as_mut().poll(&mut context).is_pending().then_some(()));
        assert_eq!(turns.count(), 3);
    }
}
