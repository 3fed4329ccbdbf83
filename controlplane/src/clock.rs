//! The wall clock, for what must be told from outside a process: ages, and when offsets expire. What it decides goes into a
//! command, as applying has no clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn wall_clock_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks for it")]
    let now = SystemTime::now();
    since_1970_ms(now)
}

pub(crate) fn since_1970_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
