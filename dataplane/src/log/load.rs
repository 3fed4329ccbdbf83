//! How busy logs keep the disk of a shard: for what can wait, preparing segments and reading ahead, and for how many writes of one log
//! are worth having in flight.

use std::cell::Cell;

use super::limits::{SHARD_WRITES_IN_FLIGHT, WRITES_IN_FLIGHT_MAX};
use crate::io::Instant;

/// Logs that write more than this in such a time want the disk for themselves.
const INTERVAL_MS: u64 = 100;
const BUSY_BYTES: u64 = 8 * 1024 * 1024;

#[derive(Default)]
pub(super) struct WriteLoad {
    /// Since the last look.
    bytes: Cell<u64>,
    looked: Cell<Instant>,
    busy: Cell<bool>,
    in_flight: Cell<usize>,
}

impl WriteLoad {
    /// A log hands bytes to the disk.
    pub(super) fn begin_write(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub(super) fn end_write(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }

    /// Beside how many writes of its own a log may begin one that could still grow. Alone it needs several to keep the disk busy; beside
    /// others it needs one, and larger ones cost less.
    pub(super) fn writes_in_flight_max(&self) -> usize {
        if self.in_flight.get() < SHARD_WRITES_IN_FLIGHT {
            WRITES_IN_FLIGHT_MAX
        } else {
            1
        }
    }

    /// Whether logs have kept the disk busy of late. Who waits for them asks again after [`WriteLoad::INTERVAL_MS`].
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        let elapsed_ms = now.nanos_since(self.looked.get()) / 1_000_000;
        if elapsed_ms >= INTERVAL_MS {
            let bytes = self.bytes.replace(0);
            self.looked.set(now);
            self.busy.set(bytes * INTERVAL_MS / elapsed_ms > BUSY_BYTES);
        }
        self.busy.get()
    }

    pub(super) const INTERVAL_MS: u64 = INTERVAL_MS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_busy_while_much_is_written_and_an_interval_longer() {
        let load = WriteLoad::default();
        let at = |ms: u64| Instant::default().after_ms(10_000 + ms);
        assert!(!load.is_busy(at(0)));
        load.begin_write(2 * BUSY_BYTES as usize);
        assert!(!load.is_busy(at(50)), "not looked at yet");
        assert!(load.is_busy(at(110)));
        assert!(load.is_busy(at(150)));
        assert!(!load.is_busy(at(250)));
        load.begin_write(2 * BUSY_BYTES as usize);
        assert!(!load.is_busy(at(1250)), "spread over a second it is little");
    }
}
