//! Cuts a connection's bytes into request frames, without copying those of a frame that arrived in one or a few receive buffers.
//!
//! ```text
//! received slices   [ ..frame 1.. | ..frame 2.. | start of ][ 3 | ..frame 4.. ]
//! Frame 1, 2, 4: one piece where it lies.   Frame 3: two pieces.
//! ```
//! While a connection waits for the rest of a frame, what it has is copied out if it is small (a slow client must not pin a
//! receive buffer), held if the shard's budget allows, copied otherwise. A large frame gets a buffer of its own and the socket is
//! received straight into it. Behind a large frame another one is expected: its length is received alone, because what a burst
//! leaves in receive buffers would have to be copied out of them.

use crate::io::{Buffer, Instant, Io, Slice};
use crate::limits::*;
use crate::select;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

/// Why a connection's bytes make no frame. Each ends the connection.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error(transparent)]
    BadLength(#[from] wire::FrameError),
    #[error("the connection ended inside a frame")]
    Truncated,
    #[error("a large frame stopped half-way")]
    Stalled,
    #[error("no memory for a frame of {0} bytes")]
    NoMemory(usize),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One request without its length prefix: `head`, then `pieces`.
pub struct Frame {
    head: Vec<u8>,
    pieces: Vec<Slice>,
    /// Held only to be given back, after `pieces`, which view it.
    _large: Option<LargeBuffer>,
}

impl Frame {
    pub fn bytes(&self) -> usize {
        self.head.len() + self.pieces.iter().map(|piece| piece.len()).sum::<usize>()
    }

    /// The frame's bytes in order, for a fragmented reader.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let head = (!self.head.is_empty()).then_some(self.head.as_slice());
        head.into_iter()
            .chain(self.pieces.iter().map(|piece| &piece[..]))
    }

    /// Appends the whole frame to `target`.
    pub fn copy_to(&self, target: &mut Vec<u8>) {
        self.parts().for_each(|part| target.extend_from_slice(part));
    }

    /// Shared views of `pieces`, which are parts of this frame, for another shard to read. Only what lies in the copied head is
    /// copied again. `None` when there is no memory for that.
    pub fn share<'a>(&self, pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Slice>> {
        pieces.map(|piece| self.share_one(piece)).collect()
    }

    fn share_one(&self, piece: &[u8]) -> Option<Slice> {
        let start = piece.as_ptr().addr();
        let holder = self.pieces.iter().find(|holder| {
            let from = holder.as_ptr().addr();
            from <= start && start + piece.len() <= from + holder.len()
        });
        if let Some(holder) = holder {
            let offset = start - holder.as_ptr().addr();
            return Some(holder.slice(offset..offset + piece.len()));
        }
        let mut copy = Buffer::allocate(piece.len())?;
        copy.extend_from_slice(piece);
        Some(copy.slice(0..piece.len()))
    }
}

/// What one shard's connections may hold for unfinished and large frames.
#[derive(Default)]
pub struct FrameMemory {
    held_bytes: Cell<usize>,
    large_bytes: Cell<usize>,
    /// A frame uses what is kept back of the budget of large frames.
    reserve_taken: Cell<bool>,
    spare: RefCell<Vec<Buffer>>,
}

/// The buffer of one large frame, and how much of the shard's budget it has used.
struct LargeBuffer {
    buffer: Option<Buffer>,
    charged_bytes: usize,
    has_reserve: bool,
    memory: Rc<FrameMemory>,
}

impl FrameMemory {
    /// Bytes of receive buffers that unfinished frames hold.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.get()
    }

    /// Bytes of large frames, as far as they have arrived.
    pub fn large_bytes(&self) -> usize {
        self.large_bytes.get()
    }

    /// A buffer for a frame of that size. It takes memory only as it is filled.
    fn large(self: &Rc<Self>, bytes: usize) -> Option<LargeBuffer> {
        let fits = bytes <= LARGE_FRAME_BUFFER_BYTES;
        let spare = fits.then(|| self.spare.borrow_mut().pop()).flatten();
        let buffer = spare.or_else(|| Buffer::allocate(bytes.max(LARGE_FRAME_BUFFER_BYTES)))?;
        Some(LargeBuffer {
            buffer: Some(buffer),
            charged_bytes: 0,
            has_reserve: false,
            memory: self.clone(),
        })
    }
}

