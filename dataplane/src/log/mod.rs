//! The log of one partition: a directory of segment files, the newest bytes in memory, and what recovery needs.
//!
//! A [`Partition`](crate::partition::Partition) owns one and lives on one shard. Nothing here talks Kafka's protocol, knows who
//! leads, or looks into records, except to find one by its timestamp. What consumers may see is its owner's word ([`LogOwner`]); the log
//! keeps that over restarts, and deletes nothing beyond.
//!
//! ```text
//! append ──> tail.rs ──> writer.rs ──> segment file ──> progress.rs ──> its owner
//!  (copies once)  (group commit)   space.rs keeps zeros ahead     (written, flushed)
//! read ────> tail.rs, else chunks.rs, read ahead from the file      (read.rs, lookup.rs)
//! open ────> checkpoint.rs, index.rs, then the bytes past them    (recovery.rs, scan.rs)
//! cut ─────> truncate.rs: files from the newest on, then as open
//! ```
//! Invariants:
//! - What an answer names as written is in the file; what it names as flushed was synced. A failed write or sync ends both for good.
//! - In a segment file, zeros follow the newest batch. No file is used again without having been cut and allocated anew.
//! - No borrow of the state is held across an await; state is reserved before one.

mod ages;
mod cache;
mod checkpoint;
mod chunks;
mod codec;
mod epochs;
mod flush;
pub(crate) mod gate;
mod index;
pub mod limits;
mod load;
mod lookup;
mod producers;
mod progress;
mod read;
mod records;
mod recovery;
mod retention;
mod scan;
mod segment;
mod shared;
mod shortage;
mod space;
pub mod spare;
mod tail;
mod truncate;
mod types;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::Poll;

use control_api::ids::LeaderEpoch;
use wire::{BATCH_HEADER_BYTES, Batch, TimestampType};

use self::cache::{Eviction, TailOwner};
use self::epochs::Epochs;
use self::gate::Gate;
use self::limits::{BATCH_BYTES_MAX, SEGMENT_BYTES_MAX, UNWRITTEN_BUFFERS_MAX};
use self::load::LogNumber;
use self::producers::{Producers, Sequenced};
use self::progress::Progress;
use self::read::ReadEnds;
use self::segment::Segment;
use self::shortage::Shortage;
use self::tail::Tail;
use crate::event::Event;
use crate::io::{Buffer, Io};

pub use self::lookup::FoundRecord;
pub use self::progress::{LogOffsets, LogOwner, Supply};
pub use self::read::Read;
pub use self::shared::LogShared;
pub use self::shortage::is_shortage;
pub use self::spare::SpareSegments;
pub use self::types::{
    AppendError, Appended, Bound, Level, LogConfig, LogError, Offset, ReadError, WaitError,
};

/// A handle; clones are the same log.
pub struct Log<I: Io>(Rc<Inner<I>>);

impl<I: Io> Clone for Log<I> {
    fn clone(&self) -> Log<I> {
        Log(Rc::clone(&self.0))
    }
}

