//! What this host allows, and the process's own limits: for `millrace-broker check` and for its start.

use std::io;

use crate::error::{io_uring_disabled, kernel_release};
use crate::{Ring, RingConfig, RingError};

/// What an operator may want to change before running a broker here.
#[derive(Debug)]
pub struct HostReport {
    /// As `uname -r` prints it.
    pub kernel: String,
    /// The sysctl kernel.io_uring_disabled: 0 on, 1 off for most users, 2 off; absent before Linux 6.6.
    pub io_uring_disabled: Option<u32>,
    /// Whether a ring could be made, with every feature that is needed.
    pub ring: Result<(), RingError>,
    /// Whether `memory_bytes` could be registered, if a ring could be made.
    pub memory_is_registered: bool,
    /// `None` is without limit.
    pub memlock_bytes: Option<u64>,
    pub open_files: OpenFiles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// What holds now.
    pub soft: u64,
    /// What this process may raise it to.
    pub hard: u64,
}

/// Tries a ring with a pool of `pool_bytes` and looks at the limits around it.
pub fn probe(pool_bytes: usize) -> io::Result<HostReport> {
    let config = RingConfig {
        entries: 8,
        completions: 16,
        receive_buffers: 1,
        ..RingConfig::default()
    };
    let pool_buffers = (pool_bytes / config.pool_buffer_bytes).max(1);
    let ring = Ring::new(RingConfig {
        pool_buffers,
        ..config
    });
    Ok(HostReport {
        kernel: kernel_release(),
        io_uring_disabled: io_uring_disabled(),
        memory_is_registered: ring.as_ref().is_ok_and(Ring::memory_is_registered),
        ring: ring.map(drop),
        memlock_bytes: memlock_bytes()?,
        open_files: open_files()?,
    })
}

/// Raises the number of files this process may have open to what its hard limit allows, and returns that.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = limit_of(libc::RLIMIT_NOFILE)?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one limit, which outlives the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(limit.rlim_cur)
    }
}

/// Keeps the calling thread on one of the CPUs that the process may use, counted from 0 and around.
pub fn pin_to_cpu(index: usize) -> io::Result<()> {
    let allowed = allowed_cpus()?;
    let cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
        .filter(|cpu| has_cpu(&allowed, *cpu))
        .collect();
    let cpu = cpus
        .get(index % cpus.len().max(1))
        .ok_or(io::ErrorKind::NotFound)?;
    let mut only = no_cpus();
    // SAFETY: the CPU came from a set of the same size.
    unsafe { libc::CPU_SET(*cpu, &mut only) };
    // SAFETY: the kernel reads one set, which outlives the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &only) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn memlock_bytes() -> io::Result<Option<u64>> {
    let limit = limit_of(libc::RLIMIT_MEMLOCK)?;
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

fn open_files() -> io::Result<OpenFiles> {
    let limit = limit_of(libc::RLIMIT_NOFILE)?;
    Ok(OpenFiles {
        soft: limit.rlim_cur,
        hard: limit.rlim_max,
    })
}

fn limit_of(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one limit, which outlives the call.
    let result = unsafe { libc::getrlimit(resource, &mut limit) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(limit)
    }
}

fn allowed_cpus() -> io::Result<libc::cpu_set_t> {
    let mut allowed = no_cpus();
    // SAFETY: the kernel writes one set, which outlives the call; 0 is the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut allowed) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(allowed)
    }
}

fn has_cpu(set: &libc::cpu_set_t, cpu: usize) -> bool {
    // SAFETY: the callers stay below CPU_SETSIZE.
    unsafe { libc::CPU_ISSET(cpu, set) }
}

fn no_cpus() -> libc::cpu_set_t {
    // SAFETY: a set is plain bits, for which all zeros is the empty set.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_described() {
        let report = probe(1 << 20).unwrap();
        assert!(report.ring.is_ok(), "{:?}", report.ring);
        assert!(report.kernel.contains('.'));
        assert!(report.open_files.soft <= report.open_files.hard);
        assert_eq!(raise_open_files().unwrap(), report.open_files.hard);
    }

    #[test]
    fn a_pinned_thread_has_one_cpu_whatever_the_index() {
        for index in [0, 1, 1000] {
            let thread = std::thread::Builder::new().spawn(move || {
                pin_to_cpu(index).unwrap();
                let allowed = allowed_cpus().unwrap();
                (0..libc::CPU_SETSIZE as usize)
                    .filter(|cpu| has_cpu(&allowed, *cpu))
                    .count()
            });
            assert_eq!(thread.unwrap().join().unwrap(), 1);
        }
    }
}
