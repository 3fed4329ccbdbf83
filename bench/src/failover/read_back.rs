//! Reads a whole partition again and holds it against what was acknowledged.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use wire::{ApiKey, Array, BatchError, Reader, RecordIter, Records, Writer};

use crate::connection::Connection;
use crate::stamp::Stamp;
use crate::topic;

const FETCH_VERSION: i16 = 12;
const FETCH_WAIT_MS: i32 = 500;
const FETCH_BYTES_MAX: i32 = 4 << 20;
const CONSUMER_REPLICA_ID: i32 = -1;
/// Asks for no fetch session (KIP-227).
const NO_SESSION_EPOCH: i32 = -1;
/// Answers without records in a row, before the end of the partition.
const EMPTY_FETCHES_MAX: usize = 20;

/// The stamps of a partition, by offset.
pub(super) async fn stamps(
    leader: &mut Connection,
    topic: &str,
    partition: i32,
) -> Result<BTreeMap<i64, Stamp>> {
    let bounds = topic::bounds(leader, topic, &[partition]).await?;
    let bounds = bounds.first().context("an answer without the partition")?;
    let mut found = BTreeMap::new();
    let mut next = bounds.earliest;
    let mut empty = 0;
    while next < bounds.latest {
        let end = fetch(leader, topic, partition, next, &mut found).await?;
        empty = if end == next { empty + 1 } else { 0 };
        if empty > EMPTY_FETCHES_MAX {
            bail!("partition {partition} gives no records at offset {next}");
        }
        next = end;
    }
    Ok(found)
}

/// Adds what one fetch brings; returns the offset after it.
async fn fetch(
    leader: &mut Connection,
    topic: &str,
    partition: i32,
    offset: i64,
    found: &mut BTreeMap<i64, Stamp>,
) -> Result<i64> {
    let partitions = [FetchPartition {
        partition,
        fetch_offset: offset,
        partition_max_bytes: FETCH_BYTES_MAX,
        ..FetchPartition::default()
    }];
    let topics = [FetchTopic {
        topic,
        partitions: Array::from(&partitions),
        ..FetchTopic::default()
    }];
    let request = FetchRequest {
        replica_id: CONSUMER_REPLICA_ID,
        max_wait_ms: FETCH_WAIT_MS,
        min_bytes: 1,
        max_bytes: FETCH_BYTES_MAX,
        session_epoch: NO_SESSION_EPOCH,
        topics: Array::from(&topics),
        ..FetchRequest::default()
    };
    let decode = |answer: &mut Reader<'_>| {
        let response = FetchResponse::decode(answer, FETCH_VERSION)?;
        topic::check(response.error_code)?;
        let mut partitions = response
            .responses
            .iter()
            .flat_map(|topic| topic.partitions.iter());
        let data = partitions.next().context("an answer without a partition")?;
        topic::check(data.error_code)?;
        match data.records {
            Some(records) => take(&records, offset, found),
            None => Ok(offset),
        }
    };
    let encode = |writer: &mut Writer<'_>| request.encode(writer, FETCH_VERSION);
    leader
        .call(ApiKey::Fetch, FETCH_VERSION, encode, decode)
        .await
}

fn take(records: &Records<'_>, offset: i64, found: &mut BTreeMap<i64, Stamp>) -> Result<i64> {
    let mut next = offset;
    for batch in records.batches() {
        let batch = match batch {
            Ok(batch) => batch,
            // A broker may cut the last batch at the byte limit.
            Err(BatchError::TooShort { .. }) if next > offset => break,
            Err(error) => return Err(error.into()),
        };
        batch.validate()?;
        let bytes = batch
            .records
            .contiguous()
            .context("the batch lies in one piece")?;
        for record in RecordIter::new(bytes) {
            let record = record?;
            let at = batch.header.base_offset + i64::from(record.offset_delta);
            if let Some(stamp) = record.value.and_then(Stamp::read) {
                found.insert(at, stamp);
            }
        }
        next = batch.header.last_offset() + 1;
    }
    Ok(next)
}

/// Every acknowledged record is there, at its offset.
pub(super) fn check(
    partition: i32,
    acknowledged: &[(i64, Stamp)],
    found: &BTreeMap<i64, Stamp>,
) -> Result<()> {
    let is_missing = |(offset, stamp): &&(i64, Stamp)| found.get(offset) != Some(stamp);
    let lost: Vec<_> = acknowledged.iter().filter(is_missing).collect();
    match lost.first() {
        None => Ok(()),
        Some((offset, _)) => bail!(
            "{} acknowledged records are lost: the first is offset {offset} of partition {partition}",
            lost.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(offsets_and_sequences: &[(i64, u64)]) -> Vec<(i64, Stamp)> {
        let stamp = |sequence| Stamp {
            stream: 1,
            sequence,
        };
        offsets_and_sequences
            .iter()
            .map(|(offset, sequence)| (*offset, stamp(*sequence)))
            .collect()
    }

    #[test]
    fn a_record_that_is_missing_or_another_is_lost() {
        let acknowledged = acknowledged(&[(0, 0), (1, 1), (3, 2)]);
        let mut found: BTreeMap<_, _> = acknowledged.iter().copied().collect();
        found.insert(2, acknowledged[0].1);
        assert!(check(0, &acknowledged, &found).is_ok());
        found.insert(1, acknowledged[2].1);
        found.remove(&3);
        let complaint = check(0, &acknowledged, &found).unwrap_err().to_string();
        assert_eq!(
            complaint,
            "2 acknowledged records are lost: the first is offset 1 of partition 0"
        );
    }

    #[test]
    fn an_offset_that_was_given_to_two_records_is_a_loss() {
        let acknowledged = acknowledged(&[(0, 0), (0, 1)]);
        let found = acknowledged.iter().copied().collect();
        assert!(check(0, &acknowledged, &found).is_err());
    }
}
