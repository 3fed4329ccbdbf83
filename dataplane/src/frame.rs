//! Cuts a connection's bytes into request frames, without copying those of a frame that arrived in one or a few receive buffers.
//!
//! ```text
//! received slices   [ ..frame 1.. | ..frame 2.. | start of ][ 3 | ..frame 4.. ]
//! Frame 1, 2, 4: one piece where it lies.   Frame 3: two pieces.
//! ```
//! While a connection waits for the rest of a frame, what it has is copied out if it is small (a slow client must not pin a
//! receive buffer), held if the shard's budget allows, copied otherwise, and left to the socket while there is no memory for that. A large frame gets a buffer of its own and the socket is
//! received straight into it. Behind a large frame another one is expected: its length is received alone, because what a burst
//! leaves in receive buffers would have to be copied out of them.

use crate::frame_memory::LargeBuffer;
use crate::io::{Buffer, Charge, Instant, Io, Slice};
use crate::limits::*;
use crate::message::SharedRecords;
use crate::pace;
use crate::select;
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::rc::Rc;

pub use crate::frame_memory::FrameMemory;

/// Why a connection's bytes make no frame. Each ends the connection.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error(transparent)]
    BadLength(#[from] wire::FrameError),
    #[error("the connection ended inside a frame")]
    Truncated,
    #[error("a frame took long, and others waited for its memory")]
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
    /// Of memory that is its own, which `pieces` view.
    own: Option<LargeBuffer>,
    /// For the receive buffers that it keeps while it waits.
    pinned: Option<Charge>,
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

    /// Makes sure that the frame keeps few receive buffers from others, because it has to wait: it moves out of them if too many that
    /// wait lie there already. Where there is no memory for that it stays.
    pub fn settle(&mut self, memory: &Rc<FrameMemory>) {
        if self.own.is_some() || self.pinned.is_some() {
            return;
        }
        self.pinned = memory.pin(self.pieces.len());
        if self.pinned.is_some() {
            return;
        }
        let Some(mut own) = memory.moved(self.bytes()) else {
            return;
        };
        let Some(buffer) = &mut own.buffer else {
            return;
        };
        self.parts().for_each(|part| buffer.extend_from_slice(part));
        let whole = buffer.slice(0..buffer.len());
        self.head.clear();
        self.pieces.clear();
        self.pieces.push(whole);
        self.own = Some(own);
    }

    /// Shared views of `pieces`, which are parts of this frame, for another shard to read. Little is copied, since a view of it would keep
    /// a whole receive buffer; and so is what lies in the copied head, and everything once other shards keep too many receive buffers.
    /// `None` while there is no memory for that.
    pub fn share<'a>(
        &self,
        memory: &Rc<FrameMemory>,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Option<SharedRecords> {
        if let Some(own) = &self.own {
            let slices = pieces.map(|piece| self.view(piece).unwrap_or_default());
            return Some(SharedRecords::new(slices.collect(), Some(own.lend()), None));
        }
        let bytes = pieces.clone().map(<[u8]>::len).sum();
        if bytes <= FRAME_BYTES_COPIED_MAX {
            let (slice, lent) = memory.copy_small(bytes, pieces)?;
            return Some(SharedRecords::new(vec![slice], Some(lent), None));
        }
        let pinned = memory.pin(self.pieces.len());
        let mut moved_bytes = 0;
        let mut slices: Vec<Slice> = Vec::new();
        for piece in pieces.clone() {
            let view = pinned.as_ref().and_then(|_| self.view(piece));
            moved_bytes += if view.is_none() { piece.len() } else { 0 };
            slices.push(view.unwrap_or_default());
        }
        if moved_bytes == 0 {
            return Some(SharedRecords::new(slices, None, pinned));
        }
        if !memory.may_hop(moved_bytes) {
            return None;
        }
        let mut moved = memory.moved(moved_bytes)?;
        let buffer = moved.buffer.as_mut()?;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            if slice.is_empty() {
                let start = buffer.len();
                buffer.extend_from_slice(piece);
                *slice = buffer.slice(start..buffer.len());
            }
        }
        Some(SharedRecords::new(slices, Some(moved.lend()), pinned))
    }

    /// A view of a part of this frame, if it lies in shared memory.
    fn view(&self, piece: &[u8]) -> Option<Slice> {
        let start = piece.as_ptr().addr();
        let holder = self.pieces.iter().find(|holder| {
            let from = holder.as_ptr().addr();
            from <= start && start + piece.len() <= from + holder.len()
        })?;
        let offset = start - holder.as_ptr().addr();
        Some(holder.slice(offset..offset + piece.len()))
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
    /// For a frame of which more than a little is in `head`, or was when it was cut, and when others need not wait for it any more.
    moved: Option<(Charge, Instant)>,
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
            moved: None,
            spare_pieces: Vec::new(),
            spare_head: Vec::new(),
        }
    }

    /// The next frame, or `None` when the client closed the connection between frames.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.head.is_empty() {
            self.moved = None;
        }
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

    /// Leaves what has arrived beyond the current frame to the socket, because that frame's handler may wait long.
    pub fn release_buffers(&mut self) {
        let bytes: usize = self.pieces.iter().map(|piece| piece.len()).sum();
        self.available -= bytes;
        self.io.give_back(&self.socket, self.pieces.drain(..));
    }

    /// Copies what has arrived of an unfinished frame out of the receive buffers. What is more than a little is counted, all of the frame
    /// at once, so that no two frames wait for memory that the other has. Who has to wait for that receives again what has arrived.
    async fn copy_out(&mut self) -> Result<(), FrameError> {
        if self.available > FRAME_BYTES_COPIED_MAX && self.moved.is_none() {
            let bytes = self.announced_bytes()?.unwrap_or(self.available);
            let charge = match self.memory.charge_moved(bytes) {
                Some(charge) => charge,
                None => {
                    self.release_buffers();
                    let room = || self.memory.charge_moved(bytes);
                    self.memory.line_of_moved.until(&self.io, room).await
                }
            };
            let hurry_after = self.io.now().after_ms(LARGE_FRAME_HURRIED_MS);
            self.moved = Some((charge, hurry_after));
        }
        for piece in self.pieces.drain(..) {
            self.head.extend_from_slice(&piece);
        }
        Ok(())
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
        let held_bytes = self.settle().await?;
        self.memory
            .set_held_bytes(self.memory.held_bytes() + held_bytes);
        let received = self.receive_rest().await;
        self.memory
            .set_held_bytes(self.memory.held_bytes() - held_bytes);
        let slice = received?;
        if slice.is_empty() {
            return Ok(false);
        }
        self.received = self.io.now();
        self.available += slice.len();
        self.pieces.push_back(slice);
        Ok(true)
    }

    /// An unfinished frame may take its time, unless it had to move and others wait for that memory.
    async fn receive_rest(&self) -> Result<Slice, FrameError> {
        let receiving = self.io.receive(&self.socket);
        let Some((_, hurry_after)) = self.moved else {
            return Ok(receiving.await?);
        };
        let mut receiving = pin!(receiving);
        loop {
            let look_at = self.io.now().after_ms(LARGE_FRAME_LOOK_MS);
            if let Some(received) = select::until(&self.io, look_at, receiving.as_mut()).await {
                return Ok(received?);
            }
            if !self.memory.line_of_moved.is_empty() && self.io.now() > hurry_after {
                return Err(FrameError::Stalled);
            }
        }
    }

    /// Decides where an unfinished frame waits; returns the receive-buffer bytes that it goes on to hold.
    async fn settle(&mut self) -> Result<usize, FrameError> {
        let pinned = self.pieces.len() * RECEIVE_BUFFER_BYTES;
        let small = self.available <= FRAME_BYTES_COPIED_MAX;
        let scattered = self.pieces.len() >= FRAME_PIECES_MAX;
        if small || scattered || self.memory.held_bytes() + pinned > HELD_BYTES_MAX {
            self.copy_out().await?;
            return Ok(0);
        }
        Ok(pinned)
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
            own: None,
            pinned: None,
        }
    }

    async fn receive_large(&mut self, bytes: usize) -> Result<Frame, FrameError> {
        let mut own = self
            .memory
            .large(bytes)
            .ok_or(FrameError::NoMemory(bytes))?;
        // What has arrived in receive buffers is received again, step by step as memory is counted for it.
        self.release_buffers();
        let start = self.cut(self.available.min(bytes));
        let mut uncharged = start.bytes();
        if let Some(buffer) = &mut own.buffer {
            start
                .parts()
                .for_each(|part| buffer.extend_from_slice(part));
        }
        self.recycle(start);
        let hurry_after = self.io.now().after_ms(LARGE_FRAME_HURRIED_MS);
        let step_max = match bytes {
            ..=LARGE_FRAME_BUFFER_BYTES => LARGE_FRAME_STEP_BYTES,
            _ => FRESH_STEP_BYTES,
        };
        while let Some(buffer) = own.buffer.take() {
            let missing = bytes - buffer.len();
            if missing == 0 {
                self.received = self.io.now();
                let mut pieces = std::mem::take(&mut self.spare_pieces);
                pieces.push(buffer.slice(0..bytes));
                own.buffer = Some(buffer);
                return Ok(Frame {
                    head: Vec::new(),
                    pieces,
                    own: Some(own),
                    pinned: None,
                });
            }
            let step = missing.min(step_max);
            let charged = self.charge_step(&mut own, uncharged + step, hurry_after);
            charged.await?;
            uncharged = 0;
            let (received, buffer) = self.receive_step(buffer, step, hurry_after).await?;
            own.buffer = Some(buffer);
            if received? < step {
                return Err(FrameError::Truncated);
            }
            // Memory that is touched for the first time takes long, so frames of many steps take turns.
            if step < missing {
                pace::give_way().await;
            }
        }
        unreachable!("the buffer is put back in every round")
    }

    /// Others' large frames may use the whole budget; then this socket is not read until some of them are done.
    async fn charge_step(
        &self,
        own: &mut LargeBuffer,
        bytes: usize,
        hurry_after: Instant,
    ) -> Result<(), FrameError> {
        let line = &self.memory.line_of_large;
        let attempt = || match own.charge(bytes) {
            true => Some(Ok(())),
            false if self.io.now() > hurry_after => Some(Err(FrameError::Stalled)),
            false => None,
        };
        line.until(&self.io, attempt).await
    }

    /// A frame may take its time, unless others wait for the memory that it keeps.
    async fn receive_step(
        &self,
        buffer: Buffer,
        step: usize,
        hurry_after: Instant,
    ) -> Result<(io::Result<usize>, Buffer), FrameError> {
        let mut receiving = pin!(self.io.receive_into(&self.socket, buffer, step));
        loop {
            let look_at = self.io.now().after_ms(LARGE_FRAME_LOOK_MS);
            if let Some(received) = select::until(&self.io, look_at, receiving.as_mut()).await {
                return Ok(received);
            }
            if !self.memory.line_of_large.is_empty() && self.io.now() > hurry_after {
                return Err(FrameError::Stalled);
            }
        }
    }
}