struct Inner<I: Io> {
    io: I,
    shared: Rc<LogShared>,
    directory: PathBuf,
    config: Cell<LogConfig>,
    opened_clean: bool,
    owner: Rc<dyn LogOwner>,
    progress: Progress,
    /// By base offset, without gaps; the last one is active. Never empty.
    segments: RefCell<VecDeque<Rc<Segment<I>>>>,
    tail: RefCell<Tail<I>>,
    /// Buffers that were gathered for the next append.
    spare: RefCell<Vec<Buffer>>,
    producers: RefCell<Producers>,
    epochs: RefCell<Epochs>,
    read_ends: RefCell<ReadEnds>,
    /// Closed segments that keep an open file or a loaded index, the one used last at the back.
    warm: RefCell<VecDeque<Rc<Segment<I>>>>,
    /// Closed segments that are not sealed yet, oldest first.
    unsealed: RefCell<VecDeque<Rc<Segment<I>>>>,
    /// Segments below the log start whose files are still there, oldest first.
    doomed: RefCell<VecDeque<Rc<Segment<I>>>>,
    /// Segments with completed writes that no flush has covered.
    dirty: RefCell<Vec<Rc<Segment<I>>>>,
    closed: Cell<bool>,
    deleted: Cell<bool>,
    /// Batches are being removed from its end.
    truncating: Cell<bool>,
    writer_scheduled: Cell<bool>,
    number: LogNumber,
    bytes_in_flight: Cell<usize>,
    waits_for_turn: Cell<bool>,
    preparing: Cell<bool>,
    flush_timer_runs: Cell<bool>,
    flush_runs: Cell<bool>,
    flush_wanted: Cell<bool>,
    sealing: Cell<usize>,
    shortage: Shortage,
    /// Something was completed; for the rare waits that have no offset.
    changed: Event,
    /// Held by the one task that replaces a small file of the partition, or removes files.
    replacing: Rc<Gate>,
    /// What the last checkpoint covered.
    checkpointed: Cell<(Offset, Offset)>,
    bytes_since_checkpoint: Cell<u64>,
}

impl<I: Io> Log<I> {
    /// Opens or creates the log in `directory` and recovers what a crash left.
    pub async fn open(
        io: I,
        shared: Rc<LogShared>,
        directory: &Path,
        config: LogConfig,
        owner: Rc<dyn LogOwner>,
    ) -> Result<Log<I>, LogError> {
        let recovered = recovery::recover(&io, directory).await?;
        let progress = Progress::new(
            recovered.log_start,
            recovered.log_end,
            recovered.high_watermark,
        );
        let log = Log(Rc::new(Inner {
            number: shared.load.number(),
            shared,
            directory: directory.to_path_buf(),
            config: Cell::new(config),
            opened_clean: recovered.clean,
            owner,
            progress,
            segments: RefCell::new(recovered.segments),
            tail: RefCell::new(Tail::new(recovered.partial)),
            spare: RefCell::default(),
            producers: RefCell::new(recovered.producers),
            epochs: RefCell::new(recovered.epochs),
            read_ends: RefCell::default(),
            warm: RefCell::default(),
            unsealed: RefCell::default(),
            doomed: RefCell::default(),
            dirty: RefCell::default(),
            closed: Cell::new(false),
            deleted: Cell::new(false),
            truncating: Cell::new(false),
            writer_scheduled: Cell::new(false),
            bytes_in_flight: Cell::new(0),
            waits_for_turn: Cell::new(false),
            preparing: Cell::new(false),
            flush_timer_runs: Cell::new(false),
            flush_runs: Cell::new(false),
            flush_wanted: Cell::new(false),
            sealing: Cell::new(0),
            shortage: Shortage::default(),
            changed: Event::default(),
            replacing: Rc::default(),
            checkpointed: Cell::new(recovered.checkpointed),
            bytes_since_checkpoint: Cell::new(recovered.bytes_since_checkpoint),
            io,
        }));
        log.0.start_clock(&log.0.active());
        log.tell_owner();
        Ok(log)
    }

    /// As the leader in `epoch`: takes a batch that was validated, gives it the next offsets and copies it once. Nothing changes on an
    /// error; after [`AppendError::Busy`], await [`Log::room`] and try again.
    pub fn append_as_leader(
        &self,
        batch: &Batch<'_>,
        epoch: LeaderEpoch,
    ) -> Result<Appended, AppendError> {
        let log = &*self.0;
        log.may_append()?;
        if let Some(known) = self.appended_before(batch)? {
            return Ok(known);
        }
        let now_ms = log.io.wall_clock_ms();
        let stamp = Stamp {
            base_offset: log.progress.log_end(),
            epoch,
            log_append_time: log.config.get().log_append_time.then_some(now_ms),
        };
        self.append_stamped(batch, stamp, now_ms)
    }

