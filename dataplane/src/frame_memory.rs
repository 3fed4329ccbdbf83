//! The memory of one shard in which frames lie: what they hold of the receive buffers, and what they have of their own.
//!
//! ```text
//! held    unfinished frames where they were received, few enough that most receive buffers remain for others
//! large   frames too large for that, counted as they arrive; the reserve is for one of them, which can so always be finished
//! pinned  whole frames that wait, and batches on their way to another shard, where they were received
//! moved   what had to leave the receive buffers because more than that waits, and whatever is small
//! ```
//! Memory of a frame's own is counted until the last view of it is gone, on whichever shard: a batch that hopped may wait there for
//! long. Full means that a socket is not read.
//!
//! Some of it stays mapped and goes from frame to frame. To map memory, to unmap it, and to touch a page of it for the first time takes
//! a lock that the threads of all shards share: a flood of frames with memory of their own would keep every shard waiting for it.

use crate::io::{BLOCK_BYTES, Buffer, Charge, MemoryBudget, Pool, Slice};
use crate::limits::*;
use crate::line::Line;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// What one shard's connections may hold for their frames.
pub struct FrameMemory {
    held_bytes: Cell<usize>,
    large: MemoryBudget,
    reserve: MemoryBudget,
    reserve_bytes: usize,
    pinned: MemoryBudget,
    moved: MemoryBudget,
    /// Where small batches are copied to, one behind the other, and full ones that others may still view.
    small: RefCell<Vec<LargeBuffer>>,
    /// Large frames that wait for room for their next step, and frames that wait to move.
    pub(crate) line_of_large: Line,
    pub(crate) line_of_moved: Line,
    /// Buffers that stay mapped.
    large_buffers: Option<Pool>,
    moved_buffers: Option<Pool>,
}

/// Memory that is one frame's own.
pub(crate) struct LargeBuffer {
    pub(crate) buffer: Option<Buffer>,
    lent: Arc<Lent>,
    memory: Weak<FrameMemory>,
}

/// What a frame's own memory is counted as, for as long as somebody may view it.
#[derive(Debug)]
pub struct Lent {
    charge: Charge,
    reserve: Option<Charge>,
}

impl Default for FrameMemory {
    fn default() -> Self {
        FrameMemory::new(
            LARGE_FRAME_BYTES_MAX - LARGE_FRAME_RESERVE_BYTES,
            LARGE_FRAME_RESERVE_BYTES,
        )
    }
}

impl FrameMemory {
    /// For large frames, and for one of them beyond that.
    pub fn new(large_bytes_max: usize, reserve_bytes: usize) -> FrameMemory {
        FrameMemory {
            held_bytes: Cell::new(0),
            large: MemoryBudget::new(large_bytes_max),
            reserve: MemoryBudget::new(reserve_bytes),
            reserve_bytes,
            pinned: MemoryBudget::new(PINNED_BYTES_MAX),
            moved: MemoryBudget::new(MOVED_FRAME_BYTES_MAX),
            small: RefCell::default(),
            line_of_large: Line::default(),
            line_of_moved: Line::default(),
            large_buffers: Pool::new(LARGE_FRAME_BUFFER_BYTES, LARGE_FRAME_BUFFERS).ok(),
            moved_buffers: Pool::new(MOVED_FRAME_BUFFER_BYTES, MOVED_FRAME_BUFFERS).ok(),
        }
    }

    /// Bytes of receive buffers that unfinished frames hold.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.get()
    }

    pub(crate) fn set_held_bytes(&self, bytes: usize) {
        self.held_bytes.set(bytes);
    }

    /// Bytes of large frames, as far as they have arrived; the reserve counts as a whole.
    pub fn large_bytes(&self) -> usize {
        self.large.charged() + self.reserve.charged()
    }

    /// Bytes that had to leave the receive buffers.
    pub fn moved_bytes(&self) -> usize {
        self.moved.charged()
    }

    /// A charge for so many receive buffers that are kept from others for long.
    pub(crate) fn pin(&self, buffers: usize) -> Option<Charge> {
        self.pinned.try_charge(buffers * RECEIVE_BUFFER_BYTES)
    }

    /// Copies `pieces`, so many bytes together, to where other small ones lie.
    pub(crate) fn copy_small<'a>(
        self: &Rc<Self>,
        bytes: usize,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Option<(Slice, Arc<Lent>)> {
        let mut all = self.small.borrow_mut();
        let fits = |own: &LargeBuffer| {
            own.buffer
                .as_ref()
                .is_some_and(|buffer| buffer.remaining() >= bytes)
        };
        if !all.last().is_some_and(fits) {
            let free = all.iter_mut().position(LargeBuffer::clear);
            let next = match free {
                Some(free) => all.remove(free),
                None if self.may_hop(SMALL_BATCHES_BYTES) => self.own(
                    Buffer::allocate(SMALL_BATCHES_BYTES)?,
                    self.charge_moved(SMALL_BATCHES_BYTES)?,
                ),
                None => return None,
            };
            if all.len() >= SMALL_BATCHES_BUFFERS_KEPT {
                all.remove(0);
            }
            all.push(next);
        }
        let own = all.last_mut()?;
        let buffer = own.buffer.as_mut()?;
        let start = buffer.len();
        pieces.for_each(|piece| buffer.extend_from_slice(piece));
        Some((buffer.slice(start..buffer.len()), own.lent.clone()))
    }

    /// Whether so many bytes may hop now. A part is left to frames that wait here.
    pub(crate) fn may_hop(&self, bytes: usize) -> bool {
        self.moved.left() >= bytes.next_multiple_of(BLOCK_BYTES) + MOVED_FRAME_BYTES_KEPT
    }

    /// A charge for so many bytes that move into a connection's own memory.
    pub(crate) fn charge_moved(&self, bytes: usize) -> Option<Charge> {
        self.moved.try_charge(bytes)
    }

    /// A buffer for a frame of that size. One that was not used before takes memory only as it is filled.
    pub(crate) fn large(self: &Rc<Self>, bytes: usize) -> Option<LargeBuffer> {
        let buffer = take_or_map(self.large_buffers.as_ref(), bytes)?;
        Some(self.own(buffer, self.large.try_charge(0)?))
    }

    /// A buffer for so many bytes that move, if there is room for them.
    pub(crate) fn moved(self: &Rc<Self>, bytes: usize) -> Option<LargeBuffer> {
        let charge = self.moved.try_charge(bytes.next_multiple_of(BLOCK_BYTES))?;
        let buffer = take_or_map(self.moved_buffers.as_ref(), bytes)?;
        Some(self.own(buffer, charge))
    }

    fn own(self: &Rc<Self>, buffer: Buffer, charge: Charge) -> LargeBuffer {
        LargeBuffer {
            buffer: Some(buffer),
            lent: Arc::new(Lent {
                charge,
                reserve: None,
            }),
            memory: Rc::downgrade(self),
        }
    }
}

