//! The seam between a shard and the world: files, sockets, time, randomness and spawning.
//!
//! Shards, connections and logs are written against [`Io`] and nothing else. `RingIo` is the io_uring implementation that the
//! broker runs on; the simulator in `tests/` is another, which runs the same code in one thread under a virtual clock.
//!
//! Buffers move into an operation and come back with its result (io_uring keeps using a buffer after a future is dropped, so a
//! borrowed one could be freed under the kernel's hands). Received bytes and log bytes are [`Slice`]s: reference-counted views of
//! memory that no one changes any more.

pub mod budget;
pub mod ring;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

pub use budget::{Charge, MemoryBudget};

pub use ::ring::WriteLeases;
pub use ::ring::memory::{Buffer, Pool, Slice, WriteLease};

/// Nanoseconds since an arbitrary start; never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Instant(pub u64);

impl Instant {
    pub fn after_ms(self, ms: u64) -> Instant {
        Instant(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Nanoseconds from `earlier` to `self`, 0 if `earlier` is later.
    pub fn nanos_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A byte's place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FilePosition(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Unbuffered reads and writes (O_DIRECT) of an existing file: positions, lengths and addresses are multiples of `BLOCK_BYTES`.
    Direct,
    /// As `Direct`, of a file that is made if absent.
    DirectCreate,
    /// Unbuffered reads of an existing file; never writes. Arguments as for `Direct`.
    ReadDirect,
    /// Reads through the page cache with the kernel's readahead; never writes.
    ReadCached,
}

/// What a write's completion means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteDurability {
    /// The kernel has it: it survives this process.
    Written,
    /// Stable storage has it, and all metadata needed to read it back (O_DSYNC).
    Synced,
}

/// Bytes of an outgoing message: pieces encoded here and pieces of memory shared with the log, in order.
#[derive(Debug, Default)]
pub struct Gather {
    pub inline: Vec<u8>,
    pub parts: Vec<GatherPart>,
    /// For the memory that the parts keep from being used again.
    pub charges: Vec<Charge>,
}

#[derive(Debug, Clone)]
pub enum GatherPart {
    /// A range of `Gather::inline`.
    Inline(std::ops::Range<usize>),
    Shared(Slice),
}

impl Gather {
    pub fn clear(&mut self) {
        self.inline.clear();
        self.parts.clear();
        self.charges.clear();
    }

    pub fn bytes(&self) -> usize {
        self.parts
            .iter()
            .map(|part| match part {
                GatherPart::Inline(range) => range.len(),
                GatherPart::Shared(slice) => slice.len(),
            })
            .sum()
    }
}

/// Alignment of direct file positions, lengths and memory.
pub const BLOCK_BYTES: usize = 4096;

/// Everything a shard needs of the world. Handles are cheap to clone; a file or socket closes when its last handle is dropped and
/// no operation uses it.
pub trait Io: Clone + 'static {
    type File: Clone + 'static;
    type Socket: Clone + 'static;
    type Listener: 'static;
    /// A socket on its way to another shard.
    type Handoff: Send + 'static;

    // Time, randomness, tasks.

    fn now(&self) -> Instant;
    /// Milliseconds since 1970, for record timestamps and retention only.
    fn wall_clock_ms(&self) -> i64;
    fn random_u64(&self) -> u64;
    /// Runs a task on this shard until it ends. Tasks are never moved to another thread.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()>;

    // Memory.

    /// An empty pooled, registered buffer of [`Io::buffer_bytes`], or `None` while all are in use.
    fn take_buffer(&self) -> Option<Buffer>;
    /// Waits until a pooled buffer is free.
    fn wait_buffer(&self) -> impl Future<Output = Buffer>;
    /// Capacity of a pooled buffer; a multiple of `BLOCK_BYTES`.
    fn buffer_bytes(&self) -> usize;

    // Sockets.

