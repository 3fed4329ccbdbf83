//! The newest bytes of a log in memory, and which of them are on their way to the file.
//!
//! Appends copy batches in, the writer asks for the next write, readers slice what they find. Nothing here waits or does I/O.
//!
//! ```text
//!  segment file   ... |  written  |  in flight  |  unsubmitted  | zeros
//!  runs                [ evictable ][ ............ ][ active     ]
//! ```
//! A run covers a range of its segment file that begins at a block, and lies in one buffer; a buffer's last block is kept for the
//! terminator alone, so every write of a run is one lease. Writes are whole blocks. The last block of a write is usually partial and is
//! written again by the next one, and two writes that share a block are never in flight together. So that a busy log can still have
//! several in flight, a write may jump over the shared block; a *waiting* piece then brings that block up to date once the earlier write
//! has completed.
//!
//! Nothing changes in memory that a write in flight may read: a file system or a device that keeps checksums or copies would store one
//! that does not match. What is appended while the partial block is being written begins a new run with a copy of that block:
//!
//! ```text
//!  buffer  | run 1: batch batch bat.ch zeros | run 2: bat.ch batch ...
//!            in flight, with its zeros          the same block of the file again, and what follows
//! ```

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use super::limits::{PIPELINED_WRITE_BYTES_MIN, TERMINATOR_BYTES};
use super::segment::Segment;
use super::types::{Offset, block_ceil, block_floor};
use crate::io::{BLOCK_BYTES, Buffer, Io, Slice, WriteLeases};

pub(super) struct Tail<I: Io> {
    buffers: VecDeque<Buffer>,
    first_buffer: u64,
    /// In log order; each buffer has one at least.
    runs: VecDeque<Run<I>>,
    first_run: u64,
    /// What has been handed to the kernel or waits for a block, in log order; completed ones leave from the front.
    pieces: VecDeque<Piece<I>>,
    first_piece: u64,
    in_flight: usize,
    /// The bytes of the last, partial block while no buffer holds them.
    partial: Vec<u8>,
    abandoned: bool,
}

struct Run<I: Io> {
    segment: Rc<Segment<I>>,
    /// Its first byte in the segment file.
    base: u64,
    buffer: u64,
    /// Its first byte in the buffer, at a block as well.
    start: usize,
    bytes: usize,
    /// Bytes of it that have a piece or were in the file before.
    submitted: usize,
    /// One past the last offset of the batches that end in this run or before.
    next_offset: Offset,
}

struct Piece<I: Io> {
    segment: Rc<Segment<I>>,
    run: u64,
    from: usize,
    to: usize,
    /// The blocks of the file that it writes.
    blocks: Range<u64>,
    state: PieceState,
    /// Everything before this is in the file once this and all earlier pieces are done; `None` if a later piece says so.
    next_offset: Option<Offset>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PieceState {
    /// An earlier piece is writing one of its blocks, or its own write came to nothing.
    Waiting,
    InFlight,
    Done,
}

/// A write to hand to the kernel: pieces that lie one behind the other in the file, each with its lease.
pub(super) struct Write<I: Io> {
    pub(super) pieces: Range<u64>,
    pub(super) segment: Rc<Segment<I>>,
    pub(super) blocks: Range<u64>,
    pub(super) leases: WriteLeases,
}

/// What may be in the next write.
#[derive(Clone, Copy)]
pub(super) struct WriteLimits {
    /// It begins beside fewer than so many writes of the same log.
    pub(super) in_flight_max: usize,
    /// So many buffers are written at once.
    pub(super) buffers_max: usize,
}

pub(super) enum Next<I: Io> {
    Write(Write<I>),
    /// The blocks are not prepared, or being zeroed.
    NoSpace(Rc<Segment<I>>, Range<u64>),
    Nothing,
}

impl<I: Io> Tail<I> {
    /// `partial` is what the file holds of the block that the log ends in.
    pub(super) fn new(partial: Vec<u8>) -> Tail<I> {
        assert!(
            partial.len() < BLOCK_BYTES,
            "a partial block is less than a block"
        );
        Tail {
            buffers: VecDeque::new(),
            first_buffer: 0,
            runs: VecDeque::new(),
            first_run: 0,
            pieces: VecDeque::new(),
            first_piece: 0,
            in_flight: 0,
            partial,
            abandoned: false,
        }
    }

