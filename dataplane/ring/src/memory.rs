//! Memory that the kernel and this process share: append-only buffers, frozen slices of them, and leases for writes.
//!
//! The reactor takes receive buffers here, the log takes its tails, and every handle may be dropped on any thread: the last one
//! gives its buffer back to the pool it came from. Nothing here allocates per take, slice or drop, and nothing ever changes a
//! byte that a [`Slice`] can see.
//!
//! ```text
//!            frozen                          being appended to
//!   |<------ Slice, WriteLease ------>|<------ Buffer::append ------>|
//!   0                                len                         capacity
//! ```
//! The one [`Buffer`] moves `len` forward; bytes below it change only after [`Buffer::truncate`], which refuses while any other handle
//! lives. So a slice and an append never touch the same byte. All memory comes zeroed from mmap, so all of it is initialised.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use crossbeam_queue::ArrayQueue;

/// Alignment of every buffer's address and capacity, as direct file operations want it.
pub const BLOCK_BYTES: usize = 4096;

/// Buffers of one size carved from one mapping. Clones share the buffers.
#[derive(Clone)]
pub struct Pool(Arc<PoolShared>);

impl Pool {
    /// Maps `count` buffers of `buffer_bytes`, a multiple of [`BLOCK_BYTES`]. Pages become resident as they are used.
    pub fn new(buffer_bytes: usize, count: usize) -> io::Result<Pool> {
        let shape_error = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "a pool wants whole blocks and at least one buffer",
            )
        };
        if buffer_bytes == 0 || !buffer_bytes.is_multiple_of(BLOCK_BYTES) || count == 0 {
            return Err(shape_error());
        }
        let bytes = buffer_bytes.checked_mul(count).ok_or_else(shape_error)?;
        let mapping = Mapping::new(bytes)?;
        mapping.prefer_huge_pages();
        let buffers = (0..count)
            .map(|index| Memory {
                address: mapping.at(index * buffer_bytes),
                capacity: buffer_bytes,
                handles: AtomicUsize::new(0),
                pool: AtomicPtr::new(ptr::null_mut()),
                index,
            })
            .collect();
        let free = ArrayQueue::new(count);
        for index in 0..count {
            free.push(index)
                .expect("the queue was made as long as the pool");
        }
        Ok(Pool(Arc::new(PoolShared {
            buffer_bytes,
            buffers,
            free,
            wanted: AtomicBool::new(false),
            on_return: OnceLock::new(),
            mapping,
        })))
    }

    /// An empty buffer, or `None` while all are in use.
    pub fn take(&self) -> Option<Buffer> {
        let index = self.0.free.pop()?;
        let memory = &self.0.buffers[index];
        // A buffer in use holds its pool; the last handle lets go of it.
        let pool = Arc::into_raw(Arc::clone(&self.0)).cast_mut();
        memory.pool.store(pool, Ordering::Relaxed);
        memory.handles.store(1, Ordering::Relaxed);
        Some(Buffer {
            memory: Handle(NonNull::from(memory)),
            len: 0,
        })
    }

    pub fn available(&self) -> usize {
        self.0.free.len()
    }

    pub fn buffer_bytes(&self) -> usize {
        self.0.buffer_bytes
    }

    pub fn count(&self) -> usize {
        self.0.buffers.len()
    }

    /// Names what is called, on whatever thread it happens, when a buffer comes back after [`Pool::want`]. The first caller stays.
    pub(crate) fn on_return(&self, wake: Box<dyn Fn() + Send + Sync>) {
        // A pool belongs to one ring, which calls this once.
        let _ = self.0.on_return.set(wake);
    }

    /// Asks to be told of the next buffer that comes back. Look for a free buffer *after* this, so that none slips by.
    pub(crate) fn want(&self) {
        self.0.wanted.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Start and length of the whole mapping.
    pub(crate) fn mapped(&self) -> (*mut u8, usize) {
        (self.0.mapping.address.as_ptr(), self.0.mapping.bytes)
    }
}

