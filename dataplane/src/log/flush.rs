//! When data counts as flushed, and the small files that make reopening quick.
//!
//! Which writes are durable by themselves and when a flush is due is decided here and nowhere else.

use std::io;
use std::rc::Rc;

use super::checkpoint::{Checkpoint, RecoveryPoint};
use super::limits::{INDEX_WRITE_BYTES, READ_AT_OPEN_BYTES_MAX, SEGMENTS_MAX};
use super::segment::{Segment, ignore_missing};
use super::types::{Level, Offset, block_ceil};
use super::{Log, LogError};
use crate::io::{Io, WriteDurability};

/// The checkpoint's name in the partition's directory.
pub(super) const CHECKPOINT_FILE: &str = "checkpoint";

impl<I: Io> Log<I> {
    /// Makes everything appended so far safe from the loss of power.
    pub async fn flush(&self) -> Result<(), LogError> {
        self.flush_until(self.log_end()).await
    }

    /// Stores what recovery would otherwise have to read; worth calling every few seconds. Does nothing if nothing changed.
    pub async fn checkpoint(&self) -> Result<(), LogError> {
        if self.0.checkpointed.get() == (self.log_start(), self.log_end()) {
            return Ok(());
        }
        self.store_checkpoint(false).await
    }

    /// Whether another checkpoint is worth its flushes: opening would have to read much, or could not tell where the log starts.
    pub fn wants_checkpoint(&self) -> bool {
        !self.may_go_without_checkpoint(self.bytes_since_checkpoint())
    }

    fn may_go_without_checkpoint(&self, read_at_open: u64) -> bool {
        let start = self.log_start();
        let is_first = |first: &Rc<Segment<I>>| first.base == start;
        let start_is_known = self.0.checkpointed.get().0 == start
            || self.0.segments.borrow().front().is_some_and(is_first);
        read_at_open <= READ_AT_OPEN_BYTES_MAX && start_is_known
    }

    /// Takes no more, flushes, and writes down what the next opening would otherwise have to read, unless that is little.
    pub async fn close(&self) -> Result<(), LogError> {
        self.stop_taking();
        let flushed = self.flush().await;
        self.quiet().await;
        flushed?;
        self.poisoned()?;
        let active = self.0.active();
        let unindexed = active.bytes.get() - active.index_stored_bytes.get();
        let read_at_open = self.0.bytes_since_checkpoint.get().max(unindexed);
        let is_quick = self.may_go_without_checkpoint(read_at_open);
        // Recovery cuts a file that is longer all the same, so this need not last for the log to be whole.
        if active.allocated.get() > block_ceil(active.bytes.get()) {
            let file = active.open(&self.0.io).await?;
            self.0.io.truncate(&file, active.bytes.get()).await?;
            if !is_quick {
                self.0.io.sync(&file).await?;
            }
        }
        active.file.replace(None);
        if is_quick {
            return Ok(());
        }
        self.store_checkpoint(true).await
    }

    /// Takes no more and removes every file of the partition.
    pub async fn delete(&self) -> Result<(), LogError> {
        self.stop_taking();
        self.quiet().await;
        let _pass = self.0.replacing.enter().await;
        self.0.deleted.set(true);
        // A flush that is still due must not make the files again.
        self.0.dirty.take();
        let io = &self.0.io;
        self.0.warm.take();
        for segment in self.0.doomed.take() {
            segment.free(io, &self.0.shared.spares, 1).await?;
        }
        // The log keeps its own handles, for whoever still asks it something.
        let segments = self.0.segments.borrow().clone();
        for segment in segments {
            segment.free(io, &self.0.shared.spares, 2).await?;
        }
        for name in io.list(&self.0.directory).await? {
            ignore_missing(io.remove_file(&self.0.directory.join(name)).await)?;
        }
        Ok(ignore_missing(
            io.remove_directory(&self.0.directory).await,
        )?)
    }

    /// Appends end with an error from here on, and parked fetches look again.
    fn stop_taking(&self) {
        self.0.closed.set(true);
        // What is refused from here on ends the log, so that nobody waits for it.
        self.0.progress.go_on();
        self.0.changed.notify();
        self.0.owner.hindered();
    }

    pub(super) fn write_durability(&self) -> WriteDurability {
        if self.0.config.get().write_caching {
            WriteDurability::Written
        } else {
            WriteDurability::Synced
        }
    }

