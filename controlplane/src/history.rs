//! The metadata changes of late, ready to be sent to every broker that follows them, and which log they are of.

use crate::limits::{HISTORY_BYTES_MAX, HISTORY_ENTRIES_MAX};
use bytes::Bytes;
use control_api::frame::{self, KIND_UPDATE, META_GROUP};
use control_api::ids::Position;
use control_api::image::MetadataEvent;
use control_api::level::Level;
use control_api::message::MetadataUpdate;
use std::collections::VecDeque;

/// Encoded once, however many brokers there are.
#[derive(Default)]
pub struct History {
    /// Everything after this index is here.
    after: u64,
    /// The terms of the entries from `after` on, oldest first.
    spans: VecDeque<Span>,
    /// The last entry applied, whether it changed anything or not.
    applied: Position,
    /// Of the image at `applied`.
    digest: u64,
    frames: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

/// Entries one after the other that are all of one term.
struct Span {
    term: u64,
    first: u64,
    last: u64,
}

/// How a broker goes on from where it is.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// With these changes, which may be none.
    Changes(Vec<Bytes>),
    /// With a snapshot, because what came after it is gone.
    Snapshot,
    /// With a snapshot, whatever it has: this log never was where it is.
    Replacement,
    /// It is further than this node, and may well be right.
    Wait,
}

impl History {
    /// `level`: the one after the change, which every broker supports. `digest`: of the image after it.
    pub fn push(&mut self, at: Position, level: Level, events: Vec<MetadataEvent>, digest: u64) {
        let Position { term, index } = at;
        self.applied = at;
        self.digest = digest;
        match self.spans.back_mut() {
            Some(span) if span.term == term && span.last + 1 == index => span.last = index,
            _ => self.spans.push_back(Span {
                term,
                first: index,
                last: index,
            }),
        }
        if events.is_empty() {
            return;
        }
        let update = MetadataUpdate::Delta { at, events };
        let frame = Bytes::from(frame::encode(level, KIND_UPDATE, META_GROUP, &update));
        self.bytes += frame.len();
        self.frames.push_back((index, frame));
        while self.frames.len() > HISTORY_ENTRIES_MAX || self.bytes > HISTORY_BYTES_MAX {
            let Some((index, frame)) = self.frames.pop_front() else {
                break;
            };
            self.bytes -= frame.len();
            self.after = index;
        }
        while self
            .spans
            .front()
            .is_some_and(|span| span.last < self.after)
        {
            self.spans.pop_front();
        }
    }

    /// The state was replaced by one whose last change was at `changed`: what came before is not known.
    pub fn restart(&mut self, changed: Position, applied: Position, digest: u64) {
        let known = |at: Position| Span {
            term: at.term,
            first: at.index,
            last: at.index,
        };
        let first = Span {
            last: match changed.term == applied.term {
                true => applied.index,
                false => changed.index,
            },
            ..known(changed)
        };
        *self = History {
            after: changed.index,
            spans: [first, known(applied)].into(),
            applied,
            digest,
            ..History::default()
        };
    }

    /// The last entry applied, and the digest of what everything up to it comes to.
    pub fn applied(&self) -> (Position, u64) {
        (self.applied, self.digest)
    }

    /// How to go on after what a broker says it has.
    pub fn after(&self, from: Position) -> Next {
        if from.index < self.after {
            return Next::Snapshot;
        }
        if from.index > self.applied.index {
            // Terms only grow, so an entry after this node's last cannot be of an earlier one.
            return match from.term < self.applied.term {
                true => Next::Replacement,
                false => Next::Wait,
            };
        }
        if !self.may_hold(from) {
            return Next::Replacement;
        }
        let first = self.frames.partition_point(|(at, _)| *at <= from.index);
        let frames = self.frames.iter().skip(first);
        Next::Changes(frames.map(|(_, frame)| frame.clone()).collect())
    }

