//! Which leader epoch began at which offset (KIP-101, KIP-279).
//!
//! The log adds to it when a leader takes over and when recovery meets a newer epoch; OffsetForLeaderEpoch and, later, followers
//! that look for the point where their log diverged ask it.

use control_api::ids::LeaderEpoch;

use super::limits::EPOCHS_MAX;
use super::types::Offset;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EpochStart {
    pub(super) epoch: LeaderEpoch,
    pub(super) start: Offset,
}

/// Epochs rise, starts never fall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Epochs(Vec<EpochStart>);

impl Epochs {
    /// Entries that do not rise are dropped.
    pub(super) fn from_entries(entries: &[EpochStart]) -> Epochs {
        let mut epochs = Epochs::default();
        entries
            .iter()
            .for_each(|entry| epochs.begin(entry.epoch, entry.start));
        epochs
    }

    pub(super) fn entries(&self) -> &[EpochStart] {
        &self.0
    }

    pub(super) fn latest(&self) -> Option<LeaderEpoch> {
        self.0.last().map(|entry| entry.epoch)
    }

    /// The epoch that `offset` belongs to.
    pub(super) fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let entry = self.0.iter().rev().find(|entry| entry.start <= offset);
        entry.map(|entry| entry.epoch)
    }

    /// Notes that `epoch` begins at `start`, unless it or a later one has begun. Epochs in which nothing was appended give way.
    pub(super) fn begin(&mut self, epoch: LeaderEpoch, start: Offset) {
        if self.latest().is_some_and(|latest| latest >= epoch) {
            return;
        }
        while self.0.last().is_some_and(|entry| entry.start >= start) {
            self.0.pop();
        }
        if self.0.len() == EPOCHS_MAX {
            self.0.remove(0);
        }
        self.0.push(EpochStart { epoch, start });
    }

    /// The log now begins at `log_start`: the epoch that covers it begins there, older ones are gone.
    pub(super) fn forget_before(&mut self, log_start: Offset) {
        let covering = self
            .0
            .iter()
            .rposition(|entry| entry.start <= log_start)
            .unwrap_or(0);
        self.0.drain(..covering);
        if let Some(first) = self.0.first_mut() {
            first.start = first.start.max(log_start);
        }
    }

    /// The log now ends at `log_end`: epochs that began there or later never were.
    pub(super) fn truncate(&mut self, log_end: Offset) {
        self.0.retain(|entry| entry.start < log_end);
    }

    /// The largest epoch up to `epoch` and where it ended, or `None` when `epoch` is newer than all or nothing is known.
    pub(super) fn end_of(
        &self,
        epoch: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        let latest = self.latest()?;
        if epoch == latest {
            return Some((epoch, log_end));
        }
        let higher = self.0.iter().find(|entry| entry.epoch > epoch)?;
        let floor = self.0.iter().rev().find(|entry| entry.epoch <= epoch);
        Some((floor.map_or(epoch, |entry| entry.epoch), higher.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> Epochs {
        let mut epochs = Epochs::default();
        for &(epoch, start) in entries {
            epochs.begin(LeaderEpoch(epoch), Offset(start));
        }
        epochs
    }

    fn end_of(epochs: &Epochs, epoch: i32) -> Option<(i32, i64)> {
        epochs
            .end_of(LeaderEpoch(epoch), Offset(100))
            .map(|(epoch, end)| (epoch.0, end.0))
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins_and_the_latest_at_the_log_end() {
        let epochs = epochs(&[(1, 0), (3, 10), (7, 50)]);
        assert_eq!(end_of(&epochs, 1), Some((1, 10)));
        assert_eq!(end_of(&epochs, 2), Some((1, 10)));
        assert_eq!(end_of(&epochs, 3), Some((3, 50)));
        assert_eq!(end_of(&epochs, 7), Some((7, 100)));
        assert_eq!(end_of(&epochs, 8), None, "newer than all that is known");
        assert_eq!(
            end_of(&epochs, 0),
            Some((0, 0)),
            "older than all that is known"
        );
        assert_eq!(end_of(&Epochs::default(), 0), None);
    }

    #[test]
    fn an_epoch_without_records_gives_way_and_older_epochs_are_ignored() {
        let mut epochs = epochs(&[(1, 0), (2, 10), (3, 10)]);
        assert_eq!(epochs, self::epochs(&[(1, 0), (3, 10)]));
        epochs.begin(LeaderEpoch(2), Offset(20));
        assert_eq!(epochs.latest(), Some(LeaderEpoch(3)));
    }

    #[test]
    fn retention_keeps_the_epoch_that_covers_the_new_start() {
        let mut epochs = epochs(&[(1, 0), (2, 10), (3, 20)]);
        epochs.forget_before(Offset(15));
        assert_eq!(epochs, self::epochs(&[(2, 15), (3, 20)]));
    }

    #[test]
    fn truncation_forgets_epochs_that_began_behind_the_end() {
        let mut epochs = epochs(&[(1, 0), (2, 10), (3, 20)]);
        epochs.truncate(Offset(20));
        assert_eq!(epochs, self::epochs(&[(1, 0), (2, 10)]));
    }
}
