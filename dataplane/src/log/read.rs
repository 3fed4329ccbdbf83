//! Reads whole batches: recent ones from the tail's memory, older ones from chunks of the file.
//!
//! A read covers one segment. The sparse index and a walk over batch headers find its start; a few remembered places spare a reader
//! that goes on where its last read ended both, and have the next chunks read ahead for it.

use std::io;
use std::ops::Range;
use std::rc::Rc;

use wire::{BATCH_HEADER_BYTES, BatchHeader};

use super::chunks::{ChunkKey, Found};
use super::index::Index;
use super::limits::{
    BATCH_BYTES_MAX, CHUNK_BYTES, CHUNKS_AHEAD, LOOKUP_BYTES, READ_BYTES_MAX, READ_ENDS_MAX,
    WARM_SEGMENTS_MAX,
};
use super::scan::{Scanner, read_exactly};
use super::segment::Segment;
use super::types::{Bound, Offset, ReadError};
use super::{Inner, Log};
use crate::io::{FilePosition, Io, OpenMode, Slice};

/// Whole batches, back to back, and the log's offsets when they were read.
#[derive(Debug)]
pub struct Read {
    pub slices: Vec<Slice>,
    pub bytes: usize,
    /// Where to read on.
    pub next_offset: Offset,
    pub high_watermark: Offset,
    pub log_start: Offset,
    /// The last stable offset; equal to the high watermark while there are no transactions.
    pub last_stable: Offset,
}

/// A batch's place.
pub(super) struct BatchLocation<I: Io> {
    pub(super) segment: Rc<Segment<I>>,
    pub(super) position: u64,
    /// A read ended here not long ago.
    continues: bool,
}

/// Bytes of a segment in memory.
pub(super) struct Window {
    position: u64,
    parts: Vec<Slice>,
    bytes: u64,
}

impl<I: Io> Log<I> {
    /// Batches from the one that holds `from` on, at most `bytes_max` bytes, below `bound`. With `at_least_one` the first is
    /// returned whole even if it is larger. Empty when there is nothing below the bound yet.
    pub async fn read(
        &self,
        from: Offset,
        bytes_max: usize,
        at_least_one: bool,
        bound: Bound,
    ) -> Result<Read, ReadError> {
        let log = &*self.0;
        log.check_range(from)?;
        let upper = match bound {
            Bound::HighWatermark => log.progress.high_watermark(),
            Bound::LogEnd => log.progress.log_end(),
        };
        if from >= upper || bytes_max == 0 && !at_least_one {
            return Ok(log.answer(Vec::new(), 0, from));
        }
        match self
            .read_below(from, bytes_max.min(READ_BYTES_MAX), at_least_one, upper)
            .await
        {
            // Retention may have removed the segment meanwhile.
            Err(error) => Err(log.check_range(from).err().unwrap_or(error)),
            read => read,
        }
    }

    async fn read_below(
        &self,
        from: Offset,
        bytes_max: usize,
        at_least_one: bool,
        upper: Offset,
    ) -> Result<Read, ReadError> {
        let log = &*self.0;
        let place = self.locate(from).await?;
        let (segment, start) = (&place.segment, place.position);
        let ahead = if place.continues { CHUNKS_AHEAD } else { 0 };
        let mut window = self
            .window(segment, start, bytes_max.max(BATCH_HEADER_BYTES), ahead)
            .await?;
        let first = window
            .header(segment, start)
            .ok_or(ReadError::Damaged(from))?;
        let first_bytes = batch_bytes(&first, segment, start)?;
        if first_bytes as usize > bytes_max {
            if !at_least_one {
                return Ok(log.answer(Vec::new(), 0, from));
            }
            window = self
                .window(segment, start, first_bytes as usize, ahead)
                .await?;
        }
        let limit = bytes_max.max(first_bytes as usize) as u64;
        let (mut end, mut next_offset) = window
            .known_end(segment, start, start + limit, upper)
            .unwrap_or((start, from));
        while let Some(header) = window.header(segment, end) {
            let bytes = batch_bytes(&header, segment, end)?;
            if header.base_offset >= upper.0
                || end + bytes > window.end()
                || end + bytes - start > limit
            {
                break;
            }
            (end, next_offset) = (end + bytes, Offset(header.last_offset() + 1));
        }
        if end == start {
            return Ok(log.answer(Vec::new(), 0, from));
        }
        log.read_ends
            .borrow_mut()
            .note(next_offset, segment.base, end);
        Ok(log.answer(
            window.slices(start..end),
            (end - start) as usize,
            next_offset,
        ))
    }

