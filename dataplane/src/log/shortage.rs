//! What a log does while the system is short of descriptors, memory or room on the disk.
//!
//! An open, an allocation or a write that is refused for want of these has changed nothing that an answer told of, so nothing is in
//! doubt: what was appended stays in the tail and is tried again, until it goes well or the log is closed. A write that ended for want of
//! room in its middle is written again whole, from the same memory to the same place. A sync is not among them: one that fails, for
//! whatever reason, poisons the log.
//!
//! ```text
//!   going on --refused--> short --for STALL_MS--> stalled: nothing more is appended
//!       ^                   |                        |
//!       +--- goes well -----+------------------------+
//! ```
//! A producer whose batch was appended waits in both for as long as its request says, and is told then that its time is over.

use std::cell::Cell;
use std::io::{self, ErrorKind};

use super::Log;
use super::limits::{SHORTAGE_RETRY_MS, SHORTAGE_STALL_MS};
use super::progress::Supply;
use crate::io::{Instant, Io};

/// ENFILE and EMFILE of Linux, which have no name in the standard library.
const DESCRIPTORS_USED_UP: [i32; 2] = [23, 24];

/// Whether an operation was refused because the system is short of something that may come back.
pub fn is_shortage(error: &io::Error) -> bool {
    let passes = matches!(
        error.kind(),
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::OutOfMemory
            | ErrorKind::WouldBlock
    );
    let code = error.raw_os_error();
    passes || code.is_some_and(|code| DESCRIPTORS_USED_UP.contains(&code))
}

/// An error that no later attempt makes good, whatever its cause.
pub(super) fn never_passes(error: io::Error) -> io::Error {
    io::Error::other(error)
}

#[derive(Default)]
pub(super) struct Shortage {
    /// The first refusal since something went well.
    since: Cell<Option<Instant>>,
    retry_due: Cell<bool>,
}

impl Shortage {
    /// Whether the writer tries again by itself a little later.
    pub(super) fn retry_is_due(&self) -> bool {
        self.retry_due.get()
    }
}

impl<I: Io> Log<I> {
    /// What the writer needs was refused. It will try again, unless the log is being closed or the error is of another kind.
    pub(super) fn refused(&self, what: &str, error: &io::Error) {
        if !is_shortage(error) || self.0.closed.get() {
            return self.poison(what, error);
        }
        let now = self.0.io.now();
        let since = self.0.shortage.since.get().unwrap_or(now);
        self.0.shortage.since.set(Some(since));
        let supply = match now >= since.after_ms(SHORTAGE_STALL_MS) {
            true => Supply::Stalled,
            false => Supply::Short,
        };
        if self.0.progress.lacks(supply) {
            if supply == Supply::Stalled {
                let directory = self.0.directory.display();
                tracing::error!(%directory, %error, "{what} is refused: the partition takes no records until it goes well again");
            }
            self.0.changed.notify();
            self.0.owner.hindered();
        }
        if self.0.shortage.retry_due.replace(true) {
            return;
        }
        let log = self.clone();
        self.0.io.spawn(async move {
            log.0.io.sleep_until(now.after_ms(SHORTAGE_RETRY_MS)).await;
            log.0.shortage.retry_due.set(false);
            log.write_what_is_ready();
        });
    }

    /// Something that may be refused went well.
    pub(super) fn went_well(&self) {
        if self.0.shortage.since.get().is_none() {
            return;
        }
        self.0.shortage.since.set(None);
        if self.0.progress.go_on() {
            let directory = self.0.directory.display();
            tracing::info!(%directory, "the partition takes records again");
        }
    }

    /// Waits before something that nobody waits for is tried again.
    pub(super) async fn pause_for_shortage(&self) {
        let io = &self.0.io;
        io.sleep_until(io.now().after_ms(SHORTAGE_RETRY_MS)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_told_from_what_is_broken() {
        // EAGAIN, ENOMEM, ENFILE, EMFILE, ENOSPC, EDQUOT.
        for code in [11, 12, 23, 24, 28, 122] {
            assert!(is_shortage(&io::Error::from_raw_os_error(code)), "{code}");
            let final_error = never_passes(io::Error::from_raw_os_error(code));
            assert!(!is_shortage(&final_error), "{code}");
        }
        // EIO, ENOENT, EBADF, EROFS, EFBIG.
        for code in [5, 2, 9, 30, 27] {
            assert!(!is_shortage(&io::Error::from_raw_os_error(code)), "{code}");
        }
        assert!(!is_shortage(&ErrorKind::WriteZero.into()));
    }
}
