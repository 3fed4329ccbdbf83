//! Produce requests that are built once. Sending one again changes its correlation id, its place in the sequence and its CRC, nothing
//! else, so that the generator spends its time in the kernel and not in building.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::{ApiKey, Array, BATCH_HEADER_BYTES, BatchBuilder, Records};

use crate::clock;
use crate::connection::encode_request;
use crate::stamp::{STAMP_BYTES, Stamp};

pub const PRODUCE_VERSION: i16 = 9;

const CORRELATION_ID: Range<usize> = 8..12;
const CRC: Range<usize> = 17..21;
/// A batch's CRC covers everything behind it.
const CHECKED_FROM: usize = 21;

const RECORD_BYTES_DEFAULT: usize = 1024;
/// The most that a small record adds to its value.
const RECORD_OVERHEAD_MAX: usize = 12;
const PRODUCE_TIMEOUT_MS: i32 = 30_000;

/// How many answers a producer wants before a batch counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Acks {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    All,
}

impl Acks {
    fn wire(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// The batch that all lanes send.
#[derive(Debug)]
pub struct Load {
    pub batch: Vec<u8>,
    pub records: u64,
    stamp: usize,
}

impl Load {
    /// A batch of as many records of `record_bytes` as fit into `batch_bytes`.
    pub fn new(record_bytes: Option<usize>, batch_bytes: usize) -> Result<Self> {
        let room = batch_bytes.saturating_sub(BATCH_HEADER_BYTES + RECORD_OVERHEAD_MAX);
        let record_bytes = record_bytes.unwrap_or_else(|| RECORD_BYTES_DEFAULT.min(room));
        ensure!(
            record_bytes >= STAMP_BYTES,
            "a record needs {STAMP_BYTES} bytes, a batch at least {}",
            batch_bytes_min()
        );
        let first = Stamp {
            stream: 0,
            sequence: 0,
        }
        .to_bytes();
        let value = filler(record_bytes, &first);
        let now_ms = clock::wall_clock_ms();
        let mut builder = BatchBuilder::new(now_ms);
        let mut records = 0;
        let mut fitting = builder.clone();
        while BATCH_HEADER_BYTES
            + builder
                .record(now_ms, None, Some(&value), &[])
                .records()
                .len()
            <= batch_bytes
        {
            records += 1;
            fitting.record(now_ms, None, Some(&value), &[]);
        }
        ensure!(
            records > 0,
            "a record of {record_bytes} bytes does not fit a batch of {batch_bytes}"
        );
        let batch = fitting.build();
        let stamp = Stamp::find(&batch).context("a batch starts with a stamp")?;
        Ok(Self {
            batch,
            records,
            stamp,
        })
    }
}

fn batch_bytes_min() -> usize {
    BATCH_HEADER_BYTES + RECORD_OVERHEAD_MAX + STAMP_BYTES
}

/// `start`, then bytes that do not compress.
fn filler(bytes: usize, start: &[u8]) -> Vec<u8> {
    let mut value = start.to_vec();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while value.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.push(state as u8);
    }
    value
}

/// The requests of one connection to one partition.
#[derive(Debug)]
pub struct Lane {
    pub request: Vec<u8>,
    batch: Range<usize>,
    stamp: usize,
    next: Stamp,
}

impl Lane {
    pub fn new(load: &Load, topic: &str, partition: i32, acks: Acks) -> Result<Self> {
        let partitions = [PartitionProduceData {
            index: partition,
            records: Some(Records::external(load.batch.len())),
        }];
        let topics = [TopicProduceData {
            name: topic,
            partition_data: Array::from(&partitions),
            ..TopicProduceData::default()
        }];
        let message = ProduceRequest {
            acks: acks.wire(),
            timeout_ms: PRODUCE_TIMEOUT_MS,
            topic_data: Array::from(&topics),
            ..ProduceRequest::default()
        };
        let mut request = Vec::new();
        let splices = encode_request(
            &mut request,
            ApiKey::Produce,
            PRODUCE_VERSION,
            0,
            |writer| message.encode(writer, PRODUCE_VERSION),
        )?;
        let start = splices
            .first()
            .context("a produce request holds records")?
            .position;
        request.splice(start..start, load.batch.iter().copied());
        // No two lanes share a stream, not even those of different runs.
        let stream = RandomState::new().build_hasher().finish();
        let batch = start..start + load.batch.len();
        Ok(Self {
            request,
            batch,
            stamp: load.stamp,
            next: Stamp {
                stream,
                sequence: 0,
            },
        })
    }

    /// Makes `request` the next one of this lane.
    pub fn advance(&mut self, correlation_id: i32) {
        self.request[CORRELATION_ID].copy_from_slice(&correlation_id.to_be_bytes());
        let batch = &mut self.request[self.batch.clone()];
        batch[self.stamp..self.stamp + STAMP_BYTES].copy_from_slice(&self.next.to_bytes());
        let crc = crc32c::crc32c(&batch[CHECKED_FROM..]);
        batch[CRC].copy_from_slice(&crc.to_be_bytes());
        self.next.sequence += 1;
    }
}

#[cfg(test)]
mod tests {
    use wire::{Batch, Reader, RequestHeader};

    use super::*;

    #[test]
    fn a_batch_is_filled_but_never_over_its_size() {
        for (record_bytes, batch_bytes) in [
            (None, 200),
            (None, 1024),
            (None, 65_536),
            (Some(100), 65_536),
            (Some(24), 1000),
        ] {
            let load = Load::new(record_bytes, batch_bytes).unwrap();
            let spare = batch_bytes - load.batch.len();
            let record = load.batch.len() / load.records as usize;
            assert!(
                spare < record,
                "{record_bytes:?} {batch_bytes}: {spare} bytes left over"
            );
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        assert!(Load::new(None, 50).is_err());
        assert!(Load::new(Some(8), 1000).is_err());
        assert!(Load::new(Some(1000), 1000).is_err());
    }

    #[test]
    fn every_advance_gives_a_valid_request_with_the_next_sequence() {
        let load = Load::new(Some(40), 500).unwrap();
        let mut lane = Lane::new(&load, "t", 3, Acks::All).unwrap();
        for sequence in 0..3 {
            lane.advance(sequence);
            let length = i32::from_be_bytes(*lane.request.first_chunk().unwrap());
            assert_eq!(length as usize, lane.request.len() - 4);
            let mut reader = Reader::new(&lane.request[4..]);
            assert_eq!(
                RequestHeader::decode(&mut reader).unwrap().correlation_id,
                sequence
            );
            let message = ProduceRequest::decode(&mut reader, PRODUCE_VERSION).unwrap();
            let topic = message.topic_data.iter().next().unwrap();
            let partition = topic.partition_data.iter().next().unwrap();
            assert_eq!((message.acks, topic.name, partition.index), (-1, "t", 3));
            let records = partition.records.unwrap();
            let batch = Batch::first(&records).unwrap();
            assert_eq!(batch.validate(), Ok(()));
            let mut records = wire::RecordIter::new(batch.records.contiguous().unwrap());
            let stamp = Stamp::read(records.next().unwrap().unwrap().value.unwrap()).unwrap();
            assert_eq!(stamp.sequence, sequence as u64);
        }
    }
}
