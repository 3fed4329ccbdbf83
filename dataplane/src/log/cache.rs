//! The tail buffers of all logs of a shard, in the order in which they were begun, so that the oldest makes room first.
//!
//! Appends take room here when the pool is dry; reads of old data never do, so a scan cannot push out recent data. A buffer whose
//! bytes are not yet written is never given up.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::rc::{Rc, Weak};

use super::gate::Gate;
use crate::io::{BLOCK_BYTES, Buffer, Io, WriteLease};

/// What zeros take that are not in a pooled buffer.
const OWN_ZEROS_BYTES: usize = 4 * BLOCK_BYTES;

/// A log as the cache knows it.
pub(super) trait TailOwner {
    /// Gives up the oldest buffer, if all of its bytes are written.
    fn evict_oldest(&self) -> Eviction;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    Evicted,
    /// There is none.
    Empty,
    /// It waits for its write.
    Unwritten,
}

/// Shared by the logs of one shard.
#[derive(Default)]
pub(super) struct TailCache {
    /// An entry per tail buffer.
    queue: RefCell<VecDeque<Weak<dyn TailOwner>>>,
    /// Held by the one append that waits for several buffers: two that each held some would wait for each other.
    pub(super) gathering: Rc<Gate>,
    zeros: RefCell<Option<Buffer>>,
}

impl TailCache {
    /// A buffer was begun.
    pub(super) fn note(&self, owner: Weak<dyn TailOwner>) {
        let mut queue = self.queue.borrow_mut();
        if queue.len() == queue.capacity() {
            // Logs that are gone leave their entries behind; without this they would add up while the pool is never dry.
            queue.retain(|owner| owner.strong_count() > 0);
        }
        queue.push_back(owner);
    }

    /// Gives up one buffer, the oldest that can be. Its memory returns once no reader holds a slice of it.
    pub(super) fn evict(&self) -> bool {
        let entries = self.queue.borrow().len();
        for _ in 0..entries {
            let Some(owner) = self.queue.borrow_mut().pop_front() else {
                return false;
            };
            let Some(log) = owner.upgrade() else { continue };
            match log.evict_oldest() {
                Eviction::Evicted => return true,
                Eviction::Empty => {}
                Eviction::Unwritten => self.queue.borrow_mut().push_back(owner),
            }
        }
        false
    }

    /// A written buffer may now be given up: do so at once if an append waits for memory.
    pub(super) fn written(&self) {
        if self.gathering.is_held() {
            self.evict();
        }
    }

    /// As many zeros of `bytes` as can be had now, for who cannot wait for a pooled buffer.
    pub(super) fn some_zeros<I: Io>(&self, io: &I, bytes: usize) -> io::Result<WriteLease> {
        if let Some(zeros) = self.zeros(io, bytes.min(io.buffer_bytes())) {
            return Ok(zeros);
        }
        let bytes = bytes.min(OWN_ZEROS_BYTES);
        let mut zeros = Buffer::allocate(bytes).ok_or(io::ErrorKind::OutOfMemory)?;
        zeros.append(bytes, |fresh| fresh.fill(0));
        Ok(zeros.write_lease(0..bytes))
    }

    /// Zeros to write over new space, in a pooled buffer that is kept; `None` while none is free.
    pub(super) fn zeros<I: Io>(&self, io: &I, bytes: usize) -> Option<WriteLease> {
        let zeros = self.zeros.borrow_mut();
        let mut zeros = RefMut::filter_map(zeros, |zeros| {
            if zeros.is_none() {
                *zeros = io.take_buffer().map(|mut buffer| {
                    buffer.append(buffer.capacity(), |fresh| fresh.fill(0));
                    buffer
                });
            }
            zeros.as_mut()
        })
        .ok()?;
        Some(zeros.write_lease(0..bytes))
    }
}
