//! Until when this process may take itself for registered, whatever happens to it meanwhile.
//!
//! The control link extends the lease; shards look at it before they append and again before they acknowledge. A process that was
//! stopped, or whose machine slept, finds it run out, because time went on: another process may have its partitions by now.

use crate::io::Instant;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Clones are the same lease; a new one has run out.
#[derive(Clone, Default)]
pub struct Lease(Arc<AtomicU64>);

impl Lease {
    pub fn holds(&self, now: Instant) -> bool {
        now.0 < self.0.load(Ordering::Relaxed)
    }

    /// How long it has left.
    pub fn nanos_left(&self, now: Instant) -> u64 {
        self.0.load(Ordering::Relaxed).saturating_sub(now.0)
    }

    /// It ends at this moment, which may be earlier than was said before.
    pub fn set_end(&self, end: Instant) {
        self.0.store(end.0, Ordering::Relaxed);
    }
}
