//! Brings the tail to the file: group commit with up to four writes in flight.
//!
//! An append only schedules the writer; it runs after the other tasks that are ready now, so whatever they append goes into the same
//! write. Each completion looks for the next write. There is no task while there is nothing to do.

use std::io;
use std::ops::Range;
use std::rc::{Rc, Weak};

use super::limits::WRITE_BUFFERS_MAX;
use super::load::Writer;
use super::segment::Segment;
use super::shortage::{is_shortage, never_passes};
use super::tail::{Next, Write, WriteLimits};
use super::types::Offset;
use super::{Inner, Log, LogError};
use crate::io::{FilePosition, Io, WriteDurability};

impl<I: Io> Log<I> {
    pub(super) fn schedule_writer(&self) {
        if self.0.writer_scheduled.replace(true) {
            return;
        }
        let log = self.clone();
        self.0.io.spawn(async move {
            log.0.writer_scheduled.set(false);
            log.write_what_is_ready();
        });
    }

    pub(super) fn write_what_is_ready(&self) {
        while !self.0.progress.is_poisoned() && !self.0.shortage.retry_is_due() {
            if !self.0.shared.load.has_turn() {
                return self.wait_for_turn();
            }
            let limits = WriteLimits {
                in_flight_max: self.0.shared.load.writes_in_flight_max(
                    self.0.number,
                    self.0.bytes_in_flight.get(),
                    self.0.io.now(),
                ),
                buffers_max: WRITE_BUFFERS_MAX,
            };
            let mut tail = self.0.tail.borrow_mut();
            let next = tail.next_write(limits, |segment, blocks| segment.may_write(blocks));
            drop(tail);
            match next {
                Next::Write(write) => self.begin_write(write),
                Next::NoSpace(segment, blocks) => return self.prepare(segment, blocks.end),
                Next::Nothing => return,
            }
        }
    }

    /// The shard's logs have as many writes in flight as help.
    fn wait_for_turn(&self) {
        if !self.0.tail.borrow().has_next() || self.0.waits_for_turn.replace(true) {
            return;
        }
        let weak: Weak<Inner<I>> = Rc::downgrade(&self.0);
        self.0.shared.load.wait_for_turn(weak);
    }

    fn begin_write(&self, write: Write<I>) {
        let Write {
            pieces,
            segment,
            blocks,
            leases,
        } = write;
        let at = FilePosition(blocks.start);
        let durability = self.write_durability();
        let file = segment
            .file
            .borrow()
            .clone()
            .expect("the file was open when the write was chosen");
        self.prepare_ahead(&segment, blocks.end);
        let bytes = (blocks.end - blocks.start) as usize;
        let in_flight = &self.0.bytes_in_flight;
        in_flight.set(in_flight.get() + bytes);
        let load = &self.0.shared.load;
        load.begin_write(self.0.number, bytes, self.0.io.now());
        let log = self.clone();
        self.0.io.spawn(async move {
            let result = log.0.io.write(&file, at, leases, durability).await;
            let in_flight = &log.0.bytes_in_flight;
            in_flight.set(in_flight.get() - bytes);
            log.end_write(pieces, &segment, durability, result);
        });
    }

    fn end_write(
        &self,
        pieces: Range<u64>,
        segment: &Rc<Segment<I>>,
        durability: WriteDurability,
        result: io::Result<()>,
    ) {
        self.0.shared.load.end_write();
        if durability == WriteDurability::Written {
            self.note_dirty(segment);
        }
        match result {
            Ok(()) => {
                self.went_well();
                let written = self.0.tail.borrow_mut().complete(pieces);
                if let Some(written) = written {
                    self.note_written(written);
                }
            }
            Err(error) => {
                self.0.tail.borrow_mut().failed(pieces);
                self.refused("a write", &error);
            }
        }
        self.0.shared.tails.written();
        self.seal_what_is_complete();
        self.0.changed.notify();
        // Those that waited come first.
        self.0.shared.load.give_turns();
        self.write_what_is_ready();
    }

    fn note_written(&self, written: Offset) {
        self.0.progress.advance_written(written);
        self.settle_durability();
    }

    /// The log takes nothing more. Said once: what follows is answered with an error.
    pub(super) fn poison(&self, what: &str, error: &io::Error) {
        if self.0.progress.is_poisoned() {
            return;
        }
        let directory = self.0.directory.display();
        tracing::error!(%directory, %error, "{what} failed: the partition takes no more records");
        self.0.tail.borrow_mut().abandon();
        self.0.progress.poison();
        self.0.shared.tails.written();
        self.0.changed.notify();
        self.0.owner.hindered();
    }

    /// Closed segments whose last write has completed are cut to their data, synced and indexed, off the append path.
    pub(super) fn seal_what_is_complete(&self) {
        loop {
            let Some(segment) = self.0.unsealed.borrow().front().cloned() else {
                return;
            };
            if self.0.progress.is_poisoned() || self.0.tail.borrow().has_unwritten(&segment) {
                return;
            }
            self.0.unsealed.borrow_mut().pop_front();
            self.0.sealing.set(self.0.sealing.get() + 1);
            let log = self.clone();
            self.0.io.spawn(async move {
                while let Err(error) = log.seal(&segment).await {
                    if !is_shortage(&error) {
                        log.poison("closing a segment", &error);
                        break;
                    }
                    if log.0.closed.get() {
                        // The next opening finds the segment longer than its batches, and cuts it.
                        break;
                    }
                    log.pause_for_shortage().await;
                }
                log.0.sealing.set(log.0.sealing.get() - 1);
                log.0.changed.notify();
            });
        }
    }

    async fn seal(&self, segment: &Rc<Segment<I>>) -> io::Result<()> {
        self.zeroing_ended(segment).await;
        let file = segment.open(&self.0.io).await?;
        self.0.io.truncate(&file, segment.bytes.get()).await?;
        self.0.io.sync(&file).await.map_err(never_passes)?;
        let _pass = self.0.replacing.enter().await;
        match segment.store_index(&self.0.io).await {
            // On a full disk a segment must be closed all the same, or it could not be deleted. Who reads it builds the index anew.
            Err(error) if is_shortage(&error) => {}
            result => result?,
        }
        segment.seal();
        Ok(())
    }

    /// Waits until nothing of this log is on its way to its files.
    pub(super) async fn quiet(&self) {
        let log = &*self.0;
        loop {
            let generation = log.changed.generation();
            let zeroes = log
                .segments
                .borrow()
                .iter()
                .any(|segment| segment.zeroing_runs.get());
            if !log.tail.borrow().is_unwritten()
                && !zeroes
                && !log.preparing.get()
                && !log.flush_runs.get()
                && log.sealing.get() == 0
            {
                return;
            }
            log.changed.changed_since(generation).await;
        }
    }

    pub(super) fn poisoned(&self) -> Result<(), LogError> {
        if self.0.progress.is_poisoned() {
            Err(LogError::Poisoned)
        } else {
            Ok(())
        }
    }
}

impl<I: Io> Writer for Inner<I> {
    fn write(self: Rc<Self>) {
        self.waits_for_turn.set(false);
        Log(self).write_what_is_ready();
    }
}
