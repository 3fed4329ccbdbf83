//! When the attempts of one probe succeeded, and what that says about an outage.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Successes that lie further apart than this are worth a line.
pub(super) const GAP_MIN: Duration = Duration::from_millis(100);

pub(super) struct Timeline {
    /// What the probe does, as it is printed.
    pub(super) name: String,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    successes: Vec<Success>,
    last_error: String,
}

#[derive(Clone, Copy)]
struct Success {
    sent_at: Instant,
    answered_at: Instant,
}

/// A time without success.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gap {
    pub(super) from: Instant,
    pub(super) until: Instant,
}

impl Timeline {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            state: RefCell::default(),
        }
    }

    pub(super) fn succeeded(&self, sent_at: Instant, answered_at: Instant) {
        self.state.borrow_mut().successes.push(Success {
            sent_at,
            answered_at,
        });
    }

    pub(super) fn failed(&self, error: &anyhow::Error) {
        self.state.borrow_mut().last_error = format!("{error:#}");
    }

    pub(super) fn last_error(&self) -> String {
        self.state.borrow().last_error.clone()
    }

    pub(super) fn successes(&self) -> usize {
        self.state.borrow().successes.len()
    }

    /// When the first attempt succeeded that was begun at `since` or later: one begun before may have been answered by the process that
    /// is now gone.
    pub(super) fn first_sent_after(&self, since: Instant) -> Option<Instant> {
        let state = self.state.borrow();
        let at = state
            .successes
            .partition_point(|success| success.sent_at < since);
        state.successes.get(at).map(|success| success.answered_at)
    }

    pub(super) fn gaps(&self) -> Vec<Gap> {
        let state = self.state.borrow();
        let gap = |pair: &[Success]| Gap {
            from: pair[0].answered_at,
            until: pair[1].answered_at,
        };
        let gaps = state.successes.windows(2).map(gap);
        gaps.filter(|gap| gap.until - gap.from > GAP_MIN).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now;

    /// A timeline with successes sent at these milliseconds and answered one later.
    fn timeline(sent_ms: &[u64]) -> (Instant, Timeline) {
        let start = now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let timeline = Timeline::new("produce".to_owned());
        for sent in sent_ms {
            timeline.succeeded(at(*sent), at(*sent + 1));
        }
        (start, timeline)
    }

    #[test]
    fn an_answer_to_what_was_sent_before_is_no_return() {
        let (start, timeline) = timeline(&[0, 10, 500, 510]);
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(timeline.first_sent_after(at(10)), Some(at(11)));
        assert_eq!(timeline.first_sent_after(at(11)), Some(at(501)));
        assert_eq!(timeline.first_sent_after(at(511)), None);
    }

    #[test]
    fn only_long_gaps_are_told() {
        let (start, timeline) = timeline(&[0, 100, 110, 300]);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let (from, until) = (at(111), at(301));
        assert_eq!(timeline.gaps(), [Gap { from, until }]);
    }
}
