//! Records as a producer sends them and as a segment holds them: batches back to back, their checks, and the records in them.
//!
//! The walk that the broker checks records with must see the same in any pieces, and take nothing that a client would stumble over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{Batch, BatchHeader, RecordError, RecordIter, RecordTimes, RecordWalk, Records};

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (count, cut, bytes) = input;
    // Few inputs have the right CRC, so everything is also asked of batches that fail it.
    for batch in Records::from_slice(bytes).batches() {
        let Ok(batch) = batch else { break };
        let _ = (batch.validate(), batch.check_crc());
    }
    if let Ok(batch) = Batch::first(&Records::from_slice(bytes)) {
        let _ = (batch.validate(), batch.check_crc());
    }
    let mut header = BatchHeader::parse(&[0; wire::BATCH_HEADER_BYTES]);
    header.records_count = i32::from(count);
    header.base_timestamp = 1000;
    let whole = walk(&header, [bytes]);
    assert_eq!(walk(&header, bytes.chunks(usize::from(cut).max(1))), whole);
    let iterated: Result<Vec<_>, RecordError> = RecordIter::new(bytes).collect();
    match (whole, iterated) {
        (Ok(times), Ok(records)) => {
            let times_of = records
                .iter()
                .map(|record| 1000_i64.wrapping_add(record.timestamp_delta));
            assert_eq!(times.max_timestamp(), times_of.max().unwrap_or(-1).max(-1));
            assert_eq!(records.len(), usize::from(count));
            for header in records.into_iter().flat_map(|record| record.headers) {
                let _ = header;
            }
        }
        (Ok(_), Err(error)) => assert_eq!(error, RecordError::InvalidUtf8),
        (Err(_), _) => {}
    }
});

fn walk<'a>(
    header: &BatchHeader,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<RecordTimes, RecordError> {
    let mut walk = RecordWalk::new(header);
    for piece in pieces {
        walk.feed(piece)?;
    }
    walk.finish()
}