    /// The batch that holds an offset below the log's end.
    pub(super) async fn locate(&self, offset: Offset) -> Result<BatchLocation<I>, ReadError> {
        let log = &*self.0;
        let segment = log.segment_of(offset);
        if let Some(position) = log.read_ends.borrow().find(offset, segment.base) {
            return Ok(BatchLocation {
                segment,
                position,
                continues: true,
            });
        }
        self.load_index(&segment).await?;
        let mut position = segment
            .index
            .borrow()
            .as_ref()
            .map_or(0, |index| index.position_of(offset));
        let mut walk = Walk::new(self, Rc::clone(&segment));
        loop {
            let header = walk
                .header(position)
                .await?
                .ok_or(ReadError::Damaged(offset))?;
            if header.last_offset() >= offset.0 {
                return Ok(BatchLocation {
                    segment,
                    position,
                    continues: false,
                });
            }
            position += batch_bytes(&header, &segment, position)?;
        }
    }

    /// Loads the index of a closed segment, or builds it anew if it is missing or damaged.
    pub(super) async fn load_index(&self, segment: &Rc<Segment<I>>) -> Result<(), ReadError> {
        self.0.keep_warm(segment);
        if segment.index.borrow().is_some() {
            return Ok(());
        }
        let bytes = segment.bytes.get();
        let index = match segment.load_index(&self.0.io, bytes).await? {
            Some(index) if index.covered_bytes() == bytes => index,
            _ => self.rebuild_index(segment).await?,
        };
        segment.index.replace(Some(index));
        Ok(())
    }

    async fn rebuild_index(&self, segment: &Rc<Segment<I>>) -> Result<Index, ReadError> {
        let io = &self.0.io;
        tracing::warn!(segment = %segment.path().display(), "the index is missing or damaged: built anew");
        let mut scanner = Scanner::open(io, segment.path()).await?;
        let mut index = Index::new(segment.base);
        while index.covered_bytes() < segment.bytes.get() {
            let (position, offset) = (index.covered_bytes(), index.next_offset());
            let header = scanner
                .header(position, offset)
                .await?
                .ok_or(ReadError::Damaged(offset))?;
            let bytes = batch_bytes(&header, segment, position)? as usize;
            let next_offset = Offset(header.last_offset() + 1);
            let interval = self.config().index_interval_bytes;
            index.append(offset, next_offset, bytes, header.max_timestamp, interval);
        }
        self.keep_index(segment, &index).await;
        Ok(index)
    }

    /// Stores an index that was built anew. The reader has it in any case.
    async fn keep_index(&self, segment: &Rc<Segment<I>>, index: &Index) {
        let _pass = self.0.replacing.enter().await;
        // The segment may have been deleted meanwhile.
        let segments = self.0.segments.borrow().clone();
        if self.0.deleted.get() || !segments.iter().any(|known| Rc::ptr_eq(known, segment)) {
            return;
        }
        let path = segment.index_path();
        if let Err(error) = self.0.io.replace_file(&path, index.encode()).await {
            tracing::warn!(path = %path.display(), %error, "cannot store the index");
        }
    }
}

impl<I: Io> Log<I> {
    /// Bytes of the segment from `position` on: `bytes` of them, or up to the end of its batches. Of those that are not in memory,
    /// `ahead` chunks more are read in advance.
    pub(super) async fn window(
        &self,
        segment: &Rc<Segment<I>>,
        position: u64,
        bytes: usize,
        ahead: u64,
    ) -> Result<Window, ReadError> {
        let end = (position + bytes as u64).min(segment.bytes.get());
        let mut window = Window {
            position,
            parts: Vec::new(),
            bytes: 0,
        };
        while window.end() < end {
            let at = window.end();
            let memory = {
                let tail = self.0.tail.borrow();
                tail.slices(segment, at..end, &mut window.parts);
                tail.start_in(segment).filter(|start| *start > at)
            };
            window.bytes = window.parts.iter().map(|part| part.len() as u64).sum();
            if window.end() > at {
                continue;
            }
            // Not in memory, so in the file; up to where memory begins.
            let old = OldBytes {
                range: at..end.min(memory.unwrap_or(end)),
                file_end: memory.unwrap_or(segment.bytes.get()),
            };
            let part = self.old_bytes(segment, old, ahead).await?;
            window.bytes += part.len() as u64;
            window.parts.push(part);
        }
        Ok(window)
    }

