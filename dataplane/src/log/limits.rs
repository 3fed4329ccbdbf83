//! Every limit of the log, and how they relate.

use crate::io::BLOCK_BYTES;

/// The largest batch that a log takes, whatever `max.message.bytes` says; also the largest that recovery believes.
pub const BATCH_BYTES_MAX: usize = control_api::topic_config::BATCH_BYTES_MAX;

/// The smallest batch: the 61 bytes of a header.
pub const BATCH_BYTES_MIN: usize = 61;

/// Bytes of zeros that follow the newest batch in its file: where a next batch's offset and length would stand.
pub const TERMINATOR_BYTES: usize = 12;

/// Tail buffers of one partition that may wait for their write; more is answered with `Busy`.
pub const UNWRITTEN_BUFFERS_MAX: usize = 128;

/// Writes of one partition that are in flight at once: four doubled DSYNC throughput of 64 KiB frames over one.
pub const WRITES_IN_FLIGHT_MAX: usize = 4;

/// With so many writes of a shard's logs in flight the disk is busy, and a log begins no second one beside its own.
pub const SHARD_WRITES_IN_FLIGHT: usize = 8;

/// With so many bytes in flight a log begins no write beside them while another log of its shard writes little at a time: that would wait
/// in the device behind them, milliseconds for each megabyte. Without this a producer beside three that flood waited for 350 ms at p99, 40
/// to 80 with it.
pub const BYTES_IN_FLIGHT_BESIDE_SMALL: usize = 512 * 1024;

/// Writes of a shard's logs that are in flight at once. More would only wait in the device, where no batch can join them: 256 logs with
/// four batches each stored 2.8 GB/s with 32 and 2.2 with any number, 1.9 and 1.9 with one batch each.
pub const SHARD_WRITES_IN_FLIGHT_MAX: usize = 32;

/// Buffers that one write takes at most. A device takes only so many writes a second, and a durable one costs a flush and on some file
/// systems a write of the inode too, so what waits is better written at once, although several buffers have to be mapped anew.
pub const WRITE_BUFFERS_MAX: usize = 4;

/// A second write is begun beside one in flight only for this many bytes of whole blocks: smaller ones are better coalesced.
pub const PIPELINED_WRITE_BYTES_MIN: usize = 64 * 1024;

/// Space that is prepared ahead of the writes grows from the first to the second of these.
pub const EXTENT_BYTES_MIN: u64 = 64 * 1024;
pub const EXTENT_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Largest segment: positions in the index are 32-bit.
pub const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// The most of a segment that is prepared ahead of need: as long as one is by default.
pub const SPARE_BYTES_MAX: u64 = 1 << 30;

/// Bytes that one read answers at most, unless a single batch is larger.
pub const READ_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes read at once to find a batch, and to recover a segment.
pub const LOOKUP_BYTES: usize = 32 * 1024;
pub const SCAN_BYTES: usize = 1024 * 1024;

/// What is read at once of a segment that is not in memory; as long as a pooled buffer.
pub const CHUNK_BYTES: usize = crate::limits::TAIL_BUFFER_BYTES;

/// Chunks that a shard keeps, a quarter of its buffers within these bounds; more are read into memory of their own.
pub const CHUNKS_MIN: usize = 16;
pub const CHUNKS_MAX: usize = 128;

/// Chunks that are read ahead of a reader that goes on where its last read ended, while logs leave the disk alone.
pub const CHUNKS_AHEAD: u64 = 6;

/// Closed segments of one partition that keep an open file and a loaded index.
pub const WARM_SEGMENTS_MAX: usize = 4;

/// Ends of sequential reads that one partition remembers.
pub const READ_ENDS_MAX: usize = 8;

/// Bytes that a log has grown by when a checkpoint is worth its flushes before its time.
pub const CHECKPOINT_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Bytes that opening a log may have to read for want of a checkpoint or an index: about what those would cost to write.
pub const READ_AT_OPEN_BYTES_MAX: u64 = 64 * 1024;

/// Segment bytes that may pass before a checkpoint writes the active segment's index again, or half a segment if that is less.
pub const INDEX_WRITE_BYTES: u64 = 64 * 1024 * 1024;

/// Entries of one index file, and its bytes.
pub const INDEX_ENTRIES_MAX: usize = 4 * 1024 * 1024;
pub const INDEX_FILE_BYTES_MAX: usize = INDEX_ENTRIES_MAX * 16 + 4096;

/// Producers whose state one partition keeps; the longest silent one makes room.
pub const PRODUCERS_MAX: usize = 10_000;

/// Batches per producer by which a repeated one is recognised (KIP-98).
pub const PRODUCER_BATCHES: usize = 5;

/// Leader epochs whose start one partition remembers; the oldest make room.
pub const EPOCHS_MAX: usize = 10_000;

/// A log that was refused descriptors, memory or room tries again after this long.
pub const SHORTAGE_RETRY_MS: u64 = 100;

/// After this long without success it takes no more batches.
pub const SHORTAGE_STALL_MS: u64 = 2_000;

/// Segments that a checkpoint can list, and the bytes of its file.
pub const SEGMENTS_MAX: usize = 100_000;
pub const CHECKPOINT_BYTES_MAX: usize = 16 * 1024 * 1024;

const _: () = assert!(
    BATCH_BYTES_MAX <= SEGMENT_BYTES_MAX as usize,
    "a batch fits a segment"
);
const _: () = assert!(
    TERMINATOR_BYTES <= BLOCK_BYTES,
    "one more block always holds the terminator"
);
const _: () = assert!(EXTENT_BYTES_MIN.is_multiple_of(BLOCK_BYTES as u64));
const _: () = assert!(
    SPARE_BYTES_MAX <= SEGMENT_BYTES_MAX && SPARE_BYTES_MAX.is_multiple_of(BLOCK_BYTES as u64)
);
const _: () = assert!(PIPELINED_WRITE_BYTES_MIN >= BLOCK_BYTES);
const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(
    (CHUNKS_AHEAD as usize) < CHUNKS_MIN,
    "what is read ahead leaves what is being read"
);
const _: () = assert!(SCAN_BYTES >= BATCH_BYTES_MIN && LOOKUP_BYTES >= BATCH_BYTES_MIN);

const _: () = assert!(SHORTAGE_RETRY_MS < SHORTAGE_STALL_MS);
const _: () = assert!(SHARD_WRITES_IN_FLIGHT < SHARD_WRITES_IN_FLIGHT_MAX);
