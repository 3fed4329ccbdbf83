//! Space ahead of the writes: whole extents of zeros, prepared off the append path.
//!
//! The file grows by extents that `allocate` reserves, so a write never extends it and the bytes behind the newest batch are always
//! zeros. Writes into such space still change metadata: a durable one is slower (448 against 312 MB/s measured), and any other is
//! handed to a kernel worker thread (nine in ten writes, 1.55 against 0.95 CPU s/GB at 64 KiB). So each extent is written with zeros
//! as well, by a background task, which costs less than what it saves. That task begins behind the last appended byte, names the
//! range that it is writing, and the writer keeps out of it.

use std::io;
use std::ops::Range;
use std::rc::Rc;

use super::Log;
use super::limits::{EXTENT_BYTES_MAX, EXTENT_BYTES_MIN, SEGMENT_BYTES_MAX, TERMINATOR_BYTES};
use super::segment::{Segment, ignore_missing};
use super::shortage::{is_shortage, never_passes};
use super::types::block_ceil;
use crate::io::{BLOCK_BYTES, FilePosition, Io, WriteDurability};

impl<I: Io> Segment<I> {
    /// Whether blocks are there and nobody else writes them.
    pub(super) fn may_write(&self, blocks: &Range<u64>) -> bool {
        let zeroing = self.zeroing.borrow();
        let free = zeroing
            .as_ref()
            .is_none_or(|zeroing| zeroing.end <= blocks.start || blocks.end <= zeroing.start);
        free && self.file.borrow().is_some() && self.allocated.get() >= blocks.end
    }
}

impl<I: Io> Log<I> {
    /// Makes the space up to `until` that the writer waits for, then lets it go on.
    pub(super) fn prepare(&self, segment: Rc<Segment<I>>, until: u64) {
        let there = segment.file.borrow().is_some() && segment.allocated.get() >= until;
        // If it is there, it is being zeroed, and the end of that calls the writer.
        if !there {
            self.begin_extending(segment, until, true);
        }
    }

    fn begin_extending(&self, segment: Rc<Segment<I>>, until: u64, needed: bool) {
        // The end of a preparation that runs calls the writer, which asks again for what it misses.
        if self.0.preparing.replace(true) {
            return;
        }
        let log = self.clone();
        self.0.io.spawn(async move {
            let result = log.extend(&segment, until).await;
            log.0.preparing.set(false);
            log.0.changed.notify();
            match result {
                Ok(()) => log.went_well(),
                // A disk that is full now may have room when the space is needed.
                Err(error) if !needed && is_shortage(&error) => {}
                Err(error) => log.refused("making space", &error),
            }
            log.write_what_is_ready();
        });
    }

    /// Begins the next extent before the writes reach the end of this one.
    pub(super) fn prepare_ahead(&self, segment: &Rc<Segment<I>>, written_until: u64) {
        let (allocated, extent) = (segment.allocated.get(), segment.next_extent.get());
        let near = allocated - written_until.min(allocated) < extent / 4;
        let active = Rc::ptr_eq(segment, &self.0.active());
        if near && active && allocated < self.segment_bytes_max() {
            self.begin_extending(Rc::clone(segment), allocated + 1, false);
        } else if active {
            self.zero_ahead(segment);
        }
    }

    /// Waits until the zeroing task has left the segment.
    pub(super) async fn zeroing_ended(&self, segment: &Segment<I>) {
        loop {
            let generation = self.0.changed.generation();
            if !segment.zeroing_runs.get() {
                return;
            }
            self.0.changed.changed_since(generation).await;
        }
    }

