//! What a process has used, from `/proc`: processor time and memory, of this process and of the one under test; and how much of the
//! cores that this process may run on was used by anyone, the kernel included.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity};

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

/// Seconds of processor time that the calling thread has used, or `None` where the kernel does not count that.
pub fn thread_processor_seconds() -> Option<f64> {
    scheduled_seconds(Path::new("/proc/thread-self"))
}

/// Seconds of processor time of each thread that a process has now, by the thread's id: to the nanosecond, for what takes less than a tick.
pub fn processor_seconds_by_thread(pid: u32) -> Option<BTreeMap<u32, f64>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let of_thread = |thread: fs::DirEntry| {
        let id = thread.file_name().to_str()?.parse().ok()?;
        Some((id, scheduled_seconds(&thread.path())?))
    };
    // A thread may end while the others are looked at.
    Some(threads.flatten().filter_map(of_thread).collect())
}

fn scheduled_seconds(thread: &Path) -> Option<f64> {
    let statistics = fs::read_to_string(thread.join("schedstat")).ok()?;
    let nanos: f64 = statistics.split(' ').next()?.parse().ok()?;
    Some(nanos / 1e9)
}

/// Time of some cores since the system started, in ticks: all of it, and what anyone used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreTime {
    used: u64,
    all: u64,
}

impl CoreTime {
    /// Of the cores that this thread may run on.
    pub fn now() -> Option<Self> {
        let cores = sched_getaffinity(None).ok()?;
        let may_run_on = |core: usize| core < CpuSet::MAX_CPU && cores.is_set(core);
        parse_core_time(&fs::read_to_string("/proc/stat").ok()?, may_run_on)
    }

    /// The share of the time between two moments that was used.
    pub fn busy_since(&self, earlier: &CoreTime) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|all| *all > 0)?;
        Some(self.used.checked_sub(earlier.used)? as f64 / all as f64)
    }
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

/// Lines such as `cpu1 user nice system idle iowait irq softirq steal guest guest_nice`, of which guests are in user and nice too.
fn parse_core_time(stat: &str, wanted: impl Fn(usize) -> bool) -> Option<CoreTime> {
    const TIMES: usize = 8;
    const UNUSED: [usize; 2] = [3, 4];
    let mut sum = CoreTime { used: 0, all: 0 };
    for line in stat.lines() {
        let mut fields = line.split_whitespace();
        let core = fields.next().and_then(|name| name.strip_prefix("cpu"));
        let Some(Ok(core)) = core.map(str::parse) else {
            continue;
        };
        if !wanted(core) {
            continue;
        }
        for (place, field) in fields.take(TIMES).enumerate() {
            let ticks: u64 = field.parse().ok()?;
            sum.all += ticks;
            sum.used += if UNUSED.contains(&place) { 0 } else { ticks };
        }
    }
    (sum.all > 0).then_some(sum)
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
    fn a_thread_that_works_uses_processor_time() {
        let start = thread_processor_seconds().unwrap();
        let sum: u64 = (0..10_000_000u64).map(std::hint::black_box).sum();
        assert!(sum > 0 && thread_processor_seconds().unwrap() > start);
    }

    #[test]
    fn a_core_is_busy_with_whatever_is_not_idle_nor_waiting() {
        let stat = |cpu1: &str| {
            format!("cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 5 5 5 5 5 5 5 5 5 5\ncpu1 {cpu1}\nintr 7\n")
        };
        let time = |cpu1| parse_core_time(&stat(cpu1), |core| core == 1).unwrap();
        let before = time("100 0 50 1000 10 0 5 0 0 0");
        let after = time("110 0 70 1040 20 5 15 0 0 0");
        assert_eq!(after.busy_since(&before), Some(45.0 / 95.0));
        assert_eq!(after.busy_since(&after), None, "no time has passed");
        assert_eq!(parse_core_time(&stat("1 1 1 1"), |core| core == 7), None);
        assert!(CoreTime::now().is_some());
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
