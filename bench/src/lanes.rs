//! Produce requests that are built once. Sending one again changes its correlation id, its place in the sequence and its CRC, nothing
//! else, so that the generator spends its time in the kernel and not in building or compressing.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::{ApiKey, Array, BATCH_HEADER_BYTES, BatchBuilder, Records, Writer};

use crate::clock;
use crate::codec::{Codec, compress};
use crate::connection::encode_request;
use crate::filler::Filler;
use crate::idempotence::{ProducerId, sequence_after};
use crate::stamp::{STAMP_BYTES, Stamp, random_stream};
use crate::topic::Topic;

const CORRELATION_ID: Range<usize> = 8..12;
const CRC: Range<usize> = 17..21;
/// A batch's CRC covers everything behind it.
const CHECKED_FROM: usize = 21;
const PRODUCER_ID: Range<usize> = 43..51;
const PRODUCER_EPOCH: Range<usize> = 51..53;
const BASE_SEQUENCE: Range<usize> = 53..57;

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
    /// Where the stamp lies; nowhere in a compressed batch.
    stamp: Option<usize>,
}

impl Load {
    /// A batch of as many records of `record_bytes` as fit into `batch_bytes` before they are compressed.
    pub fn new(record_bytes: Option<usize>, batch_bytes: usize, codec: Codec) -> Result<Self> {
        let record_bytes = record_bytes_fitting(record_bytes, batch_bytes, STAMP_BYTES)?;
        let now_ms = clock::wall_clock_ms();
        let mut filler = Filler::new(record_bytes);
        let mut builder = BatchBuilder::new(now_ms);
        let mut fitting = builder.clone();
        let mut records = 0;
        loop {
            let mut value = filler.next(record_bytes).to_vec();
            if records == 0 {
                value[..STAMP_BYTES].copy_from_slice(&Stamp::UNSEQUENCED.to_bytes());
            }
            builder.record(now_ms, None, Some(&value), &[]);
            if BATCH_HEADER_BYTES + builder.records().len() > batch_bytes {
                break;
            }
            records += 1;
            fitting.record(now_ms, None, Some(&value), &[]);
        }
        ensure!(
            records > 0,
            "a record of {record_bytes} bytes does not fit a batch of {batch_bytes}"
        );
        let compression = codec.into();
        let payload = compress(compression, fitting.records())?;
        let batch = fitting.build_compressed(compression, &payload);
        let stamp = match codec {
            Codec::None => Some(Stamp::find(&batch).context("a batch starts with a stamp")?),
            Codec::Gzip | Codec::Snappy | Codec::Lz4 | Codec::Zstd => None,
        };
        Ok(Self {
            batch,
            records,
            stamp,
        })
    }
}

/// The size of a record's value: what was asked for, or what is usual and fits.
pub fn record_bytes_fitting(
    record_bytes: Option<usize>,
    batch_bytes: usize,
    record_bytes_min: usize,
) -> Result<usize> {
    let record_bytes =
        record_bytes.unwrap_or_else(|| RECORD_BYTES_DEFAULT.min(record_room(batch_bytes)));
    ensure!(
        record_bytes >= record_bytes_min,
        "a record needs {record_bytes_min} bytes, a batch at least {}",
        BATCH_HEADER_BYTES + RECORD_OVERHEAD_MAX + record_bytes_min
    );
    Ok(record_bytes)
}

/// The largest value that surely fits a batch.
pub fn record_room(batch_bytes: usize) -> usize {
    batch_bytes.saturating_sub(BATCH_HEADER_BYTES + RECORD_OVERHEAD_MAX)
}

/// A produce request that lacks its records, and where in it these belong.
pub fn encode_produce(
    topic: &Topic,
    version: i16,
    partition: i32,
    acks: Acks,
    correlation_id: i32,
    batch_bytes: usize,
) -> Result<(Vec<u8>, usize)> {
    let partitions = [PartitionProduceData {
        index: partition,
        records: Some(Records::external(batch_bytes)),
    }];
    let topics = [TopicProduceData {
        name: &topic.name,
        topic_id: topic.id,
        partition_data: Array::from(&partitions),
    }];
    let message = ProduceRequest {
        acks: acks.wire(),
        timeout_ms: PRODUCE_TIMEOUT_MS,
        topic_data: Array::from(&topics),
        ..ProduceRequest::default()
    };
    let mut request = Vec::new();
    let encode = |writer: &mut Writer<'_>| message.encode(writer, version);
    let splices = encode_request(
        &mut request,
        ApiKey::Produce,
        version,
        correlation_id,
        encode,
    )?;
    let splice = splices.first().context("a produce request holds records")?;
    Ok((request, splice.position))
}

/// What all lanes of a connection have in common.
#[derive(Clone, Copy)]
pub struct Route<'a> {
    pub topic: &'a Topic,
    /// The version of Produce.
    pub version: i16,
    pub acks: Acks,
    pub producer: Option<ProducerId>,
}