impl LargeBuffer {
    /// Counts `bytes` more towards the budget; false while the budget has no room.
    fn charge(&mut self, bytes: usize) -> bool {
        let used = self.memory.large_bytes.get() + bytes;
        if used > LARGE_FRAME_BYTES_MAX - LARGE_FRAME_RESERVE_BYTES && !self.take_reserve() {
            return false;
        }
        self.memory.large_bytes.set(used);
        self.charged_bytes += bytes;
        true
    }

    /// Whether this is the one frame that may use the reserve.
    fn take_reserve(&mut self) -> bool {
        self.has_reserve = self.has_reserve || !self.memory.reserve_taken.replace(true);
        self.has_reserve
    }
}

impl Drop for LargeBuffer {
    fn drop(&mut self) {
        let memory = &self.memory;
        memory
            .large_bytes
            .set(memory.large_bytes.get() - self.charged_bytes);
        if self.has_reserve {
            memory.reserve_taken.set(false);
        }
        let Some(mut buffer) = self.buffer.take() else {
            return;
        };
        let mut spare = memory.spare.borrow_mut();
        // Another shard may still read a slice of it; then it is freed when that shard is done.
        let keep = buffer.capacity() == LARGE_FRAME_BUFFER_BYTES
            && spare.len() < LARGE_FRAME_BUFFERS_KEPT
            && buffer.clear();
        if keep {
            spare.push(buffer);
        }
    }
}

/// Reads frames off one socket.
pub struct FrameReader<I: Io> {
    io: I,
    socket: I::Socket,
    memory: Rc<FrameMemory>,
    /// What was copied out of the receive buffers; comes before `pieces`.
    head: Vec<u8>,
    /// Bytes of `head` that were taken already.
    head_taken: usize,
    pieces: VecDeque<Slice>,
    /// Bytes left in `head` and `pieces`.
    available: usize,
    /// The last frame was a large one and nothing came behind it, so the next one is likely to be large too.
    expects_large: bool,
    /// Where a length is received alone; made for the first one.
    prefix: Option<Buffer>,
    /// When the last of them came.
    received: Instant,
    spare_pieces: Vec<Slice>,
    spare_head: Vec<u8>,
}

impl<I: Io> FrameReader<I> {
    pub fn new(io: I, socket: I::Socket, memory: Rc<FrameMemory>) -> Self {
        FrameReader {
            io,
            socket,
            memory,
            head: Vec::new(),
            head_taken: 0,
            pieces: VecDeque::new(),
            available: 0,
            expects_large: false,
            prefix: None,
            received: Instant(0),
            spare_pieces: Vec::new(),
            spare_head: Vec::new(),
        }
    }

