//! Builds record batches as a producer does: for the load generator and for tests. The broker itself writes none.

use crate::batch_header::{BATCH_HEADER_BYTES, BatchAttributes, BatchHeader, Compression};
use crate::record::write_varlong;

/// Collects records into one batch.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    header: BatchHeader,
    records: Vec<u8>,
    body: Vec<u8>,
}

impl BatchBuilder {
    /// A batch without a producer id whose base offset is 0, as producers send it.
    pub fn new(base_timestamp: i64) -> Self {
        let header = BatchHeader {
            base_offset: 0,
            batch_length: 0,
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: BatchAttributes::default(),
            last_offset_delta: -1,
            base_timestamp,
            max_timestamp: base_timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            records_count: 0,
        };
        Self {
            header,
            records: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Makes it the batch of an idempotent producer.
    pub fn producer(
        &mut self,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
    ) -> &mut Self {
        self.header.producer_id = producer_id;
        self.header.producer_epoch = producer_epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Sets attribute bits besides the codec, such as transactional.
    pub fn attributes(&mut self, attributes: BatchAttributes) -> &mut Self {
        self.header.attributes = attributes;
        self
    }

    /// Has the header claim a max timestamp that the records so far need not have, as some producers do.
    pub fn claim_max_timestamp(&mut self, claimed: i64) -> &mut Self {
        self.header.max_timestamp = claimed;
        self
    }

    pub fn record(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> &mut Self {
        let body = &mut self.body;
        body.clear();
        body.push(0);
        write_varlong(body, timestamp - self.header.base_timestamp);
        write_varlong(body, i64::from(self.header.records_count));
        write_nullable(body, key);
        write_nullable(body, value);
        write_varlong(body, headers.len() as i64);
        for (key, value) in headers {
            write_nullable(body, Some(key.as_bytes()));
            write_nullable(body, *value);
        }
        write_varlong(&mut self.records, body.len() as i64);
        self.records.extend_from_slice(body);
        self.header.records_count += 1;
        self.header.last_offset_delta += 1;
        self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        self
    }

    /// The records so far, which a codec turns into the payload of `build_compressed`.
    pub fn records(&self) -> &[u8] {
        &self.records
    }

    /// The batch with its records as they are.
    pub fn build(&self) -> Vec<u8> {
        self.build_compressed(Compression::None, &self.records)
    }

    /// The batch with `payload`, the compressed form of `records`.
    ///
    /// # Panics
    /// If the batch would be longer than its length field can say.
    pub fn build_compressed(&self, compression: Compression, payload: &[u8]) -> Vec<u8> {
        let mut header = self.header;
        header.attributes.0 |= compression as i16;
        let length = BATCH_HEADER_BYTES - 12 + payload.len();
        header.batch_length = i32::try_from(length).expect("a batch is shorter than 2 GiB");
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }
}

fn write_nullable(bytes: &mut Vec<u8>, value: Option<&[u8]>) {
    write_varlong(bytes, value.map_or(-1, |value| value.len() as i64));
    bytes.extend_from_slice(value.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, RecordIter, Records};

    #[test]
    fn what_was_put_in_is_walked_out() {
        let mut builder = BatchBuilder::new(100);
        builder.record(90, Some(b"k"), None, &[("a", Some(b"1")), ("b", None)]);
        builder.record(110, None, Some(&[7; 300]), &[]);
        let bytes = builder.producer(5, 1, 10).build();
        let records = Records::from_slice(&bytes);
        let batch = Batch::first(&records).unwrap();
        assert_eq!(batch.validate().unwrap().unwrap().max_timestamp(), 110);
        let walked: Vec<_> = RecordIter::new(batch.records.contiguous().unwrap())
            .map(Result::unwrap)
            .collect();
        assert_eq!(walked.len(), 2);
        assert_eq!(
            (walked[0].timestamp_delta, walked[0].key, walked[0].value),
            (-10, Some(&b"k"[..]), None)
        );
        let headers: Vec<_> = walked[0]
            .headers
            .clone()
            .map(|header| (header.key, header.value))
            .collect();
        assert_eq!(headers, [("a", Some(&b"1"[..])), ("b", None)]);
        assert_eq!(
            (walked[1].offset_delta, walked[1].value),
            (1, Some(&[7; 300][..]))
        );
        assert_eq!(batch.header.max_timestamp, 110);
    }

    #[test]
    fn a_compressed_payload_is_carried_as_it_is() {
        let mut builder = BatchBuilder::new(0);
        builder.record(0, None, Some(b"x"), &[]);
        let bytes = builder.build_compressed(Compression::Zstd, b"payload");
        let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
        assert_eq!(batch.validate(), Ok(None));
        assert_eq!(batch.header.attributes.compression(), Ok(Compression::Zstd));
        assert_eq!(batch.records.to_vec(), b"payload");
    }
}