    fn accept(
        &self,
        listener: &Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Socket, SocketAddr)>>;
    /// The next bytes that arrived, in a receive buffer of the ring; empty at the end of the stream.
    fn receive(&self, socket: &Self::Socket) -> impl Future<Output = io::Result<Slice>>;
    /// Puts back, in front of what comes next, what was received and nobody needs now: it may be moved out of the receive buffers.
    fn give_back(&self, socket: &Self::Socket, slices: impl DoubleEndedIterator<Item = Slice>);
    /// Fills `buffer` with exactly `bytes` more bytes of the stream (fewer only at its end); returns how many came.
    fn receive_into(
        &self,
        socket: &Self::Socket,
        buffer: Buffer,
        bytes: usize,
    ) -> impl Future<Output = (io::Result<usize>, Buffer)>;
    /// Sends everything, in order.
    fn send(
        &self,
        socket: &Self::Socket,
        message: Gather,
    ) -> impl Future<Output = (io::Result<()>, Gather)>;
    /// Lets go of an accepted socket on which nothing was received or sent yet, so that another shard can take it.
    fn hand_off(&self, socket: Self::Socket) -> Self::Handoff;
    /// Takes a socket that another shard accepted.
    fn take_over(&self, socket: Self::Handoff) -> Self::Socket;
    /// Bytes that the other end has taken and bytes that have come from it, together: the same number as before says that nothing has moved.
    /// `None` if the world does not say.
    fn moved_bytes(&self, socket: &Self::Socket) -> Option<u64>;
    /// Ends both directions; pending operations complete with an error or the end of the stream.
    fn shutdown(&self, socket: &Self::Socket);

    // Files.

    fn open(&self, path: &Path, mode: OpenMode) -> impl Future<Output = io::Result<Self::File>>;
    /// Writes a lease, or several one behind the other, whole at `at`: one write, which is flushed once if it is durable. One that ends
    /// short is an error.
    fn write(
        &self,
        file: &Self::File,
        at: FilePosition,
        leases: impl Into<WriteLeases>,
        durability: WriteDurability,
    ) -> impl Future<Output = io::Result<()>>;
    /// Appends up to `bytes` bytes of the file to `buffer`; fewer at the end of the file. Direct files want aligned arguments.
    fn read(
        &self,
        file: &Self::File,
        at: FilePosition,
        buffer: Buffer,
        bytes: usize,
    ) -> impl Future<Output = (io::Result<usize>, Buffer)>;
    /// fdatasync.
    fn sync(&self, file: &Self::File) -> impl Future<Output = io::Result<()>>;
    /// Reserves blocks for a range, which then reads as zeros; the file's length grows to cover it.
    fn allocate(
        &self,
        file: &Self::File,
        at: FilePosition,
        bytes: u64,
    ) -> impl Future<Output = io::Result<()>>;
    fn truncate(&self, file: &Self::File, bytes: u64) -> impl Future<Output = io::Result<()>>;
    fn file_bytes(&self, file: &Self::File) -> impl Future<Output = io::Result<u64>>;
    /// When the file's content was changed last, in milliseconds since 1970.
    fn changed_ms(&self, file: &Self::File) -> impl Future<Output = io::Result<i64>>;

    // Names. None of these are on the path of a record.

    fn create_directories(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// File and directory names in `path`, sorted.
    fn list(&self, path: &Path) -> impl Future<Output = io::Result<Vec<String>>>;
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    fn remove_file(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    fn remove_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// A whole small file, at most `bytes_max` bytes; longer is an error.
    fn read_file(&self, path: &Path, bytes_max: usize)
    -> impl Future<Output = io::Result<Vec<u8>>>;
    /// Replaces a small file as one step: temporary file, fsync, rename, fsync of the directory.
    fn replace_file(&self, path: &Path, bytes: Vec<u8>) -> impl Future<Output = io::Result<()>>;
    /// fsync of a directory, so that names in it last.
    fn sync_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
}