    /// The next frame, or `None` when the client closed the connection between frames.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.expects_large && !self.receive_prefix().await? {
            return Ok(None);
        }
        loop {
            if let Some(bytes) = self.announced_bytes()? {
                self.expects_large = false;
                if self.available >= 4 + bytes {
                    self.skip(4);
                    return Ok(Some(self.cut(bytes)));
                }
                if bytes > FRAME_BYTES_HELD_MAX {
                    self.skip(4);
                    let frame = self.receive_large(bytes).await?;
                    self.expects_large = self.available == 0;
                    return Ok(Some(frame));
                }
            }
            if !self.receive().await? {
                return if self.available == 0 {
                    Ok(None)
                } else {
                    Err(FrameError::Truncated)
                };
            }
        }
    }

    /// When the frame that [`FrameReader::next`] returned was here whole; frames that came together share it.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// Takes a finished frame's vectors back, so that the next frame needs no allocation.
    pub fn recycle(&mut self, mut frame: Frame) {
        // A large head was for an unusual frame, and would stay with an idle connection.
        if frame.head.capacity() <= FRAME_BYTES_COPIED_MAX {
            self.spare_head = std::mem::take(&mut frame.head);
            self.spare_head.clear();
        }
        self.spare_pieces = std::mem::take(&mut frame.pieces);
        self.spare_pieces.clear();
    }

    /// Copies what has arrived beyond the current frame out of the receive buffers, because that frame's handler may wait long.
    pub fn release_buffers(&mut self) {
        for piece in self.pieces.drain(..) {
            self.head.extend_from_slice(&piece);
        }
    }

    /// The length prefix of the next frame, once its four bytes are here.
    fn announced_bytes(&self) -> Result<Option<usize>, FrameError> {
        if self.available < 4 {
            return Ok(None);
        }
        // Nearly always it lies in one piece.
        if self.head.len() == self.head_taken
            && let Some(prefix) = self.pieces.front().and_then(|piece| piece.first_chunk())
        {
            return Ok(Some(wire::frame_length(*prefix, FRAME_BYTES_MAX)?));
        }
        let mut prefix = [0; 4];
        let pieces = self.pieces.iter().flat_map(|piece| piece.iter());
        let bytes = self.head[self.head_taken..].iter().chain(pieces);
        prefix
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        Ok(Some(wire::frame_length(prefix, FRAME_BYTES_MAX)?))
    }

    /// Receives the length of the next frame and no byte behind it; false at the end of the stream.
    async fn receive_prefix(&mut self) -> Result<bool, FrameError> {
        const PREFIX_BYTES: usize = 4;
        let buffer = self
            .prefix
            .take()
            .or_else(|| Buffer::allocate(PREFIX_BYTES));
        let mut buffer = buffer.ok_or(FrameError::NoMemory(PREFIX_BYTES))?;
        let cleared = buffer.clear();
        assert!(cleared, "nothing views a length");
        let receiving = self.io.receive_into(&self.socket, buffer, PREFIX_BYTES);
        let (received, buffer) = receiving.await;
        match received? {
            0 => return Ok(false),
            PREFIX_BYTES => {}
            _ => return Err(FrameError::Truncated),
        }
        self.head.clear();
        self.head_taken = 0;
        self.head.extend_from_slice(buffer.as_slice());
        self.available = PREFIX_BYTES;
        self.prefix = Some(buffer);
        self.received = self.io.now();
        Ok(true)
    }

    /// Receives once more; false at the end of the stream.
    async fn receive(&mut self) -> Result<bool, FrameError> {
        let held_bytes = self.settle();
        self.memory
            .held_bytes
            .set(self.memory.held_bytes.get() + held_bytes);
        let received = self.io.receive(&self.socket).await;
        self.memory
            .held_bytes
            .set(self.memory.held_bytes.get() - held_bytes);
        let slice = received?;
        if slice.is_empty() {
            return Ok(false);
        }
        self.received = self.io.now();
        self.available += slice.len();
        self.pieces.push_back(slice);
        Ok(true)
    }

    /// Decides where an unfinished frame waits; returns the receive-buffer bytes that it goes on to hold.
    fn settle(&mut self) -> usize {
        let pinned = self.pieces.len() * RECEIVE_BUFFER_BYTES;
        let small = self.available <= FRAME_BYTES_COPIED_MAX;
        let scattered = self.pieces.len() >= FRAME_PIECES_MAX;
        if small || scattered || self.memory.held_bytes.get() + pinned > HELD_BYTES_MAX {
            self.release_buffers();
            return 0;
        }
        pinned
    }

    fn skip(&mut self, bytes: usize) {
        self.available -= bytes;
        let from_head = bytes.min(self.head.len() - self.head_taken);
        self.head_taken += from_head;
        let mut left = bytes - from_head;
        while left > 0 {
            let piece = self
                .pieces
                .front_mut()
                .expect("available counts the pieces");
            let take = left.min(piece.len());
            piece.advance(take);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            left -= take;
        }
    }

    /// Takes the next `bytes` bytes, which have all arrived.
    fn cut(&mut self, bytes: usize) -> Frame {
        self.available -= bytes;
        let mut head = std::mem::take(&mut self.spare_head);
        let from_head = bytes.min(self.head.len() - self.head_taken);
        if self.head_taken == 0 && from_head == self.head.len() {
            std::mem::swap(&mut self.head, &mut head);
        } else {
            let taken = self.head_taken + from_head;
            head.extend_from_slice(&self.head[self.head_taken..taken]);
            self.head_taken = taken;
        }
        if self.head_taken == self.head.len() {
            self.head.clear();
            self.head_taken = 0;
        }
        let mut pieces = std::mem::take(&mut self.spare_pieces);
        let mut left = bytes - head.len();
        while left > 0 {
            let piece = self
                .pieces
                .front_mut()
                .expect("available counts the pieces");
            if piece.len() > left {
                pieces.push(piece.split_to(left));
                break;
            }
            left -= piece.len();
            pieces.extend(self.pieces.pop_front());
        }
        Frame {
            head,
            pieces,
            _large: None,
        }
    }

    async fn receive_large(&mut self, bytes: usize) -> Result<Frame, FrameError> {
        let mut large = self
            .memory
            .large(bytes)
            .ok_or(FrameError::NoMemory(bytes))?;
        // What has arrived moves out of the receive buffers before anything is waited for. It is little, and counted with the first
        // step.
        let start = self.cut(self.available.min(bytes));
        let mut uncharged = start.bytes();
        if let Some(buffer) = &mut large.buffer {
            start
                .parts()
                .for_each(|part| buffer.extend_from_slice(part));
        }
        self.recycle(start);
        while let Some(buffer) = large.buffer.take() {
            let missing = bytes - buffer.len();
            if missing == 0 {
                self.received = self.io.now();
                let mut pieces = std::mem::take(&mut self.spare_pieces);
                pieces.push(buffer.slice(0..bytes));
                large.buffer = Some(buffer);
                return Ok(Frame {
                    head: Vec::new(),
                    pieces,
                    _large: Some(large),
                });
            }
            let step = missing.min(LARGE_FRAME_STEP_BYTES);
            self.wait_for_budget(&mut large, uncharged + step).await;
            uncharged = 0;
            let deadline = self.io.now().after_ms(LARGE_FRAME_STEP_MS_MAX);
            let receiving = self.io.receive_into(&self.socket, buffer, step);
            let received = select::until(&self.io, deadline, receiving).await;
            let (received, buffer) = received.ok_or(FrameError::Stalled)?;
            large.buffer = Some(buffer);
            if received? < step {
                return Err(FrameError::Truncated);
            }
        }
        unreachable!("the buffer is put back in every round")
    }

    /// Others' large frames may use the whole budget; then this socket is not read until some of them are done.
    async fn wait_for_budget(&self, large: &mut LargeBuffer, bytes: usize) {
        while !large.charge(bytes) {
            self.io.sleep_until(self.io.now().after_ms(5)).await;
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // The slices go before the buffer that they view, so that it can be used again.
        self.pieces.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each waited for memory that the others held, and the shard took no large frame ever again.
    #[test]
    fn large_frames_that_arrive_together_do_not_wait_for_each_other_for_ever() {
        let memory = Rc::new(FrameMemory::default());
        let frame = || {
            let large = memory.large(FRAME_BYTES_MAX);
            (large.expect("untouched memory is free"), FRAME_BYTES_MAX)
        };
        let mut unfinished: Vec<(LargeBuffer, usize)> = (0..5).map(|_| frame()).collect();
        while !unfinished.is_empty() {
            let before = memory.large_bytes();
            for (large, missing) in &mut unfinished {
                let step = LARGE_FRAME_STEP_BYTES.min(*missing);
                *missing -= if large.charge(step) { step } else { 0 };
            }
            let used = memory.large_bytes();
            assert!(used > before, "a step was taken");
            assert!(used <= LARGE_FRAME_BYTES_MAX, "the budget holds");
            unfinished.retain(|(_, missing)| *missing > 0);
        }
        assert_eq!(memory.large_bytes(), 0);
    }
}
