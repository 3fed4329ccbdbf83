//! The records of one connection that wait to be sent, in batches.
//!
//! ```text
//! append --> open batch of the partition --(full)--> full batches --\
//!                      |                                             >-- ready partitions, in turn --> take
//!                      \--(lingered long enough)--------------------/
//! ```
//! As in Kafka's producer, a batch that may leave but cannot, because the window is full, goes on filling.

use std::collections::VecDeque;

use wire::{BATCH_HEADER_BYTES, BatchBuilder};

/// Records that are sent together.
#[derive(Debug)]
pub struct PendingBatch {
    /// Counts the batches of a partition.
    pub number: u64,
    pub builder: BatchBuilder,
    /// When each record was meant to be sent.
    pub intended_ns: Vec<u64>,
}

#[derive(Default)]
struct Partition {
    open: Option<PendingBatch>,
    /// Whether the open batch may leave although it is not full.
    ripe: bool,
    full: VecDeque<PendingBatch>,
    batches_opened: u64,
    ready: bool,
}

/// Partitions are named by their place among those of the connection.
pub struct Pending {
    partitions: Vec<Partition>,
    batch_bytes_max: usize,
    linger_ns: u64,
    /// Partitions with a batch that may leave, each at most once.
    ready: VecDeque<usize>,
    /// When the open batches become ripe, in that order; those that left meanwhile are still in it.
    lingering: VecDeque<Lingering>,
    records: u64,
    bytes: usize,
}

struct Lingering {
    ripe_ns: u64,
    partition: usize,
    number: u64,
}

impl Pending {
    pub fn new(partitions: usize, batch_bytes_max: usize, linger_ns: u64) -> Self {
        Self {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            batch_bytes_max,
            linger_ns,
            ready: VecDeque::new(),
            lingering: VecDeque::new(),
            records: 0,
            bytes: 0,
        }
    }

    /// How many records wait.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// How many bytes they have.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the batch that the partition's next record goes into.
    pub fn next_number(&self, partition: usize) -> u64 {
        let Partition {
            open,
            batches_opened,
            ..
        } = &self.partitions[partition];
        open.as_ref().map_or(*batches_opened, |batch| batch.number)
    }

    /// Adds a record. All records have the same size.
    pub fn append(&mut self, partition: usize, intended_ns: u64, timestamp_ms: i64, value: &[u8]) {
        let place = &mut self.partitions[partition];
        let batch = place.open.get_or_insert_with(|| {
            let number = place.batches_opened;
            place.batches_opened += 1;
            self.lingering.push_back(Lingering {
                ripe_ns: intended_ns + self.linger_ns,
                partition,
                number,
            });
            PendingBatch {
                number,
                builder: BatchBuilder::new(timestamp_ms),
                intended_ns: Vec::new(),
            }
        });
        let bytes_before = batch.builder.records().len();
        batch.builder.record(timestamp_ms, None, Some(value), &[]);
        batch.intended_ns.push(intended_ns);
        let bytes = batch.builder.records().len();
        let added = bytes - bytes_before;
        self.records += 1;
        self.bytes += added;
        // The next record may have a longer offset than this one.
        if BATCH_HEADER_BYTES + bytes + added + 1 > self.batch_bytes_max {
            place.full.extend(place.open.take());
            place.ripe = false;
            self.make_ready(partition);
        }
    }

    /// Lets the batches leave that have lingered long enough.
    pub fn ripen(&mut self, at_ns: u64) {
        while let Some(first) = self.lingering.front().filter(|one| one.ripe_ns <= at_ns) {
            let (partition, number) = (first.partition, first.number);
            self.lingering.pop_front();
            let place = &mut self.partitions[partition];
            if place.open.as_ref().map(|batch| batch.number) == Some(number) {
                place.ripe = true;
                self.make_ready(partition);
            }
        }
    }

