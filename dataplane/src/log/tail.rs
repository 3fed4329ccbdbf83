//! The newest bytes of a log in memory, and which of them are on their way to the file.
//!
//! Appends copy batches in, the writer asks for the next write, readers slice what they find. Nothing here waits or does I/O.
//!
//! ```text
//!  segment file   ... |  written  |  in flight  |  unsubmitted  | zeros
//!  buffers             [ evictable ][ ............ ][ active     ]
//! ```
//! A buffer covers a range of its segment file that begins at a block; its last block is kept for the terminator alone, so every
//! write is one lease. Writes are whole blocks. The last block of a write is usually partial and is written again by the next one,
//! and two writes that share a block are never in flight together. So that a busy log can still have several in flight, a write may
//! jump over the shared block; a *waiting* piece then brings that block up to date once the earlier write has completed.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use super::limits::{PIPELINED_WRITE_BYTES_MIN, TERMINATOR_BYTES};
use super::segment::Segment;
use super::types::{Offset, block_ceil, block_floor};
use crate::io::{BLOCK_BYTES, Buffer, Io, Slice, WriteLeases};

pub(super) struct Tail<I: Io> {
    buffers: VecDeque<TailBuffer<I>>,
    /// What has been handed to the kernel or waits for a block, in log order; completed ones leave from the front.
    pieces: VecDeque<Piece<I>>,
    first_piece: u64,
    in_flight: usize,
    first_buffer: u64,
    /// The bytes of the last, partial block while no buffer holds them.
    partial: Vec<u8>,
    abandoned: bool,
}

struct TailBuffer<I: Io> {
    segment: Rc<Segment<I>>,
    base: u64,
    buffer: Buffer,
    /// Bytes of it that have a piece or were in the file before.
    submitted: usize,
    /// One past the last offset of the batches that end in this buffer or before.
    next_offset: Offset,
}