    /// Bytes that are in the file from the range's start on, at least one.
    async fn old_bytes(
        &self,
        segment: &Rc<Segment<I>>,
        old: OldBytes,
        ahead: u64,
    ) -> Result<Slice, ReadError> {
        if self.0.deleted.get() {
            return Err(ReadError::Io(io::ErrorKind::NotFound.into()));
        }
        let chunks = &self.0.shared.chunks;
        let file = segment.open_reader(&self.0.io).await?;
        let first = old.range.start / CHUNK_BYTES as u64;
        let last = (old.range.end - 1) / CHUNK_BYTES as u64;
        // What is not needed yet gives way to producers.
        let until = match self.0.shared.load.is_busy(self.0.io.now()) {
            true => first,
            false => last + ahead,
        };
        for number in first..=until {
            let key = segment.chunk(chunks, number);
            let wanted = number <= last;
            if !chunks.has(key) && !self.read_chunk(&file, key, old.file_end, wanted) {
                break;
            }
        }
        let key = segment.chunk(chunks, first);
        let start = first * CHUNK_BYTES as u64;
        let wanted = (old.range.start - start) as usize
            ..(old.range.end - start).min(CHUNK_BYTES as u64) as usize;
        let mut tried = false;
        loop {
            let generation = chunks.changed().generation();
            match chunks.find(key, wanted.clone()) {
                Found::Bytes(slice) => return Ok(slice),
                Found::Reading => chunks.changed().changed_since(generation).await,
                Found::Absent if !tried => {
                    tried = true;
                    self.read_chunk(&file, key, old.file_end, true);
                }
                // All chunks are in use, or the read failed: then this one says why.
                Found::Absent => {
                    let io = &self.0.io;
                    let file = io.open(segment.path(), OpenMode::ReadCached).await?;
                    let slice = read_exactly(io, &file, old.range.start, wanted.len()).await?;
                    return Ok(slice);
                }
            }
        }
    }

    /// Begins to read a chunk of what is final in the file up to `file_end`; false if it has none, or no buffer can be had.
    fn read_chunk(&self, file: &I::File, key: ChunkKey, file_end: u64, wanted: bool) -> bool {
        let at = key.number * CHUNK_BYTES as u64;
        if at >= file_end {
            return false;
        }
        let Some(buffer) = self.0.shared.chunks.begin(key, wanted) else {
            return false;
        };
        let (log, file) = (self.clone(), file.clone());
        self.0.io.spawn(async move {
            let (io, chunks) = (&log.0.io, &log.0.shared.chunks);
            let (result, buffer) = io.read(&file, FilePosition(at), buffer, CHUNK_BYTES).await;
            let bytes = (file_end - at).min(CHUNK_BYTES as u64) as usize;
            chunks.end(key, buffer, result.ok().map(|read| read.min(bytes)));
        });
        true
    }
}

/// What is wanted of a segment's bytes that are not in memory.
struct OldBytes {
    range: Range<u64>,
    /// What the file holds before here is final.
    file_end: u64,
}

impl<I: Io> Inner<I> {
    fn check_range(&self, from: Offset) -> Result<(), ReadError> {
        let (log_start, log_end) = (self.progress.log_start(), self.progress.log_end());
        if from < log_start || from > log_end {
            return Err(ReadError::OffsetOutOfRange {
                from,
                log_start,
                log_end,
            });
        }
        Ok(())
    }

    fn answer(&self, slices: Vec<Slice>, bytes: usize, next_offset: Offset) -> Read {
        let high_watermark = self.progress.high_watermark();
        let log_start = self.progress.log_start();
        Read {
            slices,
            bytes,
            next_offset,
            high_watermark,
            log_start,
            last_stable: high_watermark,
        }
    }

    fn segment_of(&self, offset: Offset) -> Rc<Segment<I>> {
        let segments = self.segments.borrow();
        let after = segments.partition_point(|segment| segment.base <= offset);
        Rc::clone(&segments[after.saturating_sub(1)])
    }

    /// The segment used last stays warm; the one not used for longest lets go of its file and index.
    fn keep_warm(&self, segment: &Rc<Segment<I>>) {
        if Rc::ptr_eq(segment, &self.active()) {
            return;
        }
        let mut warm = self.warm.borrow_mut();
        warm.retain(|known| !Rc::ptr_eq(known, segment));
        warm.push_back(Rc::clone(segment));
        if warm.len() > WARM_SEGMENTS_MAX
            && let Some(cold) = warm.pop_front()
        {
            cold.cool();
        }
    }
}

/// Reads header after header of a segment, a window at a time.
pub(super) struct Walk<'a, I: Io> {
    log: &'a Log<I>,
    segment: Rc<Segment<I>>,
    window: Option<Window>,
}

