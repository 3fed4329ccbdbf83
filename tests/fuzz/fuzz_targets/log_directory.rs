//! A partition's directory with damaged files: the checkpoint, an index and a segment are whatever the input says.
//!
//! The log opens or refuses; if it opens, what it serves are whole batches with the right CRC and without a gap, and it takes
//! another record. It runs on the simulated disk, so nothing of this machine is touched.
#![no_main]

use std::path::Path;

use std::rc::Rc;
use dataplane::log::{Bound, Log, LogConfig, LogShared, SpareSegments};
use dataplane::partition::Leadership;
use libfuzzer_sys::fuzz_target;
use millrace_tests::sim::{SimOptions, Simulation};
use wire::{Batch, BatchBuilder, Records};

const HOST: &str = "broker";
const DIRECTORY: &str = "/data/topic-0";

fuzz_target!(|input: (u64, Vec<u8>, Vec<u8>, Vec<u8>, u8)| {
    let (seed, checkpoint, index, segment, good_batches) = input;
    let simulation = Simulation::new(SimOptions {
        buffers: 8,
        buffer_bytes: 64 * 1024,
        receive_buffers: 1,
        steps_max: 1_000_000,
        ..SimOptions::seeded(seed)
    });
    // The segment starts with good batches, so that the damage is met in the middle of a recovery.
    let mut content = Vec::new();
    for number in 0..i64::from(good_batches % 8) {
        let mut batch = one_record(number);
        wire::stamp_offset_and_epoch(&mut batch, number, 0);
        content.extend(batch);
    }
    content.extend(segment);
    let files = [
        ("checkpoint", checkpoint),
        ("00000000000000000000.index", index),
        ("00000000000000000000.log", content),
    ];
    for (name, bytes) in files {
        // An empty one is one that is not there.
        if !bytes.is_empty() {
            simulation.plant_file(HOST, Path::new(DIRECTORY).join(name), &bytes);
        }
    }
    let io = simulation.boot(HOST);
    let served = io.run(async {
        let config = LogConfig::default();
        let directory = Path::new(DIRECTORY);
        let log = Log::open(io.clone(), LogShared::new(Vec::new(), SpareSegments::none()), directory, config, Rc::new(Leadership::default()))
            .await
            .ok()?;
        log.begin_epoch(log.latest_epoch().unwrap_or_default());
        let mut next = log.log_start();
        loop {
            let read = log.read(next, 64 * 1024, true, Bound::LogEnd).await.ok()?;
            let bytes: Vec<u8> = read
                .slices
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();
            if bytes.is_empty() {
                break;
            }
            for batch in Records::from_slice(&bytes).batches() {
                let batch = batch.expect("reads are of whole batches");
                batch.check_crc().expect("what is served is undamaged");
                assert_eq!(batch.header.base_offset, next.0, "offsets without a gap");
                next.0 = batch.header.last_offset() + 1;
            }
        }
        let record = one_record(0);
        let batch = Batch::first(&Records::from_slice(&record)).expect("a good batch");
        if let Ok(appended) = log.append_as_leader(&batch, log.latest_epoch().unwrap_or_default()) {
            assert_eq!(appended.base_offset, next);
        }
        Some(())
    });
    served.expect("an open log neither hangs nor works for ever");
});

fn one_record(number: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1_700_000_000_000);
    builder.record(1_700_000_000_000 + number, None, Some(b"value"), &[]);
    builder.build()
}
