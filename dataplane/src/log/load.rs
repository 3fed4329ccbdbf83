//! How busy logs keep the disk of a shard: for what can wait, preparing segments and reading ahead, for how many writes of one log are
//! worth having in flight, and for whose turn it is when all logs together have enough.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::limits::{
    BYTES_IN_FLIGHT_BESIDE_SMALL, PIPELINED_WRITE_BYTES_MIN, SHARD_WRITES_IN_FLIGHT,
    SHARD_WRITES_IN_FLIGHT_MAX, WRITES_IN_FLIGHT_MAX,
};
use crate::io::Instant;

/// Logs that write more than this in such a time want the disk for themselves.
const INTERVAL_MS: u64 = 100;
const BUSY_BYTES: u64 = 8 * 1024 * 1024;

/// A log that has bytes to write.
pub(super) trait Writer {
    /// It is its turn.
    fn write(self: Rc<Self>);
}

/// Which log of a shard it is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LogNumber(usize);

#[derive(Default)]
pub(super) struct WriteLoad {
    /// Since the last look.
    bytes: Cell<u64>,
    looked: Cell<Instant>,
    busy: Cell<bool>,
    in_flight: Cell<usize>,
    /// Of the next log.
    number: Cell<usize>,
    /// The log that was the last to write little, and when.
    small: Cell<Option<(LogNumber, Instant)>>,
    /// Logs that wait for their turn, each once at most.
    waiting: RefCell<VecDeque<Weak<dyn Writer>>>,
}

impl WriteLoad {
    /// For a log that is made.
    pub(super) fn number(&self) -> LogNumber {
        self.number.set(self.number.get() + 1);
        LogNumber(self.number.get())
    }

    /// A log hands bytes to the disk.
    pub(super) fn begin_write(&self, log: LogNumber, bytes: usize, now: Instant) {
        if bytes < PIPELINED_WRITE_BYTES_MIN {
            self.small.set(Some((log, now)));
        }
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub(super) fn end_write(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }

    /// Whether another write may begin; if not, the log waits with [`WriteLoad::wait_for_turn`] and what is appended meanwhile goes into
    /// the same write.
    pub(super) fn has_turn(&self) -> bool {
        self.in_flight.get() < SHARD_WRITES_IN_FLIGHT_MAX
    }

    pub(super) fn wait_for_turn(&self, log: Weak<dyn Writer>) {
        self.waiting.borrow_mut().push_back(log);
    }

    /// Lets logs write that waited the longest. After a write has ended.
    pub(super) fn give_turns(&self) {
        while self.has_turn() {
            let Some(log) = self.waiting.borrow_mut().pop_front() else {
                return;
            };
            if let Some(log) = log.upgrade() {
                log.write();
            }
        }
    }

    /// Beside how many writes of its own, of so many bytes, a log begins another. Alone it needs several to keep the disk busy; beside others
    /// it needs one, and larger ones cost less.
    pub(super) fn writes_in_flight_max(
        &self,
        log: LogNumber,
        bytes_in_flight: usize,
        now: Instant,
    ) -> usize {
        let many = self.in_flight.get() >= SHARD_WRITES_IN_FLIGHT;
        let much = bytes_in_flight >= BYTES_IN_FLIGHT_BESIDE_SMALL;
        if many || (much && self.another_wrote_little(log, now)) {
            1
        } else {
            WRITES_IN_FLIGHT_MAX
        }
    }

    fn another_wrote_little(&self, log: LogNumber, now: Instant) -> bool {
        self.small.get().is_some_and(|(small, at)| {
            small != log && now.nanos_since(at) < INTERVAL_MS * 1_000_000
        })
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
    use crate::io::BLOCK_BYTES;

    struct Log {
        load: Rc<WriteLoad>,
        number: usize,
        written: Rc<RefCell<Vec<usize>>>,
    }

    impl Writer for Log {
        fn write(self: Rc<Self>) {
            self.written.borrow_mut().push(self.number);
            self.load
                .begin_write(LogNumber(self.number), 1, Instant::default());
        }
    }

    #[test]
    fn a_turn_is_given_to_who_waited_longest_and_never_one_too_many() {
        let load = Rc::new(WriteLoad::default());
        for _ in 0..SHARD_WRITES_IN_FLIGHT_MAX {
            assert!(load.has_turn());
            load.begin_write(load.number(), 1, Instant::default());
        }
        assert!(!load.has_turn());
        let written = Rc::default();
        let mut logs = Vec::new();
        for number in 0..5 {
            let log = Rc::new(Log {
                load: Rc::clone(&load),
                number,
                written: Rc::clone(&written),
            });
            let weak: Weak<Log> = Rc::downgrade(&log);
            load.wait_for_turn(weak);
            logs.push(log);
        }
        load.give_turns();
        assert_eq!(*written.borrow(), []);
        logs.remove(1);
        load.end_write();
        load.give_turns();
        assert_eq!(*written.borrow(), [0]);
        for _ in 0..2 {
            load.end_write();
        }
        load.give_turns();
        assert_eq!(
            *written.borrow(),
            [0, 2, 3],
            "a log that is gone takes no turn"
        );
        assert!(!load.has_turn());
    }

    #[test]
    fn a_log_that_writes_much_leaves_room_in_the_device_to_one_that_writes_little() {
        let load = WriteLoad::default();
        let at = |ms: u64| Instant::default().after_ms(10_000 + ms);
        let (large, other, small) = (load.number(), load.number(), load.number());
        let much = BYTES_IN_FLIGHT_BESIDE_SMALL;
        let most = |log, bytes, ms| load.writes_in_flight_max(log, bytes, at(ms));
        load.begin_write(large, much, at(0));
        load.begin_write(other, much, at(0));
        assert_eq!(most(large, 2 * much, 0), WRITES_IN_FLIGHT_MAX);
        load.begin_write(small, BLOCK_BYTES, at(10));
        load.begin_write(other, much, at(20));
        assert_eq!(most(large, much, 100), 1);
        assert_eq!(most(large, much - 1, 100), WRITES_IN_FLIGHT_MAX);
        assert_eq!(most(small, much, 100), WRITES_IN_FLIGHT_MAX);
        assert_eq!(most(large, much, 111), WRITES_IN_FLIGHT_MAX);
    }

    #[test]
    fn a_disk_is_busy_while_much_is_written_and_an_interval_longer() {
        let load = WriteLoad::default();
        let at = |ms: u64| Instant::default().after_ms(10_000 + ms);
        assert!(!load.is_busy(at(0)));
        let log = load.number();
        load.begin_write(log, 2 * BUSY_BYTES as usize, at(0));
        assert!(!load.is_busy(at(50)), "not looked at yet");
        assert!(load.is_busy(at(110)));
        assert!(load.is_busy(at(150)));
        assert!(!load.is_busy(at(250)));
        load.begin_write(log, 2 * BUSY_BYTES as usize, at(250));
        assert!(!load.is_busy(at(1250)), "spread over a second it is little");
    }
}
