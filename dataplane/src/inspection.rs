//! Looks into the compressed records of a producer's batch, as Kafka does: what a consumer cannot decompress, or finds to be no
//! records, must not be stored.
//!
//! A batch that comes to little is looked at where the request is begun. One that comes to more, or that is made to, is looked at
//! beside the other tasks of its shard, which get their turn all the time, and one at a time, because what a decompressor needs grows
//! with what comes out of it.

use crate::decompress::Decompressor;
use crate::io::Slice;
use crate::limits::INSPECTED_BYTES_AT_ONCE;
use crate::log::gate::Gate;
use crate::pace;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use wire::{Batch, BatchHeader, Compression, ErrorCode, RecordError, RecordTimes, RecordWalk};

/// A shard's means to look into batches.
#[derive(Default)]
pub struct Inspector {
    at_once: RefCell<AtOnce>,
    at_length: Rc<Gate>,
}

struct AtOnce {
    decompressor: Decompressor,
    /// Compressed records that lay in several pieces.
    gathered: Vec<u8>,
}

impl Default for AtOnce {
    fn default() -> Self {
        AtOnce {
            decompressor: Decompressor::for_blocks_of(INSPECTED_BYTES_AT_ONCE as usize),
            gathered: Vec::new(),
        }
    }
}

/// Why records were not taken.
#[derive(Debug, thiserror::Error)]
enum InspectionError {
    #[error("the records cannot be decompressed: {0}")]
    Compression(#[from] io::Error),
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl InspectionError {
    fn code(&self) -> ErrorCode {
        match self {
            InspectionError::Compression(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                ErrorCode::MessageTooLarge
            }
            InspectionError::Compression(_) | InspectionError::Record(_) => {
                ErrorCode::InvalidRecord
            }
        }
    }
}

impl Inspector {
    /// The times of a batch's compressed records, or why it is refused; `None` if that takes long.
    pub(crate) fn at_once(&self, batch: &Batch<'_>) -> Option<Result<RecordTimes, ErrorCode>> {
        if batch.records.len() as u64 > INSPECTED_BYTES_AT_ONCE {
            return None;
        }
        let AtOnce {
            decompressor,
            gathered,
        } = &mut *self.at_once.borrow_mut();
        let records = match batch.records.contiguous() {
            Some(records) => records,
            None => {
                gathered.clear();
                batch
                    .records
                    .pieces()
                    .for_each(|piece| gathered.extend_from_slice(piece));
                gathered
            }
        };
        match at_once(decompressor, &batch.header, records) {
            Err(InspectionError::Compression(error))
                if error.kind() == io::ErrorKind::ResourceBusy =>
            {
                None
            }
            times => times.map_err(|error| error.code()).transpose(),
        }
    }

    /// As `at_once` for the batch with this header, whatever it takes. It has no more than its turns on the shard.
    pub(crate) async fn at_length(
        &self,
        header: &BatchHeader,
        records: &[Slice],
    ) -> Result<RecordTimes, ErrorCode> {
        let _pass = self.at_length.enter().await;
        let mut gathered = Vec::new();
        let records = match records {
            [one] => &one[..],
            several => {
                several
                    .iter()
                    .for_each(|slice| gathered.extend_from_slice(slice));
                &gathered
            }
        };
        let times = at_length(header, records).await;
        times.map_err(|error| error.code())
    }
}

fn codec(header: &BatchHeader) -> io::Result<Compression> {
    let codec = header.attributes.compression();
    codec.map_err(|_| io::ErrorKind::InvalidData.into())
}

fn at_once(
    decompressor: &mut Decompressor,
    header: &BatchHeader,
    records: &[u8],
) -> Result<Option<RecordTimes>, InspectionError> {
    let mut decompression = decompressor.begin(codec(header)?, records)?;
    let mut walk = RecordWalk::new(header);
    while decompression.work() < INSPECTED_BYTES_AT_ONCE {
        let Some(bytes) = decompression.step()? else {
            return Ok(Some(walk.finish()?));
        };
        walk.feed(bytes)?;
    }
    Ok(None)
}

async fn at_length(header: &BatchHeader, records: &[u8]) -> Result<RecordTimes, InspectionError> {
    // Its own, because what it grows to is not kept.
    let mut decompressor = Decompressor::default();
    let mut decompression = decompressor.begin(codec(header)?, records)?;
    let mut walk = RecordWalk::new(header);
    let mut turn_ends = INSPECTED_BYTES_AT_ONCE;
    while let Some(bytes) = decompression.step()? {
        walk.feed(bytes)?;
        if decompression.work() >= turn_ends {
            turn_ends = decompression.work() + INSPECTED_BYTES_AT_ONCE;
            pace::give_way().await;
        }
    }
    Ok(walk.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decompress::tests::{CODECS, compress};
    use crate::io::Buffer;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use wire::{BatchBuilder, RecordIter, Records};

    fn builder(records: i64, value: &[u8]) -> BatchBuilder {
        let mut builder = BatchBuilder::new(1000);
        for number in 0..records {
            builder.record(1000 + number % 100, None, Some(value), &[]);
        }
        builder
    }

    fn slice(bytes: &[u8]) -> Slice {
        let mut buffer = Buffer::allocate(bytes.len()).unwrap();
        buffer.extend_from_slice(bytes);
        buffer.slice(0..bytes.len())
    }

    /// Runs to the end and counts the turns that it took.
    fn turns<T>(future: impl Future<Output = T>) -> (T, usize) {
        let mut future = pin!(future);
        let mut turns = 1;
        loop {
            match future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
            {
                Poll::Ready(output) => return (output, turns),
                Poll::Pending => turns += 1,
            }
        }
    }

    #[test]
    fn the_times_of_compressed_records_are_found_and_small_lies_are_refused() {
        let inspector = Inspector::default();
        for codec in &CODECS[1..] {
            let look = |count, payload: &[u8]| {
                let bytes = builder(count, &[7; 50]).build_compressed(*codec, payload);
                let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
                let times = inspector.at_once(&batch).expect("it is small");
                times.map(|times| times.max_timestamp())
            };
            let payload = compress(*codec, builder(20, &[7; 50]).records());
            assert_eq!(look(20, &payload), Ok(1019), "{codec:?}");
            for (count, payload) in [
                (21, &payload[..]),
                (19, &payload),
                (20, &payload[..payload.len() - 1]),
                (20, b""),
                (20, b"no stream"),
                (20, &compress(*codec, b"")),
                (20, &compress(*codec, &[0xff; 100])),
            ] {
                assert_eq!(
                    look(count, payload),
                    Err(ErrorCode::InvalidRecord),
                    "{codec:?} of {count}"
                );
            }
        }
    }

    #[test]
    fn what_takes_long_is_left_for_later_and_lets_others_have_their_turns() {
        let inspector = Inspector::default();
        let builder = builder(1000, &[7; 2000]);
        for codec in &CODECS[1..] {
            let payload = compress(*codec, builder.records());
            let bytes = builder.build_compressed(*codec, &payload);
            let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
            assert!(inspector.at_once(&batch).is_none(), "{codec:?}");
            let pieces = [slice(&payload[..10]), slice(&payload[10..])];
            let (times, turns) = turns(inspector.at_length(&batch.header, &pieces));
            assert_eq!(times.map(|times| times.max_timestamp()), Ok(1099));
            assert!(
                turns >= 2_000_000 / INSPECTED_BYTES_AT_ONCE as usize,
                "{turns} turns"
            );
        }
    }

    /// Damage that a CRC covers is what a faulty or hostile producer sends.
    #[test]
    fn nothing_is_taken_that_a_client_would_stumble_over() {
        const ROUNDS: u64 = 2_000;
        let inspector = Inspector::default();
        let builder = builder(30, b"some value of some length");
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let (mut taken, mut refused) = (0, 0);
        for codec in CODECS {
            let payload = compress(codec, builder.records());
            for round in 0..ROUNDS {
                let mut damaged = payload.clone();
                for _ in 0..round % 4 {
                    let position = random(damaged.len());
                    damaged[position] ^= 1 << random(8);
                }
                damaged.truncate(payload.len() - random(50).saturating_sub(45));
                let bytes = builder.build_compressed(codec, &damaged);
                let records = Records::from_slice(&bytes);
                let batch = Batch::first(&records).unwrap();
                let times = match batch.validate() {
                    Ok(None) => inspector.at_once(&batch).expect("it is small"),
                    Ok(Some(times)) => Ok(times),
                    Err(error) => Err(error.code()),
                };
                let Ok(times) = times else {
                    refused += 1;
                    continue;
                };
                taken += 1;
                let mut decompressor = Decompressor::default();
                let mut decompression = decompressor.begin(codec, &damaged).unwrap();
                let mut out = Vec::new();
                while let Some(bytes) = decompression.step().unwrap() {
                    out.extend_from_slice(bytes);
                }
                let read: Result<Vec<_>, _> = RecordIter::new(&out).collect();
                let read = read.unwrap();
                let newest = read
                    .iter()
                    .map(|record| 1000 + record.timestamp_delta)
                    .max();
                assert_eq!((read.len(), newest), (30, Some(times.max_timestamp())));
            }
        }
        assert!(
            taken > 1_000 && refused > 1_000,
            "{taken} taken, {refused} refused"
        );
    }

    /// Streams that are long and come to nothing, or to little: a client's bytes buy it turns, not the shard.
    #[test]
    fn what_comes_to_nothing_takes_its_turns_too() {
        let inspector = Inspector::default();
        let builder = builder(1, b"value");
        let nothing = |codec: Compression, bytes: usize| match codec {
            Compression::Zstd => {
                // A frame without a checksum, of blocks of nothing.
                let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
                frame.extend([0, 0, 0].repeat(bytes / 3));
                frame.extend([1, 0, 0]);
                frame
            }
            codec => compress(codec, b"").repeat(bytes / 20),
        };
        for codec in [Compression::Gzip, Compression::Zstd] {
            let payload = [
                nothing(codec, 1_000_000),
                compress(codec, builder.records()),
            ]
            .concat();
            let bytes = builder.build_compressed(codec, &payload);
            let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
            assert!(inspector.at_once(&batch).is_none(), "{codec:?}");
            let records = [slice(&payload)];
            let (times, turns) = turns(inspector.at_length(&batch.header, &records));
            assert_eq!(times.map(|times| times.max_timestamp()), Ok(1000));
            let turns_min = payload.len() / INSPECTED_BYTES_AT_ONCE as usize;
            assert!(turns >= turns_min, "{codec:?}: {turns} turns");
        }
        let records = builder.records();
        let crumbs: Vec<u8> = records
            .chunks(1)
            .flat_map(|byte| compress(Compression::Gzip, byte))
            .collect();
        let bytes = builder.build_compressed(Compression::Gzip, &crumbs);
        let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
        let times = inspector.at_once(&batch).expect("they are few");
        assert_eq!(times.map(|times| times.max_timestamp()), Ok(1000));
    }

    #[test]
    fn a_bomb_is_told_to_be_smaller() {
        let inspector = Inspector::default();
        let zeros = vec![0; crate::limits::DECOMPRESSED_BYTES_FREE as usize * 11 / 10];
        let mut builder = BatchBuilder::new(0);
        builder.record(0, None, Some(&zeros), &[]);
        let payload = compress(Compression::Zstd, builder.records());
        let bytes = builder.build_compressed(Compression::Zstd, &payload);
        let header = Batch::first(&Records::from_slice(&bytes)).unwrap().header;
        let (refused, _) = turns(inspector.at_length(&header, &[slice(&payload)]));
        assert_eq!(refused, Err(ErrorCode::MessageTooLarge));
    }

    #[test]
    fn one_batch_at_a_time_is_looked_at_at_length() {
        let inspector = Inspector::default();
        let builder = builder(1000, &[7; 2000]);
        let payload = compress(Compression::Zstd, builder.records());
        let bytes = builder.build_compressed(Compression::Zstd, &payload);
        let header = Batch::first(&Records::from_slice(&bytes)).unwrap().header;
        let records = [slice(&payload)];
        let context = &mut Context::from_waker(Waker::noop());
        let mut second = pin!(inspector.at_length(&header, &records));
        {
            let mut first = pin!(inspector.at_length(&header, &records));
            assert!(first.as_mut().poll(context).is_pending());
            assert!(inspector.at_length.is_held());
            for _ in 0..100 {
                assert!(second.as_mut().poll(context).is_pending());
            }
            // The first one's client goes away.
        }
        let (times, _) = turns(second);
        assert!(times.is_ok());
    }
}
