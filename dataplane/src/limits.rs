//! Every limit of the data plane, and how they relate.
//!
//! Full means backpressure (the socket is not read) or a Kafka error, never growth.

use std::time::Duration;

/// The largest request frame, as Kafka's `socket.request.max.bytes`.
pub const FRAME_BYTES_MAX: usize = 100 * 1024 * 1024;

/// Frames up to this size are parsed where the receive buffers lie; larger ones are received into a buffer of their own.
pub const FRAME_BYTES_HELD_MAX: usize = 256 * 1024;

/// An unfinished frame of at most this many bytes is copied out of its receive buffer while the connection waits for the rest, so
/// that slow clients do not pin receive buffers.
pub const FRAME_BYTES_COPIED_MAX: usize = 4 * 1024;

/// Pieces that a frame may lie in before it is copied together.
pub const FRAME_PIECES_MAX: usize = 32;

/// Bytes of unfinished frames that one shard's connections may hold in receive buffers.
pub const HELD_BYTES_MAX: usize = RECEIVE_BUFFER_BYTES * RECEIVE_BUFFERS / 2;

/// Bytes of receive buffers that whole frames may keep while they wait, and batches on their way to other shards.
pub const PINNED_BYTES_MAX: usize = RECEIVE_BUFFER_BYTES * RECEIVE_BUFFERS * 3 / 8;

/// Small batches on their way to other shards are copied into buffers of this size, of which so many are kept to be used again.
pub const SMALL_BATCHES_BYTES: usize = 32 * 1024;
pub const SMALL_BATCHES_BUFFERS_KEPT: usize = 8;

/// Bytes of large frames that one shard may hold, counted as they arrive.
pub const LARGE_FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;

/// As much of it is for one frame at a time, which can so be finished whatever the others hold: without it, frames that arrive
/// together would use the budget up before any of them is whole, and wait for each other.
pub const LARGE_FRAME_RESERVE_BYTES: usize = FRAME_BYTES_MAX;

/// A large frame is received in steps of this size.
pub const LARGE_FRAME_STEP_BYTES: usize = 1024 * 1024;

/// And one that is too large for the buffers that stay mapped in steps of this size: a megabyte of memory that is touched for the first time
/// takes the kernel 2 ms while other shards do the same.
pub const FRESH_STEP_BYTES: usize = LARGE_FRAME_STEP_BYTES / 4;

/// A large frame may take its time, but after this long others do not wait for the memory that it keeps: its connection is closed. Whether
/// they wait is looked at so often.
pub const LARGE_FRAME_HURRIED_MS: u64 = 20_000;
pub const LARGE_FRAME_LOOK_MS: u64 = 1_000;

/// Bytes of smaller frames that had to leave the receive buffers of a shard because they have to wait.
pub const MOVED_FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Of these, what batches on their way to other shards leave to frames that have to wait.
pub const MOVED_FRAME_BYTES_KEPT: usize = MOVED_FRAME_BYTES_MAX / 4;

/// Buffers of a shard that stay mapped for large frames, and for frames and batches that have to leave the receive buffers. Who finds none
/// free, or needs a larger one, has it mapped.
pub const LARGE_FRAME_BUFFERS: usize = 4;
pub const LARGE_FRAME_BUFFER_BYTES: usize = 2 * 1024 * 1024;
pub const MOVED_FRAME_BUFFERS: usize = 64;
pub const MOVED_FRAME_BUFFER_BYTES: usize = FRAME_BYTES_HELD_MAX;

/// Receive buffers of a shard's ring: 32 KiB x 64 measured best.
pub const RECEIVE_BUFFER_BYTES: usize = 32 * 1024;
pub const RECEIVE_BUFFERS: usize = 64;

/// Append buffers of a shard.
pub const TAIL_BUFFER_BYTES: usize = 256 * 1024;

/// Requests of one connection that may wait for their answers before the socket is no longer read.
pub const PENDING_RESPONSES_MAX: usize = 128;

/// Bytes of encoded answers that may wait for a connection's socket before the next request is read.
pub const PENDING_RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes that one gather-send carries.
pub const SEND_BYTES_MAX: usize = 1024 * 1024;

