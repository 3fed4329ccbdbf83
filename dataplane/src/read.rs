//! Reading from partitions of one shard, for fetches that came to it or to another one.

use crate::errors;
use crate::event::Event;
use crate::io::{Io, Slice};
use crate::log::{Bound, Offset};
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
    pub slices: Vec<Slice>,
    pub bytes: usize,
}

impl ReadOutcome {
    pub fn refused(error: ErrorCode) -> Self {
        ReadOutcome {
            error,
            high_watermark: -1,
            log_start: -1,
            diverging: None,
            slices: Vec::new(),
            bytes: 0,
        }
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
    let mut outcomes = Vec::with_capacity(reads.len());
    for read in reads {
        let outcome = match partition_request::local(shard, read.key) {
            Ok(partition) => read_one(&partition, read, limit)
                .await
                .unwrap_or_else(ReadOutcome::refused),
            Err(error) => ReadOutcome::refused(error),
        };
        limit = limit.after(outcome.bytes);
        outcomes.push(outcome);
    }
    outcomes
}

async fn read_one<I: Io>(
    partition: &Partition<I>,
    read: &PartitionRead,
    limit: ReadLimit,
) -> Result<ReadOutcome, ErrorCode> {
    errors::check_leader_epoch(read.current_leader_epoch, partition.leader_epoch())?;
    let mut outcome = ReadOutcome {
        error: ErrorCode::None,
        high_watermark: partition.high_watermark().0,
        log_start: partition.log_start().0,
        diverging: divergence(partition, read),
        slices: Vec::new(),
        bytes: 0,
    };
    let bytes_max = read.bytes_max.min(limit.bytes_max);
    if outcome.diverging.is_some() || (bytes_max == 0 && !limit.at_least_one) {
        return Ok(outcome);
    }
    let found = partition
        .read(
            Offset(read.offset),
            bytes_max,
            limit.at_least_one,
            Bound::HighWatermark,
        )
        .await;
    let found = found.map_err(|error| {
        if let crate::log::ReadError::Damaged(_) | crate::log::ReadError::Io(_) = &error {
            tracing::error!(partition = %partition.identity(), %error, "a read failed");
        }
        errors::read_error_code(&error)
    })?;
    outcome.bytes = found.bytes;
    outcome.slices = found.slices;
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

/// Waits until one of the partitions has a high watermark beyond the offset given, or the time is over.
pub async fn wait_for_data<I: Io>(
    shard: &Shard<I>,
    positions: &[(PartitionKey, Offset)],
    wait_ms_max: u64,
) {
    let deadline = shard.io.now().after_ms(wait_ms_max);
    let arrived = Rc::new(Event::default());
    let watched: Vec<_> = positions
        .iter()
        .filter_map(|(key, offset)| Some((partition_request::local(shard, *key).ok()?, *offset)))
        .map(|(partition, offset)| {
            let registration = partition.watch(offset, &arrived);
            (partition, offset, registration)
        })
        .collect();
    loop {
        let seen = arrived.generation();
        if watched
            .iter()
            .any(|(partition, offset, _)| partition.high_watermark() > *offset)
        {
            return;
        }
        if !select::first(arrived.changed_since(seen), shard.io.sleep_until(deadline)).await {
            return;
        }
    }
}
