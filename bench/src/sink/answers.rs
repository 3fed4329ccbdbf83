//! The answers of one connection: its receiving task notes where each frame ends in the log, its answering task counts those that are stored.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use anyhow::{Result, ensure};

use super::UNANSWERED_MAX;

#[derive(Default)]
pub(super) struct Answers {
    /// Where in the log the unanswered frames end.
    ends: RefCell<VecDeque<u64>>,
    answered: Cell<u64>,
    finished: Cell<bool>,
}

impl Answers {
    pub(super) fn expect(&self, end: u64) -> Result<()> {
        let mut ends = self.ends.borrow_mut();
        ensure!(
            ends.len() < UNANSWERED_MAX,
            "more than {UNANSWERED_MAX} unanswered frames"
        );
        ends.push_back(end);
        Ok(())
    }

    /// No frame follows. The answering task has to be woken.
    pub(super) fn finish(&self) {
        self.finished.set(true);
    }

    /// Takes the frames that end at `stored` or before; the number answered, or `None` where the last answer said as much. The inner
    /// `None` is the end.
    pub(super) fn due(&self, stored: u64) -> Option<Option<u64>> {
        let mut ends = self.ends.borrow_mut();
        let count = ends.iter().take_while(|end| **end <= stored).count();
        if count == 0 {
            return (self.finished.get() && ends.is_empty()).then_some(None);
        }
        ends.drain(..count);
        self.answered.set(self.answered.get() + count as u64);
        Some(Some(self.answered.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_once_they_are_stored_and_the_end_comes_last() {
        let answers = Answers::default();
        for end in [10, 20, 30] {
            answers.expect(end).unwrap();
        }
        assert_eq!(answers.due(9), None);
        assert_eq!(answers.due(29), Some(Some(2)));
        answers.finish();
        assert_eq!(answers.due(29), None);
        assert_eq!(answers.due(30), Some(Some(3)));
        assert_eq!(answers.due(30), Some(None));
    }
}