    /// After writes completed or settings changed: moves the flushed offset or sees to it that a flush will.
    pub(super) fn settle_durability(&self) {
        let log = &*self.0;
        if log.progress.is_poisoned() {
            return;
        }
        let config = log.config.get();
        let written = log.progress.written();
        if log.dirty.borrow().is_empty() && !log.flush_runs.get() {
            log.progress.advance_flushed(written);
        }
        self.tell_owner();
        let unflushed = written.0 - log.progress.flushed().0;
        if unflushed == 0 {
            return;
        }
        if !config.write_caching || unflushed as u64 >= config.flush_messages {
            self.start_flush();
        } else if !log.flush_timer_runs.replace(true) {
            let deadline = log.io.now().after_ms(config.flush_ms);
            let log = self.clone();
            self.0.io.spawn(async move {
                log.0.io.sleep_until(deadline).await;
                log.0.flush_timer_runs.set(false);
                if log.flushed() < log.written() {
                    log.start_flush();
                }
            });
        }
    }

    pub(super) async fn flush_until(&self, end: Offset) -> Result<(), LogError> {
        self.wait(end, Level::Written).await?;
        while self.flushed() < end {
            self.poisoned()?;
            let generation = self.0.changed.generation();
            self.start_flush();
            self.0.changed.changed_since(generation).await;
        }
        Ok(())
    }

    /// One flush runs at a time; one that is wanted meanwhile follows it and covers what was written until then.
    fn start_flush(&self) {
        self.0.flush_wanted.set(true);
        if self.0.flush_runs.replace(true) {
            return;
        }
        let log = self.clone();
        self.0.io.spawn(async move {
            while log.0.flush_wanted.replace(false) && !log.0.progress.is_poisoned() {
                let written = log.written();
                match log.sync_dirty_segments().await {
                    Ok(()) => log.0.progress.advance_flushed(written),
                    Err(error) => log.poison("a flush", &error),
                }
            }
            log.0.flush_runs.set(false);
            log.settle_durability();
            log.0.changed.notify();
        });
    }

    /// A write that is not durable by itself has completed.
    pub(super) fn note_dirty(&self, segment: &Rc<Segment<I>>) {
        let mut dirty = self.0.dirty.borrow_mut();
        if !dirty.iter().any(|known| Rc::ptr_eq(known, segment)) {
            dirty.push(Rc::clone(segment));
        }
    }

    async fn sync_dirty_segments(&self) -> io::Result<()> {
        // Writes that complete from here on need the next flush.
        for segment in self.0.dirty.take() {
            // Its sealing has synced it, after its last write.
            if segment.sealed.get() {
                continue;
            }
            let file = segment.open(&self.0.io).await?;
            self.0.io.sync(&file).await?;
        }
        Ok(())
    }

    pub(super) async fn store_checkpoint(&self, clean: bool) -> Result<(), LogError> {
        let _pass = self.0.replacing.enter().await;
        if self.0.deleted.get() {
            return Ok(());
        }
        let active = self.0.active();
        let covered_bytes = self.0.bytes_since_checkpoint.get();
        // State and index are taken together, before the flush that makes them true on disk.
        let checkpoint = self.snapshot(&active, clean);
        let grown = active.bytes.get() - active.index_stored_bytes.get();
        let worth_storing = INDEX_WRITE_BYTES.min(self.config().segment_bytes / 2);
        let index = (clean && grown > 0 || grown >= worth_storing)
            .then(|| {
                active
                    .index
                    .borrow()
                    .as_ref()
                    .map(|index| (index.encode(), index.covered_bytes()))
            })
            .flatten();
        self.flush_until(checkpoint.recovery.offset).await?;
        if let Some((bytes, covered)) = index {
            self.0.io.replace_file(&active.index_path(), bytes).await?;
            active.index_stored_bytes.set(covered);
        }
        self.0
            .io
            .replace_file(&self.0.directory.join(CHECKPOINT_FILE), checkpoint.encode())
            .await?;
        let grown = self.0.bytes_since_checkpoint.get();
        self.0.bytes_since_checkpoint.set(grown - covered_bytes);
        self.0
            .checkpointed
            .set((checkpoint.log_start, checkpoint.recovery.offset));
        Ok(())
    }

    fn snapshot(&self, active: &Segment<I>, clean: bool) -> Checkpoint {
        let segments = self.0.segments.borrow();
        let closed = segments.len() - 1;
        Checkpoint {
            clean,
            log_start: self.log_start(),
            high_watermark: self.high_watermark(),
            recovery: RecoveryPoint {
                offset: self.log_end(),
                segment: active.base,
                position: active.bytes.get(),
            },
            epochs: self.0.epochs.borrow().clone(),
            segments: segments
                .iter()
                .take(closed.min(SEGMENTS_MAX))
                .map(|segment| segment.summary())
                .collect(),
            producers: self.0.producers.borrow().clone(),
        }
    }
}
