//! How old a segment is, for `segment.ms` and `retention.ms`: by its records' times, or by clocks where those have none, as in Kafka.

use std::rc::Rc;

use super::segment::Segment;
use super::{Inner, Log};
use crate::io::{Io, OpenMode};

/// What a segment knows of time besides its records.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SegmentClock {
    /// When this process began or found the segment.
    created_ms: i64,
    /// By how much `segment.ms` is shorter for this segment (`segment.jitter.ms`).
    jitter_ms: i64,
    /// When the file was changed last, once it was asked for that or this process appended.
    pub(super) changed_ms: Option<i64>,
}

impl<I: Io> Inner<I> {
    /// Called when a segment becomes the active one.
    pub(super) fn start_clock(&self, segment: &Segment<I>) {
        let config = self.config.get();
        let jitter_ms_max = config.segment_jitter_ms.min(config.segment_ms);
        let jitter_ms = match u64::try_from(jitter_ms_max) {
            Ok(0) | Err(_) => 0,
            Ok(max) => (self.io.random_u64() % max) as i64,
        };
        segment.clock.set(SegmentClock {
            created_ms: self.io.wall_clock_ms(),
            jitter_ms,
            ..segment.clock.get()
        });
    }

    /// Whether `segment.ms` ends the active segment before a batch of this time.
    pub(super) fn is_full_of_time(&self, active: &Segment<I>, max_timestamp: i64) -> bool {
        let clock = active.clock.get();
        let waited_ms = match active.first_timestamp.get() {
            Some(first) if first >= 0 => max_timestamp.saturating_sub(first),
            _ => self.io.wall_clock_ms().saturating_sub(clock.created_ms),
        };
        waited_ms > self.config.get().segment_ms.saturating_sub(clock.jitter_ms)
    }
}

impl<I: Io> Log<I> {
    /// Asks for the time of change of files whose records have no times, so that `is_aged` knows it.
    pub(super) async fn learn_ages(&self) {
        if self.config().retention_ms < 0 {
            return;
        }
        let is_unknown = |segment: &Rc<Segment<I>>| {
            segment.bytes.get() > 0
                && segment.max_timestamp.get().0 < 0
                && segment.clock.get().changed_ms.is_none()
        };
        let all = Vec::from_iter(self.0.segments.borrow().iter().cloned());
        for segment in all.into_iter().filter(is_unknown) {
            // One that cannot be asked now is asked again the next time.
            let changed_ms = self.changed_ms(&segment).await.ok();
            let clock = segment.clock.get();
            segment.clock.set(SegmentClock {
                changed_ms: clock.changed_ms.or(changed_ms),
                ..clock
            });
        }
    }

    async fn changed_ms(&self, segment: &Segment<I>) -> std::io::Result<i64> {
        let io = &self.0.io;
        let file = io.open(segment.path(), OpenMode::ReadCached).await?;
        io.changed_ms(&file).await
    }

    /// Whether `retention.ms` has passed since the newest record, or since the file was changed if no record has a time.
    pub(super) fn is_aged(&self, segment: &Segment<I>, now_ms: i64) -> bool {
        let retention_ms = self.config().retention_ms;
        let newest_ms = match segment.max_timestamp.get() {
            (newest, _) if newest >= 0 => Some(newest),
            _ => segment.clock.get().changed_ms,
        };
        retention_ms >= 0
            && newest_ms.is_some_and(|newest| now_ms.saturating_sub(newest) > retention_ms)
    }
}