struct PoolShared {
    buffer_bytes: usize,
    buffers: Box<[Memory]>,
    free: ArrayQueue<usize>,
    wanted: AtomicBool,
    on_return: OnceLock<Box<dyn Fn() + Send + Sync>>,
    mapping: Mapping,
}

/// Append-only memory with one owner. Bytes below `len` are frozen for as long as a slice or lease of them lives.
pub struct Buffer {
    memory: Handle,
    len: usize,
}

impl Buffer {
    /// A buffer with a mapping of its own, for large frames and tests; freed with its last handle. `None` when memory cannot be
    /// had. Its capacity is `bytes` rounded up to whole blocks.
    pub fn allocate(bytes: usize) -> Option<Buffer> {
        let capacity = bytes.max(1).checked_next_multiple_of(BLOCK_BYTES)?;
        let mapping = Mapping::new(capacity).ok()?;
        let memory = Box::new(Memory {
            address: mapping.address,
            capacity,
            handles: AtomicUsize::new(1),
            pool: AtomicPtr::new(ptr::null_mut()),
            index: 0,
        });
        // From here the memory header owns the mapping: `Memory::release` rebuilds and drops it.
        std::mem::forget(mapping);
        Some(Buffer {
            memory: Handle(NonNull::from(Box::leak(memory))),
            len: 0,
        })
    }

    pub fn capacity(&self) -> usize {
        self.memory.capacity
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that can still be appended.
    pub fn remaining(&self) -> usize {
        self.capacity() - self.len
    }

    /// Grows by `bytes` bytes that `fill` writes; it sees initialised bytes of no particular value.
    pub fn append(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        fill(self.unfrozen(bytes));
        self.len += bytes;
    }

    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.append(bytes.len(), |target| target.copy_from_slice(bytes));
    }

    pub fn as_slice(&self) -> &[u8] {
        self.memory.bytes(0..self.len)
    }

    /// A shared view of frozen bytes.
    pub fn slice(&self, range: Range<usize>) -> Slice {
        assert!(
            range.end <= self.len,
            "a slice covers only bytes that were appended"
        );
        Slice::new(&self.memory, range)
    }

    /// Leases whole blocks to a file write. The lease may run past `len`: the bytes between are zeroed now, and a later append may
    /// change them while the kernel reads. Where that matters, and it does to whatever keeps a checksum or a copy of a block, append the
    /// zeros first: then the lease [is frozen](WriteLease::is_frozen).
    pub fn write_lease(&mut self, range: Range<usize>) -> WriteLease {
        assert!(
            range.start.is_multiple_of(BLOCK_BYTES),
            "a lease starts at a block"
        );
        assert!(
            range.end.is_multiple_of(BLOCK_BYTES),
            "a lease ends at a block"
        );
        assert!(range.start <= range.end, "a lease is not reversed");
        assert!(
            range.end <= self.capacity(),
            "a lease stays inside its buffer"
        );
        if range.end > self.len {
            self.unfrozen(range.end - self.len).fill(0);
        }
        let frozen = range.start.min(self.len)..range.end.min(self.len);
        WriteLease {
            frozen: Slice::new(&self.memory, frozen),
            address: self.memory.at(range.start),
            bytes: range.len(),
        }
    }

    /// Back to empty, unless a slice or lease still lives.
    pub fn clear(&mut self) -> bool {
        self.truncate(0)
    }

    /// Back to `len` bytes, unless a slice or lease still lives.
    pub fn truncate(&mut self, len: usize) -> bool {
        assert!(len <= self.len, "what was not appended cannot be kept");
        let alone = self.is_alone();
        if alone {
            self.len = len;
        }
        alone
    }

    /// Whether no slice or lease lives, so that [`Buffer::clear`] would empty it.
    pub fn is_alone(&self) -> bool {
        // Acquire: the other threads' last reads come before our next writes.
        self.memory.handles.load(Ordering::Acquire) == 1
    }

    /// Where the kernel may write next; good for `remaining()` bytes while this buffer is kept and not appended to.
    pub(crate) fn spare(&mut self) -> *mut u8 {
        self.memory.at(self.len).as_ptr()
    }