impl LargeBuffer {
    /// Counts `bytes` more of a large frame that is not whole yet; false while there is no room.
    pub(crate) fn charge(&mut self, bytes: usize) -> bool {
        let lent = Arc::get_mut(&mut self.lent).expect("nobody views a frame before it is whole");
        if lent.reserve.is_some() || lent.charge.resize(lent.charge.bytes() + bytes) {
            return true;
        }
        if let Some(memory) = self.memory.upgrade() {
            lent.reserve = memory.reserve.try_charge(memory.reserve_bytes);
        }
        lent.reserve.is_some()
    }

    /// Makes it empty, unless somebody still views it.
    fn clear(&mut self) -> bool {
        self.buffer.as_mut().is_some_and(Buffer::clear)
    }

    /// To be kept by whoever keeps a view of the buffer.
    pub(crate) fn lend(&self) -> Arc<Lent> {
        self.lent.clone()
    }
}

/// A buffer that is mapped already, if it is large enough and one is free.
fn take_or_map(pool: Option<&Pool>, bytes: usize) -> Option<Buffer> {
    pool.filter(|pool| bytes <= pool.buffer_bytes())
        .and_then(Pool::take)
        .or_else(|| Buffer::allocate(bytes))
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
            let mut steps = 0;
            for (large, missing) in &mut unfinished {
                let step = LARGE_FRAME_STEP_BYTES.min(*missing);
                if large.charge(step) {
                    *missing -= step;
                    steps += 1;
                }
            }
            assert!(steps > 0, "one of them goes on");
            assert!(memory.large_bytes() <= LARGE_FRAME_BYTES_MAX);
            unfinished.retain(|(_, missing)| *missing > 0);
        }
        assert_eq!(memory.large_bytes(), 0);
    }

    #[test]
    fn small_batches_lie_one_behind_the_other_and_their_buffers_are_used_again() {
        let memory = Rc::new(FrameMemory::default());
        let copy = |byte: u8| {
            let batch = [byte; 100];
            memory.copy_small(100, batch.chunks(30)).expect("memory")
        };
        let kept: Vec<_> = (0..200).map(copy).collect();
        for (byte, (slice, _)) in (0..).zip(&kept) {
            assert_eq!(slice[..], [byte; 100]);
        }
        let buffers = (200 * 100usize).div_ceil(SMALL_BATCHES_BYTES);
        assert_eq!(memory.moved_bytes(), buffers * SMALL_BATCHES_BYTES);
        drop(kept);
        for round in 0..100_000 {
            copy(round as u8);
        }
        assert!(memory.moved_bytes() <= (buffers + 1) * SMALL_BATCHES_BYTES);
    }

    /// Each was mapped for its frame and unmapped by whoever was the last to view it, and all shards waited for that.
    #[test]
    fn buffers_stay_mapped_whoever_lets_go_of_them() {
        let memory = Rc::new(FrameMemory::default());
        let moved = |memory: &Rc<FrameMemory>| memory.moved(MOVED_FRAME_BUFFER_BYTES / 2);
        let large = |memory: &Rc<FrameMemory>| memory.large(LARGE_FRAME_BUFFER_BYTES / 2);
        for (take, buffers) in [
            (moved as fn(&Rc<FrameMemory>) -> _, MOVED_FRAME_BUFFERS),
            (large, LARGE_FRAME_BUFFERS),
        ] {
            let mut used = 0;
            for _ in 0..3 * buffers {
                let mut own = take(&memory).expect("memory");
                let mut buffer = own.buffer.take().expect("it has one");
                // Memory that is mapped anew is zero.
                buffer.append(1, |byte| {
                    used += usize::from(std::mem::replace(&mut byte[0], 1))
                });
                let view = buffer.slice(0..1);
                drop((own, buffer));
                std::thread::scope(|scope| scope.spawn(move || drop(view)).join())
                    .expect("it ends");
            }
            assert_eq!(used, 2 * buffers);
        }
    }

    #[test]
    fn a_frame_is_counted_until_its_last_view_is_gone() {
        let memory = Rc::new(FrameMemory::default());
        let mut large = memory.large(3000).expect("memory");
        assert!(large.charge(3000));
        let lent = large.lend();
        drop(large);
        assert_eq!(memory.large_bytes(), 3000);
        std::thread::scope(|scope| scope.spawn(move || drop(lent)).join()).expect("it ends");
        assert_eq!(memory.large_bytes(), 0);
    }
}
