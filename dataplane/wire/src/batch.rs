//! A record batch where it lies: found, checked, stamped. Only format version 2, the only one that the broker stores.
//!
//! Produce checks what clients send, records included, the log what it finds on disk.

use thiserror::Error;

use crate::batch_header::{BATCH_HEADER_BYTES, BatchHeader, Compression, LOG_APPEND_TIME};
use crate::{ErrorCode, RecordError, RecordTimes, RecordWalk, Records};

const CRC_START: usize = 21;
/// The magic byte is the last that all formats share.
const MAGIC_END: usize = 17;
const MAGIC: i8 = 2;

/// Why bytes are not a batch that a log may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// A batch that ends before its header or its length says.
    #[error("a batch of {wanted} bytes where {left} are left")]
    TooShort { wanted: usize, left: usize },
    /// A length that not even the header fits in.
    #[error("a batch length of {0}")]
    WrongLength(i32),
    #[error("magic {0} where only 2 is served")]
    WrongMagic(i8),
    #[error("CRC-32C {computed:#010x} where the batch says {stored:#010x}")]
    WrongCrc { stored: u32, computed: u32 },
    /// No records, or offsets that do not match their number.
    #[error("{count} records with a last offset delta of {last_offset_delta}")]
    WrongCount { count: i32, last_offset_delta: i32 },
    #[error("compression codec {0}")]
    UnknownCompression(u8),
    /// Only brokers write control records.
    #[error("a control batch from a client")]
    ControlBatch,
    #[error("a base sequence of {0} from an idempotent producer")]
    NegativeSequence(i32),
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl BatchError {
    /// What Kafka answers to a producer of such a batch.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::WrongLength(_) | Self::WrongCrc { .. } => ErrorCode::CorruptMessage,
            // Formats of old, which the versions of Produce that are served do not carry.
            Self::WrongMagic(0 | 1) => ErrorCode::InvalidRecord,
            Self::WrongMagic(_) => ErrorCode::CorruptMessage,
            Self::UnknownCompression(_) => ErrorCode::UnsupportedCompressionType,
            // Kafka finds no batch at all in the bytes.
            Self::TooShort { .. }
            | Self::WrongCount { .. }
            | Self::ControlBatch
            | Self::NegativeSequence(_)
            | Self::Record(_) => ErrorCode::InvalidRecord,
        }
    }
}

/// A batch where it lies. Its length holds and its magic is 2; [`Batch::validate`] checks the rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch<'a> {
    pub header: BatchHeader,
    /// What the leader stores as the max timestamp: the header's word, until [`Batch::set_times`] has that of the records.
    pub max_timestamp: i64,
    /// The whole batch, header included.
    pub bytes: Records<'a>,
    /// The records alone, as compressed as they are.
    pub records: Records<'a>,
}

impl<'a> Batch<'a> {
    /// The first batch of `bytes`.
    pub fn first(bytes: &Records<'a>) -> Result<Self, BatchError> {
        let left = bytes.len();
        if left < MAGIC_END {
            return Err(BatchError::TooShort {
                wanted: BATCH_HEADER_BYTES,
                left,
            });
        }
        // Older formats have shorter headers, so the magic byte comes before everything else.
        let mut magic = [0];
        bytes.copy_to(MAGIC_END - 1, &mut magic);
        let magic = i8::from_be_bytes(magic);
        if magic != MAGIC {
            return Err(BatchError::WrongMagic(magic));
        }
        if left < BATCH_HEADER_BYTES {
            return Err(BatchError::TooShort {
                wanted: BATCH_HEADER_BYTES,
                left,
            });
        }
        let mut header = [0; BATCH_HEADER_BYTES];
        bytes.copy_to(0, &mut header);
        let header = BatchHeader::parse(&header);
        let wanted = header.batch_bytes()?;
        if wanted > left {
            return Err(BatchError::TooShort { wanted, left });
        }
        Ok(Self {
            header,
            max_timestamp: header.max_timestamp,
            bytes: bytes.slice(0..wanted),
            records: bytes.slice(BATCH_HEADER_BYTES..wanted),
        })
    }