    /// As a follower: takes a batch of the leader's log as it is, with its offsets and epoch, and copies it once. It begins at the log's
    /// end: no CRC covers a batch's offset, and recovery knows a damaged one by its not being the one that is due.
    pub fn append_as_follower(&self, batch: &Batch<'_>) -> Result<Appended, AppendError> {
        let log = &*self.0;
        log.may_append()?;
        let header = &batch.header;
        let stamp = Stamp {
            base_offset: Offset(header.base_offset),
            epoch: LeaderEpoch(header.partition_leader_epoch),
            log_append_time: (header.attributes.timestamp_type() == TimestampType::LogAppendTime)
                .then_some(header.max_timestamp),
        };
        let newest = log.epochs.borrow().latest();
        if stamp.base_offset != log.progress.log_end()
            || newest.is_some_and(|newest| stamp.epoch < newest)
        {
            return Err(AppendError::OutOfOrder);
        }
        let taken = self.append_stamped(batch, stamp, log.io.wall_clock_ms())?;
        log.epochs
            .borrow_mut()
            .begin(stamp.epoch, stamp.base_offset);
        Ok(taken)
    }

    #[inline]
    fn append_stamped(
        &self,
        batch: &Batch<'_>,
        stamp: Stamp,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        let log = &*self.0;
        let header = &batch.header;
        let bytes = batch.bytes.len();
        if bytes > BATCH_BYTES_MAX {
            return Err(AppendError::TooLarge);
        }
        if bytes < BATCH_HEADER_BYTES || header.last_offset_delta < 0 {
            return Err(AppendError::Invalid);
        }
        let Stamp {
            base_offset,
            epoch,
            log_append_time,
        } = stamp;
        let next_offset = base_offset
            .0
            .checked_add(i64::from(header.last_offset_delta) + 1);
        let next_offset = Offset(next_offset.ok_or(AppendError::Invalid)?);
        let max_timestamp = log_append_time.unwrap_or(batch.max_timestamp);
        let rolls = log.must_roll(bytes, next_offset, max_timestamp);
        log.gather_or_give_back(bytes, rolls)?;

        // Nothing below can fail.
        let segment = if rolls { log.roll() } else { log.active() };
        let stamped = stamped_header(batch, &stamp);
        let parts = std::iter::once(&stamped[..]).chain(batch.records.pieces());
        let mut spare = log.spare.borrow_mut();
        let begun = log
            .tail
            .borrow_mut()
            .append(&segment, parts, next_offset, &mut spare);
        spare.clear();
        drop(spare);
        for _ in 0..begun {
            log.shared.tails.note(self.as_owner());
        }
        let range = base_offset..next_offset;
        log.note_batch(&segment, range, bytes, max_timestamp, now_ms);
        let grown = log.bytes_since_checkpoint.get() + bytes as u64;
        log.bytes_since_checkpoint.set(grown);
        let log_append_time_ms = log_append_time.unwrap_or(-1);
        if let Some(batch) = sequenced(batch) {
            log.producers
                .borrow_mut()
                .append(&batch, base_offset, log_append_time_ms, now_ms);
        }
        log.progress.appended(next_offset);
        self.schedule_writer();
        Ok(Appended {
            base_offset,
            next_offset,
            leader_epoch: epoch,
            log_append_time_ms,
            duplicate: false,
        })
    }

    /// Where a batch stands that an idempotent producer sends again (KIP-98).
    pub fn appended_before(&self, batch: &Batch<'_>) -> Result<Option<Appended>, AppendError> {
        let Some(batch) = sequenced(batch) else {
            return Ok(None);
        };
        let known = self.0.producers.borrow().check(&batch)?;
        Ok(known.map(|known| Appended {
            base_offset: known.base_offset,
            next_offset: Offset(known.last_offset.0 + 1),
            // Of one that was deleted since, nobody needs to know.
            leader_epoch: self.epoch_at(known.base_offset).unwrap_or_default(),
            log_append_time_ms: known.log_append_time_ms,
            duplicate: true,
        }))
    }