    async fn extend(&self, segment: &Rc<Segment<I>>, until: u64) -> io::Result<()> {
        let io = &self.0.io;
        if segment.allocated.get() == 0 {
            self.begin_file(segment).await?;
        }
        let file = segment.open(io).await?;
        while segment.allocated.get() < until {
            let at = segment.allocated.get();
            let extent = segment.next_extent.get();
            let left = self.segment_bytes_max().saturating_sub(at);
            let bytes = extent.min(left).max(block_ceil(until - at));
            match io.allocate(&file, FilePosition(at), bytes).await {
                Ok(()) => segment.allocated.set(at + bytes),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    self.extend_by_zeros(segment, &file, at + bytes).await?;
                }
                Err(error) => {
                    // There may be room for less.
                    segment.next_extent.set(EXTENT_BYTES_MIN);
                    return Err(error);
                }
            }
            segment.next_extent.set((extent * 2).min(EXTENT_BYTES_MAX));
        }
        self.zero_ahead(segment);
        Ok(())
    }

    /// Makes space by writing it, where the file system cannot reserve any (ext3, and others without `fallocate`).
    async fn extend_by_zeros(
        &self,
        segment: &Rc<Segment<I>>,
        file: &I::File,
        until: u64,
    ) -> io::Result<()> {
        let (io, tails) = (&self.0.io, &self.0.shared.tails);
        while segment.allocated.get() < until {
            let at = segment.allocated.get();
            let zeros = tails.some_zeros(io, (until - at) as usize)?;
            let end = at + zeros.len() as u64;
            io.write(file, FilePosition(at), zeros, WriteDurability::Written)
                .await?;
            segment.zeroed.set(end);
            segment.allocated.set(end);
            self.write_what_is_ready();
        }
        io.sync(file).await.map_err(never_passes)
    }

    /// Makes the segment's file: one that is prepared already, else an empty one.
    async fn begin_file(&self, segment: &Segment<I>) -> io::Result<()> {
        let io = &self.0.io;
        // Whatever files of this name held belongs to another life.
        ignore_missing(io.remove_file(&segment.index_path()).await)?;
        let spares = &self.0.shared.spares;
        let bytes_max = self.segment_bytes_max();
        let prepared = spares.take(io, segment.path(), bytes_max).await?;
        let file = segment.create(io).await?;
        if prepared.is_none() {
            io.truncate(&file, 0).await?;
        }
        // No write may begin, and so none be answered as flushed, before the file's name would last.
        io.sync_directory(&self.0.directory).await?;
        if let Some(bytes) = prepared {
            segment.zeroed.set(bytes);
            segment.allocated.set(bytes);
        }
        Ok(())
    }

    /// Up to where extents are made in advance: what the segment may hold, and its terminator.
    fn segment_bytes_max(&self) -> u64 {
        block_ceil(self.0.config.get().segment_bytes.min(SEGMENT_BYTES_MAX)) + BLOCK_BYTES as u64
    }

    fn zero_ahead(&self, segment: &Rc<Segment<I>>) {
        if self.next_to_zero(segment).is_none() || segment.zeroing_runs.replace(true) {
            return;
        }
        let log = self.clone();
        let segment = Rc::clone(segment);
        self.0.io.spawn(async move {
            let result = log.zero(&segment).await;
            segment.zeroing.replace(None);
            segment.zeroing_runs.set(false);
            log.0.changed.notify();
            match result {
                Ok(()) => {}
                // The space reads as zeros without.
                Err(error) if is_shortage(&error) => {}
                Err(error) => return log.poison("zeroing new space", &error),
            }
            log.write_what_is_ready();
        });
    }

    async fn zero(&self, segment: &Rc<Segment<I>>) -> io::Result<()> {
        let file = segment.open(&self.0.io).await?;
        while let Some(range) = self.next_to_zero(segment) {
            let bytes = (range.end - range.start) as usize;
            let Some(zeros) = self.0.shared.tails.zeros(&self.0.io, bytes) else {
                break;
            };
            segment.zeroing.replace(Some(range.clone()));
            self.0
                .io
                .write(
                    &file,
                    FilePosition(range.start),
                    zeros,
                    WriteDurability::Written,
                )
                .await?;
            segment.zeroing.replace(None);
            segment.zeroed.set(range.end);
            self.write_what_is_ready();
        }
        // Without this the first durable write into the extent would wait for the metadata of all of it.
        self.0.io.sync(&file).await.map_err(never_passes)
    }

    /// The next range of allocated space that no append has reached.
    fn next_to_zero(&self, segment: &Rc<Segment<I>>) -> Option<Range<u64>> {
        if self.0.closed.get()
            || self.0.progress.is_poisoned()
            || !Rc::ptr_eq(segment, &self.0.active())
        {
            return None;
        }
        let reached = block_ceil(segment.bytes.get() + TERMINATOR_BYTES as u64);
        let start = segment.zeroed.get().max(reached);
        let most = self.0.io.buffer_bytes() as u64;
        let end = segment.allocated.get().min(start + most);
        (start < end).then_some(start..end)
    }
}