    /// Checks what a producer sent: codec, kind, counts, the CRC over the bytes where they lie, then the records. `None` is what it
    /// says of those that are compressed: they are for a [`RecordWalk`], once decompressed.
    pub fn validate(&self) -> Result<Option<RecordTimes>, BatchError> {
        let header = &self.header;
        let compression = header.attributes.compression()?;
        if header.attributes.is_control() {
            return Err(BatchError::ControlBatch);
        }
        if header.producer_id >= 0 && header.base_sequence < 0 {
            return Err(BatchError::NegativeSequence(header.base_sequence));
        }
        let (count, last_offset_delta) = (header.records_count, header.last_offset_delta);
        if count <= 0 || last_offset_delta != count - 1 {
            return Err(BatchError::WrongCount {
                count,
                last_offset_delta,
            });
        }
        self.check_crc()?;
        if compression != Compression::None {
            return Ok(None);
        }
        let mut walk = RecordWalk::new(header);
        self.records
            .pieces()
            .try_for_each(|piece| walk.feed(piece))?;
        Ok(Some(walk.finish()?))
    }

    /// From here on the batch has the max timestamp of its records, whatever its header claims.
    pub fn set_times(&mut self, times: &RecordTimes) {
        self.max_timestamp = times.max_timestamp();
    }

    /// Compares the CRC with the bytes, as the log does when it recovers.
    pub fn check_crc(&self) -> Result<(), BatchError> {
        let covered = self.bytes.slice(CRC_START..self.bytes.len());
        let computed = covered.pieces().fold(0, crc32c::crc32c_append);
        let stored = self.header.crc;
        if computed != stored {
            return Err(BatchError::WrongCrc { stored, computed });
        }
        Ok(())
    }
}

/// Walks batches that lie back to back. Ends after the last one or after the first error; the end of a Fetch response may well be one,
/// because it is cut by bytes.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    left: Records<'a>,
}

impl<'a> Batches<'a> {
    pub(crate) fn new(records: Records<'a>) -> Self {
        Self { left: records }
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() || self.left.is_external() {
            return None;
        }
        let batch = Batch::first(&self.left);
        self.left = match &batch {
            Ok(batch) => self.left.slice(batch.bytes.len()..self.left.len()),
            Err(_) => Records::default(),
        };
        Some(batch)
    }
}