impl<'a, I: Io> Walk<'a, I> {
    pub(super) fn new(log: &'a Log<I>, segment: Rc<Segment<I>>) -> Walk<'a, I> {
        Walk {
            log,
            segment,
            window: None,
        }
    }

    /// The header at a position where a batch begins; `None` at the end of the segment.
    pub(super) async fn header(&mut self, position: u64) -> Result<Option<BatchHeader>, ReadError> {
        if let Some(header) = self
            .window
            .as_ref()
            .and_then(|window| window.header(&self.segment, position))
        {
            return Ok(Some(header));
        }
        if position >= self.segment.bytes.get() {
            return Ok(None);
        }
        let window = self
            .log
            .window(&self.segment, position, LOOKUP_BYTES, 0)
            .await?;
        let header = window.header(&self.segment, position);
        self.window = Some(window);
        header
            .map(Some)
            .ok_or(ReadError::Damaged(self.segment.base))
    }
}

impl Window {
    fn end(&self) -> u64 {
        self.position + self.bytes
    }

    /// Where a batch begins, and its offset, behind `start` but not behind `end` or the offset `upper`, as far as the index knows one: so
    /// that not each of very many small batches before it has to be looked at.
    fn known_end<I: Io>(
        &self,
        segment: &Segment<I>,
        start: u64,
        end: u64,
        upper: Offset,
    ) -> Option<(u64, Offset)> {
        let last = end.min(self.end()).checked_sub(BATCH_HEADER_BYTES as u64)?;
        let index = segment.index.borrow();
        let (position, offset) = index.as_ref()?.last_up_to(last, upper)?;
        let is_there = |header: BatchHeader| header.base_offset == offset.0;
        let found = position > start && self.header(segment, position).is_some_and(is_there);
        found.then_some((position, offset))
    }

    /// The header of the batch at `position`, if it is in the window and could be one of the segment's.
    fn header<I: Io>(&self, segment: &Segment<I>, position: u64) -> Option<BatchHeader> {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        if position < self.position || !self.copy(position, &mut bytes) {
            return None;
        }
        let header = BatchHeader::parse(&bytes);
        let ours = header.magic == 2
            && header.base_offset >= segment.base.0
            && header.last_offset_delta >= 0;
        ours.then_some(header)
    }

    fn copy(&self, position: u64, target: &mut [u8]) -> bool {
        let mut skip = (position - self.position) as usize;
        let mut filled = 0;
        for part in &self.parts {
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            let bytes = (part.len() - skip).min(target.len() - filled);
            target[filled..filled + bytes].copy_from_slice(&part[skip..skip + bytes]);
            filled += bytes;
            skip = 0;
            if filled == target.len() {
                return true;
            }
        }
        false
    }

    pub(super) fn slices(&self, range: Range<u64>) -> Vec<Slice> {
        let mut slices = Vec::with_capacity(self.parts.len());
        let mut at = self.position;
        for part in &self.parts {
            let end = at + part.len() as u64;
            let (from, to) = (range.start.max(at), range.end.min(end));
            if from < to {
                slices.push(part.slice((from - at) as usize..(to - at) as usize));
            }
            at = end;
        }
        slices
    }
}

/// A batch's length, if it lies inside the segment.
pub(super) fn batch_bytes<I: Io>(
    header: &BatchHeader,
    segment: &Segment<I>,
    position: u64,
) -> Result<u64, ReadError> {
    let damaged = ReadError::Damaged(Offset(header.base_offset));
    let Ok(bytes) = header.batch_bytes() else {
        return Err(damaged);
    };
    if bytes > BATCH_BYTES_MAX || position + bytes as u64 > segment.bytes.get() {
        return Err(damaged);
    }
    Ok(bytes as u64)
}

/// Where the last reads ended, so that the next ones begin there without a search.
#[derive(Default)]
pub(super) struct ReadEnds {
    known: [Option<ReadEnd>; READ_ENDS_MAX],
    next: usize,
}

#[derive(Clone, Copy)]
struct ReadEnd {
    offset: Offset,
    segment: Offset,
    position: u64,
}

impl ReadEnds {
    fn note(&mut self, offset: Offset, segment: Offset, position: u64) {
        if self.find(offset, segment).is_none() {
            self.known[self.next] = Some(ReadEnd {
                offset,
                segment,
                position,
            });
            self.next = (self.next + 1) % READ_ENDS_MAX;
        }
    }

    fn find(&self, offset: Offset, segment: Offset) -> Option<u64> {
        self.known
            .iter()
            .flatten()
            .find(|place| place.offset == offset && place.segment == segment)
            .map(|place| place.position)
    }
}
