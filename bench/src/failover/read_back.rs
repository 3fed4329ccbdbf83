//! Reads a whole partition again and holds it against what was acknowledged.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use wire::{Batch, RecordIter};

use crate::bounds::bounds;
use crate::connection::Connection;
use crate::fetch::{FetchLimits, Fetched, Fetcher};
use crate::stamp::Stamp;
use crate::topic::Topic;

const FETCH_LIMITS: FetchLimits = FetchLimits {
    partition_bytes: 4 << 20,
    bytes: 4 << 20,
};
/// Answers without records in a row, before the end of the partition.
const EMPTY_FETCHES_MAX: usize = 20;

/// The stamps of a partition, by offset.
pub(super) async fn stamps(
    mut leader: Connection,
    topic: &Topic,
    partition: i32,
) -> Result<BTreeMap<i64, Stamp>> {
    let bounds = bounds(&mut leader, &topic.name, &[partition]).await?;
    let bounds = bounds.first().context("an answer without the partition")?;
    let mut fetcher = Fetcher::new(leader, topic, FETCH_LIMITS)?;
    let mut found = BTreeMap::new();
    let mut next = bounds.earliest;
    let mut empty = 0;
    while next < bounds.latest {
        let start = next;
        let take = |fetched: Fetched<'_>| {
            next = fetched.batches(start, |_, batch| add_stamps(batch, &mut found))?;
            Ok(())
        };
        fetcher
            .fetch([(partition, start)].into_iter(), take)
            .await?;
        empty = if next == start { empty + 1 } else { 0 };
        if empty > EMPTY_FETCHES_MAX {
            bail!("partition {partition} gives no records at offset {next}");
        }
    }
    Ok(found)
}

fn add_stamps(batch: &Batch<'_>, found: &mut BTreeMap<i64, Stamp>) -> Result<()> {
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
    Ok(())
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
