//! What a process has used, from `/proc`: processor time and memory, of this process and of the one under test.

use std::fs;

/// Linux counts processor time in `/proc` in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Fields of `/proc/PID/stat` that follow the program's name: user and system time, in ticks.
const USER_TIME_FIELD: usize = 11;
const SYSTEM_TIME_FIELD: usize = 12;

/// Memory of a process that is resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub bytes: u64,
    /// The most that it ever was, before the run too.
    pub bytes_max: u64,
}

/// Seconds of processor time that all threads of a process have used, or `None` if there is no such process.
pub fn processor_seconds(pid: u32) -> Option<f64> {
    parse_processor_seconds(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The memory of a process, or `None` if there is no such process.
pub fn memory(pid: u32) -> Option<Memory> {
    parse_memory(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
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

fn parse_memory(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes << 10)
    };
    Some(Memory {
        bytes: field("VmRSS:")?,
        bytes_max: field("VmHWM:")?,
    })
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
    fn memory_is_read_in_kibibytes() {
        let status = "Name:\tbroker\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t1\n";
        let memory = Memory {
            bytes: 1 << 20,
            bytes_max: 2 << 20,
        };
        assert_eq!(parse_memory(status), Some(memory));
        assert_eq!(parse_memory("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn this_process_is_found_and_a_missing_one_is_not() {
        assert!(processor_seconds(std::process::id()).is_some());
        assert!(memory(std::process::id()).is_some());
        assert_eq!(processor_seconds(u32::MAX), None);
        assert_eq!(memory(u32::MAX), None);
    }
}