struct Piece<I: Io> {
    segment: Rc<Segment<I>>,
    buffer: u64,
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
    /// An earlier piece is writing one of its blocks.
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
            pieces: VecDeque::new(),
            first_piece: 0,
            in_flight: 0,
            first_buffer: 0,
            partial,
            abandoned: false,
        }
    }

    /// Fresh buffers that `bytes` more bytes of `segment` need; of a segment yet to begin if there is none.
    pub(super) fn buffers_needed(
        &self,
        bytes: usize,
        buffer_bytes: usize,
        segment: Option<&Rc<Segment<I>>>,
    ) -> usize {
        let area = buffer_bytes - BLOCK_BYTES;
        let room = segment.map_or(0, |segment| self.active_room(segment));
        let carried = if self.buffers.is_empty() {
            self.partial.len()
        } else {
            0
        };
        if bytes <= room {
            0
        } else {
            (bytes - room + carried).div_ceil(area)
        }
    }

    /// Buffers with bytes that are not written.
    pub(super) fn unwritten_buffers(&self) -> usize {
        let oldest = match self
            .pieces
            .iter()
            .find(|piece| piece.state != PieceState::Done)
        {
            Some(piece) => piece.buffer,
            None => self
                .unsubmitted()
                .unwrap_or(self.first_buffer + self.buffers.len() as u64),
        };
        (self.first_buffer + self.buffers.len() as u64 - oldest) as usize
    }

    /// Copies the pieces of a batch to the end. `fresh` holds as many buffers as [`Tail::buffers_needed`] said.
    pub(super) fn append<'a>(
        &mut self,
        segment: &Rc<Segment<I>>,
        parts: impl Iterator<Item = &'a [u8]>,
        next_offset: Offset,
        fresh: &mut Vec<Buffer>,
    ) -> usize {
        let mut begun = 0;
        for mut part in parts {
            while !part.is_empty() {
                if self.active_room(segment) == 0 {
                    self.begin_buffer(
                        segment,
                        fresh.pop().expect("the caller gathered enough buffers"),
                    );
                    begun += 1;
                }
                let room = self.active_room(segment).min(part.len());
                let active = self
                    .buffers
                    .back_mut()
                    .expect("one was just found to have room");
                active.buffer.extend_from_slice(&part[..room]);
                segment.bytes.set(segment.bytes.get() + room as u64);
                part = &part[room..];
            }
        }
        self.buffers
            .back_mut()
            .expect("a batch has bytes")
            .next_offset = next_offset;
        begun
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
        let index = (number - self.first_buffer) as usize;
        let last = index + 1 == self.buffers.len();
        let end = self.end_to_write(index);
        let buffer = &self.buffers[index];
        let (from, to) = (buffer.submitted, buffer.buffer.len());
        let start = block_floor(from as u64);
        let shared = self.shared_until(&buffer.segment, buffer.base + start);
        let begin = shared.map_or(from, |until| until.saturating_sub(buffer.base) as usize);
        // A full buffer goes at once; what may still grow only if it is worth a write of its own.
        let enough = if last {
            begin + PIPELINED_WRITE_BYTES_MIN
        } else {
            begin + 1
        };
        if shared.is_some() && to < enough {
            return Next::Nothing;
        }
        let blocks = buffer.base + block_floor(begin as u64)..end;
        if !prepared(&buffer.segment, &blocks) {
            return Next::NoSpace(Rc::clone(&buffer.segment), blocks);
        }
        let (segment, base, next_offset) =
            (Rc::clone(&buffer.segment), buffer.base, buffer.next_offset);
        if begin > from {
            self.pieces.push_back(Piece {
                segment: Rc::clone(&segment),
                buffer: number,
                from,
                to: begin,
                blocks: base + start..base + begin as u64,
                state: PieceState::Waiting,
                next_offset: None,
            });
        }
        self.pieces.push_back(Piece {
            segment,
            buffer: number,
            from: begin,
            to,
            blocks,
            state: PieceState::Waiting,
            next_offset: Some(next_offset),
        });
        self.buffers[index].submitted = to;
        let first = self.pieces.len() - 1;
        self.join_following(index, limits.buffers_max, prepared);
        self.submit(first..self.pieces.len())
    }

    /// Makes pieces of the buffers behind one whose piece was just made, as far as they may be in the same write.
    fn join_following(
        &mut self,
        index: usize,
        buffers_max: usize,
        prepared: impl Fn(&Segment<I>, &Range<u64>) -> bool,
    ) {
        for next in index + 1..self.buffers.len().min(index + buffers_max) {
            let end = self.end_to_write(next);
            let buffer = &mut self.buffers[next];
            let last = self.pieces.back().expect("there is one that is joined");
            let blocks = buffer.base..end;
            if !Rc::ptr_eq(&buffer.segment, &last.segment) || !prepared(&buffer.segment, &blocks) {
                return;
            }
            assert!(
                last.blocks.end == blocks.start && buffer.submitted == 0,
                "a buffer begins where the full one before it ends"
            );
            let to = buffer.buffer.len();
            buffer.submitted = to;
            self.pieces.push_back(Piece {
                segment: Rc::clone(&buffer.segment),
                buffer: self.first_buffer + next as u64,
                from: 0,
                to,
                blocks,
                state: PieceState::Waiting,
                next_offset: Some(buffer.next_offset),
            });
        }
    }

    /// Where the blocks end that hold a buffer's bytes. The newest batch is followed by zeros, so that recovery can never read on into
    /// what the file held before.
    fn end_to_write(&self, index: usize) -> u64 {
        let buffer = &self.buffers[index];
        let goes_on = self
            .buffers
            .get(index + 1)
            .is_some_and(|next| Rc::ptr_eq(&next.segment, &buffer.segment));
        let terminator = if goes_on { 0 } else { TERMINATOR_BYTES };
        buffer.base + block_ceil((buffer.buffer.len() + terminator) as u64)
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

    /// After a failed write nothing more is written, so no buffer is worth keeping for it.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.pieces.clear();
        self.buffers
            .iter_mut()
            .for_each(|buffer| buffer.submitted = buffer.buffer.len());
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
            || self.buffers.iter().any(|buffer| {
                Rc::ptr_eq(&buffer.segment, segment) && buffer.submitted < buffer.buffer.len()
            })
    }

    /// Whether there are bytes that are being written or are still to be.
    pub(super) fn is_unwritten(&self) -> bool {
        self.in_flight > 0 || self.has_next()
    }

    /// Gives up the oldest buffer. `None`: there is none; `Some(false)`: it is not written.
    pub(super) fn evict_oldest(&mut self) -> Option<bool> {
        let oldest = self.buffers.front()?;
        let written = oldest.submitted == oldest.buffer.len()
            && self
                .pieces
                .iter()
                .all(|piece| piece.buffer != self.first_buffer);
        if !written {
            return Some(false);
        }
        if self.buffers.len() == 1 {
            let bytes = oldest.buffer.as_slice();
            self.partial.clear();
            self.partial
                .extend_from_slice(&bytes[block_floor(bytes.len() as u64) as usize..]);
        }
        self.buffers.pop_front();
        self.first_buffer += 1;
        Some(true)
    }

    /// Where the part of the segment begins that is in memory.
    pub(super) fn start_in(&self, segment: &Rc<Segment<I>>) -> Option<u64> {
        self.buffers
            .iter()
            .find(|buffer| Rc::ptr_eq(&buffer.segment, segment))
            .map(|buffer| buffer.base)
    }

    /// The bytes of a range of the segment, as many as are in memory without a gap from its start on.
    pub(super) fn slices(
        &self,
        segment: &Rc<Segment<I>>,
        range: Range<u64>,
        slices: &mut Vec<Slice>,
    ) {
        let mut position = range.start;
        for buffer in self
            .buffers
            .iter()
            .filter(|buffer| Rc::ptr_eq(&buffer.segment, segment))
        {
            let end = (buffer.base + buffer.buffer.len() as u64).min(range.end);
            if buffer.base <= position && position < end {
                slices.push(
                    buffer
                        .buffer
                        .slice((position - buffer.base) as usize..(end - buffer.base) as usize),
                );
                position = end;
            }
        }
    }

    /// Bytes that the active buffer still takes; none when it is another segment's.
    fn active_room(&self, segment: &Rc<Segment<I>>) -> usize {
        match self.buffers.back() {
            Some(active) if Rc::ptr_eq(&active.segment, segment) => {
                active.buffer.capacity() - BLOCK_BYTES - active.buffer.len()
            }
            _ => 0,
        }
    }

    fn begin_buffer(&mut self, segment: &Rc<Segment<I>>, mut buffer: Buffer) {
        let position = segment.bytes.get();
        if self.buffers.is_empty() && position > 0 {
            assert!(
                self.partial.len() as u64 == position % BLOCK_BYTES as u64,
                "the partial block is the log's last"
            );
            buffer.extend_from_slice(&self.partial);
        }
        self.partial.clear();
        let next_offset = self
            .buffers
            .back()
            .map_or(Offset::default(), |previous| previous.next_offset);
        self.buffers.push_back(TailBuffer {
            segment: Rc::clone(segment),
            base: block_floor(position),
            submitted: buffer.len(),
            buffer,
            next_offset,
        });
    }

    /// The first buffer with bytes that no piece covers.
    fn unsubmitted(&self) -> Option<u64> {
        let behind = self
            .buffers
            .iter()
            .rev()
            .take_while(|buffer| buffer.submitted < buffer.buffer.len())
            .count();
        (behind > 0).then(|| self.first_buffer + (self.buffers.len() - behind) as u64)
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
        let buffers = &mut self.buffers;
        let mut leases = self.pieces.range_mut(indices).map(|piece| {
            piece.state = PieceState::InFlight;
            let buffer = &mut buffers[(piece.buffer - self.first_buffer) as usize];
            assert!(
                piece.to <= buffer.buffer.len() && piece.from <= piece.to,
                "a piece lies in its buffer"
            );
            let range = (piece.blocks.start - buffer.base) as usize
                ..(piece.blocks.end - buffer.base) as usize;
            buffer.buffer.write_lease(range)
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