    /// Waits until there may be memory for a batch of `bytes` bytes, or until waiting is of no use because the log stopped.
    pub async fn room(&self, bytes: usize) {
        let log = &*self.0;
        let bytes = bytes.min(BATCH_BYTES_MAX);
        loop {
            let generation = log.changed.generation();
            if log.may_append().is_err() || !log.is_backlogged(bytes) {
                break;
            }
            log.changed.changed_since(generation).await;
        }
        let _pass = log.shared.tails.gathering.enter().await;
        // The caller appends before any other task runs; if it has gone away, nothing stays behind.
        let _given_back = GiveBack(&log.spare);
        // A roll may need one buffer more than the rest of the active one saves.
        loop {
            let generation = log.changed.generation();
            if log.may_append().is_err() || log.gather(bytes, true) {
                return;
            }
            let buffer = log.buffer_or_change(generation).await;
            log.spare.borrow_mut().extend(buffer);
        }
    }

    /// Resolves once everything before `end` has reached `level`, or the log is stalled.
    pub async fn wait(&self, end: Offset, level: Level) -> Result<(), WaitError> {
        loop {
            let generation = self.0.changed.generation();
            if self.has_reached(end, level) {
                return Ok(());
            }
            self.may_be_reached(Supply::Stalled)?;
            self.0.changed.changed_since(generation).await;
        }
    }

    /// Whether everything before `end` is as safe as that.
    pub fn has_reached(&self, end: Offset, level: Level) -> bool {
        end <= match level {
            Level::Written => self.written(),
            Level::Flushed => self.flushed(),
        }
    }

    /// An error when it is of no use to wait for what was appended, or the supply is as bad as `given_up_at`.
    pub fn may_be_reached(&self, given_up_at: Supply) -> Result<(), WaitError> {
        let progress = &self.0.progress;
        if progress.is_poisoned() {
            return Err(WaitError::Poisoned);
        }
        if progress.supply() >= given_up_at {
            return Err(WaitError::Stalled);
        }
        Ok(())
    }

    /// The owner decides anew what consumers may see.
    fn tell_owner(&self) {
        let progress = &self.0.progress;
        let high_watermark = self.0.owner.advanced(LogOffsets {
            written: progress.written(),
            flushed: progress.flushed(),
            write_caching: self.0.config.get().write_caching,
            high_watermark: progress.high_watermark(),
        });
        progress.set_high_watermark(high_watermark);
    }

    pub fn log_start(&self) -> Offset {
        self.0.progress.log_start()
    }

    /// One past the last appended offset.
    pub fn log_end(&self) -> Offset {
        self.0.progress.log_end()
    }

    pub fn written(&self) -> Offset {
        self.0.progress.written()
    }

    pub fn flushed(&self) -> Offset {
        self.0.progress.flushed()
    }

    pub fn high_watermark(&self) -> Offset {
        self.0.progress.high_watermark()
    }

    pub fn is_poisoned(&self) -> bool {
        self.0.progress.is_poisoned()
    }

    /// Whether the log waits for the system to have what it needs, and takes nothing until then.
    pub fn is_stalled(&self) -> bool {
        self.0.progress.supply() == Supply::Stalled
    }

    /// Whether the log ends where an orderly close wrote down that it does. A log that is quickly read is closed without that.
    pub fn opened_clean(&self) -> bool {
        self.0.opened_clean
    }

