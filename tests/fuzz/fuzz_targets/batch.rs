//! Records as a producer sends them and as a segment holds them: batches back to back, their checks, and the records in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{Batch, RecordIter, Records};

fuzz_target!(|bytes: &[u8]| {
    // Few inputs have the right CRC, so everything is also asked of batches that fail it.
    for batch in Records::from_slice(bytes).batches() {
        let Ok(batch) = batch else { break };
        let _ = (batch.validate(), batch.check_crc());
    }
    if let Ok(batch) = Batch::first(&Records::from_slice(bytes)) {
        let _ = (batch.validate(), batch.check_crc());
    }
    for record in RecordIter::new(bytes) {
        let Ok(record) = record else { break };
        for header in record.headers {
            let _ = header;
        }
    }
});