/// A connection is looked at so often, at least, before it is closed for being idle.
pub const IDLE_LOOKS_MIN: u64 = 10;

/// Of the files that the process may have open, one in so many, and no fewer than this, is kept from connections: whatever clients do,
/// segments find descriptors.
pub const OPEN_FILES_RESERVED_PART: u64 = 4;
pub const OPEN_FILES_RESERVED_MIN: u64 = 64;

/// Connections of a process that may have so many files open.
pub fn connections_max(open_files: u64) -> usize {
    let reserved = (open_files / OPEN_FILES_RESERVED_PART).max(OPEN_FILES_RESERVED_MIN);
    usize::try_from(open_files.saturating_sub(reserved)).unwrap_or(usize::MAX)
}

/// Connections on which metrics and health are asked for. Each may hold a page in memory, for a minute.
pub const SCRAPERS_MAX: usize = 16;

/// Connections of one shard.
pub const CONNECTIONS_MAX: usize = 100_000;

/// Messages that may wait in a shard's or the control link's inbox.
pub const INBOX_MESSAGES_MAX: usize = 8 * 1024;

/// Whoever finds an inbox full tries again after this long.
pub const INBOX_FULL_PAUSE_MS: u64 = 1;

/// Messages that a shard takes from its inbox before its connections and logs have their turn.
pub const INBOX_MESSAGES_PER_TURN_MAX: usize = 64;

/// Calls to other shards and the control plane that one shard may have open.
pub const CALLS_MAX: usize = 4 * 1024;

/// Of these, batches take only so many, however fast producers are: fetches and new connections would be turned away otherwise.
pub const APPEND_CALLS_MAX: usize = CALLS_MAX * 3 / 4;

/// No batch is sent to a shard in whose inbox so many messages wait: whatever comes behind it waits for as many turns of that shard as the
/// messages before it take.
pub const INBOX_APPENDS_MAX: usize = 4 * INBOX_MESSAGES_PER_TURN_MAX;

/// Bytes that one fetch response carries, whatever the client asks, as Kafka's `fetch.max.bytes`.
pub const FETCH_BYTES_MAX: usize = 55 * 1024 * 1024;

/// Once answers pin all the log memory that they may, records are copied, into so much memory over all of a shard's answers. One takes a
/// share of what is left of it, or a batch, so that hundreds of clients that do not read leave something for the next one that does.
pub const COPIED_BYTES_MAX: usize = 64 * 1024 * 1024;
pub const COPYING_ANSWERS: usize = 128;

/// While there is none, so many seconds in a row without a byte taken end the connection that keeps most of it, one each second.
pub const SHORTAGE_STALL_TICKS_MAX: u32 = 5;

/// A fetch for whose records there is no memory looks again after this long.
pub const MEMORY_WAIT_MS: u64 = 5;

/// The longest that a fetch is parked, whatever the client asks.
pub const FETCH_WAIT_MS_MAX: u64 = 60_000;

/// Incremental fetch sessions of one shard (KIP-227), partitions over all of them and of each. A client that wants more is served without
/// a session.
pub const FETCH_SESSIONS_MAX: usize = 1000;
pub const FETCH_SESSIONS_PARTITIONS_MAX: usize = 100_000;
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 20_000;

/// The largest request of any API but Produce, which alone carries records. One that names every partition of a large cluster takes a
/// few megabytes; to take apart and look at more would keep the shard from everything else for long.
pub const PLAIN_REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Elements of all arrays of a request together: topics, partitions, names, keys. Memory and time go by these rather than by bytes.
pub const REQUEST_ELEMENTS_MAX: usize = 250_000;

/// Bytes of what the requests of one shard come to, from the time that they are taken apart until their answers are sent; of a small one
/// nothing is counted.
pub const REQUEST_MEMORY_BYTES_MAX: usize = 256 * 1024 * 1024;
pub const REQUEST_BYTES_NOT_COUNTED: usize = 16 * 1024;

/// How long the allocator keeps what was freed, at most.
pub const FREED_MEMORY_KEPT: Duration = Duration::from_secs(5);

/// Elements of a Produce request, whose batches are appended in one go.
pub const PRODUCE_ELEMENTS_MAX: usize = 20_000;