    /// Fresh buffers that `bytes` more bytes of `segment` need; of a segment yet to begin if there is none.
    pub(super) fn buffers_needed(
        &mut self,
        bytes: usize,
        buffer_bytes: usize,
        segment: Option<&Rc<Segment<I>>>,
    ) -> usize {
        let area = buffer_bytes - BLOCK_BYTES;
        let (room, carried) = match segment {
            Some(segment) => {
                self.reopen(segment);
                (self.room(segment), self.carried(segment))
            }
            None => (0, 0),
        };
        if bytes <= room {
            0
        } else {
            // A run that fills its buffer ends at a block, so there is something to carry on only where there is no room.
            (bytes - room + carried * usize::from(room == 0)).div_ceil(area)
        }
    }

    /// Buffers with bytes that are not written.
    pub(super) fn unwritten_buffers(&self) -> usize {
        let oldest = match self
            .pieces
            .iter()
            .find(|piece| piece.state != PieceState::Done)
        {
            Some(piece) => Some(piece.run),
            None => self.unsubmitted(),
        };
        let buffer = |run: u64| self.runs[(run - self.first_run) as usize].buffer;
        oldest.map_or(0, |run| {
            (self.first_buffer + self.buffers.len() as u64 - buffer(run)) as usize
        })
    }

    /// Copies the pieces of a batch to the end. `fresh` holds as many buffers as [`Tail::buffers_needed`] just said.
    pub(super) fn append<'a>(
        &mut self,
        segment: &Rc<Segment<I>>,
        parts: impl Iterator<Item = &'a [u8]>,
        next_offset: Offset,
        fresh: &mut Vec<Buffer>,
    ) -> usize {
        let buffers_before = fresh.len();
        let mut room = self.open_room(segment);
        for mut part in parts {
            while !part.is_empty() {
                if room == 0 {
                    self.begin_run(segment, fresh);
                    room = self.open_room(segment);
                }
                let taken = room.min(part.len());
                let (run, buffer) = self.newest().expect("one was just found to have room");
                buffer.extend_from_slice(&part[..taken]);
                run.bytes += taken;
                segment.bytes.set(segment.bytes.get() + taken as u64);
                room -= taken;
                part = &part[taken..];
            }
        }
        let (run, _) = self.newest().expect("a batch has bytes");
        run.next_offset = next_offset;
        buffers_before - fresh.len()
    }

    /// The next write that may begin, if `prepared` says that its blocks may be written.
    pub(super) fn next_write(
        &mut self,
        limits: WriteLimits,
        prepared: impl Fn(&Segment<I>, &Range<u64>) -> bool,
    ) -> Next<I> {
        if self.in_flight >= limits.in_flight_max {
            return Next::Nothing;
        }
        let ready = |index: &usize| {
            self.pieces[*index].state == PieceState::Waiting && !self.overlaps(*index)
        };
        if let Some(index) = (0..self.pieces.len()).find(ready) {
            return self.submit(index..index + 1);
        }
        let Some(number) = self.unsubmitted() else {
            return Next::Nothing;
        };
        let index = (number - self.first_run) as usize;
        let last = index + 1 == self.runs.len();
        let end = self.end_to_write(index);
        let run = &self.runs[index];
        let (from, to) = (run.submitted, run.bytes);
        let start = block_floor(from as u64);
        let shared = self.shared_until(&run.segment, run.base + start);
        let begin = shared.map_or(from, |until| until.saturating_sub(run.base) as usize);
        // A full run goes at once; what may still grow only if it is worth a write of its own.
        let enough = if last {
            begin + PIPELINED_WRITE_BYTES_MIN
        } else {
            begin + 1
        };
        if shared.is_some() && to < enough {
            return Next::Nothing;
        }
        let blocks = run.base + block_floor(begin as u64)..end;
        if !prepared(&run.segment, &blocks) {
            return Next::NoSpace(Rc::clone(&run.segment), blocks);
        }
        let (segment, base, next_offset) = (Rc::clone(&run.segment), run.base, run.next_offset);
        if begin > from {
            self.pieces.push_back(Piece {
                segment: Rc::clone(&segment),
                run: number,
                from,
                to: begin,
                blocks: base + start..base + begin as u64,
                state: PieceState::Waiting,
                next_offset: None,
            });
        }
        self.pieces.push_back(Piece {
            segment,
            run: number,
            from: begin,
            to,
            blocks,
            state: PieceState::Waiting,
            next_offset: Some(next_offset),
        });
        self.runs[index].submitted = to;
        let first = self.pieces.len() - 1;
        self.join_following(index, limits.buffers_max, prepared);
        self.submit(first..self.pieces.len())
    }

