//! One partition as its shard knows it: its log, and whether this broker leads it.
//!
//! Handlers append to it and read from it; `reconcile.rs` tells it of leaders and settings. It never answers a client itself.

use crate::event::Event;
use crate::io::{Instant, Io};
use crate::log::limits::CHECKPOINT_BYTES_MIN;
use crate::log::{
    AppendError, Appended, Bound, FetchWaiter, FoundRecord, Level, Log, LogConfig, LogError,
    LogShared, Offset, Read, ReadError, WaitError,
};
use crate::partition_metrics::{PartitionFamilies, PartitionMetrics, PartitionOffsets};
use control_api::ids::LeaderEpoch;
use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use wire::Batch;

/// Which partition it is, as clients and logs name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionIdentity {
    pub topic: String,
    pub partition: i32,
}

impl fmt::Display for PartitionIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// What ListOffsets asks of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetQuery {
    /// A time in milliseconds, or one of the negative markers of ListOffsetsRequest.
    pub timestamp: i64,
    pub current_leader_epoch: i32,
}

impl OffsetQuery {
    /// The questions that a timestamp below zero stands for (KIP-79, KIP-734, KIP-405, KIP-1005).
    pub const LATEST: i64 = -1;
    pub const EARLIEST: i64 = -2;
    pub const MAX_TIMESTAMP: i64 = -3;
    pub const EARLIEST_LOCAL: i64 = -4;
    pub const LATEST_TIERED: i64 = -5;
}

/// The answer to an [`OffsetQuery`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    pub offset: i64,
    pub timestamp: i64,
    pub leader_epoch: i32,
}

impl ListedOffset {
    /// No record matches.
    pub const NONE: ListedOffset = ListedOffset {
        offset: -1,
        timestamp: -1,
        leader_epoch: -1,
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    pub leader_epoch: i32,
    pub end_offset: i64,
}

pub struct Partition<I: Io> {
    identity: PartitionIdentity,
    directory: PathBuf,
    log: Log<I>,
    leads: Cell<bool>,
    metrics: Arc<PartitionMetrics>,
}

impl<I: Io> Partition<I> {
    /// Opens or creates the partition in `directory`. It leads nothing until [`Partition::lead`].
    pub async fn open(
        io: I,
        directory: PathBuf,
        identity: PartitionIdentity,
        config: LogConfig,
        shared: Rc<LogShared>,
        shown: &PartitionFamilies,
    ) -> Result<Rc<Partition<I>>, LogError> {
        let log = Log::open(io, shared, &directory, config, None).await?;
        let metrics = shown.add(&identity.topic, identity.partition);
        Ok(Rc::new(Partition {
            identity,
            directory,
            log,
            leads: Cell::new(false),
            metrics,
        }))
    }