    /// Counts bytes that the kernel wrote at `spare()`.
    pub(crate) fn advance(&mut self, bytes: usize) {
        assert!(
            bytes <= self.remaining(),
            "the kernel stays inside the buffer it was given"
        );
        self.len += bytes;
    }

    /// The next `bytes` bytes past `len`, which no slice can see.
    fn unfrozen(&mut self, bytes: usize) -> &mut [u8] {
        assert!(bytes <= self.remaining(), "append past a buffer's capacity");
        // SAFETY: the range is inside the mapping and initialised (mmap zeroes). Slices end at or before `len`, and `&mut self` is the
        // only Buffer of this memory, so no other reference covers these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.memory.at(self.len).as_ptr(), bytes) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Buffer({} of {} bytes)",
            self.len,
            self.capacity()
        )
    }
}

/// A shared view of frozen bytes that keeps their memory alive. The default one is empty and holds no memory.
#[derive(Clone)]
pub struct Slice {
    address: NonNull<u8>,
    bytes: usize,
    memory: Option<Handle>,
}

// SAFETY: the bytes are frozen while any slice lives, the count of handles is atomic, and release may run on any thread.
unsafe impl Send for Slice {}
// SAFETY: as above; a shared slice only ever reads.
unsafe impl Sync for Slice {}

impl Slice {
    /// A part of this slice.
    pub fn slice(&self, range: Range<usize>) -> Slice {
        assert!(range.start <= range.end, "a slice is not reversed");
        assert!(
            range.end <= self.bytes,
            "a slice of a slice stays inside it"
        );
        // SAFETY: the start is inside this slice or one past its end, so inside the same mapping.
        let address = unsafe { self.address.add(range.start) };
        Slice {
            address,
            bytes: range.len(),
            memory: self.memory.clone(),
        }
    }

    /// Takes the first `bytes` bytes off and returns them.
    pub fn split_to(&mut self, bytes: usize) -> Slice {
        let first = self.slice(0..bytes);
        self.advance(bytes);
        first
    }

    /// Takes the first `bytes` bytes off.
    pub fn advance(&mut self, bytes: usize) {
        assert!(
            bytes <= self.bytes,
            "a slice has the bytes that are taken off it"
        );
        // SAFETY: the new start is inside this slice or one past its end, so inside the same mapping.
        self.address = unsafe { self.address.add(bytes) };
        self.bytes -= bytes;
    }

    /// `range` must be below the owning buffer's `len`.
    fn new(memory: &Handle, range: Range<usize>) -> Slice {
        assert!(range.start <= range.end, "a slice is not reversed");
        Slice {
            address: memory.at(range.start),
            bytes: range.len(),
            memory: Some(memory.clone()),
        }
    }
}

impl Default for Slice {
    fn default() -> Slice {
        Slice {
            address: NonNull::dangling(),
            bytes: 0,
            memory: None,
        }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is inside memory that `memory` keeps mapped, is initialised, and is frozen while this slice lives (a
        // slice without memory is empty).
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.bytes) }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Slice({} bytes)", self.bytes)
    }
}

/// Whole blocks on their way to a file. Keeps their memory until the write has completed.
pub struct WriteLease {
    /// The part that cannot change any more; what follows it up to `bytes` is padding.
    frozen: Slice,
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: `address` is only handed to the kernel, and what safe code can read of a lease is a `Slice`.
unsafe impl Send for WriteLease {}

impl WriteLease {
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether no append can change what the kernel reads.
    pub fn is_frozen(&self) -> bool {
        self.frozen.len() == self.bytes
    }

    /// What the file will hold, for implementations that copy: the frozen bytes, then zeros up to `len()`. Borrowed unless the lease
    /// ran past the end of what was appended (the padding itself may be appended to meanwhile, so it cannot be lent).
    pub fn as_slice(&self) -> Cow<'_, [u8]> {
        if self.is_frozen() {
            return Cow::Borrowed(&self.frozen);
        }
        let mut bytes = self.frozen.to_vec();
        bytes.resize(self.bytes, 0);
        Cow::Owned(bytes)
    }

