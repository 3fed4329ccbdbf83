//! Cuts a log's end off, where a follower's log departed from its leader's (KIP-101).
//!
//! ```text
//! wait until nothing is on its way to the files
//! checkpoint beyond the cut?  one that says the log start alone takes its place: what follows is checked anew
//! files from the newest on:   index, segment, each gone for good before the next
//! the segment that is cut:    index gone for good, then the file cut and flushed
//! open again what is left:    segments, tail, producers, epochs, as after a crash
//! ```
//! After a crash at any step the log is what it was before up to some batch at or behind the cut. The follower, which asks its leader
//! again, then cuts the rest.

use std::io;
use std::rc::Rc;

use super::checkpoint::Checkpoint;
use super::flush::CHECKPOINT_FILE;
use super::recovery::{self, Recovered};
use super::segment::{Segment, ignore_missing};
use super::shortage::never_passes;
use super::tail::Tail;
use super::types::Offset;
use super::{Log, LogError, ReadError};
use crate::io::{Io, OpenMode};

impl<I: Io> Log<I> {
    /// Removes every batch that ends behind `to`; returns where the log ends then: at `to`, or before the batch that `to` lies in.
    /// Nothing is appended meanwhile. What fails between poisons the log, whose files recovery then finds in order.
    pub async fn truncate(&self, to: Offset) -> Result<Offset, LogError> {
        if to >= self.log_end() {
            return Ok(self.log_end());
        }
        self.0.truncating.set(true);
        let cut = self.truncate_quiet(to).await;
        self.0.truncating.set(false);
        if let Err(LogError::Io(error)) = &cut {
            self.poison("cutting the log", error);
        }
        self.0.owner.hindered();
        self.0.changed.notify();
        cut
    }

    async fn truncate_quiet(&self, to: Offset) -> Result<Offset, LogError> {
        self.flush().await?;
        self.quiet().await;
        let _pass = self.0.replacing.enter().await;
        self.poisoned()?;
        let to = to.max(self.log_start());
        let place = self.locate(to).await.map_err(unreadable)?;
        let (segment, position) = (place.segment, place.position);
        if self.0.checkpointed.get().1 > to {
            self.forget_all_but_the_start().await?;
        }
        self.remove_behind(&segment).await?;
        self.cut_segment(&segment, position).await?;
        self.open_again().await?;
        Ok(self.log_end())
    }

    /// A checkpoint of what comes after the cut would be believed once the log is that long again.
    async fn forget_all_but_the_start(&self) -> io::Result<()> {
        let first = self.0.segments.borrow().front().map(|first| first.base);
        let start = Checkpoint::of_start(self.log_start(), first.unwrap_or_default());
        let path = self.0.directory.join(CHECKPOINT_FILE);
        self.0.io.replace_file(&path, start.encode()).await
    }

    async fn remove_behind(&self, kept: &Rc<Segment<I>>) -> io::Result<()> {
        let io = &self.0.io;
        let segments = self.0.segments.borrow().clone();
        let behind = segments.iter().rev();
        for segment in behind.take_while(|segment| !Rc::ptr_eq(segment, kept)) {
            segment.file.replace(None);
            ignore_missing(io.remove_file(&segment.index_path()).await)?;
            ignore_missing(io.remove_file(segment.path()).await)?;
            io.sync_directory(&self.0.directory).await?;
        }
        Ok(())
    }

    async fn cut_segment(&self, segment: &Segment<I>, position: u64) -> io::Result<()> {
        let io = &self.0.io;
        segment.file.replace(None);
        ignore_missing(io.remove_file(&segment.index_path()).await)?;
        io.sync_directory(&self.0.directory).await?;
        let file = match io.open(segment.path(), OpenMode::Direct).await {
            // Its first write never began.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        io.truncate(&file, position).await?;
        io.sync(&file).await.map_err(never_passes)
    }

    async fn open_again(&self) -> io::Result<()> {
        let log = &*self.0;
        let recovered = recovery::recover(&log.io, &log.directory).await?;
        let Recovered {
            log_start,
            log_end,
            segments,
            epochs,
            producers,
            partial,
            checkpointed,
            bytes_since_checkpoint,
            ..
        } = recovered;
        log.segments.replace(segments);
        log.tail.replace(Tail::new(partial));
        log.spare.borrow_mut().clear();
        log.producers.replace(producers);
        log.epochs.replace(epochs);
        log.read_ends.take();
        log.warm.take();
        log.unsealed.take();
        log.dirty.take();
        log.checkpointed.set(checkpointed);
        log.bytes_since_checkpoint.set(bytes_since_checkpoint);
        log.progress.cut_to(log_start, log_end);
        log.start_clock(&log.active());
        Ok(())
    }
}

fn unreadable(error: ReadError) -> LogError {
    match error {
        ReadError::Io(error) => LogError::Io(error),
        other => LogError::Io(io::Error::new(io::ErrorKind::InvalidData, other)),
    }
}
