//! Produce requests of an open loop: one batch each, compressed and numbered when it leaves.

use anyhow::Result;
use wire::Compression;

use super::pending::PendingBatch;
use crate::codec::compress;
use crate::idempotence::{ProducerId, sequence_after};
use crate::lanes::{Acks, encode_produce};
use crate::topic::Topic;

/// What is remembered of a batch until it is answered.
pub struct Sent {
    pub bytes: u64,
    pub intended_ns: Vec<u64>,
}

/// Makes requests of batches.
pub struct RequestWriter {
    pub topic: Topic,
    /// The version of Produce.
    pub version: i16,
    pub acks: Acks,
    pub compression: Compression,
    /// A partition's place among these is what the others call it.
    pub partitions: Vec<i32>,
    pub producer: Option<ProducerId>,
    /// The sequence that each partition goes on with.
    pub sequences: Vec<i32>,
    pub next_correlation_id: i32,
}

impl RequestWriter {
    /// Appends the request of a batch. Batches of a partition come in their order.
    pub fn write(
        &mut self,
        requests: &mut Vec<u8>,
        place: usize,
        batch: PendingBatch,
    ) -> Result<Sent> {
        let PendingBatch {
            mut builder,
            intended_ns,
            ..
        } = batch;
        if let Some(producer) = self.producer {
            let sequence = &mut self.sequences[place];
            builder.producer(producer.id, producer.epoch, *sequence);
            *sequence = sequence_after(*sequence, i32::try_from(intended_ns.len())?);
        }
        let payload = compress(self.compression, builder.records())?;
        let bytes = builder.build_compressed(self.compression, &payload);
        let (request, records_at) = encode_produce(
            &self.topic,
            self.version,
            self.partitions[place],
            self.acks,
            self.next_correlation_id,
            bytes.len(),
        )?;
        self.next_correlation_id = self.next_correlation_id.wrapping_add(1);
        requests.extend_from_slice(&request[..records_at]);
        requests.extend_from_slice(&bytes);
        requests.extend_from_slice(&request[records_at..]);
        Ok(Sent {
            bytes: bytes.len() as u64,
            intended_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use wire::messages::produce::ProduceRequest;
    use wire::{Batch, BatchBuilder, Reader, RequestHeader, Uuid, frame_length};

    use super::*;
    use crate::codec;

    const VERSION: i16 = 13;
    const ID: Uuid = Uuid([7; 16]);

    fn writer(compression: Compression, producer: Option<ProducerId>) -> RequestWriter {
        RequestWriter {
            topic: Topic {
                name: "t".to_owned(),
                id: ID,
                leaders: Vec::new(),
            },
            version: VERSION,
            acks: Acks::All,
            compression,
            partitions: vec![4, 9],
            producer,
            sequences: vec![0, 0],
            next_correlation_id: 0,
        }
    }

    fn batch(records: usize) -> PendingBatch {
        let mut builder = BatchBuilder::new(0);
        for _ in 0..records {
            builder.record(0, None, Some(&[b'x'; 200]), &[]);
        }
        PendingBatch {
            number: 0,
            builder,
            intended_ns: vec![1; records],
        }
    }

    /// What a request says: its correlation id, partition, base sequence, and the records of its batch, decompressed.
    fn read(frame: &[u8]) -> (i32, i32, i32, Vec<u8>) {
        let mut reader = Reader::new(frame);
        let header = RequestHeader::decode(&mut reader).unwrap();
        let message = ProduceRequest::decode(&mut reader, VERSION).unwrap();
        let topic = message.topic_data.iter().next().unwrap();
        assert_eq!(topic.topic_id, ID);
        let partition = topic.partition_data.iter().next().unwrap();
        let records = partition.records.unwrap();
        let batch = Batch::first(&records).unwrap();
        assert_eq!(batch.validate().err(), None);
        let decompressed = codec::records(&batch).unwrap().into_owned();
        let sequence = batch.header.base_sequence;
        (
            header.correlation_id,
            partition.index,
            sequence,
            decompressed,
        )
    }

    #[test]
    fn requests_follow_each_other_and_sequences_count_per_partition() {
        let producer = ProducerId { id: 5, epoch: 0 };
        for compression in [Compression::None, Compression::Snappy, Compression::Gzip] {
            let mut writer = writer(compression, Some(producer));
            let mut requests = Vec::new();
            let turns = [(0, 3), (1, 2), (0, 4), (0, 1)];
            for (place, records) in turns {
                let sent = writer.write(&mut requests, place, batch(records)).unwrap();
                assert_eq!(sent.intended_ns.len(), records);
            }
            let mut rest = &requests[..];
            let mut found = Vec::new();
            while let Some((prefix, frames)) = rest.split_first_chunk() {
                let length = frame_length(*prefix, 1 << 20).unwrap();
                let (correlation_id, partition, sequence, records) = read(&frames[..length]);
                assert!(!records.is_empty());
                found.push((correlation_id, partition, sequence));
                rest = &frames[length..];
            }
            assert_eq!(found, [(0, 4, 0), (1, 9, 0), (2, 4, 3), (3, 4, 7)]);
        }
    }

    #[test]
    fn a_compressed_batch_is_smaller_and_holds_the_same_records() {
        let mut requests = Vec::new();
        let mut writer = writer(Compression::Zstd, None);
        let whole = batch(10).builder.records().to_vec();
        let sent = writer.write(&mut requests, 0, batch(10)).unwrap();
        assert!((sent.bytes as usize) < whole.len());
        let (_, _, sequence, records) = read(&requests[4..]);
        assert_eq!((sequence, records), (-1, whole));
    }
}
