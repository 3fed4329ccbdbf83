//! Files as a crash, a fault or another partition may have left them.

use dataplane::log::Level;
use millrace_tests::sim::CrashKind;

use super::*;

/// A log of these values whose process was killed once all were written; returns its one segment's bytes.
fn killed_log(simulation: &Simulation, values: &[Vec<u8>], checkpointed: bool) -> Vec<u8> {
    let io = simulation.boot(HOST);
    io.run(async {
        let log = open(&io, durable()).await;
        for value in values {
            append(&log, &one(value)).await;
        }
        log.wait(log.log_end(), Level::Flushed).await.unwrap();
        if checkpointed {
            log.checkpoint().await.unwrap();
        }
    })
    .unwrap();
    simulation.crash(HOST, CrashKind::ProcessKilled);
    simulation.file_bytes(HOST, FIRST_SEGMENT).unwrap()
}

fn recovered(simulation: &Simulation) -> Vec<Vec<u8>> {
    let io = simulation.boot(HOST);
    let found = io.run(async {
        let log = open(&io, durable()).await;
        let found = values(&log).await;
        // The log goes on behind what was found.
        append(&log, &one(b"going on")).await;
        log.flush().await.unwrap();
        assert_eq!(values(&log).await.len(), found.len() + 1);
        found
    });
    simulation.crash(HOST, CrashKind::ProcessKilled);
    found.unwrap()
}

fn three(last_bytes: usize) -> Vec<Vec<u8>> {
    vec![value(1, 100), value(2, 5000), value(3, last_bytes)]
}

/// Bytes that batches of these values take.
fn stored_bytes(values: &[Vec<u8>]) -> usize {
    values.iter().map(|value| one(value).len()).sum()
}

#[test]
fn a_tail_torn_at_any_byte_loses_the_last_batch_alone() {
    let three = three(300);
    let bytes = killed_log(&simulation(1), &three, false);
    let (start, end) = (stored_bytes(&three[..2]), stored_bytes(&three));
    for torn in start..end {
        let world = simulation(torn as u64);
        world.boot(HOST);
        world.crash(HOST, CrashKind::ProcessKilled);
        let mut cut = bytes.clone();
        // Sectors that were never written read as zeros; a shorter file is the other way to lose them.
        cut[torn..].fill(0);
        if torn % 2 == 0 {
            cut.truncate(torn);
        }
        world.plant_file(HOST, FIRST_SEGMENT, &cut);
        // A last byte that was zero anyway leaves the batch whole.
        let expected = if torn % 2 == 1 && bytes[torn..end].iter().all(|byte| *byte == 0) {
            3
        } else {
            2
        };
        assert_eq!(recovered(&world), three[..expected], "torn at {torn}");
    }
}

#[test]
fn a_damaged_byte_ends_the_log_before_its_batch() {
    let three = three(300);
    let bytes = killed_log(&simulation(1), &three, false);
    let (start, end) = (stored_bytes(&three[..2]), stored_bytes(&three));
    // The leader epoch alone lies outside of what the offset check and the CRC cover.
    for damaged in (start..end).filter(|at| !(start + 12..start + 16).contains(at)) {
        let world = simulation(damaged as u64);
        world.boot(HOST);
        world.crash(HOST, CrashKind::ProcessKilled);
        let mut bytes = bytes.clone();
        bytes[damaged] ^= 0x10;
        world.plant_file(HOST, FIRST_SEGMENT, &bytes);
        assert_eq!(recovered(&world), three[..2], "damaged at {damaged}");
    }
}

#[test]
fn batches_of_another_partition_behind_our_tail_are_never_taken_as_ours() {
    let block = 4096;
    let overhead = stored_bytes(&three(100)) - 100;
    // The end at every place around a block boundary, where the terminator needs the next block.
    for end in (block * 3 - 20)..=(block * 3 + 5) {
        let last_bytes = end - overhead - 1;
        let three = (last_bytes - 4..last_bytes + 4)
            .map(three)
            .find(|three| stored_bytes(three) == end)
            .unwrap();
        for checkpointed in [false, true] {
            let world = simulation(end as u64);
            let mut bytes = killed_log(&world, &three, checkpointed);
            let written = (end + 12).next_multiple_of(block);
            assert!(bytes[end..written].iter().all(|byte| *byte == 0));
            // Another life of the file: valid batches at the very offsets that are due here, from every block on.
            bytes.truncate(written);
            let mut foreign = one(&value(99, 400));
            wire::stamp_offset_and_epoch(&mut foreign, 3, 1);
            while bytes.len() < 20 * block {
                bytes.extend(&foreign);
            }
            world.plant_file(HOST, FIRST_SEGMENT, &bytes);
            assert_eq!(recovered(&world), three, "end {end}");
            let io = world.boot(HOST);
            let found = io
                .run(async { values(&open(&io, durable()).await).await })
                .unwrap();
            assert_eq!(found.len(), 4, "and neither after the log has gone on");
            let bytes = world.file_bytes(HOST, FIRST_SEGMENT).unwrap();
            let rest = &bytes[end + one(b"going on").len()..];
            assert!(rest.iter().all(|byte| *byte == 0), "nothing of it is left");
        }
    }
}

