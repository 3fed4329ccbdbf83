//! Deletes whole closed segments by age and by size, never single records (`retention.ms`, `retention.bytes`).

use std::rc::Rc;

use super::segment::Segment;
use super::{Log, LogError};
use crate::io::Io;
use crate::select::until;

const SEAL_WAIT_MS: u64 = 1000;

impl<I: Io> Log<I> {
    /// Gives up what is due and forgets silent producers; returns how many segments went. A log that was poisoned or is stalled does so
    /// too: it may be the one whose segments fill the disk.
    pub async fn enforce_retention(&self, now_ms: i64) -> Result<usize, LogError> {
        let config = self.config();
        self.0
            .producers
            .borrow_mut()
            .expire(now_ms, config.producer_expiration_ms);
        if self.0.closed.get() {
            return Ok(0);
        }
        self.learn_ages().await;
        if let Some(rolled) = self.roll_if_all_is_due(now_ms) {
            self.sealed_soon(&rolled).await;
        }
        let closed = self.segments() - 1;
        let due = self.count_due(now_ms, closed).min(self.count_sealed());
        if due > 0 {
            self.doom(due);
        }
        self.free_doomed().await?;
        Ok(due)
    }

    /// Moves the log start behind the oldest segments. No reader finds them any more.
    fn doom(&self, due: usize) {
        let mut segments = self.0.segments.borrow_mut();
        let doomed = segments.drain(..due);
        let mut warm = self.0.warm.borrow_mut();
        for segment in doomed {
            warm.retain(|known| !Rc::ptr_eq(known, &segment));
            self.0.doomed.borrow_mut().push_back(segment);
        }
        let log_start = segments[0].base;
        self.0.progress.advance_log_start(log_start);
        self.0.epochs.borrow_mut().forget_before(log_start);
    }

    /// Removes the files of what is below the log start. The disk may forget their names in any order, so that a power loss could leave
    /// a gap: a checkpoint tells recovery the log start first. Where none can be stored, on a full disk or of a poisoned log, the files
    /// go one by one from the oldest on, each for good before the next; but not the last one of all, which alone says then what offset
    /// comes next.
    async fn free_doomed(&self) -> Result<(), LogError> {
        loop {
            let Some(segment) = self.0.doomed.borrow().front().cloned() else {
                return Ok(());
            };
            if !self.start_is_stored(&segment) && self.store_checkpoint(false).await.is_err() {
                if self.0.doomed.borrow().len() == 1 && self.is_empty_on_disk() {
                    return Ok(());
                }
                tracing::debug!(segment = %segment.base, "freed without a checkpoint");
            }
            let _pass = self.0.replacing.enter().await;
            if self.0.deleted.get() {
                return Ok(());
            }
            // Here, in the list of the doomed, and by whoever still reads it.
            segment.free(&self.0.io, &self.0.shared.spares, 2).await?;
            if !self.start_is_stored(&segment) {
                self.0.io.sync_directory(&self.0.directory).await?;
            }
            let mut doomed = self.0.doomed.borrow_mut();
            doomed.retain(|known| !Rc::ptr_eq(known, &segment));
        }
    }

    /// Whether nothing lies on the disk for good that comes behind the log start.
    fn is_empty_on_disk(&self) -> bool {
        self.0.progress.flushed() <= self.log_start()
    }

    /// Whether recovery would know that the log begins behind this segment.
    fn start_is_stored(&self, segment: &Segment<I>) -> bool {
        segment.next.get() <= self.0.checkpointed.get().0
    }

    /// Where everything is due, the active segment is closed first, so that it can go with the others, as in Kafka.
    fn roll_if_all_is_due(&self, now_ms: i64) -> Option<Rc<Segment<I>>> {
        let active = self.0.active();
        let may_roll = !self.is_poisoned() && !self.is_stalled() && active.bytes.get() > 0;
        let all = self.segments();
        if !may_roll || self.count_due(now_ms, all) < all {
            return None;
        }
        self.0.roll();
        // With its last write completed long ago, nothing else would seal it.
        self.seal_what_is_complete();
        Some(active)
    }

    /// Waits for a sealing that was begun; one that takes its time is left to the next pass.
    async fn sealed_soon(&self, segment: &Segment<I>) {
        let io = &self.0.io;
        let sealed = async {
            loop {
                let generation = self.0.changed.generation();
                if segment.sealed.get() || self.is_poisoned() {
                    return;
                }
                self.0.changed.changed_since(generation).await;
            }
        };
        let _ = until(io, io.now().after_ms(SEAL_WAIT_MS), sealed).await;
    }

    /// The oldest segments that nobody writes any more.
    fn count_sealed(&self) -> usize {
        let segments = self.0.segments.borrow();
        let sealed = segments.iter().take_while(|segment| segment.sealed.get());
        sealed.count()
    }

    /// How many of the `among` oldest segments are due; only those whose records consumers could read.
    fn count_due(&self, now_ms: i64, among: usize) -> usize {
        let retention_bytes = self.config().retention_bytes;
        let segments = self.0.segments.borrow();
        let mut excess = match u64::try_from(retention_bytes) {
            Ok(kept) => self.bytes().saturating_sub(kept),
            Err(_) => 0,
        };
        segments
            .iter()
            .take(among)
            .take_while(|segment| {
                let bytes = segment.bytes.get();
                let too_large = excess >= bytes && bytes > 0;
                excess = excess.saturating_sub(bytes);
                segment.next.get() <= self.high_watermark()
                    && (too_large || self.is_aged(segment, now_ms))
            })
            .count()
    }
}
