//! Being asked to stop: SIGTERM and SIGINT.

use std::io;
use std::ptr;

/// SIGTERM and SIGINT, blocked for the thread that made this and for those it starts later, and waited for here.
pub struct Termination(libc::sigset_t);

/// Call at the start of `main`, before any thread is started.
pub fn termination() -> io::Result<Termination> {
    let mut signals = no_signals();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the set is initialised and both are signal numbers.
        unsafe { libc::sigaddset(&mut signals, signal) };
    }
    // SAFETY: the set outlives the call, and the old mask is not wanted.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signals, ptr::null_mut()) };
    if error == 0 {
        Ok(Termination(signals))
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

impl Termination {
    /// Blocks the calling thread until one of the signals has come, and says which.
    pub fn wait(&self) -> &'static str {
        loop {
            let mut signal = 0;
            // SAFETY: the set and the number outlive the call.
            let error = unsafe { libc::sigwait(&self.0, &mut signal) };
            match (error, signal) {
                (0, libc::SIGTERM) => return "SIGTERM",
                (0, libc::SIGINT) => return "SIGINT",
                // Interrupted by a signal that is not ours.
                _ => {}
            }
        }
    }
}

fn no_signals() -> libc::sigset_t {
    // SAFETY: a set is plain bits, for which all zeros is the empty set on Linux.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_waited_for_and_not_fatal() {
        let thread = std::thread::Builder::new().spawn(|| {
            let termination = termination().unwrap();
            // SAFETY: a plain call; the thread signals itself with a signal that it has blocked.
            let error = unsafe { libc::raise(libc::SIGTERM) };
            assert_eq!(error, 0);
            termination.wait()
        });
        assert_eq!(thread.unwrap().join().unwrap(), "SIGTERM");
    }
}
