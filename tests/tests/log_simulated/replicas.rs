//! A log as its roles use it: taking another log's batches as they are, and giving up what the leader does not have.

use std::cell::Cell;
use std::path::PathBuf;

use dataplane::log::{FoundRecord, Level, WaitError};
use dataplane::partition::{Partition, PartitionIdentity};
use dataplane::partition_metrics::PartitionFamilies;
use millrace_tests::sim::CrashKind;

use super::*;

const FOLLOWER: &str = "/data/topic-1";

fn small_segments() -> LogConfig {
    LogConfig {
        segment_bytes: 40_000,
        index_interval_bytes: 4_096,
        ..LogConfig::default()
    }
}

/// A producer's batch of one record; its sequence is its number.
fn numbered(number: usize, life: u8) -> Vec<u8> {
    let timestamp = 1_700_000_000_000 + number as i64;
    let mut value = value(number as u64, 200 + number * 7919 % 9_000);
    value.push(life);
    let mut builder = BatchBuilder::new(timestamp);
    builder.record(timestamp, None, Some(&value), &[]);
    builder.producer(7, 0, number as i32).build()
}

/// Everything from the log's start to its end, as it is stored.
async fn stored(log: &Log<SimIo>) -> Vec<u8> {
    let mut next = log.log_start();
    let mut bytes = Vec::new();
    while next < log.log_end() {
        let read = log.read(next, 100_000, true, Bound::LogEnd).await.unwrap();
        read.slices
            .iter()
            .for_each(|slice| bytes.extend_from_slice(slice));
        next = read.next_offset;
    }
    bytes
}