    pub fn identity(&self) -> &PartitionIdentity {
        &self.identity
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn set_config(&self, config: LogConfig) {
        self.log.set_config(config);
    }

    /// This broker leads from `epoch` on. An epoch older than the known one changes nothing.
    pub fn lead(&self, epoch: LeaderEpoch) {
        if epoch >= self.log.leader_epoch() {
            self.log.set_leader_epoch(epoch);
            self.leads.set(true);
        }
    }

    /// Another broker, or none, leads from `epoch` on: answers still open end with an error.
    pub fn resign(&self, epoch: LeaderEpoch) {
        if epoch >= self.log.leader_epoch() {
            self.leads.set(false);
            self.log.set_leader_epoch(epoch);
        }
    }

    pub fn leader_epoch(&self) -> i32 {
        self.log.leader_epoch().0
    }

    /// Appends a batch that was checked. After [`AppendError::Busy`], await [`Partition::room`] and try again.
    pub fn append(&self, batch: &Batch<'_>) -> Result<Appended, AppendError> {
        if !self.leads.get() {
            return Err(AppendError::Closed);
        }
        self.log.append(batch)
    }

    /// Where a batch stands that was appended before.
    pub fn appended_before(&self, batch: &Batch<'_>) -> Option<Appended> {
        let leads = self.leads.get();
        self.log.appended_before(batch).ok()?.filter(|_| leads)
    }

    /// Waits until there may be memory for a batch of `bytes` bytes.
    pub async fn room(&self, bytes: usize) {
        self.log.room(bytes).await;
    }

    /// How safe a batch must be before it is acknowledged; `None` when `acks` asks for no answer.
    pub fn level_for(&self, acks: i16) -> Option<Level> {
        match acks {
            0 => None,
            -1 if !self.log.config().write_caching => Some(Level::Flushed),
            _ => Some(Level::Written),
        }
    }

    /// Waits until everything before `end` has reached `level`; where the system is short of what that takes, until `deadline`.
    pub async fn wait_until(
        &self,
        end: Offset,
        level: Level,
        deadline: Instant,
    ) -> Result<(), WaitError> {
        self.log.wait_until(end, level, deadline).await
    }

    /// Whether [`Partition::wait_until`] would return at once with success.
    pub fn has_reached(&self, end: Offset, level: Level) -> bool {
        let reached = match level {
            Level::Written => self.log.written(),
            Level::Flushed => self.log.flushed(),
        };
        end <= reached
    }

    /// Whole batches from `from` on, up to `bound`.
    pub async fn read(
        &self,
        from: Offset,
        bytes_max: usize,
        at_least_one: bool,
        bound: Bound,
    ) -> Result<Read, ReadError> {
        self.log.read(from, bytes_max, at_least_one, bound).await
    }

    /// Notifies `event` when the high watermark moves past `beyond`, and when the partition stops, until the waiter is dropped.
    pub fn watch(&self, beyond: Offset, event: &Rc<Event>) -> FetchWaiter {
        self.log.register_fetch_waiter(beyond, event)
    }

    /// Fetches that wait for what comes next.
    pub fn parked_fetches(&self) -> usize {
        self.log.parked_fetches()
    }

    /// Answers one partition of ListOffsets.
    pub async fn list_offset(&self, query: OffsetQuery) -> Result<ListedOffset, ReadError> {
        let end = |offset: Offset| ListedOffset {
            offset: offset.0,
            timestamp: -1,
            leader_epoch: self.leader_epoch(),
        };
        let found = match query.timestamp {
            // Nothing is tiered, so all there is is local and nothing is tiered.
            OffsetQuery::EARLIEST | OffsetQuery::EARLIEST_LOCAL => return Ok(self.earliest()),
            OffsetQuery::LATEST => return Ok(end(self.high_watermark())),
            OffsetQuery::LATEST_TIERED => return Ok(ListedOffset::NONE),
            OffsetQuery::MAX_TIMESTAMP => self.log.max_timestamp().await?,
            timestamp => self.log.offset_for_timestamp(timestamp).await?,
        };
        Ok(found.map_or(ListedOffset::NONE, listed))
    }

    fn earliest(&self) -> ListedOffset {
        ListedOffset {
            offset: self.log_start().0,
            timestamp: -1,
            leader_epoch: self
                .log
                .epoch_at(self.log_start())
                .map_or(-1, |epoch| epoch.0),
        }
    }

    /// Where the largest epoch up to `epoch` ends (KIP-101); -1 in both fields when none is known.
    pub fn epoch_end(&self, epoch: i32) -> EpochEnd {
        let found = self.log.offset_for_leader_epoch(LeaderEpoch(epoch));
        found.map_or(
            EpochEnd {
                leader_epoch: -1,
                end_offset: -1,
            },
            |(epoch, end)| EpochEnd {
                leader_epoch: epoch.0,
                end_offset: end.0,
            },
        )
    }

    pub fn high_watermark(&self) -> Offset {
        self.log.high_watermark()
    }

    pub fn log_start(&self) -> Offset {
        self.log.log_start()
    }

    pub fn log_end(&self) -> Offset {
        self.log.log_end()
    }

    pub fn is_poisoned(&self) -> bool {
        self.log.is_poisoned()
    }

    pub fn is_stalled(&self) -> bool {
        self.log.is_stalled()
    }

    /// Makes the log's offsets and size visible.
    pub fn publish_metrics(&self) {
        self.metrics.set(PartitionOffsets {
            log_end: self.log_end().0,
            log_start: self.log_start().0,
            high_watermark: self.high_watermark().0,
            log_bytes: self.log.bytes() as i64,
        });
    }

    /// Writes down how far recovery need not read, if that is much further than the last time.
    pub async fn checkpoint_if_grown(&self) -> Result<(), LogError> {
        if self.log.bytes_since_checkpoint() < CHECKPOINT_BYTES_MIN {
            return Ok(());
        }
        self.log.checkpoint().await
    }

    /// Writes down how far recovery need not read, if it would have to read more than little.
    pub async fn checkpoint(&self) -> Result<(), LogError> {
        if !self.log.wants_checkpoint() {
            return Ok(());
        }
        self.log.checkpoint().await
    }

    /// Deletes closed segments that are too old or too many; returns how many.
    pub async fn enforce_retention(&self, now_ms: i64) -> Result<usize, LogError> {
        self.log.enforce_retention(now_ms).await
    }

    /// Takes no more and flushes, so that the next opening is quick.
    pub async fn close(&self) -> Result<(), LogError> {
        self.leads.set(false);
        self.log.close().await
    }

    /// Removes the partition's files.
    pub async fn delete(&self) -> Result<(), LogError> {
        self.leads.set(false);
        self.log.delete().await
    }
}

fn listed(found: FoundRecord) -> ListedOffset {
    ListedOffset {
        offset: found.offset.0,
        timestamp: found.timestamp,
        leader_epoch: found.leader_epoch.0,
    }
}
