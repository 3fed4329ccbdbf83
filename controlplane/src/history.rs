//! The metadata changes of late, ready to be sent to every broker that follows them.

use crate::limits::{HISTORY_BYTES_MAX, HISTORY_ENTRIES_MAX};
use bytes::Bytes;
use control_api::frame::{self, KIND_UPDATE, META_GROUP};
use control_api::image::MetadataEvent;
use control_api::message::MetadataUpdate;
use std::collections::VecDeque;

/// Encoded once, however many brokers there are.
#[derive(Default)]
pub struct History {
    /// Everything after this index is here.
    after: u64,
    /// The last index applied, whether it changed anything or not.
    applied: u64,
    frames: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl History {
    pub fn push(&mut self, index: u64, events: Vec<MetadataEvent>) {
        self.applied = index;
        if events.is_empty() {
            return;
        }
        let update = MetadataUpdate::Delta { index, events };
        let frame = Bytes::from(frame::encode(KIND_UPDATE, META_GROUP, &update));
        self.bytes += frame.len();
        self.frames.push_back((index, frame));
        while self.frames.len() > HISTORY_ENTRIES_MAX || self.bytes > HISTORY_BYTES_MAX {
            let Some((index, frame)) = self.frames.pop_front() else {
                break;
            };
            self.bytes -= frame.len();
            self.after = index;
        }
    }

    /// The state was replaced by one whose last change was at `changed`: what came before is not known.
    pub fn restart(&mut self, changed: u64, applied: u64) {
        *self = History {
            after: changed,
            applied,
            ..History::default()
        };
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The frames of all changes after `index`; `None` where some of them are gone.
    pub fn since(&self, index: u64) -> Option<Vec<Bytes>> {
        if index < self.after {
            return None;
        }
        let first = self.frames.partition_point(|(at, _)| *at <= index);
        let frames = self.frames.iter().skip(first);
        Some(frames.map(|(_, frame)| frame.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Vec<MetadataEvent> {
        vec![MetadataEvent::NextProducerId(1)]
    }

    #[test]
    fn what_came_after_an_index_is_given_in_order() {
        let mut history = History::default();
        for index in [3, 5, 9] {
            history.push(index, change());
        }
        history.push(11, Vec::new());
        let count = |index| history.since(index).map(|frames| frames.len());
        assert_eq!(
            [0, 3, 4, 9, 20].map(count),
            [Some(3), Some(2), Some(2), Some(0), Some(0)]
        );
        assert_eq!(history.applied(), 11);
    }

    #[test]
    fn what_was_dropped_is_not_passed_over_in_silence() {
        let mut history = History::default();
        for index in 1..=HISTORY_ENTRIES_MAX as u64 + 5 {
            history.push(index, change());
        }
        assert_eq!(history.since(4), None);
        assert_eq!(history.since(5).unwrap().len(), HISTORY_ENTRIES_MAX);
    }

    #[test]
    fn after_a_restart_only_what_is_new_is_known() {
        let mut history = History::default();
        history.push(3, change());
        history.restart(40, 42);
        assert_eq!(history.since(39), None);
        assert_eq!(history.since(40).unwrap().len(), 0);
        assert_eq!(history.applied(), 42);
    }
}
