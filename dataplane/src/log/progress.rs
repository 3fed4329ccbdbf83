//! How far a log has come.
//!
//! ```text
//! log start <= flushed <= written <= log end
//! log start <= high watermark <= log end: what its owner lets consumers see
//! ```

use std::cell::Cell;

use super::types::Offset;

/// Whether the log's writer has what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Supply {
    Enough,
    /// It was refused something and tries again.
    Short,
    /// It has been for long: nothing is appended until it has it.
    Stalled,
}

/// What a log's owner needs to say what consumers may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOffsets {
    pub written: Offset,
    pub flushed: Offset,
    /// `write.caching` of the topic.
    pub write_caching: bool,
    /// What consumers may see so far.
    pub high_watermark: Offset,
}

/// Who decides what consumers may see of a log, and knows who waits for what it holds. Called by the log; must not call it back.
pub trait LogOwner {
    /// Writes or flushes have completed, or settings changed; answers with the high watermark, which never falls.
    fn advanced(&self, offsets: LogOffsets) -> Offset;

    /// The log has failed, is short of something, or closes: who waits for it looks again.
    fn hindered(&self);
}

pub(super) struct Progress {
    log_start: Cell<Offset>,
    log_end: Cell<Offset>,
    written: Cell<Offset>,
    flushed: Cell<Offset>,
    high_watermark: Cell<Offset>,
    poisoned: Cell<bool>,
    supply: Cell<Supply>,
}

impl Progress {
    /// Everything up to `log_end` is flushed.
    pub(super) fn new(log_start: Offset, log_end: Offset, high_watermark: Offset) -> Progress {
        assert!(
            log_start <= high_watermark && high_watermark <= log_end,
            "a log does not end before it starts, and consumers see a part of it"
        );
        Progress {
            log_start: Cell::new(log_start),
            log_end: Cell::new(log_end),
            written: Cell::new(log_end),
            flushed: Cell::new(log_end),
            high_watermark: Cell::new(high_watermark),
            poisoned: Cell::new(false),
            supply: Cell::new(Supply::Enough),
        }
    }

    /// The log was cut, and everything up to `log_end` is flushed.
    pub(super) fn cut_to(&self, log_start: Offset, log_end: Offset) {
        self.log_start.set(log_start);
        self.log_end.set(log_end);
        self.written.set(log_end);
        self.flushed.set(log_end);
        let high_watermark = self.high_watermark.get().clamp(log_start, log_end);
        self.high_watermark.set(high_watermark);
    }

    pub(super) fn log_start(&self) -> Offset {
        self.log_start.get()
    }

    pub(super) fn log_end(&self) -> Offset {
        self.log_end.get()
    }

    pub(super) fn written(&self) -> Offset {
        self.written.get()
    }

    pub(super) fn flushed(&self) -> Offset {
        self.flushed.get()
    }

    pub(super) fn high_watermark(&self) -> Offset {
        self.high_watermark.get()
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.get()
    }

    pub(super) fn supply(&self) -> Supply {
        self.supply.get()
    }

    pub(super) fn appended(&self, log_end: Offset) {
        assert!(log_end > self.log_end.get(), "an append moves the end");
        self.log_end.set(log_end);
    }

    pub(super) fn advance_written(&self, written: Offset) {
        assert!(
            written <= self.log_end.get(),
            "only what was appended is written"
        );
        self.written.set(self.written.get().max(written));
    }

    pub(super) fn advance_flushed(&self, flushed: Offset) {
        assert!(
            flushed <= self.written.get(),
            "only what was written is flushed"
        );
        self.flushed.set(self.flushed.get().max(flushed));
    }

    pub(super) fn advance_log_start(&self, log_start: Offset) {
        assert!(
            log_start <= self.high_watermark.get(),
            "only what consumers could read is deleted"
        );
        self.log_start.set(self.log_start.get().max(log_start));
    }

    pub(super) fn set_high_watermark(&self, high_watermark: Offset) {
        assert!(
            high_watermark >= self.high_watermark.get() && high_watermark <= self.log_end.get(),
            "consumers see more and more of what there is"
        );
        self.high_watermark.set(high_watermark);
    }

    /// No append from now on.
    pub(super) fn poison(&self) {
        self.poisoned.set(true);
    }

    /// The writer has no better supply than this until [`Progress::go_on`]; true if that is news.
    pub(super) fn lacks(&self, supply: Supply) -> bool {
        let worse = supply > self.supply.get();
        if worse {
            self.supply.set(supply);
        }
        worse
    }

    /// True if it was stalled.
    pub(super) fn go_on(&self) -> bool {
        self.supply.replace(Supply::Enough) == Supply::Stalled
    }
}
