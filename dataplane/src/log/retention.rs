//! Deletes whole closed segments by age and by size, never single records (`retention.ms`, `retention.bytes`).

use std::rc::Rc;

use super::segment::Segment;
use super::types::Offset;
use super::{Log, LogError};
use crate::io::Io;

impl<I: Io> Log<I> {
    /// Deletes what is due and forgets silent producers; returns how many segments went. The new log start is stored before any file
    /// is removed.
    pub async fn enforce_retention(&self, now_ms: i64) -> Result<usize, LogError> {
        self.poisoned()?;
        let config = self.config();
        self.0
            .producers
            .borrow_mut()
            .expire(now_ms, config.producer_expiration_ms);
        if self.0.closed.get() {
            return Ok(0);
        }
        self.learn_ages().await;
        self.roll_if_all_is_due(now_ms);
        let closed = self.segments() - 1;
        let due = self.count_due(now_ms, closed);
        if due == 0 {
            return Ok(0);
        }
        let log_start = self.0.segments.borrow()[due].base;
        self.0.progress.advance_log_start(log_start);
        self.0.epochs.borrow_mut().forget_before(log_start);
        self.store_checkpoint(false).await?;
        for _ in 0..due {
            let Some(segment) = self.take_first_below(log_start) else {
                break;
            };
            segment.free(&self.0.io, &self.0.shared.spares, 1).await?;
        }
        Ok(due)
    }

    /// Where everything is due, the active segment is closed first, so that it can go with the others, as in Kafka.
    fn roll_if_all_is_due(&self, now_ms: i64) {
        let all = self.segments();
        if self.0.active().bytes.get() > 0 && self.count_due(now_ms, all) == all {
            self.0.roll();
            // With its last write completed long ago, nothing else would seal it.
            self.seal_what_is_complete();
        }
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

    fn take_first_below(&self, log_start: Offset) -> Option<Rc<Segment<I>>> {
        let mut segments = self.0.segments.borrow_mut();
        if segments.len() < 2 || segments[0].next.get() > log_start {
            return None;
        }
        let segment = segments.pop_front()?;
        self.0
            .warm
            .borrow_mut()
            .retain(|warm| !Rc::ptr_eq(warm, &segment));
        Some(segment)
    }
}
