//! The checkpoint: what a log need not find out by reading its segments.
//!
//! Written when the log closes, and from time to time, always after everything before its recovery point was flushed; read once,
//! at opening. Everything in it is the state at the recovery point, so recovery continues from there.
//!
//! ```text
//! "MRCP" | version | clean u8 | log start i64 | high watermark i64 | recovery point: offset i64, segment i64, position u64
//!        | epochs: count u32 x { epoch i32, start i64 }
//!        | closed segments: count u32 x { base i64, next i64, bytes u64, max timestamp i64, its batch's offset i64 }
//!        | producers: count u32 x { id i64, epoch i16, last ms i64, count u8 x { sequences 2 x i32, offsets 2 x i64, time i64 } }
//!        | crc32c
//! ```
//! Version 1 had no high watermark: of a log that no other broker had a copy of, it is the recovery point.

use control_api::ids::LeaderEpoch;

use super::codec::{CodecError, Decoder, Encoder};
use super::epochs::{EpochStart, Epochs};
use super::limits::{EPOCHS_MAX, PRODUCER_BATCHES, PRODUCERS_MAX, SEGMENTS_MAX};
use super::producers::{Producer, ProducerBatch, Producers};
use super::types::Offset;

const MAGIC: u32 = u32::from_be_bytes(*b"MRCP");
const VERSION: u16 = 2;
const EPOCH_BYTES: usize = 12;
const SEGMENT_BYTES: usize = 40;
const PRODUCER_BYTES_MIN: usize = 19;

/// Up to here everything is flushed, and needs no check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecoveryPoint {
    pub(super) offset: Offset,
    /// The segment that holds it, by base offset.
    pub(super) segment: Offset,
    pub(super) position: u64,
}

/// A closed segment, so that opening need not look into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentSummary {
    pub(super) base: Offset,
    pub(super) next: Offset,
    pub(super) bytes: u64,
    pub(super) max_timestamp: i64,
    pub(super) max_timestamp_offset: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The log was closed at the recovery point, and its file ends there.
    pub(super) clean: bool,
    pub(super) log_start: Offset,
    /// What consumers could see at least.
    pub(super) high_watermark: Offset,
    pub(super) recovery: RecoveryPoint,
    pub(super) epochs: Epochs,
    pub(super) segments: Vec<SegmentSummary>,
    pub(super) producers: Producers,
}