    /// The newest leader epoch that began in this log.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.0.epochs.borrow().latest()
    }

    /// A leader takes over: `epoch` begins at the log's end, unless it or a later one has begun.
    pub fn begin_epoch(&self, epoch: LeaderEpoch) {
        self.0.epochs.borrow_mut().begin(epoch, self.log_end());
    }

    /// The largest known epoch up to `epoch` and its end, for OffsetForLeaderEpoch (KIP-101, KIP-279).
    pub fn offset_for_leader_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.0.epochs.borrow().end_of(epoch, self.log_end())
    }

    /// The leader epoch of the record at `offset`, or that it will get.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.0.epochs.borrow().at(offset)
    }

    pub fn config(&self) -> LogConfig {
        self.0.config.get()
    }

    /// What is already on its way is finished under the old settings.
    pub fn set_config(&self, config: LogConfig) {
        self.0.config.set(config);
        self.settle_durability();
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.0
            .segments
            .borrow()
            .iter()
            .map(|segment| segment.bytes.get())
            .sum()
    }

    /// Bytes appended that the last checkpoint does not cover.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        self.0.bytes_since_checkpoint.get()
    }

    pub fn segments(&self) -> usize {
        self.0.segments.borrow().len()
    }

    fn as_owner(&self) -> Weak<dyn TailOwner> {
        let weak: Weak<Inner<I>> = Rc::downgrade(&self.0);
        weak
    }
}

impl<I: Io> Inner<I> {
    fn may_append(&self) -> Result<(), AppendError> {
        if self.progress.is_poisoned() {
            return Err(AppendError::Poisoned);
        }
        if self.closed.get() || self.truncating.get() {
            return Err(AppendError::Closed);
        }
        if self.progress.supply() == Supply::Stalled {
            return Err(AppendError::Stalled);
        }
        Ok(())
    }

    fn active(&self) -> Rc<Segment<I>> {
        Rc::clone(
            self.segments
                .borrow()
                .back()
                .expect("a log always has an active segment"),
        )
    }

    fn must_roll(&self, bytes: usize, next_offset: Offset, max_timestamp: i64) -> bool {
        let config = self.config.get();
        let active = self.active();
        if active.bytes.get() == 0 {
            return false;
        }
        active.bytes.get() + bytes as u64 > config.segment_bytes.min(SEGMENT_BYTES_MAX)
            || next_offset.0 - active.base.0 > i64::from(i32::MAX)
            || self.is_full_of_time(&active, max_timestamp)
    }

    /// Begins a new segment at the log's end. Its file is made before its first write.
    fn roll(&self) -> Rc<Segment<I>> {
        let fresh = Rc::new(Segment::new(&self.directory, self.progress.log_end()));
        self.start_clock(&fresh);
        let mut segments = self.segments.borrow_mut();
        let full = Rc::clone(segments.back().expect("a log always has an active segment"));
        self.unsealed.borrow_mut().push_back(full);
        segments.push_back(Rc::clone(&fresh));
        fresh
    }

    fn is_backlogged(&self, bytes: usize) -> bool {
        let unwritten = self.tail.borrow().unwritten_buffers();
        unwritten > 0 && unwritten + bytes.div_ceil(self.io.buffer_bytes()) > UNWRITTEN_BUFFERS_MAX
    }

    /// Takes what buffers a batch needs, the oldest cached ones if the pool is dry. Keeps what it got when that is not enough.
    fn gather(&self, bytes: usize, rolls: bool) -> bool {
        loop {
            // Eviction may take our own active buffer, so the need is counted anew each time.
            let active = self.active();
            let target = (!rolls).then_some(&active);
            let needed =
                self.tail
                    .borrow_mut()
                    .buffers_needed(bytes, self.io.buffer_bytes(), target);
            if self.spare.borrow().len() >= needed {
                return true;
            }
            match self.io.take_buffer() {
                Some(buffer) => self.spare.borrow_mut().push(buffer),
                None if self.shared.tails.evict() => {}
                None => return false,
            }
        }
    }

    /// A buffer as soon as one is free, or nothing as soon as something was completed.
    async fn buffer_or_change(&self, generation: u64) -> Option<Buffer> {
        let mut buffer = pin!(self.io.wait_buffer());
        let mut change = pin!(self.changed.changed_since(generation));
        poll_fn(|context| match buffer.as_mut().poll(context) {
            Poll::Ready(buffer) => Poll::Ready(Some(buffer)),
            Poll::Pending => change.as_mut().poll(context).map(|()| None),
        })
        .await
    }

