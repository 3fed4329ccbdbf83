//! Sleeping tasks by deadline. The reactor asks for the next deadline before it blocks, so all sleeps together cost one kernel
//! timeout per turn and no operation of their own.

use std::collections::BTreeMap;
use std::task::Waker;

/// Nanoseconds of a clock that never goes back and also counts while the machine sleeps, so that whoever wakes up knows for how long.
pub fn now_nanos() -> u64 {
    nanos_of(libc::CLOCK_BOOTTIME)
}

/// Nanoseconds that the calling thread has run.
pub(crate) fn cpu_nanos() -> u64 {
    nanos_of(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn nanos_of(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert!(result == 0, "Linux always has these clocks");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Deadline, then a number that keeps equal deadlines apart.
pub(crate) type Alarm = (u64, u64);

#[derive(Default)]
pub(crate) struct Timers {
    sleeping: BTreeMap<Alarm, Waker>,
    count: u64,
}

impl Timers {
    pub(crate) fn insert(&mut self, deadline: u64, waker: Waker) -> Alarm {
        self.count += 1;
        let alarm = (deadline, self.count);
        self.sleeping.insert(alarm, waker);
        alarm
    }

    /// The task behind a sleep may change between polls. False once the alarm has gone off.
    pub(crate) fn update(&mut self, alarm: Alarm, waker: &Waker) -> bool {
        match self.sleeping.get_mut(&alarm) {
            Some(stored) => {
                stored.clone_from(waker);
                true
            }
            None => false,
        }
    }

    pub(crate) fn remove(&mut self, alarm: Alarm) {
        self.sleeping.remove(&alarm);
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.sleeping
            .first_key_value()
            .map(|((deadline, _), _)| *deadline)
    }

    /// Takes one sleeper whose time has come.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<Waker> {
        let first = self.sleeping.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_go_off_in_order_and_not_before_their_time() {
        let mut timers = Timers::default();
        let late = timers.insert(30, Waker::noop().clone());
        let early = timers.insert(10, Waker::noop().clone());
        let same = timers.insert(10, Waker::noop().clone());
        assert_eq!(timers.next_deadline(), Some(10));
        assert!(timers.pop_due(9).is_none());
        assert!(timers.pop_due(10).is_some());
        assert!(
            !timers.update(early, Waker::noop()),
            "equal deadlines go off in the order they were set"
        );
        assert!(timers.update(same, Waker::noop()));
        timers.remove(same);
        assert!(timers.pop_due(29).is_none());
        assert!(timers.update(late, Waker::noop()));
        assert!(timers.pop_due(30).is_some());
        assert_eq!(timers.next_deadline(), None);
    }
}
