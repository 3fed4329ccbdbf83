//! Consumers that follow the end of a topic and measure how long each record of this run took to reach them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use wire::{Batch, RecordIter};

use crate::bounds;
use crate::clock::now;
use crate::codec;
use crate::connection::Connection;
use crate::fetch::{FetchLimits, Fetched, Fetcher};
use crate::run::{Run, latency_histogram};
use crate::shares::Share;
use crate::stamp::TimedStamp;
use crate::topic::Topic;

/// How long the last records may take to be delivered, once all have been acknowledged.
const DELIVERY_WAIT: Duration = Duration::from_secs(5);

const LIMITS: FetchLimits = FetchLimits {
    partition_bytes: 1 << 20,
    bytes: 16 << 20,
};

/// What the connections of one reader have received together.
#[derive(Default)]
pub struct Reader {
    records: Cell<u64>,
}

/// What followers share.
pub struct Delivery<'a> {
    pub run: &'a Run,
    /// The records of this run carry it.
    pub stream: u64,
    /// Set when everything has been acknowledged.
    pub acknowledged_at: Cell<Option<Instant>>,
    pub latency_us: RefCell<Histogram<u64>>,
}

impl<'a> Delivery<'a> {
    pub fn new(run: &'a Run, stream: u64) -> Self {
        Self {
            run,
            stream,
            acknowledged_at: Cell::new(None),
            latency_us: RefCell::new(latency_histogram()),
        }
    }
}

/// One connection of a reader.
pub struct Follower {
    fetcher: Fetcher,
    positions: BTreeMap<i32, i64>,
}

impl Follower {
    /// Starts at the present end, so that only records of runs that begin later are seen.
    pub async fn open(topic: &Topic, share: &Share) -> Result<Self> {
        let mut connection = Connection::open(&share.address).await?;
        let bounds = bounds::bounds(&mut connection, &topic.name, &share.partitions).await?;
        let ends = bounds.iter().map(|bounds| bounds.latest);
        Ok(Self {
            positions: share.partitions.iter().copied().zip(ends).collect(),
            fetcher: Fetcher::new(connection, topic, LIMITS)?,
        })
    }

    /// Ends once its reader has received every record that was acknowledged.
    pub async fn follow(mut self, delivery: &Delivery<'_>, reader: &Reader) -> Result<()> {
        let mut last_progress = now();
        loop {
            let before = reader.records.get();
            self.fetch(delivery, reader).await?;
            let received = reader.records.get();
            if received > before {
                last_progress = now();
                delivery.run.answered();
            }
            let Some(acknowledged_at) = delivery.acknowledged_at.get() else {
                continue;
            };
            let acknowledged = delivery.run.counts.borrow().records;
            if received >= acknowledged {
                ensure!(
                    received == acknowledged,
                    "{received} records were delivered, {acknowledged} acknowledged"
                );
                return Ok(());
            }
            if now().duration_since(last_progress.max(acknowledged_at)) > DELIVERY_WAIT {
                bail!(
                    "{} of {acknowledged} acknowledged records were not delivered",
                    acknowledged - received
                );
            }
        }
    }

    async fn fetch(&mut self, delivery: &Delivery<'_>, reader: &Reader) -> Result<()> {
        let Follower { fetcher, positions } = self;
        let asked: Vec<_> = positions
            .iter()
            .map(|(index, next)| (*index, *next))
            .collect();
        let take = |fetched: Fetched<'_>| {
            let index = fetched.partition;
            ensure!(
                fetched.in_range,
                "partition {index}: records were deleted before they were read"
            );
            let next = positions
                .get_mut(&index)
                .with_context(|| format!("partition {index} was not asked for"))?;
            *next = fetched.batches(*next, |_, batch| {
                let records = count_batch(batch, delivery)?;
                reader.records.set(reader.records.get() + records);
                Ok(())
            })?;
            Ok(())
        };
        fetcher.fetch(asked.into_iter(), take).await
    }
}

/// Counts the latencies of a batch's records and returns how many there are. Records of others are passed over.
fn count_batch(batch: &Batch<'_>, delivery: &Delivery<'_>) -> Result<u64> {
    let records = codec::records(batch)?;
    // By now all records of the batch are here.
    let at_ns = delivery.run.elapsed_ns();
    let mut latency_us = delivery.latency_us.borrow_mut();
    let mut count = 0;
    for record in RecordIter::new(&records) {
        let stamp = record?.value.and_then(TimedStamp::read);
        let Some(found) = stamp.filter(|found| found.stamp.stream == delivery.stream) else {
            continue;
        };
        latency_us.saturating_record(at_ns.saturating_sub(found.intended_ns) / 1000);
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use wire::{BatchBuilder, Records};

    use super::*;
    use crate::stamp::Stamp;

    #[test]
    fn only_records_of_this_run_are_counted() {
        let run = Run::unlimited();
        let delivery = Delivery::new(&run, 7);
        let value = |stream| {
            let stamp = Stamp {
                stream,
                sequence: 0,
            };
            let intended_ns = 0;
            TimedStamp { stamp, intended_ns }.to_bytes()
        };
        let mut builder = BatchBuilder::new(0);
        for value in [&value(7)[..], &value(8), b"foreign", &value(7)] {
            builder.record(0, None, Some(value), &[]);
        }
        let bytes = builder.build();
        let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
        assert_eq!(count_batch(&batch, &delivery).unwrap(), 2);
        assert_eq!(delivery.latency_us.borrow().len(), 2);
    }
}