    fn gather_or_give_back(&self, bytes: usize, rolls: bool) -> Result<(), AppendError> {
        if !self.is_backlogged(bytes) && self.gather(bytes, rolls) {
            return Ok(());
        }
        self.spare.borrow_mut().clear();
        Err(AppendError::Busy)
    }

    fn note_batch(
        &self,
        segment: &Segment<I>,
        offsets: Range<Offset>,
        bytes: usize,
        max_timestamp: i64,
        now_ms: i64,
    ) {
        let mut index = segment.index.borrow_mut();
        let index = index
            .as_mut()
            .expect("the active segment's index is loaded");
        index.append(
            offsets.start,
            offsets.end,
            bytes,
            max_timestamp,
            self.config.get().index_interval_bytes,
        );
        segment.next.set(offsets.end);
        segment.max_timestamp.set(index.max_timestamp());
        let mut clock = segment.clock.get();
        clock.changed_ms = Some(now_ms);
        segment.clock.set(clock);
        if segment.first_timestamp.get().is_none() {
            segment.first_timestamp.set(Some(max_timestamp));
        }
    }
}

/// Returns gathered buffers to the pool when dropped.
struct GiveBack<'a>(&'a RefCell<Vec<Buffer>>);

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().clear();
    }
}

impl<I: Io> TailOwner for Inner<I> {
    fn evict_oldest(&self) -> Eviction {
        match self.tail.borrow_mut().evict_oldest() {
            None => Eviction::Empty,
            Some(true) => Eviction::Evicted,
            Some(false) => Eviction::Unwritten,
        }
    }
}

fn sequenced(batch: &Batch<'_>) -> Option<Sequenced> {
    sequenced_header(&batch.header)
}

/// What an idempotent producer's batch says of itself; control batches carry no sequence.
fn sequenced_header(header: &wire::BatchHeader) -> Option<Sequenced> {
    (header.producer_id >= 0 && header.base_sequence >= 0).then_some(Sequenced {
        producer_id: header.producer_id,
        epoch: header.producer_epoch,
        first_sequence: header.base_sequence,
        last_offset_delta: header.last_offset_delta,
    })
}

/// What the leader gives to a batch.
#[derive(Clone, Copy)]
struct Stamp {
    base_offset: Offset,
    epoch: LeaderEpoch,
    /// The time at which it was appended, where the topic wants that in place of the records' times.
    log_append_time: Option<i64>,
}

/// The batch's header with its stamp. Offset and epoch lie outside what the CRC covers; the times, and whose they are, do not, but most
/// producers' word holds, and a leader's always.
#[inline]
fn stamped_header(batch: &Batch<'_>, stamp: &Stamp) -> [u8; BATCH_HEADER_BYTES] {
    const LOG_APPEND_TIME: i16 = 0x08;
    const CRC: std::ops::Range<usize> = 17..21;
    let mut header = batch.header;
    header.base_offset = stamp.base_offset.0;
    header.partition_leader_epoch = stamp.epoch.0;
    let sent = (header.attributes, header.max_timestamp);
    (header.attributes.0, header.max_timestamp) = match stamp.log_append_time {
        Some(now_ms) => (header.attributes.0 | LOG_APPEND_TIME, now_ms),
        None => (header.attributes.0 & !LOG_APPEND_TIME, batch.max_timestamp),
    };
    let mut bytes = header.to_bytes();
    if sent != (header.attributes, header.max_timestamp) {
        let crc = batch
            .records
            .pieces()
            .fold(crc32c::crc32c(&bytes[CRC.end..]), crc32c::crc32c_append);
        bytes[CRC].copy_from_slice(&crc.to_be_bytes());
    }
    bytes
}