async fn follow(log: &Log<SimIo>, bytes: &[u8]) -> Result<(), AppendError> {
    for batch in Records::from_slice(bytes).batches() {
        let batch = batch.unwrap();
        loop {
            match log.append_as_follower(&batch) {
                Ok(_) => break,
                Err(AppendError::Busy) => log.room(batch.bytes.len()).await,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Forty batches of three epochs, of an idempotent producer.
async fn forty(log: &Log<SimIo>) {
    for number in 0..40 {
        if number % 15 == 14 {
            log.begin_epoch(LeaderEpoch(number as i32));
        }
        append(log, &numbered(number, 1)).await;
    }
}

/// Where each epoch ends, the first record of a time, and whether each of a producer's batches would be a repetition.
type Known = (
    Vec<Option<(LeaderEpoch, Offset)>>,
    Option<FoundRecord>,
    Vec<bool>,
);

/// What a log answers about its past, whoever wrote it.
async fn knows(log: &Log<SimIo>) -> Known {
    let epochs = (0..50).map(|epoch| log.offset_for_leader_epoch(LeaderEpoch(epoch)));
    let repeats = (0..40).map(|number| {
        let bytes = numbered(number, 1);
        let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
        log.appended_before(&batch)
            .is_ok_and(|known| known.is_some())
    });
    let found = log.offset_for_timestamp(1_700_000_000_011).await.unwrap();
    (epochs.collect(), found, repeats.collect())
}

#[test]
fn a_follower_has_the_leaders_bytes_and_knows_what_the_leader_knows() {
    let simulation = simulation(1);
    let io = simulation.boot(HOST);
    let known = io.run(async {
        let shared = LogShared::new(Vec::new(), SpareSegments::none());
        let leader = open_beside(&io, &shared, DIRECTORY, small_segments()).await;
        forty(&leader).await;
        leader.flush().await.unwrap();
        let owner = Rc::new(Leadership::default());
        let path = Path::new(FOLLOWER);
        let follower = Log::open(io.clone(), shared, path, small_segments(), owner);
        let follower = follower.await.unwrap();
        let bytes = stored(&leader).await;
        follow(&follower, &bytes).await.unwrap();
        follower.flush().await.unwrap();
        assert!(stored(&follower).await == bytes);
        assert_eq!(bases(&simulation, FOLLOWER), bases(&simulation, DIRECTORY));
        assert_eq!(knows(&follower).await, knows(&leader).await);
        knows(&leader).await
    });
    let known = known.unwrap();
    simulation.crash(HOST, CrashKind::PowerLost);
    let io = simulation.boot(HOST);
    io.run(async {
        let shared = LogShared::new(Vec::new(), SpareSegments::none());
        let owner = Rc::new(Leadership::default());
        let path = Path::new(FOLLOWER);
        let follower = Log::open(io.clone(), shared, path, small_segments(), owner);
        assert_eq!(knows(&follower.await.unwrap()).await, known);
    })
    .unwrap();
}

#[test]
fn a_follower_takes_no_batch_that_begins_elsewhere_than_at_its_end_or_is_of_an_older_epoch() {
    let simulation = simulation(2);
    let io = simulation.boot(HOST);
    io.run(async {
        let log = open(&io, durable()).await;
        let stamped = |offset, epoch| {
            let mut bytes = one(b"some value");
            wire::stamp_offset_and_epoch(&mut bytes, offset, epoch);
            bytes
        };
        follow(&log, &stamped(0, 4)).await.unwrap();
        for (offset, epoch) in [(0, 4), (1, 3), (0, 5), (2, 4)] {
            let refused = follow(&log, &stamped(offset, epoch)).await;
            assert_eq!(refused, Err(AppendError::OutOfOrder), "{offset} {epoch}");
        }
        follow(&log, &stamped(1, 6)).await.unwrap();
        assert_eq!(log.log_end(), Offset(2));
        assert_eq!(log.epoch_at(Offset(1)), Some(LeaderEpoch(6)));
    })
    .unwrap();
}

/// What a log of the first `count` batches, which never had more, knows and holds.
fn reference(count: usize) -> (Vec<u8>, Known) {
    let simulation = simulation(3);
    let io = simulation.boot(HOST);
    io.run(async {
        let shared = LogShared::new(Vec::new(), SpareSegments::none());
        let whole = open_beside(&io, &shared, DIRECTORY, small_segments()).await;
        forty(&whole).await;
        whole.flush().await.unwrap();
        let owner = Rc::new(Leadership::default());
        let path = Path::new(FOLLOWER);
        let log = Log::open(io.clone(), shared, path, small_segments(), owner);
        let log = log.await.unwrap();
        if count > 0 {
            let end = Offset(count as i64 - 1);
            let mut bytes = stored(&whole).await;
            let place = Records::from_slice(&bytes)
                .batches()
                .map(|batch| batch.unwrap())
                .take_while(|batch| batch.header.base_offset <= end.0)
                .map(|batch| batch.bytes.len())
                .sum();
            bytes.truncate(place);
            follow(&log, &bytes).await.unwrap();
        }
        log.flush().await.unwrap();
        (stored(&log).await, knows(&log).await)
    })
    .unwrap()
}

/// Builds the log of forty, cuts it to `to` with a crash after so many operations; returns whether the cut was told to be done.
fn cut_and_crash(seed: u64, to: usize, operations: Option<u64>, kind: CrashKind) -> bool {
    let context = format!("seed {seed}, to {to}, {operations:?}, {kind:?}");
    let (kept, known) = reference(to);
    let (whole, _) = reference(40);
    let simulation = simulation(seed);
    let io = simulation.boot(HOST);
    let done = Rc::new(Cell::new(false));
    let told = Rc::clone(&done);
    let run = io.run(async {
        let log = open(&io, small_segments()).await;
        forty(&log).await;
        log.flush().await.unwrap();
        match seed % 3 {
            0 => {}
            1 => log.checkpoint().await.unwrap(),
            _ => {
                let read = log.read(Offset(0), 1 << 20, true, Bound::LogEnd).await;
                drop(read.unwrap());
            }
        }
        if let Some(operations) = operations {
            simulation.crash_after(HOST, operations, kind);
        }
        let end = log.truncate(Offset(to as i64)).await.unwrap();
        assert_eq!(end, Offset(to as i64), "{context}");
        told.set(true);
        assert!(stored(&log).await == kept, "{context}");
        assert_eq!(knows(&log).await, known, "{context}");
        if operations.is_some() {
            loop {
                io.sleep_until(io.now().after_ms(1)).await;
                log.checkpoint().await.unwrap();
                append(&log, &one(b"goes on after the cut")).await;
                log.flush().await.unwrap();
            }
        }
        // The leader's own, of another life and length, take the place.
        log.begin_epoch(LeaderEpoch(60));
        for number in to..60 {
            append(&log, &numbered(number, 2)).await;
        }
        log.flush().await.unwrap();
    });
    assert_eq!(run.is_err(), operations.is_some(), "{context}");
    simulation.crash(HOST, kind);
    let io = simulation.boot(HOST);
    io.run(async {
        let owner = Rc::new(Leadership::default());
        let shared = LogShared::new(Vec::new(), SpareSegments::none());
        let path = Path::new(DIRECTORY);
        let log = Log::open(io.clone(), shared, path, small_segments(), owner);
        let log = log.await.unwrap();
        let bytes = stored(&log).await;
        assert!(bytes.starts_with(&kept), "{context}");
        match operations {
            // All forty, or some behind the cut, or none of them and what came after.
            Some(_) if !done.get() => {
                assert!(whole.starts_with(&bytes), "{context}");
            }
            Some(_) => {}
            None => {
                assert_eq!(log.log_end(), Offset(60), "{context}");
                assert_eq!(
                    log.epoch_at(Offset(to as i64)),
                    Some(LeaderEpoch(60)),
                    "{context}"
                );
                for batch in Records::from_slice(&bytes[kept.len()..]).batches() {
                    let batch = batch.unwrap();
                    batch.check_crc().unwrap();
                    assert_eq!(batch.header.partition_leader_epoch, 60, "{context}");
                }
            }
        }
    })
    .unwrap();
    let paths = simulation.paths(HOST);
    let mut names = paths.iter().filter_map(|path| path.to_str());
    assert!(!names.any(|name| name.ends_with("set-aside")), "{context}");
    done.get()
}

#[test]
fn a_log_that_was_cut_is_as_if_it_never_had_more() {
    for (seed, to) in [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 14),
        (4, 17),
        (5, 25),
        (6, 30),
        (7, 39),
        (8, 40),
    ] {
        for kind in [CrashKind::ProcessKilled, CrashKind::PowerLost] {
            assert!(cut_and_crash(seed, to, None, kind));
        }
    }
}

/// It covers no more than the file holds by then, of other batches.
#[test]
fn an_index_of_what_was_cut_is_not_believed_once_the_log_is_that_long_again() {
    let simulation = simulation(6);
    let io = simulation.boot(HOST);
    let of_size = |number: usize, bytes: usize| one(&value(number as u64, bytes));
    io.run(async {
        // Of small segments half is worth an index; of larger ones, by then, it is not.
        let config = LogConfig {
            segment_bytes: 100_000,
            ..small_segments()
        };
        let log = open(&io, config).await;
        for number in 0..30 {
            append(&log, &of_size(number, 1_000 + number % 2 * 3_000)).await;
        }
        log.checkpoint().await.unwrap();
        log.set_config(durable());
        assert_eq!(log.truncate(Offset(14)).await.unwrap(), Offset(14));
        // Those that it covers end where they ended, and begin elsewhere.
        for number in 14..50 {
            let bytes = if number < 22 { 4_000 } else { 1_000 };
            append(&log, &of_size(number, bytes)).await;
        }
        log.checkpoint().await.unwrap();
    })
    .unwrap();
    simulation.crash(HOST, CrashKind::ProcessKilled);
    let io = simulation.boot(HOST);
    io.run(async {
        let log = open(&io, durable()).await;
        // Backwards, or each read would begin where the one before ended.
        for offset in (10..50).rev() {
            let read = log.read(Offset(offset), 1, true, Bound::LogEnd).await;
            assert_eq!(read.unwrap().next_offset, Offset(offset + 1));
        }
    })
    .unwrap();
}

#[test]
fn a_crash_while_a_log_is_cut_leaves_what_it_was_up_to_some_batch_behind_the_cut() {
    for kind in [CrashKind::ProcessKilled, CrashKind::PowerLost] {
        let mut done = 0;
        for operations in (1..120).step_by(2) {
            let to = [5, 22, 33][operations as usize % 3];
            done += usize::from(cut_and_crash(operations, to, Some(operations), kind));
        }
        assert!(
            (1..59).contains(&done),
            "some crashes came before the end, some after: {done}"
        );
    }
}

async fn partition(io: &SimIo) -> Rc<Partition<SimIo>> {
    let identity = PartitionIdentity {
        topic: "t".to_owned(),
        partition: 0,
    };
    let shared = LogShared::new(Vec::new(), SpareSegments::none());
    let families = PartitionFamilies::new().unwrap();
    let directory = PathBuf::from(DIRECTORY);
    let opened = Partition::open(
        io.clone(),
        directory,
        identity,
        durable(),
        shared,
        &families,
    );
    opened.await.unwrap()
}

fn produce(partition: &Partition<SimIo>, bytes: &[u8]) -> Appended {
    let batch = Batch::first(&Records::from_slice(bytes)).unwrap();
    partition.append(&batch).unwrap()
}

#[test]
fn an_answer_is_for_a_batch_of_its_epoch_and_not_for_whatever_has_its_offset_later() {
    let simulation = simulation(4);
    let io = simulation.boot(HOST);
    io.run(async {
        let partition = partition(&io).await;
        let soon = io.now().after_ms(1_000);
        partition.lead(LeaderEpoch(1));
        let first = produce(&partition, &one(b"of both leaders"));
        let waited = partition.wait_until(&first, Level::Flushed, soon).await;
        assert_eq!(waited, Ok(()));
        let lost = produce(&partition, &one(b"of the old leader"));
        let waiting = Rc::clone(&partition);
        let ended = Rc::new(Cell::new(None));
        let seen = Rc::clone(&ended);
        io.spawn(async move {
            seen.set(Some(waiting.wait_until(&lost, Level::Flushed, soon).await));
        });
        io.sleep_until(io.now()).await;
        partition.resign(LeaderEpoch(2));
        io.sleep_until(io.now().after_ms(1)).await;
        assert_eq!(ended.get(), Some(Err(WaitError::LeaderEpochChanged)));
        assert_eq!(partition.truncate(Offset(1)).await.unwrap(), Offset(1));
        let mut bytes = one(b"of the new leader");
        wire::stamp_offset_and_epoch(&mut bytes, 1, 2);
        let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
        partition.append_as_follower(&batch).unwrap();
        partition.lead(LeaderEpoch(3));
        let after = produce(&partition, &one(b"of the old leader again"));
        let waited = partition.wait_until(&after, Level::Flushed, soon).await;
        assert_eq!(waited, Ok(()));
        // Its offset is flushed, and is another batch's.
        assert!(!partition.has_reached(&lost, Level::Flushed));
        let waited = partition.wait_until(&lost, Level::Flushed, soon).await;
        assert_eq!(waited, Err(WaitError::LeaderEpochChanged));
        // This one is still there, whoever led in between.
        assert!(partition.has_reached(&first, Level::Flushed));
    })
    .unwrap();
}

/// Where an epoch begins is its leader's to say: a follower that is behind would claim offsets for it that belong to an older one.
#[test]
fn an_epoch_of_another_leader_begins_with_its_first_batch_and_not_where_we_ended() {
    let simulation = simulation(5);
    let io = simulation.boot(HOST);
    io.run(async {
        let partition = partition(&io).await;
        partition.lead(LeaderEpoch(1));
        let first = produce(&partition, &one(b"first"));
        partition.resign(LeaderEpoch(2));
        let mut bytes = one(b"still of the first leader");
        wire::stamp_offset_and_epoch(&mut bytes, first.next_offset.0, 1);
        let batch = Batch::first(&Records::from_slice(&bytes)).unwrap();
        partition.append_as_follower(&batch).unwrap();
        assert_eq!(partition.epoch_end(1).end_offset, 2);
        assert_eq!(partition.epoch_end(2).end_offset, 2);
    })
    .unwrap();
}

#[test]
fn a_parked_fetch_is_woken_by_data_beyond_its_offset_and_when_the_leader_changes() {
    let simulation = simulation(5);
    let io = simulation.boot(HOST);
    io.run(async {
        let partition = partition(&io).await;
        partition.lead(LeaderEpoch(1));
        let event = Rc::new(dataplane::event::Event::default());
        let waiter = partition.watch(Offset(1), &event);
        let deadline = io.now().after_ms(1_000);
        let before = event.generation();
        let first = produce(&partition, &one(b"value one"));
        let waited = partition.wait_until(&first, Level::Flushed, deadline).await;
        assert_eq!(waited, Ok(()));
        assert_eq!(event.generation(), before, "offset 1 is not there yet");
        produce(&partition, &one(b"value two"));
        event.changed_since(before).await;
        assert_eq!(partition.high_watermark(), Offset(2));
        let before = event.generation();
        partition.resign(LeaderEpoch(2));
        assert_ne!(event.generation(), before);
        drop(waiter);
        assert_eq!(partition.parked_fetches(), 0);
    })
    .unwrap();
}