    /// Makes pieces of the runs behind one whose piece was just made, as far as they may be in the same write.
    fn join_following(
        &mut self,
        index: usize,
        buffers_max: usize,
        prepared: impl Fn(&Segment<I>, &Range<u64>) -> bool,
    ) {
        for next in index + 1..self.runs.len().min(index + buffers_max) {
            let end = self.end_to_write(next);
            let run = &mut self.runs[next];
            let last = self.pieces.back().expect("there is one that is joined");
            let blocks = run.base..end;
            if !Rc::ptr_eq(&run.segment, &last.segment) || !prepared(&run.segment, &blocks) {
                return;
            }
            assert!(
                last.blocks.end == blocks.start && run.submitted == 0,
                "a run begins where the full one before it ends"
            );
            run.submitted = run.bytes;
            self.pieces.push_back(Piece {
                segment: Rc::clone(&run.segment),
                run: self.first_run + next as u64,
                from: 0,
                to: run.bytes,
                blocks,
                state: PieceState::Waiting,
                next_offset: Some(run.next_offset),
            });
        }
    }

    /// Where the blocks end that hold a run's bytes. The newest batch is followed by zeros, so that recovery can never read on into
    /// what the file held before.
    fn end_to_write(&self, index: usize) -> u64 {
        let run = &self.runs[index];
        let goes_on = self
            .runs
            .get(index + 1)
            .is_some_and(|next| Rc::ptr_eq(&next.segment, &run.segment));
        let terminator = if goes_on { 0 } else { TERMINATOR_BYTES };
        run.base + block_ceil((run.bytes + terminator) as u64)
    }

    /// A write of these pieces has completed. Returns one past the last offset that is now in the file, if that moved.
    pub(super) fn complete(&mut self, pieces: Range<u64>) -> Option<Offset> {
        self.in_flight -= 1;
        if self.abandoned {
            return None;
        }
        for piece in pieces {
            self.pieces[(piece - self.first_piece) as usize].state = PieceState::Done;
        }
        let mut written = None;
        while self
            .pieces
            .front()
            .is_some_and(|piece| piece.state == PieceState::Done)
        {
            written = self
                .pieces
                .pop_front()
                .and_then(|piece| piece.next_offset)
                .or(written);
            self.first_piece += 1;
        }
        written
    }

    /// A write of these pieces came to nothing: they wait to be written again.
    pub(super) fn failed(&mut self, pieces: Range<u64>) {
        self.in_flight -= 1;
        if self.abandoned {
            return;
        }
        for piece in pieces {
            self.pieces[(piece - self.first_piece) as usize].state = PieceState::Waiting;
        }
    }

