//! A timer that fires within microseconds. The runtime's own counts whole milliseconds, which would be most of the latency of a broker
//! that answers in a tenth of one.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use monoio::fs::File;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::clock::now;

/// What is read from a timer that has fired: how often it did.
const EXPIRATIONS_BYTES: usize = 8;

/// A timer of the kernel that is read through the ring; without a ring, the runtime's.
pub struct Timer(Option<Kernel>);

struct Kernel {
    timer: OwnedFd,
    /// The same timer, to be read.
    file: File,
}

impl Timer {
    pub fn new() -> Result<Self> {
        if !monoio::utils::detect_uring() {
            return Ok(Self(None));
        }
        Kernel::new()
            .map(|kernel| Self(Some(kernel)))
            .context("cannot make a timer")
    }

    /// Waits until `at`. Gives other futures a turn even if that has passed.
    pub async fn wait(&self, at: Instant) -> Result<()> {
        let wait = at.saturating_duration_since(now());
        match &self.0 {
            Some(kernel) => kernel.wait(wait).await.context("the timer failed"),
            None => {
                monoio::time::sleep(wait.max(Duration::from_millis(1))).await;
                Ok(())
            }
        }
    }
}

impl Kernel {
    fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let file = File::from_std(fs::File::from(timer.try_clone()?))?;
        Ok(Self { timer, file })
    }

    async fn wait(&self, wait: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            // A wait of nothing would disarm the timer.
            it_value: Timespec::try_from(wait.max(Duration::from_nanos(1)))
                .map_err(io::Error::other)?,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        let (read, _) = self
            .file
            .read_at(Vec::with_capacity(EXPIRATIONS_BYTES), 0)
            .await;
        read.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_lasts_as_long_as_asked_for_and_one_of_nothing_ends() {
        let waited = crate::block_on(async {
            let timer = Timer::new()?;
            let started = now();
            timer.wait(started).await?;
            timer.wait(started + Duration::from_millis(3)).await?;
            Ok(now().duration_since(started))
        });
        assert!(waited.unwrap() >= Duration::from_millis(3));
    }
}