/// Bytes of records that a Produce request has looked at and appended before other tasks have their turn, and what a batch counts at least.
pub const PRODUCE_BYTES_PER_TURN_MAX: usize = 256 * 1024;
pub const PRODUCE_BATCH_BYTES_MIN: usize = 4 * 1024;

/// As much of the requests of one connection, each counted as a batch is, is begun before other tasks have their turn, and the kernel its.
pub const REQUEST_BYTES_PER_TURN_MAX: usize = 512 * 1024;

/// Steps of a loop over what a request names before other tasks have their turn; each takes less than a microsecond or gives way itself.
pub const STEPS_PER_TURN_MAX: usize = 256;

/// Partitions that a shard closes at a time when it stops. File systems commit flushes that wait together as one.
pub const CLOSES_AT_ONCE: usize = 64;

/// Topics, partitions or resources that one admin request may name.
pub const ADMIN_ITEMS_MAX: usize = 10_000;

/// What a batch's records may come to when they are decompressed: so many bytes, and as many for each compressed one. What clients
/// send is rarely 20 times as long; a batch of zeros may be 10,000 times, and its producer is told to send smaller ones.
pub const DECOMPRESSED_BYTES_FREE: u64 = 64 * 1024 * 1024;
pub const DECOMPRESSED_BYTES_PER_BYTE: u64 = 32;

/// What one Snappy block may come to, because it comes out as a whole: as long as the largest batch.
pub const SNAPPY_BLOCK_BYTES_MAX: usize = crate::log::limits::BATCH_BYTES_MAX;

/// Decompressed bytes of a batch that are looked at before other tasks get their turn.
pub const INSPECTED_BYTES_AT_ONCE: u64 = 256 * 1024;

const _: () = assert!(
    INSPECTED_BYTES_AT_ONCE >= crate::decompress::STEP_BYTES as u64,
    "a turn has at least one step"
);
const _: () = assert!(SNAPPY_BLOCK_BYTES_MAX as u64 <= DECOMPRESSED_BYTES_FREE);
const _: () = assert!(
    FRAME_BYTES_HELD_MAX <= HELD_BYTES_MAX,
    "one held frame must fit what a shard may hold"
);
const _: () = assert!(
    HELD_BYTES_MAX + PINNED_BYTES_MAX < RECEIVE_BUFFER_BYTES * RECEIVE_BUFFERS,
    "some receive buffers always remain for frames that need not wait"
);
const _: () = assert!(FRAME_BYTES_COPIED_MAX <= SMALL_BATCHES_BYTES);
const _: () = assert!(
    FRAME_BYTES_MAX <= LARGE_FRAME_BYTES_MAX - LARGE_FRAME_RESERVE_BYTES,
    "the largest frame must fit the budget of large frames without the reserve"
);
const _: () = assert!(OPEN_FILES_RESERVED_PART > 1);
const _: () = assert!(
    SCRAPERS_MAX as u64 <= OPEN_FILES_RESERVED_MIN / 4,
    "scrapes leave most of the reserve to logs"
);
const _: () = assert!(FRAME_BYTES_COPIED_MAX < RECEIVE_BUFFER_BYTES);
const _: () = assert!(
    FRAME_BYTES_HELD_MAX <= MOVED_FRAME_BYTES_MAX - MOVED_FRAME_BYTES_KEPT,
    "any batch that is not large can hop"
);
const _: () = assert!(TAIL_BUFFER_BYTES.is_multiple_of(crate::io::BLOCK_BYTES));
const _: () = assert!(
    FETCH_BYTES_MAX < i32::MAX as usize,
    "a response's length is an i32"
);
const _: () = assert!(PLAIN_REQUEST_BYTES_MAX <= MOVED_FRAME_BYTES_MAX);
const _: () = assert!(FETCH_SESSION_PARTITIONS_MAX <= FETCH_SESSIONS_PARTITIONS_MAX);
const _: () = assert!(
    crate::log::limits::BATCH_BYTES_MAX <= COPIED_BYTES_MAX,
    "a batch of any size can be answered"
);
const _: () = assert!(
    CALLS_MAX < INBOX_MESSAGES_MAX,
    "every open call's reply fits an inbox"
);
