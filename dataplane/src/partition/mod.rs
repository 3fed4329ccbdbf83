//! One partition as its shard knows it: its log, and what this broker is to it (`leadership.rs`).
//!
//! Handlers append to it and read from it; `reconcile.rs` tells it of leaders and settings. It never answers a client itself.

mod leadership;

pub use self::leadership::{FetchWaiter, Leadership};

use crate::event::Event;
use crate::io::{Instant, Io};
use crate::log::limits::{CHECKPOINT_BYTES_MIN, SHORTAGE_RETRY_MS};
use crate::log::{
    AppendError, Appended, Bound, FoundRecord, Level, Log, LogConfig, LogError, LogShared, Offset,
    Read, ReadError, Supply, WaitError,
};
use crate::partition_metrics::{PartitionFamilies, PartitionMetrics, PartitionOffsets};
use control_api::ids::LeaderEpoch;
use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
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
    io: I,
    identity: PartitionIdentity,
    directory: PathBuf,
    log: Log<I>,
    leadership: Rc<Leadership>,
    /// It takes nothing more; what it has taken is still answered.
    closing: Cell<bool>,
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
        let leadership = Rc::new(Leadership::default());
        let owner = Rc::clone(&leadership);
        let log = Log::open(io.clone(), shared, &directory, config, owner).await?;
        leadership.set(false, log.latest_epoch().unwrap_or_default());
        let metrics = shown.add(&identity.topic, identity.partition);
        Ok(Rc::new(Partition {
            io,
            identity,
            directory,
            log,
            leadership,
            closing: Cell::new(false),
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
        if self.leadership.set(true, epoch) {
            self.log.begin_epoch(epoch);
        }
    }

    /// Another broker, or none, leads from `epoch` on: answers still open end with an error. Where that epoch begins is the leader's to
    /// say.
    pub fn resign(&self, epoch: LeaderEpoch) {
        self.leadership.set(false, epoch);
    }

    pub fn leader_epoch(&self) -> i32 {
        self.leadership.epoch().0
    }

    /// Appends a batch that was checked. After [`AppendError::Busy`], await [`Partition::room`] and try again.
    pub fn append(&self, batch: &Batch<'_>) -> Result<Appended, AppendError> {
        if !self.takes_from_clients() {
            return Err(AppendError::Closed);
        }
        self.log.append_as_leader(batch, self.leadership.epoch())
    }

    fn takes_from_clients(&self) -> bool {
        self.leadership.leads() && !self.closing.get()
    }

    /// Appends a batch of the leader's log as it is.
    pub fn append_as_follower(&self, batch: &Batch<'_>) -> Result<Appended, AppendError> {
        if self.leadership.leads() {
            return Err(AppendError::Closed);
        }
        self.log.append_as_follower(batch)
    }

    /// As a follower: removes what ends behind `to`, which the leader's log does not have; returns where the log ends then.
    pub async fn truncate(&self, to: Offset) -> Result<Offset, LogError> {
        if self.leadership.leads() {
            return Ok(self.log_end());
        }
        self.log.truncate(to).await
    }

    /// Where a batch stands that was appended before.
    pub fn appended_before(&self, batch: &Batch<'_>) -> Option<Appended> {
        let takes = self.takes_from_clients();
        self.log.appended_before(batch).ok()?.filter(|_| takes)
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

    /// Waits until a batch has reached `level`; where the system is short of what that takes, until `deadline`. Any other wait is for the
    /// disk, which has no deadline.
    pub async fn wait_until(
        &self,
        batch: &Appended,
        level: Level,
        deadline: Instant,
    ) -> Result<(), WaitError> {
        loop {
            let waited = self.wait(batch, level).await;
            let now = self.io.now();
            if waited != Err(WaitError::Stalled) || now >= deadline {
                return waited;
            }
            let again = deadline.min(now.after_ms(SHORTAGE_RETRY_MS));
            self.io.sleep_until(again).await;
        }
    }

    /// As [`Partition::wait_until`], with [`WaitError::Stalled`] as soon as the system is short of something.
    async fn wait(&self, batch: &Appended, level: Level) -> Result<(), WaitError> {
        poll_fn(|context| {
            if self.has_reached(batch, level) {
                return Poll::Ready(Ok(()));
            }
            if !self.leads_with(batch) {
                return Poll::Ready(Err(WaitError::LeaderEpochChanged));
            }
            if let Err(error) = self.log.may_be_reached(Supply::Short) {
                return Poll::Ready(Err(error));
            }
            let (leadership, waker) = (&self.leadership, context.waker());
            leadership.wake_at(batch.next_offset, level, waker);
            Poll::Pending
        })
        .await
    }

    /// Whether [`Partition::wait_until`] would return at once with success.
    pub fn has_reached(&self, batch: &Appended, level: Level) -> bool {
        self.log.has_reached(batch.next_offset, level) && self.leads_with(batch)
    }

    /// Whether this broker leads a log that has the batch. Of an offset of another epoch nobody knows whose batch is there.
    fn leads_with(&self, batch: &Appended) -> bool {
        let in_log = |epoch| self.log.epoch_at(batch.base_offset) == Some(epoch);
        let epoch = batch.leader_epoch;
        self.leadership.leads() && (epoch == self.leadership.epoch() || in_log(epoch))
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
        self.leadership.register_fetch(beyond, event)
    }

    /// Fetches that wait for what comes next.
    pub fn parked_fetches(&self) -> usize {
        self.leadership.parked_fetches()
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
        let epoch = LeaderEpoch(epoch);
        // Nothing was appended in it yet, perhaps.
        let found = match epoch == self.leadership.epoch() {
            true => Some((epoch, self.log_end())),
            false => self.log.offset_for_leader_epoch(epoch),
        };
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
        self.closing.set(true);
        self.log.close().await
    }

    /// Removes the partition's files.
    pub async fn delete(&self) -> Result<(), LogError> {
        self.closing.set(true);
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