    /// For the kernel alone: bytes past the frozen ones may be written while it reads.
    pub(crate) fn address(&self) -> *const u8 {
        self.address.as_ptr()
    }
}

impl fmt::Debug for WriteLease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "WriteLease({} bytes)", self.bytes)
    }
}

/// One buffer's header: where it is and how many handles it has.
struct Memory {
    address: NonNull<u8>,
    capacity: usize,
    handles: AtomicUsize,
    /// The pool that a buffer in use keeps alive; null while free, and for a buffer with a mapping of its own.
    pool: AtomicPtr<PoolShared>,
    index: usize,
}

// SAFETY: `address` is only used through handles, whose rules are those of Buffer and Slice; the rest is atomic or constant.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(
            offset <= self.capacity,
            "an address stays inside its buffer"
        );
        // SAFETY: the offset is inside the mapping or one past its end.
        unsafe { self.address.add(offset) }
    }

    /// `range` must be frozen.
    fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.end <= self.capacity, "a view stays inside its buffer");
        // SAFETY: inside the mapping, initialised, and frozen as the caller vouches.
        unsafe { std::slice::from_raw_parts(self.at(range.start).as_ptr(), range.len()) }
    }
}

/// One counted reference to a [`Memory`].
struct Handle(NonNull<Memory>);

// SAFETY: a Memory is Sync, counted atomically, and released correctly on any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Deref for Handle {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        // SAFETY: the header lives while its count is above zero, and this handle is one of the count.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Handle {
        let before = self.handles.fetch_add(1, Ordering::Relaxed);
        assert!(
            before < usize::MAX / 2,
            "handles of one buffer do not overflow their count"
        );
        Handle(self.0)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.handles.fetch_sub(1, Ordering::Release) == 1 {
            // Every other handle's last use comes before what the release makes possible.
            fence(Ordering::Acquire);
            release(self.0);
        }
    }
}

/// Gives back a buffer whose last handle has gone.
fn release(memory: NonNull<Memory>) {
    // SAFETY: no handle is left, so this thread alone decides about the header, which is still there.
    let header = unsafe { memory.as_ref() };
    let pool = header.pool.swap(ptr::null_mut(), Ordering::Relaxed);
    if pool.is_null() {
        drop(Mapping {
            address: header.address,
            bytes: header.capacity,
        });
        // SAFETY: a header without a pool came from `Box::leak` in `Buffer::allocate`, and nobody can reach it any more.
        drop(unsafe { Box::from_raw(memory.as_ptr()) });
        return;
    }
    // SAFETY: the pointer came from `Arc::into_raw` in `Pool::take`, and the swap above made us the only one to take it back.
    let pool = unsafe { Arc::from_raw(pool.cast_const()) };
    pool.free
        .push(header.index)
        .expect("a buffer is freed once, so its queue has a place for it");
    fence(Ordering::SeqCst);
    if pool.wanted.load(Ordering::Relaxed)
        && pool.wanted.swap(false, Ordering::SeqCst)
        && let Some(wake) = pool.on_return.get()
    {
        wake();
    }
}

/// An anonymous private mapping, unmapped when dropped.
struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to the thread that made it.
unsafe impl Send for Mapping {}
// SAFETY: as above; the mapping itself is never read through this type.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { address, bytes })
    }

    /// Long runs of memory are cheaper for the kernel to hand to a device than single pages.
    fn prefer_huge_pages(&self) {
        // SAFETY: advice on our own mapping that changes no byte of it. A kernel without huge pages refuses it, which is as well.
        let _ = unsafe {
            libc::madvise(
                self.address.as_ptr().cast(),
                self.bytes,
                libc::MADV_HUGEPAGE,
            )
        };
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.bytes, "an address stays inside its mapping");
        // SAFETY: the offset is inside the mapping or one past its end.
        unsafe { self.address.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly this range was mapped, and the owner of the last handle is the one who drops it.
        let result = unsafe { libc::munmap(self.address.as_ptr().cast(), self.bytes) };
        assert!(result == 0, "unmapping our own mapping cannot fail");
    }
}

#[cfg(test)]
mod tests;