/// Writes what the leader assigns, outside of what the CRC covers.
///
/// # Panics
/// If `batch` is shorter than the 16 bytes that hold the two.
pub fn stamp_offset_and_epoch(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Gives every record of a whole batch the leader's time, and the batch the CRC that follows from it.
///
/// # Panics
/// If `batch` is shorter than a batch's header.
pub fn stamp_log_append_time(batch: &mut [u8], timestamp: i64) {
    assert!(
        batch.len() >= BATCH_HEADER_BYTES,
        "a batch has a whole header"
    );
    // The bit lies in the low byte of the attributes.
    batch[22] |= LOG_APPEND_TIME as u8;
    batch[35..43].copy_from_slice(&timestamp.to_be_bytes());
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, TimestampType};

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new(1000);
        builder.record(
            1000,
            Some(b"key"),
            Some(b"value"),
            &[("h", Some(b"1")), ("none", None)],
        );
        builder.record(1007, None, None, &[]);
        builder.build()
    }

    fn validate(bytes: &[u8]) -> Result<(), BatchError> {
        Batch::first(&Records::from_slice(bytes))?
            .validate()
            .map(|_| ())
    }

    /// Changes one field and makes the CRC fit again, so that the field alone is judged.
    fn changed(position: usize, bytes: &[u8]) -> Vec<u8> {
        let mut batch = batch();
        batch[position..position + bytes.len()].copy_from_slice(bytes);
        let crc = crc32c::crc32c(&batch[CRC_START..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    #[test]
    fn records_that_the_count_leaves_out_are_refused() {
        let mut short = batch();
        short[23..27].copy_from_slice(&0_i32.to_be_bytes());
        short[57..61].copy_from_slice(&1_i32.to_be_bytes());
        let crc = crc32c::crc32c(&short[CRC_START..]);
        short[17..21].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(
            validate(&short),
            Err(BatchError::Record(RecordError::WrongCount {
                counted: 1,
                found: 2
            }))
        ));
    }

    #[test]
    fn records_are_counted_across_any_two_pieces() {
        let whole = batch();
        for cut in BATCH_HEADER_BYTES..whole.len() {
            let more = [&whole[cut..]];
            let pieces = Records::from_pieces(&whole[..cut], &more, whole.len());
            let times = Batch::first(&pieces).unwrap().validate().unwrap();
            assert_eq!(times.unwrap().max_timestamp(), 1007, "{cut}");
        }
    }

    #[test]
    fn the_builder_makes_a_valid_batch_and_its_header_comes_back() {
        let bytes = batch();
        assert_eq!(validate(&bytes), Ok(()));
        let header = Batch::first(&Records::from_slice(&bytes)).unwrap().header;
        assert_eq!(
            (header.records_count, header.last_offset_delta, header.magic),
            (2, 1, 2)
        );
        assert_eq!(
            (
                header.base_timestamp,
                header.max_timestamp,
                header.producer_id
            ),
            (1000, 1007, -1)
        );
        assert_eq!(header.to_bytes(), bytes[..BATCH_HEADER_BYTES]);
    }

    #[test]
    fn every_truncation_is_too_short() {
        let bytes = batch();
        for len in 0..bytes.len() {
            assert!(
                matches!(validate(&bytes[..len]), Err(BatchError::TooShort { .. })),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn every_flipped_bit_under_the_crc_is_found() {
        let bytes = batch();
        for position in CRC_START..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[position] ^= 1 << bit;
                assert!(validate(&damaged).is_err(), "bit {bit} of byte {position}");
            }
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(validate(&changed(16, &[1])), Err(BatchError::WrongMagic(1)));
        assert_eq!(
            validate(&changed(8, &[0xff; 4])),
            Err(BatchError::WrongLength(-1))
        );
        assert_eq!(
            validate(&changed(8, &[0, 0, 0, 48])),
            Err(BatchError::WrongLength(48))
        );
        assert_eq!(
            validate(&changed(22, &[5])),
            Err(BatchError::UnknownCompression(5))
        );
        assert_eq!(
            validate(&changed(22, &[0x20])),
            Err(BatchError::ControlBatch)
        );
        assert_eq!(
            validate(&changed(43, &[0; 8])),
            Err(BatchError::NegativeSequence(-1))
        );
        for (count, last_offset_delta) in [(0, -1), (-1, -2), (2, 2), (1, 1), (i32::MIN, i32::MAX)]
        {
            let mut bytes = changed(57, &i32::to_be_bytes(count));
            bytes[23..27].copy_from_slice(&i32::to_be_bytes(last_offset_delta));
            assert_eq!(
                validate(&bytes),
                Err(BatchError::WrongCount {
                    count,
                    last_offset_delta
                })
            );
        }
        let mut bytes = batch();
        bytes[17] ^= 1;
        assert!(matches!(validate(&bytes), Err(BatchError::WrongCrc { .. })));
        assert_eq!(
            validate(&bytes).unwrap_err().code(),
            ErrorCode::CorruptMessage
        );
    }

    #[test]
    fn a_batch_in_pieces_is_the_same_batch() {
        let bytes = batch();
        for cut in 0..=bytes.len() {
            let more = [&bytes[cut..]];
            let batch =
                Batch::first(&Records::from_pieces(&bytes[..cut], &more, bytes.len())).unwrap();
            assert!(batch.validate().is_ok());
            assert_eq!(batch.records.to_vec(), bytes[BATCH_HEADER_BYTES..]);
        }
    }

    #[test]
    fn batches_are_walked_up_to_a_cut_one() {
        let mut bytes = batch();
        bytes.extend(batch());
        let whole = bytes.len();
        bytes.extend(&batch()[..30]);
        assert_eq!(
            Records::from_slice(&bytes[..whole])
                .batches()
                .map(Result::unwrap)
                .count(),
            2
        );
        let walked: Vec<_> = Records::from_slice(&bytes).batches().collect();
        assert_eq!(walked.len(), 3);
        assert_eq!(
            walked[2],
            Err(BatchError::TooShort {
                wanted: BATCH_HEADER_BYTES,
                left: 30
            })
        );
        assert_eq!(Records::external(1000).batches().count(), 0);
    }

    #[test]
    fn stamping_offset_and_epoch_keeps_the_crc() {
        let mut bytes = batch();
        stamp_offset_and_epoch(&mut bytes[..16], 0x0102_0304_0506_0708, 9);
        assert_eq!(validate(&bytes), Ok(()));
        let header = Batch::first(&Records::from_slice(&bytes)).unwrap().header;
        assert_eq!(
            (header.base_offset, header.partition_leader_epoch),
            (0x0102_0304_0506_0708, 9)
        );
        assert_eq!(header.last_offset(), 0x0102_0304_0506_0709);
    }

    #[test]
    fn stamping_the_time_gives_a_new_crc_that_holds() {
        let mut bytes = batch();
        stamp_log_append_time(&mut bytes, 5000);
        assert_eq!(validate(&bytes), Ok(()));
        let header = Batch::first(&Records::from_slice(&bytes)).unwrap().header;
        assert_eq!((header.max_timestamp, header.base_timestamp), (5000, 1000));
        assert_eq!(
            header.attributes.timestamp_type(),
            TimestampType::LogAppendTime
        );
        assert_eq!(header.attributes.compression(), Ok(Compression::None));
    }
}
