//! The log's vocabulary: offsets, settings, and what can go wrong.

use std::fmt;
use std::io;

use control_api::ids::LeaderEpoch;

/// A record's place in its partition, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub i64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic's settings as far as the log acts on them; the names are those of the topic's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub segment_jitter_ms: i64,
    /// -1: no limit.
    pub retention_ms: i64,
    /// -1: no limit.
    pub retention_bytes: i64,
    pub index_interval_bytes: u32,
    /// Whether `acks=all` answers before the flush (`write.caching`).
    pub write_caching: bool,
    pub flush_ms: u64,
    pub flush_messages: u64,
    pub max_message_bytes: usize,
    /// `message.timestamp.type=LogAppendTime`.
    pub log_append_time: bool,
    /// `producer.id.expiration.ms`.
    pub producer_expiration_ms: i64,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        const WEEK_MS: i64 = 7 * 24 * 3_600_000;
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: WEEK_MS,
            segment_jitter_ms: 0,
            retention_ms: WEEK_MS,
            retention_bytes: -1,
            index_interval_bytes: 4096,
            write_caching: false,
            flush_ms: 100,
            flush_messages: u64::MAX,
            max_message_bytes: 1_048_588,
            log_append_time: false,
            producer_expiration_ms: 24 * 3_600_000,
        }
    }
}

/// How safe a record is on this broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Its write has completed: it survives the end of this process.
    Written,
    /// Stable storage has it: it survives the loss of power.
    Flushed,
}

/// How far a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    HighWatermark,
    LogEnd,
}

/// Where an accepted batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    /// One past the batch's last offset: what [`super::Log::wait`] takes.
    pub next_offset: Offset,
    /// In which it was appended: an offset alone may belong to another batch later.
    pub leader_epoch: LeaderEpoch,
    /// The broker's time when the topic says LogAppendTime, else -1.
    pub log_append_time_ms: i64,
    /// The batch had been appended before (KIP-98), and these are its offsets of then.
    pub duplicate: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("no memory for the batch now; wait for room and try again")]
    Busy,
    #[error("the log took no more after a failed write")]
    Poisoned,
    #[error("the log waits for descriptors, memory or room on the disk")]
    Stalled,
    #[error("the log is closed, or led elsewhere")]
    Closed,
    #[error("the batch is larger than a log takes")]
    TooLarge,
    #[error("a batch must have at least one record and a sane length")]
    Invalid,
    #[error("the batch does not follow the log's last one in offset and epoch")]
    OutOfOrder,
    #[error("sequence {found} came where {expected} was due")]
    OutOfOrderSequence { expected: i32, found: i32 },
    #[error("producer epoch {found} is older than {current}")]
    InvalidProducerEpoch { current: i16, found: i16 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    #[error("a write or a flush failed")]
    Poisoned,
    #[error("the log waits for descriptors, memory or room on the disk")]
    Stalled,
    #[error("the leader epoch changed")]
    LeaderEpochChanged,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {from} is outside {log_start}..={log_end}")]
    OffsetOutOfRange {
        from: Offset,
        log_start: Offset,
        log_end: Offset,
    },
    #[error("what is stored at offset {0} is not a batch")]
    Damaged(Offset),
    #[error("reading a segment failed: {0}")]
    Io(#[from] io::Error),
}

/// Opening, closing, flushing and deleting.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("a write or a flush failed")]
    Poisoned,
    #[error("the log waits for descriptors, memory or room on the disk")]
    Stalled,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<WaitError> for LogError {
    fn from(error: WaitError) -> LogError {
        match error {
            WaitError::Poisoned => LogError::Poisoned,
            // Whoever leads, the log waits for itself alone.
            WaitError::Stalled | WaitError::LeaderEpochChanged => LogError::Stalled,
        }
    }
}

/// Rounded down to whole blocks.
pub(super) fn block_floor(position: u64) -> u64 {
    position - position % crate::io::BLOCK_BYTES as u64
}

/// Rounded up to whole blocks.
pub(super) fn block_ceil(position: u64) -> u64 {
    position.next_multiple_of(crate::io::BLOCK_BYTES as u64)
}
