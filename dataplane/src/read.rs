//! Reading from partitions of one shard, for fetches that came to it or to another one.

use crate::answer_memory::KeptRecords;
use crate::errors;
use crate::event::Event;
use crate::io::Io;
use crate::log::limits::READ_BYTES_MAX;
use crate::log::{Bound, Offset};
use crate::pace::Pace;
use crate::partition::{EpochEnd, Partition};
use crate::partition_request::{self, PartitionKey};
use crate::select;
use crate::shard::Shard;
use std::rc::Rc;
use wire::ErrorCode;

/// What a fetch asks of one partition.
#[derive(Clone, Copy, Debug)]
pub struct PartitionRead {
    pub key: PartitionKey,
    pub offset: i64,
    pub bytes_max: usize,
    /// -1: not checked.
    pub current_leader_epoch: i32,
    /// -1: not checked. Otherwise the epoch of the last record the client has, to find a divergence by (KIP-595).
    pub last_fetched_epoch: i32,
}

/// What a fetch may still take.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    pub bytes_max: usize,
    /// The first batch found is given whole even if it is larger than every limit (KIP-74).
    pub at_least_one: bool,
}

/// What a partition answers. With an error the offsets are -1.
#[derive(Debug)]
pub struct ReadOutcome {
    pub error: ErrorCode,
    pub high_watermark: i64,
    pub log_start: i64,
    pub diverging: Option<EpochEnd>,
    pub records: KeptRecords,
    /// There is more below the high watermark, which a limit has kept out of this answer.
    pub cut: bool,
    /// Nothing was read because answers keep all the memory that they may.
    pub starved: bool,
}

impl ReadOutcome {
    pub fn refused(error: ErrorCode) -> Self {
        ReadOutcome {
            error,
            high_watermark: -1,
            log_start: -1,
            diverging: None,
            records: KeptRecords::default(),
            cut: false,
            starved: false,
        }
    }

    pub fn bytes(&self) -> usize {
        self.records.bytes
    }

    pub fn failed(&self) -> bool {
        self.error != ErrorCode::None || self.diverging.is_some()
    }
}

impl ReadLimit {
    /// What is left after `bytes` were read.
    pub fn after(self, bytes: usize) -> ReadLimit {
        ReadLimit {
            bytes_max: self.bytes_max.saturating_sub(bytes),
            at_least_one: self.at_least_one && bytes == 0,
        }
    }
}

/// Reads partitions of this shard in order until the limit is used up.
pub async fn read_partitions<I: Io>(
    shard: &Shard<I>,
    reads: &[PartitionRead],
    mut limit: ReadLimit,
) -> Vec<ReadOutcome> {
    limit.bytes_max = limit.bytes_max.min(shard.answer_memory.share());
    let mut outcomes = Vec::with_capacity(reads.len());
    let mut pace = Pace::default();
    for read in reads {
        pace.step().await;
        let outcome = read_one(shard, read, limit)
            .await
            .unwrap_or_else(ReadOutcome::refused);
        limit = limit.after(outcome.bytes());
        outcomes.push(outcome);
    }
    outcomes
}

async fn read_one<I: Io>(
    shard: &Shard<I>,
    read: &PartitionRead,
    limit: ReadLimit,
) -> Result<ReadOutcome, ErrorCode> {
    let partition = partition_request::local(shard, read.key)?;
    errors::check_leader_epoch(read.current_leader_epoch, partition.leader_epoch())?;
    let high_watermark = partition.high_watermark();
    let mut outcome = ReadOutcome {
        error: ErrorCode::None,
        high_watermark: high_watermark.0,
        log_start: partition.log_start().0,
        diverging: divergence(&partition, read),
        records: KeptRecords::default(),
        cut: Offset(read.offset) < high_watermark,
        starved: false,
    };
    // What was committed before a log failed can be read still; nothing will come after it.
    if partition.is_poisoned() && Offset(read.offset) == high_watermark {
        return Err(ErrorCode::KafkaStorageError);
    }
    let bytes_max = read.bytes_max.min(limit.bytes_max).min(READ_BYTES_MAX);
    if outcome.diverging.is_some() || (bytes_max == 0 && !limit.at_least_one) {
        return Ok(outcome);
    }
    let permit = match outcome.cut {
        true => shard.answer_memory.permit(bytes_max),
        false => None,
    };
    outcome.starved = outcome.cut && permit.is_none();
    let found = partition
        .read(
            Offset(read.offset),
            permit.as_ref().map_or(0, |permit| permit.bytes_max),
            limit.at_least_one && permit.is_some(),
            Bound::HighWatermark,
        )
        .await;
    let found = found.map_err(|error| {
        // The partition may have left meanwhile.
        if let Err(gone) = partition_request::local(shard, read.key) {
            return gone;
        }
        if let crate::log::ReadError::Damaged(_) | crate::log::ReadError::Io(_) = &error {
            tracing::error!(partition = %partition.identity(), %error, "a read failed");
        }
        errors::read_error_code(&error)
    })?;
    if let Some(permit) = permit {
        match shard.answer_memory.keep(permit, found.slices, found.bytes) {
            Some(records) => outcome.records = records,
            None => outcome.starved = true,
        }
        outcome.cut = outcome.starved || found.next_offset < high_watermark;
    }
    Ok(outcome)
}

/// Where the client's log departs from ours, if it does.
fn divergence<I: Io>(partition: &Partition<I>, read: &PartitionRead) -> Option<EpochEnd> {
    if read.last_fetched_epoch < 0 {
        return None;
    }
    let end = partition.epoch_end(read.last_fetched_epoch);
    (end.end_offset < read.offset || end.leader_epoch < read.last_fetched_epoch).then_some(end)
}

/// Waits until one of the partitions has a high watermark beyond the offset given or can no longer be read here, or the time is over.
pub async fn wait_for_data<I: Io>(
    shard: &Shard<I>,
    positions: &[(PartitionKey, Offset)],
    wait_ms_max: u64,
) {
    let deadline = shard.io.now().after_ms(wait_ms_max);
    let changed = Rc::new(Event::default());
    let seen = changed.generation();
    let mut pace = Pace::default();
    let mut waiters = Vec::with_capacity(positions.len());
    for (key, offset) in positions {
        pace.step().await;
        // What left since it was read is told by the next read.
        let Ok(partition) = partition_request::local(shard, *key) else {
            return;
        };
        waiters.push(partition.watch(*offset, &changed));
        if partition.high_watermark() > *offset {
            return;
        }
    }
    select::first(changed.changed_since(seen), shard.io.sleep_until(deadline)).await;
}