#[test]
fn a_file_that_stands_where_a_segment_is_to_begin_is_emptied_first() {
    let world = simulation(5);
    let io = world.boot(HOST);
    let big: Vec<Vec<u8>> = (0..40).map(|number| value(number, 50_000)).collect();
    let kept = io.run(async {
        let log = open(&io, durable()).await;
        for (number, value) in big.iter().enumerate() {
            // Whatever the next segment's name will be, it is taken.
            let mut foreign = one(&super::value(99, 400));
            wire::stamp_offset_and_epoch(&mut foreign, number as i64 + 1, 1);
            let path = format!("{DIRECTORY}/{:020}.log", number + 1);
            if number < 39 {
                world.plant_file(HOST, &path, &foreign.repeat(500));
            }
            append(&log, &one(value)).await;
        }
        log.flush().await.unwrap();
        assert!(log.segments() > 1);
        (values(&log).await, log.segments())
    });
    assert_eq!(kept.unwrap().0, big);
}

#[test]
fn a_clean_close_leaves_exactly_the_batches() {
    let world = simulation(6);
    let io = world.boot(HOST);
    let three = three(70_000);
    io.run(async {
        let log = open(&io, durable()).await;
        for value in &three {
            append(&log, &one(value)).await;
        }
        log.close().await.unwrap();
    })
    .unwrap();
    assert_eq!(
        world.file_bytes(HOST, FIRST_SEGMENT).unwrap().len(),
        stored_bytes(&three)
    );
    world.crash(HOST, CrashKind::PowerLost);
    let io = world.boot(HOST);
    io.run(async {
        let log = open(&io, durable()).await;
        assert!(log.opened_clean());
        assert_eq!(values(&log).await, three);
        append(&log, &one(b"one more")).await;
        log.flush().await.unwrap();
    })
    .unwrap();
    world.crash(HOST, CrashKind::ProcessKilled);
    let io = world.boot(HOST);
    let clean = io.run(async { open(&io, durable()).await.opened_clean() });
    assert!(!clean.unwrap(), "it has gone on since, and was killed");
}

#[test]
fn a_close_with_little_to_write_down_costs_no_flush() {
    let world = simulation(12);
    let io = world.boot(HOST);
    let values_kept: Vec<_> = (0..3).map(|number| value(number, 300)).collect();
    io.run(async {
        let log = open(&io, durable()).await;
        for value in &values_kept {
            append(&log, &one(value)).await;
        }
        log.flush().await.unwrap();
        io.sleep_until(io.now().after_ms(1000)).await;
        let before = world.disk_counters(HOST);
        log.close().await.unwrap();
        assert_eq!(world.disk_counters(HOST), before);
    })
    .unwrap();
    assert_eq!(world.file_bytes(HOST, CHECKPOINT), None);
    let stored = world.file_bytes(HOST, FIRST_SEGMENT).unwrap().len();
    assert_eq!(
        stored,
        stored_bytes(&values_kept),
        "no space is kept for nothing"
    );
    world.crash(HOST, CrashKind::PowerLost);
    let io = world.boot(HOST);
    let found = io.run(async { values(&open(&io, durable()).await).await });
    assert_eq!(found.unwrap(), values_kept);
}

#[test]
fn a_log_that_nothing_was_appended_to_is_closed_without_a_trace() {
    let world = simulation(13);
    let kept = several_segments(&world, true);
    let io = world.boot(HOST);
    io.run(async {
        let log = open(&io, durable()).await;
        let before = world.disk_counters(HOST);
        log.close().await.unwrap();
        assert_eq!(world.disk_counters(HOST), before);
        assert_eq!(values(&open(&io, durable()).await).await, kept);
    })
    .unwrap();
}

/// A log of several segments, closed in order or not.
fn several_segments(world: &Simulation, close: bool) -> Vec<Vec<u8>> {
    let io = world.boot(HOST);
    let big: Vec<Vec<u8>> = (0..60).map(|number| value(number, 50_000)).collect();
    io.run(async {
        let log = open(&io, durable()).await;
        for value in &big {
            append(&log, &one(value)).await;
        }
        log.flush().await.unwrap();
        io.sleep_until(io.now().after_ms(1000)).await;
        log.checkpoint().await.unwrap();
        if close {
            log.close().await.unwrap();
        }
    })
    .unwrap();
    world.crash(HOST, CrashKind::ProcessKilled);
    big
}

