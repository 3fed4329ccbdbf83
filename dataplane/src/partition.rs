//! One partition as its shard knows it: its log, and whether this broker leads it.
//!
//! Handlers append to it and read from it; the metadata tells it of leaders and settings. It answers no client and knows no error
//! codes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use control_api::ids::LeaderEpoch;
use wire::Batch;

use crate::event::Event;
use crate::io::Io;
use crate::log::{
    AppendError, Appended, Bound, FetchWaiter, FoundRecord, Level, Log, LogConfig, LogError, Offset, Read, ReadError,
    TailCache, WaitError,
};

/// Which partition it is.
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

/// Where a leader epoch ends (KIP-101); both -1 when that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    pub leader_epoch: i32,
    pub end_offset: i64,
}

/// What has gone through a partition since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes_in: u64,
    pub messages_in: u64,
    pub bytes_out: u64,
}

pub struct Partition<I: Io> {
    identity: PartitionIdentity,
    directory: PathBuf,
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
        directory: PathBuf,
        identity: PartitionIdentity,
        config: LogConfig,
        cache: Rc<TailCache>,
    ) -> Result<Rc<Partition<I>>, LogError> {
        let log = Log::open(io, cache, &directory, config, None).await?;
        Ok(Rc::new(Partition {
            identity,
            directory,
            log,
            leads: Cell::new(false),
            traffic: Cell::default(),
            data: RefCell::default(),
        }))
    }

    pub fn identity(&self) -> &PartitionIdentity {
        &self.identity
    }

    /// For log lines: topic and number.
    pub fn name(&self) -> impl fmt::Display + '_ {
        &self.identity
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn log(&self) -> &Log<I> {
        &self.log
    }

    /// This broker leads from `epoch` on. An epoch older than the known one changes nothing.
    pub fn lead(&self, epoch: i32) {
        if epoch >= self.leader_epoch() {
            self.log.set_leader_epoch(LeaderEpoch(epoch));
            self.leads.set(true);
        }
    }

    /// Another broker leads, or none: nothing is appended, and answers that are open end with an error.
    pub fn resign(&self) {
        if self.leads.replace(false) {
            self.log.end_reign();
        }
    }

    pub fn leads(&self) -> bool {
        self.leads.get()
    }

    pub fn leader_epoch(&self) -> i32 {
        self.log.leader_epoch().0
    }

    /// Appends a batch that was validated. After [`AppendError::Busy`], await [`Partition::room`] and try again.
    pub fn append(&self, batch: &Batch<'_>) -> Result<Appended, AppendError> {
        if !self.leads.get() {
            return Err(AppendError::Closed);
        }
        let bytes = batch.bytes.len();
        if bytes > self.log.config().max_message_bytes {
            return Err(AppendError::TooLarge);
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

    /// Waits until there may be memory for the batch that was refused last.
    pub async fn room(&self) {
        self.log.room().await;
    }

    /// What a producer's `acks` waits for; nothing for 0. `acks=all` asks for the flush as well, unless the topic says
    /// `write.caching`.
    pub fn level_for(&self, acks: i16) -> Option<Level> {
        match acks {
            0 => None,
            -1 if !self.log.config().write_caching => Some(Level::Flushed),
            _ => Some(Level::Written),
        }
    }

    /// Waits until everything before `end` has reached `level`.
    pub async fn wait(&self, end: Offset, level: Level) -> Result<(), WaitError> {
        self.log.wait(end, level).await
    }

    pub fn has_reached(&self, end: Offset, level: Level) -> bool {
        self.log.has_reached(end, level)
    }

    /// Whole batches, see [`Log::read`].
    pub async fn read(&self, from: Offset, bytes_max: usize, at_least_one: bool, bound: Bound) -> Result<Read, ReadError> {
        let read = self.log.read(from, bytes_max, at_least_one, bound).await?;
        let mut traffic = self.traffic.get();
        traffic.bytes_out += read.bytes as u64;
        self.traffic.set(traffic);
        Ok(read)
    }

    /// Notifies `event` each time the high watermark moves, and when the log stops or changes hands, until the waiter is dropped.
    pub fn watch(&self, event: &Rc<Event>) -> FetchWaiter {
        self.log.register_fetch_waiter(self.high_watermark(), event)
    }

    /// Waits until the high watermark is past `beyond`, or until waiting is of no use.
    pub async fn wait_for_data(&self, beyond: Offset) {
        let event = Rc::clone(self.data.borrow_mut().get_or_insert_default());
        let _waiter = self.log.register_fetch_waiter(beyond, &event);
        loop {
            let generation = event.generation();
            if self.high_watermark() > beyond || self.is_poisoned() || !self.leads.get() {
                return;
            }
            event.changed_since(generation).await;
        }
    }

    /// The first record below the high watermark with a timestamp of at least `timestamp`.
    pub async fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<FoundRecord>, ReadError> {
        self.log.offset_for_timestamp(timestamp).await
    }

    /// The first record with the largest timestamp (KIP-734).
    pub async fn max_timestamp(&self) -> Result<Option<FoundRecord>, ReadError> {
        self.log.max_timestamp().await
    }

    /// The largest known epoch up to `epoch`, and where it ends.
    pub fn epoch_end(&self, epoch: i32) -> EpochEnd {
        match self.log.offset_for_leader_epoch(LeaderEpoch(epoch)) {
            Some((epoch, end)) => EpochEnd { leader_epoch: epoch.0, end_offset: end.0 },
            None => EpochEnd { leader_epoch: -1, end_offset: -1 },
        }
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

    pub fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }

    pub fn is_poisoned(&self) -> bool {
        self.log.is_poisoned()
    }

    pub fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    pub fn set_config(&self, config: LogConfig) {
        if config != self.log.config() {
            self.log.set_config(config);
        }
    }

    /// Stores what recovery would otherwise have to read.
    pub async fn checkpoint(&self) -> Result<(), LogError> {
        self.log.checkpoint().await
    }

    /// Deletes old segments; returns how many.
    pub async fn enforce_retention(&self, now_ms: i64) -> Result<usize, LogError> {
        self.log.enforce_retention(now_ms).await
    }

    /// Flushes and marks the log as closed in order.
    pub async fn close(&self) -> Result<(), LogError> {
        self.resign();
        self.log.close().await
    }

    /// Removes the partition's files.
    pub async fn delete(&self) -> Result<(), LogError> {
        self.resign();
        self.log.delete().await
    }
}
