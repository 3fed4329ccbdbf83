//! Wall time and processor time, of this process and of the one under test. The only place that asks the system for either.

use std::fs;
use std::time::{Instant, SystemTime};

/// Linux counts processor time in `/proc` in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Fields of `/proc/PID/stat` that follow the program's name: user and system time, in ticks.
const USER_TIME_FIELD: usize = 11;
const SYSTEM_TIME_FIELD: usize = 12;

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

/// Seconds of processor time that all threads of a process have used, or `None` if there is no such process.
pub fn processor_seconds(pid: u32) -> Option<f64> {
    parse_processor_seconds(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Seconds of processor time that the calling thread has used, or `None` where the kernel does not count that.
pub fn thread_processor_seconds() -> Option<f64> {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos: f64 = statistics.split(' ').next()?.parse().ok()?;
    Some(nanos / 1e9)
}

fn parse_processor_seconds(stat: &str) -> Option<f64> {
    // The name is in parentheses and may itself hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let user: f64 = fields.nth(USER_TIME_FIELD)?.parse().ok()?;
    let system: f64 = fields
        .nth(SYSTEM_TIME_FIELD - USER_TIME_FIELD - 1)?
        .parse()
        .ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b) R) S 1 7 7 0 -1 4194304 90 0 0 0 250 125 9 9 20 0 4 0 100 0 0";
        assert_eq!(parse_processor_seconds(stat), Some(3.75));
    }

    #[test]
    fn a_thread_that_works_uses_processor_time() {
        let start = thread_processor_seconds().unwrap();
        let sum: u64 = (0..10_000_000u64).map(std::hint::black_box).sum();
        assert!(sum > 0 && thread_processor_seconds().unwrap() > start);
    }

    #[test]
    fn this_process_has_a_time_and_a_missing_one_has_none() {
        assert!(processor_seconds(std::process::id()).is_some());
        assert_eq!(processor_seconds(u32::MAX), None);
    }
}