/// The requests of one connection to one partition.
#[derive(Debug)]
pub struct Lane {
    pub request: Vec<u8>,
    batch: Range<usize>,
    stamp: Option<usize>,
    next: Stamp,
    /// The sequence of the next batch, if the producer is idempotent.
    next_sequence: Option<i32>,
    records: i32,
}

impl Lane {
    pub fn new(load: &Load, route: &Route<'_>, partition: i32) -> Result<Self> {
        let Route {
            topic,
            version,
            acks,
            producer,
        } = *route;
        let (mut request, start) =
            encode_produce(topic, version, partition, acks, 0, load.batch.len())?;
        request.splice(start..start, load.batch.iter().copied());
        let batch = start..start + load.batch.len();
        if let Some(producer) = producer {
            let batch = &mut request[batch.clone()];
            batch[PRODUCER_ID].copy_from_slice(&producer.id.to_be_bytes());
            batch[PRODUCER_EPOCH].copy_from_slice(&producer.epoch.to_be_bytes());
        }
        Ok(Self {
            request,
            batch,
            stamp: load.stamp,
            // No two lanes share a stream, not even those of different runs.
            next: Stamp {
                stream: random_stream(),
                sequence: 0,
            },
            next_sequence: producer.map(|_| 0),
            records: i32::try_from(load.records)?,
        })
    }

    /// Makes `request` the next one of this lane.
    pub fn advance(&mut self, correlation_id: i32) {
        self.request[CORRELATION_ID].copy_from_slice(&correlation_id.to_be_bytes());
        let batch = &mut self.request[self.batch.clone()];
        if let Some(stamp) = self.stamp {
            batch[stamp..stamp + STAMP_BYTES].copy_from_slice(&self.next.to_bytes());
            self.next.sequence += 1;
        }
        if let Some(sequence) = self.next_sequence {
            batch[BASE_SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
            self.next_sequence = Some(sequence_after(sequence, self.records));
        }
        let crc = crc32c::crc32c(&batch[CHECKED_FROM..]);
        batch[CRC].copy_from_slice(&crc.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use wire::{Batch, Reader, RequestHeader, Uuid};

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
            let load = Load::new(record_bytes, batch_bytes, Codec::None).unwrap();
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
        assert!(Load::new(None, 50, Codec::None).is_err());
        assert!(Load::new(Some(8), 1000, Codec::None).is_err());
        assert!(Load::new(Some(1000), 1000, Codec::None).is_err());
    }

    const VERSION: i16 = 9;

    fn topic() -> Topic {
        Topic {
            name: "t".to_owned(),
            id: Uuid::ZERO,
            leaders: Vec::new(),
        }
    }

    /// Advances a lane of partition 3 and hands the request and its only batch to `look`.
    fn advanced(lane: &mut Lane, correlation_id: i32, look: impl FnOnce(&Batch<'_>)) {
        lane.advance(correlation_id);
        let length = i32::from_be_bytes(*lane.request.first_chunk().unwrap());
        assert_eq!(length as usize, lane.request.len() - 4);
        let mut reader = Reader::new(&lane.request[4..]);
        let header = RequestHeader::decode(&mut reader).unwrap();
        assert_eq!(header.correlation_id, correlation_id);
        let message = ProduceRequest::decode(&mut reader, VERSION).unwrap();
        let topic = message.topic_data.iter().next().unwrap();
        let partition = topic.partition_data.iter().next().unwrap();
        assert_eq!((message.acks, topic.name, partition.index), (-1, "t", 3));
        let records = partition.records.unwrap();
        let batch = Batch::first(&records).unwrap();
        assert_eq!(batch.validate().err(), None);
        look(&batch);
    }

    fn lane(codec: Codec, producer: Option<ProducerId>) -> (Load, Lane) {
        let load = Load::new(Some(40), 500, codec).unwrap();
        let topic = topic();
        let route = Route {
            topic: &topic,
            version: VERSION,
            acks: Acks::All,
            producer,
        };
        let lane = Lane::new(&load, &route, 3).unwrap();
        (load, lane)
    }

    #[test]
    fn every_advance_gives_a_valid_request_with_the_next_sequence() {
        let (_, mut lane) = lane(Codec::None, None);
        for sequence in 0..3 {
            advanced(&mut lane, sequence, |batch| {
                assert_eq!(batch.header.producer_id, -1);
                let bytes = batch.records.contiguous().unwrap();
                let first = wire::RecordIter::new(bytes).next().unwrap().unwrap();
                let stamp = Stamp::read(first.value.unwrap()).unwrap();
                assert_eq!(stamp.sequence, sequence as u64);
            });
        }
    }

    #[test]
    fn an_idempotent_lane_counts_records_whatever_the_codec() {
        let producer = ProducerId { id: 77, epoch: 2 };
        for codec in [Codec::None, Codec::Zstd] {
            let (load, mut lane) = lane(codec, Some(producer));
            for turn in 0..3 {
                advanced(&mut lane, turn, |batch| {
                    let header = batch.header;
                    assert_eq!((header.producer_id, header.producer_epoch), (77, 2));
                    assert_eq!(header.base_sequence, turn * load.records as i32);
                    assert_eq!(i64::from(header.records_count), load.records as i64);
                });
            }
        }
    }
}
