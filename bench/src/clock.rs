//! Monotonic and wall time. The only place that asks the system for either.

use std::time::{Instant, SystemTime};

#[allow(
    clippy::disallowed_methods,
    reason = "measuring real time is what this crate is for"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970, as records carry them.
#[allow(
    clippy::disallowed_methods,
    reason = "records of a real broker carry real timestamps"
)]
pub fn wall_clock_ms() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}
