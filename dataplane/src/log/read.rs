//! Reads whole batches: recent ones from the tail's memory, older ones from the file through the page cache.
//!
//! A read covers one segment. The sparse index and a walk over batch headers find its start; a few remembered places spare a reader
//! that goes on where its last read ended both.

use std::ops::Range;
use std::rc::Rc;

use wire::{BATCH_HEADER_BYTES, BatchHeader};

use super::index::Index;
use super::limits::{
    BATCH_BYTES_MAX, LOOKUP_BYTES, READ_BYTES_MAX, READ_PLACES, WARM_SEGMENTS_MAX,
};
use super::scan::{Scanner, read_exactly};
use super::segment::Segment;
use super::types::{Bound, Offset, ReadError};
use super::{Inner, Log};
use crate::io::{Io, Slice};

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
pub(super) struct Place<I: Io> {
    pub(super) segment: Rc<Segment<I>>,
    pub(super) position: u64,
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
        let mut window = log
            .window(segment, start, bytes_max.max(BATCH_HEADER_BYTES))
            .await?;
        let first = window
            .header(segment, start)
            .ok_or(ReadError::Damaged(from))?;
        let first_bytes = batch_bytes(&first, segment, start)?;
        if first_bytes as usize > bytes_max {
            if !at_least_one {
                return Ok(log.answer(Vec::new(), 0, from));
            }
            window = log.window(segment, start, first_bytes as usize).await?;
        }
        let limit = bytes_max.max(first_bytes as usize) as u64;
        let (mut end, mut last) = (start, first);
        while let Some(header) = window.header(segment, end) {
            let bytes = batch_bytes(&header, segment, end)?;
            if header.base_offset >= upper.0
                || end + bytes > window.end()
                || end + bytes - start > limit
            {
                break;
            }
            (end, last) = (end + bytes, header);
        }
        if end == start {
            return Ok(log.answer(Vec::new(), 0, from));
        }
        let next_offset = Offset(last.last_offset() + 1);
        log.places.borrow_mut().note(next_offset, segment.base, end);
        Ok(log.answer(
            window.slices(start..end),
            (end - start) as usize,
            next_offset,
        ))
    }

    /// The batch that holds an offset below the log's end.
    pub(super) async fn locate(&self, offset: Offset) -> Result<Place<I>, ReadError> {
        let log = &*self.0;
        let segment = log.segment_of(offset);
        if let Some(position) = log.places.borrow().find(offset, segment.base) {
            return Ok(Place { segment, position });
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
                return Ok(Place { segment, position });
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
        let index = match segment.load_index(&self.0.io, bytes).await {
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
        io.replace_file(&segment.index_path(), index.encode())
            .await?;
        Ok(index)
    }
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

    /// Bytes of the segment from `position` on: `bytes` of them, or up to the end of its batches.
    pub(super) async fn window(
        &self,
        segment: &Rc<Segment<I>>,
        position: u64,
        bytes: usize,
    ) -> Result<Window, ReadError> {
        let end = (position + bytes as u64).min(segment.bytes.get());
        let mut window = Window {
            position,
            parts: Vec::new(),
            bytes: 0,
        };
        while window.end() < end {
            let at = window.end();
            self.tail
                .borrow()
                .slices(segment, at..end, &mut window.parts);
            window.bytes = window.parts.iter().map(|part| part.len() as u64).sum();
            if window.end() > at {
                continue;
            }
            // Not in memory, so in the file; up to where memory begins.
            let memory = self
                .tail
                .borrow()
                .start_in(segment)
                .filter(|start| *start > at)
                .unwrap_or(end);
            let file = segment.open_reader(&self.io).await?;
            let part = read_exactly(&self.io, &file, at, (end.min(memory) - at) as usize).await?;
            window.bytes += part.len() as u64;
            window.parts.push(part);
        }
        Ok(window)
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
            .0
            .window(&self.segment, position, LOOKUP_BYTES)
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
pub(super) struct Places {
    known: [Option<KnownPlace>; READ_PLACES],
    next: usize,
}

#[derive(Clone, Copy)]
struct KnownPlace {
    offset: Offset,
    segment: Offset,
    position: u64,
}

impl Places {
    fn note(&mut self, offset: Offset, segment: Offset, position: u64) {
        if self.find(offset, segment).is_none() {
            self.known[self.next] = Some(KnownPlace {
                offset,
                segment,
                position,
            });
            self.next = (self.next + 1) % READ_PLACES;
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