    /// Whether the entry at that index is of that term, as far as is known: between two entries that are, its term is not.
    fn may_hold(&self, at: Position) -> bool {
        let next = self.spans.partition_point(|span| span.first <= at.index);
        let before = next.checked_sub(1).and_then(|span| self.spans.get(span));
        match (before, self.spans.get(next)) {
            (Some(span), _) if at.index <= span.last => at.term == span.term,
            (before, after) => {
                before.is_none_or(|before| at.term >= before.term)
                    && after.is_none_or(|after| at.term <= after.term)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> Position {
        Position { term, index }
    }

    fn change() -> Vec<MetadataEvent> {
        vec![MetadataEvent::NextProducerId(1)]
    }

    fn count(history: &History, from: Position) -> Option<usize> {
        match history.after(from) {
            Next::Changes(frames) => Some(frames.len()),
            _ => None,
        }
    }

    #[test]
    fn what_came_after_a_place_is_given_in_order() {
        let mut history = History::default();
        for index in 1..=9 {
            let changes = [3, 5, 9].contains(&index);
            history.push(
                at(1, index),
                Level::FIRST,
                if changes { change() } else { Vec::new() },
                7,
            );
        }
        history.push(at(1, 10), Level::FIRST, Vec::new(), 8);
        let count = |index| count(&history, at(1, index));
        assert_eq!(
            [1, 3, 4, 9, 10].map(count),
            [Some(3), Some(2), Some(2), Some(0), Some(0)]
        );
        assert_eq!(history.applied(), (at(1, 10), 8));
        assert_eq!(count(0), Some(3));
    }

    #[test]
    fn what_was_dropped_is_not_passed_over_in_silence() {
        let mut history = History::default();
        for index in 1..=HISTORY_ENTRIES_MAX as u64 + 5 {
            history.push(at(1, index), Level::FIRST, change(), 0);
        }
        assert_eq!(history.after(at(1, 4)), Next::Snapshot);
        assert_eq!(count(&history, at(1, 5)), Some(HISTORY_ENTRIES_MAX));
    }

    #[test]
    fn after_a_restart_only_what_is_new_is_known() {
        let mut history = History::default();
        history.push(at(1, 3), Level::FIRST, change(), 0);
        history.restart(at(2, 40), at(2, 42), 9);
        assert_eq!(history.after(at(1, 39)), Next::Snapshot);
        assert_eq!(count(&history, at(2, 40)), Some(0));
        assert_eq!(history.applied(), (at(2, 42), 9));
    }

    #[test]
    fn a_place_that_this_log_never_had_is_answered_with_another_image() {
        let mut history = History::default();
        for (term, index) in [(1, 1), (1, 2), (1, 3), (4, 4), (4, 5), (6, 6)] {
            history.push(at(term, index), Level::FIRST, change(), 0);
        }
        for own in [at(1, 3), at(4, 4), at(4, 5), at(6, 6)] {
            assert!(count(&history, own).is_some(), "{own:?}");
        }
        for foreign in [at(2, 3), at(1, 4), at(5, 5), at(7, 6), at(5, 7), at(1, 900)] {
            assert_eq!(history.after(foreign), Next::Replacement, "{foreign:?}");
        }
        // It may have followed a node that has more.
        for further in [at(6, 7), at(8, 7)] {
            assert_eq!(history.after(further), Next::Wait, "{further:?}");
        }
    }

    #[test]
    fn between_two_places_that_are_known_only_what_cannot_be_is_refused() {
        let mut history = History::default();
        history.restart(at(3, 40), at(6, 60), 0);
        for possible in [at(3, 40), at(3, 50), at(5, 50), at(6, 59), at(6, 60)] {
            assert_eq!(count(&history, possible), Some(0), "{possible:?}");
        }
        for impossible in [at(2, 40), at(4, 40), at(2, 50), at(7, 50), at(5, 60)] {
            assert_eq!(
                history.after(impossible),
                Next::Replacement,
                "{impossible:?}"
            );
        }
    }
}