impl Checkpoint {
    /// Says where the log starts, and that from its first segment on everything is to be checked.
    pub(super) fn of_start(log_start: Offset, first_segment: Offset) -> Checkpoint {
        Checkpoint {
            clean: false,
            log_start,
            high_watermark: log_start,
            recovery: RecoveryPoint {
                offset: first_segment,
                segment: first_segment,
                position: 0,
            },
            epochs: Epochs::default(),
            segments: Vec::new(),
            producers: Producers::default(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let bytes = 64 + self.segments.len() * SEGMENT_BYTES + self.producers.len() * 180;
        let mut encoder = Encoder::new(MAGIC, VERSION, bytes);
        encoder.u8(u8::from(self.clean));
        encoder.i64(self.log_start.0);
        encoder.i64(self.high_watermark.0);
        encoder.i64(self.recovery.offset.0);
        encoder.i64(self.recovery.segment.0);
        encoder.u64(self.recovery.position);
        encoder.u32(self.epochs.entries().len() as u32);
        for entry in self.epochs.entries() {
            encoder.i32(entry.epoch.0);
            encoder.i64(entry.start.0);
        }
        encoder.u32(self.segments.len() as u32);
        for segment in &self.segments {
            encoder.i64(segment.base.0);
            encoder.i64(segment.next.0);
            encoder.u64(segment.bytes);
            encoder.i64(segment.max_timestamp);
            encoder.i64(segment.max_timestamp_offset.0);
        }
        encoder.u32(self.producers.len() as u32);
        for (id, producer) in self.producers.iter() {
            encode_producer(&mut encoder, id, producer);
        }
        encoder.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Checkpoint, CodecError> {
        let (mut decoder, version) = Decoder::new(bytes, MAGIC, VERSION)?;
        let clean = decoder.u8()? == 1;
        let log_start = Offset(decoder.i64()?);
        let high_watermark = match version {
            1 => None,
            _ => Some(Offset(decoder.i64()?)),
        };
        let recovery = RecoveryPoint {
            offset: Offset(decoder.i64()?),
            segment: Offset(decoder.i64()?),
            position: decoder.u64()?,
        };
        if log_start.0 < 0 || recovery.segment > recovery.offset || log_start > recovery.offset {
            return Err(CodecError::Malformed);
        }
        let checkpoint = Checkpoint {
            clean,
            log_start,
            high_watermark: high_watermark.unwrap_or(recovery.offset),
            recovery,
            epochs: decode_epochs(&mut decoder)?,
            segments: decode_segments(&mut decoder)?,
            producers: decode_producers(&mut decoder)?,
        };
        decoder.end()?;
        Ok(checkpoint)
    }
}

fn bounded(count: usize, max: usize) -> Result<usize, CodecError> {
    if count <= max {
        Ok(count)
    } else {
        Err(CodecError::Malformed)
    }
}

fn decode_epochs(decoder: &mut Decoder<'_>) -> Result<Epochs, CodecError> {
    let count = bounded(decoder.count(EPOCH_BYTES)?, EPOCHS_MAX)?;
    let entries: Vec<EpochStart> = (0..count)
        .map(|_| {
            Ok(EpochStart {
                epoch: LeaderEpoch(decoder.i32()?),
                start: Offset(decoder.i64()?),
            })
        })
        .collect::<Result<_, CodecError>>()?;
    Ok(Epochs::from_entries(&entries))
}

fn decode_segments(decoder: &mut Decoder<'_>) -> Result<Vec<SegmentSummary>, CodecError> {
    let count = bounded(decoder.count(SEGMENT_BYTES)?, SEGMENTS_MAX)?;
    (0..count)
        .map(|_| {
            Ok(SegmentSummary {
                base: Offset(decoder.i64()?),
                next: Offset(decoder.i64()?),
                bytes: decoder.u64()?,
                max_timestamp: decoder.i64()?,
                max_timestamp_offset: Offset(decoder.i64()?),
            })
        })
        .collect()
}

fn encode_producer(encoder: &mut Encoder, id: i64, producer: &Producer) {
    encoder.i64(id);
    encoder.i16(producer.epoch);
    encoder.i64(producer.last_ms);
    encoder.u8(producer.batches.len() as u8);
    for batch in &producer.batches {
        encoder.i32(batch.first_sequence);
        encoder.i32(batch.last_sequence);
        encoder.i64(batch.base_offset.0);
        encoder.i64(batch.last_offset.0);
        encoder.i64(batch.log_append_time_ms);
    }
}

fn decode_producers(decoder: &mut Decoder<'_>) -> Result<Producers, CodecError> {
    let count = bounded(decoder.count(PRODUCER_BYTES_MIN)?, PRODUCERS_MAX)?;
    let mut producers = Producers::default();
    for _ in 0..count {
        let id = decoder.i64()?;
        let epoch = decoder.i16()?;
        let last_ms = decoder.i64()?;
        let batches = bounded(usize::from(decoder.u8()?), PRODUCER_BATCHES)?;
        let batches = (0..batches)
            .map(|_| {
                Ok(ProducerBatch {
                    first_sequence: decoder.i32()?,
                    last_sequence: decoder.i32()?,
                    base_offset: Offset(decoder.i64()?),
                    last_offset: Offset(decoder.i64()?),
                    log_append_time_ms: decoder.i64()?,
                })
            })
            .collect::<Result<_, CodecError>>()?;
        producers.restore(
            id,
            Producer {
                epoch,
                last_ms,
                batches,
            },
        );
    }
    Ok(producers)
}

#[cfg(test)]
mod tests {
    use super::super::codec::golden;
    use super::super::producers::Sequenced;
    use super::*;

    fn checkpoint() -> Checkpoint {
        let mut producers = Producers::default();
        for number in 0..8 {
            let batch = Sequenced {
                producer_id: 5 + i64::from(number % 2),
                epoch: 1,
                first_sequence: number,
                last_offset_delta: 0,
            };
            producers.append(&batch, Offset(i64::from(number)), -1, 77);
        }
        let start = |epoch, start| EpochStart {
            epoch: LeaderEpoch(epoch),
            start: Offset(start),
        };
        Checkpoint {
            clean: true,
            log_start: Offset(3),
            high_watermark: Offset(800),
            recovery: RecoveryPoint {
                offset: Offset(900),
                segment: Offset(500),
                position: 12_345,
            },
            epochs: Epochs::from_entries(&[start(0, 0), start(4, 600)]),
            segments: vec![SegmentSummary {
                base: Offset(0),
                next: Offset(500),
                bytes: 1 << 30,
                max_timestamp: 99,
                max_timestamp_offset: Offset(7),
            }],
            producers,
        }
    }

    #[test]
    fn a_checkpoint_of_every_version_is_still_read() {
        let stored = golden("log-checkpoint.2", || checkpoint().encode());
        assert_eq!(Checkpoint::decode(&stored), Ok(checkpoint()));
        assert_eq!(checkpoint().encode(), stored);
        let oldest = golden("log-checkpoint.1", || panic!("nobody writes it any more"));
        let without = Checkpoint {
            high_watermark: Offset(900),
            ..checkpoint()
        };
        assert_eq!(Checkpoint::decode(&oldest), Ok(without));
    }

    #[test]
    fn what_is_stored_comes_back_and_no_damaged_byte_passes() {
        let checkpoint = checkpoint();
        let bytes = checkpoint.encode();
        assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Checkpoint::decode(&damaged).is_err(), "byte {at}");
            assert!(Checkpoint::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_claimed_count_beyond_the_file_is_refused() {
        let mut encoder = Encoder::new(MAGIC, VERSION, 64);
        encoder.u8(0);
        (0..5).for_each(|_| encoder.i64(0));
        encoder.u32(u32::MAX);
        assert_eq!(
            Checkpoint::decode(&encoder.finish()),
            Err(CodecError::Malformed)
        );
    }
}
