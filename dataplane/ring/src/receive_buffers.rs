//! The buffers that the kernel fills with what sockets receive.
//!
//! ```text
//!   pool --take--> provided ring --kernel fills--> Slice --last drop, any thread--> pool
//! ```
//! A buffer is either with the kernel, seen by slices, or free. The kernel takes the next provided one whenever bytes arrive on any
//! socket; when none is left, receives end with ENOBUFS and their sockets wait their turn (`socket.rs`).

use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::error::RingError;
use crate::memory::{Buffer, Pool, Slice};

/// The only group of provided buffers.
pub(crate) const GROUP: u16 = 0;

pub(crate) struct ReceiveBuffers {
    pool: Pool,
    /// Memory of the ring that the kernel reads entries from.
    entries: Buffer,
    count: u16,
    tail: u16,
    /// By the number that the kernel knows a buffer by.
    provided: Vec<Option<Buffer>>,
    /// Numbers that are not with the kernel.
    idle: Vec<u16>,
}

impl ReceiveBuffers {
    pub(crate) fn new(uring: &IoUring, pool: Pool) -> Result<ReceiveBuffers, RingError> {
        let count = u16::try_from(pool.count())
            .ok()
            .filter(|count| count.is_power_of_two() && *count <= 1 << 15);
        let count = count.ok_or(RingError::Configuration(
            "receive buffers must be a power of two, at most 32768",
        ))?;
        let mut entries = Buffer::allocate(usize::from(count) * size_of::<BufRingEntry>())
            .ok_or(RingError::MemoryLimit)?;
        let address = entries.spare().expose_provenance() as u64;
        // SAFETY: the entries are zeroed, page-aligned memory for `count` entries, kept for as long as the ring.
        unsafe {
            uring
                .submitter()
                .register_buf_ring_with_flags(address, count, GROUP, 0)
        }
        .map_err(RingError::other("registering receive buffers"))?;
        let provided = (0..count).map(|_| None).collect();
        Ok(ReceiveBuffers {
            pool,
            entries,
            count,
            tail: 0,
            provided,
            idle: (0..count).collect(),
        })
    }

    /// Gives the kernel every free buffer.
    pub(crate) fn provide(&mut self) {
        let before = self.tail;
        while let Some(&number) = self.idle.last() {
            let Some(mut buffer) = self.pool.take() else {
                break;
            };
            self.write_entry(number, &mut buffer);
            self.provided[usize::from(number)] = Some(buffer);
            self.idle.pop();
        }
        if self.tail != before {
            self.publish();
        }
    }

    /// What arrived in the buffer of this number.
    pub(crate) fn take(&mut self, number: u16, bytes: usize) -> Slice {
        let place = self
            .provided
            .get_mut(usize::from(number))
            .and_then(Option::take);
        let mut buffer = place.expect("the kernel hands out a buffer that it was given, once");
        self.idle.push(number);
        buffer.advance(bytes);
        buffer.slice(0..bytes)
    }

    /// How many buffers the kernel has.
    pub(crate) fn with_kernel(&self) -> usize {
        usize::from(self.count) - self.idle.len()
    }

    /// Whether slices hold most of the buffers.
    pub(crate) fn are_scarce(&self) -> bool {
        self.with_kernel() + self.pool.available() < usize::from(self.count) / 2
    }

    /// Whether `provide` would give the kernel more.
    pub(crate) fn can_provide(&self) -> bool {
        !self.idle.is_empty() && self.pool.available() > 0
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    fn write_entry(&mut self, number: u16, buffer: &mut Buffer) {
        let place = usize::from(self.tail & (self.count - 1));
        let first = self.entries.spare().cast::<BufRingEntry>();
        // SAFETY: the place is below `count`, for which the memory was made.
        let entry = unsafe { first.add(place) };
        // SAFETY: the memory is initialised and aligned, and the kernel does not look at an entry past the published tail.
        let entry = unsafe { &mut *entry };
        entry.set_addr(buffer.spare().expose_provenance() as u64);
        entry.set_len(
            u32::try_from(buffer.capacity())
                .expect("receive buffers are small, as the configuration checks"),
        );
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see the entries up to the tail.
    fn publish(&mut self) {
        let first = self.entries.spare().cast::<BufRingEntry>().cast_const();
        // SAFETY: the memory starts with an initialised entry.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the tail lies in our live memory, is aligned, and is only ever accessed as an atomic, here and by the kernel.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