    /// When the next batch becomes ripe, or may have been full meanwhile.
    pub fn next_ripe_ns(&self) -> Option<u64> {
        self.lingering.front().map(|first| first.ripe_ns)
    }

    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes a batch that may leave. Partitions that have one take turns.
    pub fn take(&mut self) -> Option<(usize, PendingBatch)> {
        let partition = self.ready.pop_front()?;
        let place = &mut self.partitions[partition];
        place.ready = false;
        let batch = place.full.pop_front().or_else(|| {
            place.ripe = false;
            place.open.take()
        });
        let batch = batch.expect("a ready partition has a batch that may leave");
        if place.ripe || !place.full.is_empty() {
            self.make_ready(partition);
        }
        self.records -= batch.intended_ns.len() as u64;
        self.bytes -= batch.builder.records().len();
        Some((partition, batch))
    }

    fn make_ready(&mut self, partition: usize) {
        let place = &mut self.partitions[partition];
        if !std::mem::replace(&mut place.ready, true) {
            self.ready.push_back(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER_NS: u64 = 5;

    /// Room for three records of ten bytes in a batch.
    fn pending(partitions: usize) -> Pending {
        Pending::new(partitions, BATCH_HEADER_BYTES + 3 * 17 + 1, LINGER_NS)
    }

    fn append(pending: &mut Pending, partition: usize, times: &[u64]) {
        for at in times {
            pending.append(partition, *at, 0, &[7; 10]);
        }
    }

    fn taken(pending: &mut Pending) -> Option<(usize, u64, Vec<u64>)> {
        let (partition, batch) = pending.take()?;
        Some((partition, batch.number, batch.intended_ns))
    }

    #[test]
    fn a_full_batch_leaves_at_once_and_is_not_over_its_size() {
        let mut pending = pending(1);
        append(&mut pending, 0, &[1, 2]);
        assert!(!pending.is_ready());
        append(&mut pending, 0, &[3]);
        let (_, batch) = pending.take().unwrap();
        assert_eq!(batch.intended_ns, [1, 2, 3]);
        assert!(batch.builder.build().len() <= BATCH_HEADER_BYTES + 3 * 17 + 1);
        assert_eq!((pending.records(), pending.bytes()), (0, 0));
    }

    #[test]
    fn a_batch_leaves_once_its_first_record_has_lingered() {
        let mut pending = pending(2);
        append(&mut pending, 1, &[10, 12]);
        assert_eq!(pending.next_ripe_ns(), Some(15));
        pending.ripen(14);
        assert!(!pending.is_ready());
        pending.ripen(15);
        assert_eq!(taken(&mut pending), Some((1, 0, vec![10, 12])));
        assert_eq!(pending.next_ripe_ns(), None);
    }

    #[test]
    fn without_linger_a_record_leaves_when_it_is_due() {
        let mut pending = Pending::new(1, 1000, 0);
        append(&mut pending, 0, &[10]);
        pending.ripen(10);
        assert_eq!(taken(&mut pending), Some((0, 0, vec![10])));
    }

    #[test]
    fn a_ripe_batch_that_cannot_leave_yet_goes_on_filling() {
        let mut pending = pending(1);
        append(&mut pending, 0, &[10]);
        pending.ripen(15);
        append(&mut pending, 0, &[16, 17]);
        append(&mut pending, 0, &[18]);
        assert_eq!(taken(&mut pending), Some((0, 0, vec![10, 16, 17])));
        // Its ripeness is not inherited by the batch behind it.
        assert_eq!(taken(&mut pending), None);
        pending.ripen(23);
        assert_eq!(taken(&mut pending), Some((0, 1, vec![18])));
    }

    #[test]
    fn a_batch_that_left_full_does_not_ripen_the_next_one() {
        let mut pending = pending(1);
        append(&mut pending, 0, &[1, 2, 3, 4]);
        assert_eq!(taken(&mut pending), Some((0, 0, vec![1, 2, 3])));
        pending.ripen(6);
        assert_eq!(taken(&mut pending), None);
        assert_eq!(pending.next_number(0), 1);
    }

    #[test]
    fn partitions_take_turns() {
        let mut pending = pending(2);
        append(&mut pending, 0, &[1, 2, 3, 4, 5, 6]);
        append(&mut pending, 1, &[7, 8, 9]);
        let order: Vec<_> = std::iter::from_fn(|| taken(&mut pending))
            .map(|(partition, number, _)| (partition, number))
            .collect();
        assert_eq!(order, [(0, 0), (1, 0), (0, 1)]);
    }
}