    /// After a failed write nothing more is written, so no buffer is worth keeping for it.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.pieces.clear();
        self.runs
            .iter_mut()
            .for_each(|run| run.submitted = run.bytes);
    }

    /// Whether there are bytes that no write has been begun for.
    pub(super) fn has_next(&self) -> bool {
        let waiting = |piece: &Piece<I>| piece.state == PieceState::Waiting;
        self.unsubmitted().is_some() || self.pieces.iter().any(waiting)
    }

    /// Whether some bytes of the segment are not in the file.
    pub(super) fn has_unwritten(&self, segment: &Rc<Segment<I>>) -> bool {
        self.pieces
            .iter()
            .any(|piece| Rc::ptr_eq(&piece.segment, segment))
            || self
                .runs
                .iter()
                .any(|run| Rc::ptr_eq(&run.segment, segment) && run.submitted < run.bytes)
    }

    /// Whether there are bytes that are being written or are still to be.
    pub(super) fn is_unwritten(&self) -> bool {
        self.in_flight > 0 || self.has_next()
    }

    /// Gives up the oldest buffer. `None`: there is none; `Some(false)`: it is not written.
    pub(super) fn evict_oldest(&mut self) -> Option<bool> {
        let number = self.first_buffer;
        let runs = self.runs.iter().take_while(|run| run.buffer == number);
        let (count, submitted) = runs.fold((0usize, true), |(count, submitted), run| {
            (count + 1, submitted && run.submitted == run.bytes)
        });
        let last = self.runs.get(count.checked_sub(1)?)?;
        let behind = self.first_run + count as u64;
        if !submitted || self.pieces.iter().any(|piece| piece.run < behind) {
            return Some(false);
        }
        if self.runs.len() == count {
            let end = last.start + last.bytes;
            let partial = block_floor(end as u64) as usize..end;
            self.partial.clear();
            self.partial
                .extend_from_slice(&self.buffers[0].as_slice()[partial]);
        }
        self.runs.drain(..count);
        self.first_run = behind;
        self.buffers.pop_front();
        self.first_buffer += 1;
        Some(true)
    }

    /// Where the part of the segment begins that is in memory.
    pub(super) fn start_in(&self, segment: &Rc<Segment<I>>) -> Option<u64> {
        self.runs
            .iter()
            .find(|run| Rc::ptr_eq(&run.segment, segment))
            .map(|run| run.base)
    }

    /// The bytes of a range of the segment, as many as are in memory without a gap from its start on.
    pub(super) fn slices(
        &self,
        segment: &Rc<Segment<I>>,
        range: Range<u64>,
        slices: &mut Vec<Slice>,
    ) {
        let mut position = range.start;
        for run in self
            .runs
            .iter()
            .filter(|run| Rc::ptr_eq(&run.segment, segment))
        {
            let end = (run.base + run.bytes as u64).min(range.end);
            if run.base <= position && position < end {
                let buffer = &self.buffers[(run.buffer - self.first_buffer) as usize];
                let at = |position: u64| run.start + (position - run.base) as usize;
                slices.push(buffer.slice(at(position)..at(end)));
                position = end;
            }
        }
    }

    /// The newest run and its buffer.
    fn newest(&mut self) -> Option<(&mut Run<I>, &mut Buffer)> {
        Some((self.runs.back_mut()?, self.buffers.back_mut()?))
    }

    /// The newest run and its buffer, if they are the segment's.
    fn active(&self, segment: &Rc<Segment<I>>) -> Option<(&Run<I>, &Buffer)> {
        let run = self.runs.back()?;
        Rc::ptr_eq(&run.segment, segment).then_some(())?;
        Some((run, self.buffers.back()?))
    }

    /// Takes back the zeros that the last write put behind the newest bytes, so that appends go on there, unless somebody may still read
    /// the buffer.
    fn reopen(&mut self, segment: &Rc<Segment<I>>) {
        if self.active(segment).is_some()
            && let Some((run, buffer)) = self.newest()
        {
            let end = run.start + run.bytes;
            let _ = buffer.len() == end || buffer.truncate(end);
        }
    }

    /// Bytes that the newest run still takes; none when it is another segment's, or when zeros follow it that are being written.
    fn open_room(&self, segment: &Rc<Segment<I>>) -> usize {
        match self.active(segment) {
            Some((run, buffer)) if buffer.len() == run.start + run.bytes => {
                buffer.capacity() - BLOCK_BYTES - buffer.len()
            }
            _ => 0,
        }
    }

    /// Bytes that can be appended without a fresh buffer.
    fn room(&self, segment: &Rc<Segment<I>>) -> usize {
        match self.open_room(segment) {
            0 => self.room_for_run(segment),
            room => room,
        }
    }

    /// Bytes that a new run behind the zeros in the newest buffer would take.
    fn room_for_run(&self, segment: &Rc<Segment<I>>) -> usize {
        let used = |buffer: &Buffer| buffer.len() + BLOCK_BYTES + self.carried(segment);
        self.active(segment).map_or(0, |(_, buffer)| {
            buffer.capacity().saturating_sub(used(buffer))
        })
    }

    /// Bytes of the log's last block, with which a new run of the segment begins.
    fn carried(&self, segment: &Rc<Segment<I>>) -> usize {
        (segment.bytes.get() % BLOCK_BYTES as u64) as usize
    }

    /// Begins a run with a copy of the log's partial block, in the newest buffer if it has room.
    fn begin_run(&mut self, segment: &Rc<Segment<I>>, fresh: &mut Vec<Buffer>) {
        let position = segment.bytes.get();
        let carried = self.carried(segment);
        let partial = self.active(segment).map(|(run, buffer)| {
            let end = run.start + run.bytes;
            buffer.slice(end - carried..end)
        });
        if self.room_for_run(segment) == 0 {
            let buffer = fresh.pop().expect("the caller gathered enough buffers");
            self.buffers.push_back(buffer);
        }
        let number = self.first_buffer + self.buffers.len() as u64 - 1;
        let buffer = self.buffers.back_mut().expect("there is one with room");
        let start = buffer.len();
        match partial {
            Some(partial) => buffer.extend_from_slice(&partial),
            None => {
                assert!(
                    self.partial.len() == carried || position == 0,
                    "the partial block is the log's last"
                );
                buffer.extend_from_slice(&self.partial[..carried]);
            }
        }
        self.partial.clear();
        let next_offset = self
            .runs
            .back()
            .map_or(Offset::default(), |previous| previous.next_offset);
        self.runs.push_back(Run {
            segment: Rc::clone(segment),
            base: block_floor(position),
            buffer: number,
            start,
            bytes: carried,
            submitted: carried,
            next_offset,
        });
    }

    /// The first run with bytes that no piece covers.
    fn unsubmitted(&self) -> Option<u64> {
        let behind = self
            .runs
            .iter()
            .rev()
            .take_while(|run| run.submitted < run.bytes)
            .count();
        (behind > 0).then(|| self.first_run + (self.runs.len() - behind) as u64)
    }

    /// Up to where earlier pieces write at or behind a position of the segment.
    fn shared_until(&self, segment: &Rc<Segment<I>>, position: u64) -> Option<u64> {
        self.pieces
            .iter()
            .filter(|piece| piece.state != PieceState::Done && Rc::ptr_eq(&piece.segment, segment))
            .map(|piece| piece.blocks.end)
            .filter(|end| *end > position)
            .max()
    }

    /// Whether an earlier piece that is not done writes a block of this one.
    fn overlaps(&self, index: usize) -> bool {
        let this = &self.pieces[index];
        self.pieces.iter().take(index).any(|earlier| {
            earlier.state != PieceState::Done
                && Rc::ptr_eq(&earlier.segment, &this.segment)
                && earlier.blocks.end > this.blocks.start
                && earlier.blocks.start < this.blocks.end
        })
    }

    /// Makes one write of pieces that follow each other.
    fn submit(&mut self, indices: Range<usize>) -> Next<I> {
        self.in_flight += 1;
        let (first, last) = (&self.pieces[indices.start], &self.pieces[indices.end - 1]);
        let segment = Rc::clone(&first.segment);
        let blocks = first.blocks.start..last.blocks.end;
        let pieces = self.first_piece + indices.start as u64..self.first_piece + indices.end as u64;
        let (runs, buffers) = (&self.runs, &mut self.buffers);
        let mut leases = self.pieces.range_mut(indices).map(|piece| {
            piece.state = PieceState::InFlight;
            let run = &runs[(piece.run - self.first_run) as usize];
            assert!(
                piece.to <= run.bytes && piece.from <= piece.to,
                "a piece lies in its run"
            );
            let buffer = &mut buffers[(run.buffer - self.first_buffer) as usize];
            let at = |position: u64| run.start + (position - run.base) as usize;
            let range = at(piece.blocks.start)..at(piece.blocks.end);
            // The zeros behind the newest bytes are appended like any others: nothing may change them while they are written.
            let zeros = range.end.saturating_sub(buffer.len());
            buffer.append(zeros, |behind| behind.fill(0));
            buffer.write_lease(range)
        });
        let first = leases.next().expect("a write has a piece");
        let leases = leases.fold(WriteLeases::from(first), WriteLeases::followed_by);
        Next::Write(Write {
            pieces,
            segment,
            blocks,
            leases,
        })
    }
}

#[cfg(test)]
mod tests;