#[test]
fn a_missing_or_damaged_checkpoint_loses_nothing() {
    for close in [false, true] {
        for seed in 0..3 {
            let world = simulation(seed);
            let big = several_segments(&world, close);
            let mut bytes = world.file_bytes(HOST, CHECKPOINT).unwrap();
            match seed {
                0 => bytes.clear(),
                1 => bytes.truncate(20),
                _ => bytes[30] ^= 1,
            }
            world.plant_file(HOST, CHECKPOINT, &bytes);
            assert_eq!(recovered(&world), big);
        }
    }
}

/// Changes magic (from 0) or version (from 4) of a small file of a log and makes its checksum right.
fn forge(bytes: &mut [u8], at: usize, to: &[u8]) {
    bytes[at..at + to.len()].copy_from_slice(to);
    let framed = bytes.len() - 4;
    let crc = crc32c::crc32c(&bytes[..framed]).to_le_bytes();
    bytes[framed..].copy_from_slice(&crc);
}

/// What it says is not known here, so checking the segments without it could cut what it allows, or give offsets out again.
#[test]
fn a_checkpoint_of_a_later_version_or_another_kind_is_refused_and_named_and_stays() {
    for (at, to, said) in [
        (
            4,
            &[9, 0][..],
            "it is of version 9, and this program knows versions 1 to ",
        ),
        (0, &b"ELSE"[..], "it is a file of another kind"),
    ] {
        let world = simulation(4);
        several_segments(&world, true);
        let mut bytes = world.file_bytes(HOST, CHECKPOINT).unwrap();
        forge(&mut bytes, at, to);
        world.plant_file(HOST, CHECKPOINT, &bytes);
        let before = world.paths(HOST);
        let io = world.boot(HOST);
        let refused = io.run(async {
            let shared = LogShared::new(Vec::new(), SpareSegments::none());
            let opened = Log::open(
                io.clone(),
                shared,
                Path::new(DIRECTORY),
                durable(),
                Rc::new(Leadership::default()),
            );
            opened.await.map(|_| ()).unwrap_err().to_string()
        });
        let refused = refused.unwrap();
        assert!(
            refused.starts_with(&format!("{CHECKPOINT} cannot be read: {said}")),
            "{refused}"
        );
        assert_eq!(world.paths(HOST), before);
        assert_eq!(world.file_bytes(HOST, CHECKPOINT).unwrap(), bytes);
    }
}

#[test]
fn an_index_of_a_later_version_is_refused_and_named_by_whoever_reads_there() {
    let world = simulation(5);
    several_segments(&world, true);
    let paths = world.paths(HOST);
    let index = paths
        .iter()
        .find(|path| path.extension().is_some_and(|ext| ext == "index"));
    let index = index.unwrap();
    let mut bytes = world.file_bytes(HOST, index).unwrap();
    forge(&mut bytes, 4, &[9, 0]);
    world.plant_file(HOST, index, &bytes);
    let io = world.boot(HOST);
    io.run(async {
        let log = open(&io, durable()).await;
        let read = log.read(Offset(1), 1, true, Bound::LogEnd).await;
        let refused = read.map(|_| ()).unwrap_err().to_string();
        assert!(
            refused.contains(&format!(
                "{} cannot be read: it is of version 9",
                index.display()
            )),
            "{refused}"
        );
    })
    .unwrap();
    assert_eq!(world.file_bytes(HOST, index).unwrap(), bytes);
}

#[test]
fn a_missing_or_damaged_index_is_built_anew() {
    for close in [false, true] {
        let world = simulation(1);
        let big = several_segments(&world, close);
        let indexes: Vec<_> = world
            .paths(HOST)
            .into_iter()
            .filter(|path| path.extension().is_some_and(|ext| ext == "index"))
            .collect();
        assert!(!indexes.is_empty());
        for (number, path) in indexes.iter().enumerate() {
            let mut bytes = world.file_bytes(HOST, path).unwrap();
            if number % 2 == 0 {
                bytes.clear()
            } else {
                bytes[40] ^= 1
            }
            world.plant_file(HOST, path, &bytes);
        }
        assert_eq!(recovered(&world), big);
    }
}

#[test]
fn segments_behind_a_gap_are_set_aside_and_not_deleted() {
    let world = simulation(2);
    let big = several_segments(&world, false);
    let segments: Vec<_> = world
        .paths(HOST)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        .collect();
    assert!(segments.len() > 2);
    // The second one loses its last half.
    let bytes = world.file_bytes(HOST, &segments[1]).unwrap();
    world.plant_file(HOST, &segments[1], &bytes[..bytes.len() / 2]);
    let found = recovered(&world);
    assert!(found.len() > 20 && found.len() < 40);
    assert_eq!(found, big[..found.len()]);
    let aside = world
        .paths(HOST)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "set-aside"));
    assert_eq!(aside.count(), segments.len() - 2);
}
