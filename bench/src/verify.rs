//! Checks what a consumer is given: offsets without gaps, batches that are whole, and every stream of batches complete, in order and once.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use wire::{Batch, RecordIter};

use crate::codec;
use crate::stamp::Stamp;

#[derive(Debug, Default)]
pub struct Verifier {
    /// The sequence that each stream of each partition goes on with.
    next: HashMap<(i32, u64), u64>,
}

impl Verifier {
    /// Checks one batch of a partition that should start at `offset`. Where the topic's start was deleted, streams may begin anywhere.
    pub fn check(
        &mut self,
        partition: i32,
        offset: i64,
        from_start: bool,
        batch: &Batch<'_>,
    ) -> Result<()> {
        self.check_batch(partition, offset, from_start, batch)
            .with_context(|| format!("partition {partition}, offset {}", batch.header.base_offset))
    }

    fn check_batch(
        &mut self,
        partition: i32,
        offset: i64,
        from_start: bool,
        batch: &Batch<'_>,
    ) -> Result<()> {
        ensure!(
            batch.header.base_offset == offset,
            "expected offset {offset}"
        );
        batch.validate()?;
        let stamp = first_stamp(batch)?;
        if stamp == Stamp::UNSEQUENCED {
            return Ok(());
        }
        let stream = (partition, stamp.stream);
        match self.next.get(&stream).copied() {
            None if from_start && stamp.sequence > 0 => {
                bail!("a gap: batches 0 to {} are missing", stamp.sequence - 1)
            }
            Some(next) if stamp.sequence < next => bail!("a duplicate of batch {}", stamp.sequence),
            Some(next) if stamp.sequence > next => bail!(
                "a gap: batches {next} to {} are missing",
                stamp.sequence - 1
            ),
            _ => self.next.insert(stream, stamp.sequence + 1),
        };
        Ok(())
    }
}

/// Reads the whole batch, because a damaged payload may fail at its end only.
fn first_stamp(batch: &Batch<'_>) -> Result<Stamp> {
    let records = codec::records(batch)?;
    let mut walk = RecordIter::new(&records);
    let first = walk.next().context("a batch without records")??;
    let value = first.value.unwrap_or_default();
    let stamp = Stamp::read(value).context("not written by millrace-bench produce")?;
    let mut count = 1;
    for record in walk {
        record?;
        count += 1;
    }
    ensure!(
        count == batch.header.records_count,
        "{count} records instead of {}",
        batch.header.records_count
    );
    Ok(stamp)
}

#[cfg(test)]
mod tests {
    use wire::{BatchBuilder, Records, stamp_offset_and_epoch};

    use super::*;

    fn batch(offset: i64, stream: u64, sequence: u64) -> Vec<u8> {
        let mut builder = BatchBuilder::new(0);
        let mut bytes = builder
            .record(0, None, Some(&Stamp { stream, sequence }.to_bytes()), &[])
            .build();
        stamp_offset_and_epoch(&mut bytes, offset, 0);
        bytes
    }

    /// Checks batches of one record each, one after the other, and returns the first complaint.
    fn complaint(from_start: bool, batches: &[Vec<u8>]) -> Option<String> {
        let mut verifier = Verifier::default();
        let check = |(offset, bytes): (usize, &Vec<u8>)| {
            let records = Records::from_slice(bytes);
            let batch = Batch::first(&records).unwrap();
            verifier.check(0, offset as i64, from_start, &batch)
        };
        batches
            .iter()
            .enumerate()
            .try_for_each(check)
            .err()
            .map(|error| format!("{error:#}"))
    }

    #[test]
    fn interleaved_streams_are_each_complete() {
        let batches = [
            batch(0, 1, 0),
            batch(1, 2, 0),
            batch(2, 1, 1),
            batch(3, 2, 1),
        ];
        assert_eq!(complaint(true, &batches), None);
    }

    #[test]
    fn gaps_and_duplicates_are_told_apart() {
        let gap = complaint(true, &[batch(0, 1, 0), batch(1, 1, 2)]);
        assert_eq!(
            gap.as_deref(),
            Some("partition 0, offset 1: a gap: batches 1 to 1 are missing")
        );
        let duplicate = complaint(true, &[batch(0, 1, 0), batch(1, 1, 0)]);
        assert_eq!(
            duplicate.as_deref(),
            Some("partition 0, offset 1: a duplicate of batch 0")
        );
    }

    #[test]
    fn a_stream_may_begin_late_only_where_the_topic_does() {
        assert!(complaint(true, &[batch(0, 1, 5)]).is_some());
        assert_eq!(complaint(false, &[batch(0, 1, 5), batch(1, 1, 6)]), None);
    }

    #[test]
    fn wrong_offsets_damage_and_foreign_records_are_found() {
        assert!(complaint(true, &[batch(7, 1, 0)]).is_some());
        let mut damaged = batch(0, 1, 0);
        *damaged.last_mut().unwrap() ^= 1;
        assert!(complaint(true, &[damaged]).is_some());
        let foreign = BatchBuilder::new(0)
            .record(0, None, Some(b"hello"), &[])
            .build();
        assert!(complaint(true, &[foreign]).is_some());
    }
}
