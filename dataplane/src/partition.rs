//! One partition as its shard knows it: its log, who leads it, and what has gone in and out.
//!
//! Handlers append to it and read from it; the control link tells it of leaders and settings. It never answers a client itself.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use control_api::ids::{LeaderEpoch, TopicId};
use wire::Batch;

use crate::event::Event;
use crate::io::Io;
use crate::log::{
    AppendError, Appended, Bound, FetchWaiter, FoundRecord, Level, Log, LogConfig, LogError, Offset, Read, ReadError,
    TailCache, WaitError,
};

#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    #[error("this broker does not lead the partition")]
    NotLeader,
    #[error("the client knows a leader epoch older than {current:?}")]
    FencedLeaderEpoch { current: LeaderEpoch },
    #[error("the client knows a leader epoch newer than {current:?}")]
    UnknownLeaderEpoch { current: LeaderEpoch },
    #[error("a batch of {bytes} bytes where {bytes_max} are allowed")]
    MessageTooLarge { bytes: usize, bytes_max: usize },
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Wait(#[from] WaitError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What has gone through a partition since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes_in: u64,
    pub messages_in: u64,
    pub bytes_out: u64,
}

/// Which partition it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionName {
    pub topic_id: TopicId,
    pub topic: Rc<str>,
    pub index: i32,
}

/// What a producer asks for with `acks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    Leader,
    All,
}

pub struct Partition<I: Io> {
    name: PartitionName,
    log: Log<I>,
    leads: Cell<bool>,
    traffic: Cell<Traffic>,
    /// Wakes those who wait in [`Partition::wait_for_data`].
    data: RefCell<Option<Rc<Event>>>,
}

impl<I: Io> Partition<I> {
    /// Opens or creates the partition in `directory`. It leads nothing until [`Partition::lead`].
    pub async fn open(
        io: I,
        cache: Rc<TailCache>,
        directory: &Path,
        name: PartitionName,
        config: LogConfig,
    ) -> Result<Partition<I>, LogError> {
        let log = Log::open(io, cache, directory, config, None).await?;
        Ok(Partition { name, log, leads: Cell::new(false), traffic: Cell::default(), data: RefCell::default() })
    }

    pub fn name(&self) -> &PartitionName {
        &self.name
    }

    pub fn log(&self) -> &Log<I> {
        &self.log
    }

    pub fn leads(&self) -> bool {
        self.leads.get()
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.log.leader_epoch()
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

    pub fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    /// This broker leads from `epoch` on. An epoch older than the known one changes nothing.
    pub fn lead(&self, epoch: LeaderEpoch) {
        if epoch >= self.leader_epoch() {
            self.log.set_leader_epoch(epoch);
            self.leads.set(true);
        }
    }

    /// Another broker leads from `epoch` on: open answers end with an error.
    pub fn follow(&self, epoch: LeaderEpoch) {
        if epoch >= self.leader_epoch() {
            self.leads.set(false);
            self.log.set_leader_epoch(epoch);
        }
    }

    /// Whether this broker leads under the epoch that a client names, -1 for any (KIP-320).
    pub fn check_leader(&self, epoch: i32) -> Result<(), PartitionError> {
        let current = self.leader_epoch();
        if epoch >= 0 && epoch < current.0 {
            return Err(PartitionError::FencedLeaderEpoch { current });
        }
        if epoch > current.0 {
            return Err(PartitionError::UnknownLeaderEpoch { current });
        }
        if self.leads.get() { Ok(()) } else { Err(PartitionError::NotLeader) }
    }

    /// Appends a batch that was validated. After [`AppendError::Busy`], await [`Log::room`] and try again.
    pub fn append(&self, batch: &Batch<'_>) -> Result<Appended, PartitionError> {
        if !self.leads.get() {
            return Err(PartitionError::NotLeader);
        }
        let (bytes, bytes_max) = (batch.bytes.len(), self.log.config().max_message_bytes);
        if bytes > bytes_max {
            return Err(PartitionError::MessageTooLarge { bytes, bytes_max });
        }
        let appended = self.log.append(batch)?;
        if !appended.duplicate {
            let mut traffic = self.traffic.get();
            traffic.bytes_in += bytes as u64;
            traffic.messages_in += (appended.next_offset.0 - appended.base_offset.0) as u64;
            self.traffic.set(traffic);
        }
        Ok(appended)
    }

    /// Waits until everything before `end` may be acknowledged.
    pub async fn wait_acknowledged(&self, end: Offset, acks: Acks) -> Result<(), PartitionError> {
        Ok(self.log.wait(end, self.level(acks)).await?)
    }

    /// Batches below the high watermark, see [`Log::read`].
    pub async fn fetch(&self, from: Offset, bytes_max: usize, at_least_one: bool) -> Result<Read, PartitionError> {
        let read = self.log.read(from, bytes_max, at_least_one, Bound::HighWatermark).await?;
        let mut traffic = self.traffic.get();
        traffic.bytes_out += read.bytes as u64;
        self.traffic.set(traffic);
        Ok(read)
    }

    /// Waits until the high watermark has moved past `beyond`, or until waiting is of no use.
    pub async fn wait_for_data(&self, beyond: Offset) {
        let event = Rc::clone(self.data.borrow_mut().get_or_insert_default());
        let _waiter = self.log.register_fetch_waiter(beyond, &event);
        loop {
            let generation = event.generation();
            if self.high_watermark() > beyond || self.log.is_poisoned() || !self.leads.get() {
                return;
            }
            event.changed_since(generation).await;
        }
    }

    /// See [`Log::register_fetch_waiter`].
    pub fn register_fetch_waiter(&self, beyond: Offset, event: &Rc<Event>) -> FetchWaiter {
        self.log.register_fetch_waiter(beyond, event)
    }

    pub async fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<FoundRecord>, PartitionError> {
        Ok(self.log.offset_for_timestamp(timestamp).await?)
    }

    pub async fn max_timestamp(&self) -> Result<Option<FoundRecord>, PartitionError> {
        Ok(self.log.max_timestamp().await?)
    }

    /// `acks=all` asks for the flush as well, unless the topic says `write.caching`.
    fn level(&self, acks: Acks) -> Level {
        match acks {
            Acks::Leader => Level::Written,
            Acks::All if self.log.config().write_caching => Level::Written,
            Acks::All => Level::Flushed,
        }
    }
}
