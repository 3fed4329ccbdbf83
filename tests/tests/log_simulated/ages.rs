//! How old records are: what the log makes of times that producers claim, lack, or set for the broker.

use super::*;
use wire::{BatchAttributes, TimestampType};

const HOUR_MS: i64 = 3_600_000;
/// Three of them fill two segments.
const LARGE: usize = 600_000;

/// A batch as produce hands it on: one record of this time, under a header that claims another.
fn timed(timestamp: i64, claimed: i64, bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(timestamp);
    builder.record(timestamp, None, Some(&vec![7; bytes]), &[]);
    builder.claim_max_timestamp(claimed).build()
}

async fn append_checked(log: &Log<SimIo>, bytes: &[u8]) {
    loop {
        let mut batch = Batch::first(&Records::from_slice(bytes)).unwrap();
        batch.set_times(&batch.validate().unwrap().unwrap());
        match log.append_as_leader(&batch, log.latest_epoch().unwrap()) {
            Ok(_) => return,
            Err(AppendError::Busy) => log.room(bytes.len()).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Lets retention run until it has nothing more to do; returns where the log starts then.
async fn after_retention(io: &SimIo, log: &Log<SimIo>) -> i64 {
    for _ in 0..5 {
        log.enforce_retention(io.wall_clock_ms()).await.unwrap();
        io.sleep_until(io.now().after_ms(2_000)).await;
    }
    log.log_start().0
}

fn run(seed: u64, test: impl AsyncFnOnce(&Simulation, &SimIo)) {
    let simulation = simulation(seed);
    let io = simulation.boot(HOST);
    io.run(test(&simulation, &io)).unwrap();
}

#[test]
fn a_false_claim_is_replaced_and_the_crc_holds() {
    run(1, async |_, io| {
        let log = open(io, durable()).await;
        let now = io.wall_clock_ms();
        for claimed in [-1, 0, now - HOUR_MS, i64::MAX, now] {
            append_checked(&log, &timed(now, claimed, 100_000)).await;
        }
        log.flush().await.unwrap();
        // This checks the CRC of every batch.
        assert_eq!(values(&log).await.len(), 5);
        let read = log
            .read(Offset(0), 1 << 20, true, Bound::HighWatermark)
            .await
            .unwrap();
        let bytes: Vec<u8> = read
            .slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        for batch in Records::from_slice(&bytes).batches() {
            assert_eq!(batch.unwrap().header.max_timestamp, now);
        }
        let found = log.offset_for_timestamp(now).await.unwrap().unwrap();
        assert_eq!((found.offset, found.timestamp), (Offset(0), now));
        assert_eq!(log.offset_for_timestamp(now + 1).await.unwrap(), None);
    });
}

#[test]
fn the_bit_of_the_append_time_is_cleared_where_producers_set_the_time() {
    run(2, async |_, io| {
        let log = open(io, durable()).await;
        let mut builder = BatchBuilder::new(1000);
        builder
            .attributes(BatchAttributes(8))
            .record(1000, None, Some(b"value"), &[]);
        append_checked(&log, &builder.build()).await;
        log.flush().await.unwrap();
        assert_eq!(values(&log).await.len(), 1);
        let read = log
            .read(Offset(0), 1 << 20, true, Bound::HighWatermark)
            .await
            .unwrap();
        let bytes = read.slices[0].to_vec();
        let header = Batch::first(&Records::from_slice(&bytes)).unwrap().header;
        assert_eq!(
            header.attributes.timestamp_type(),
            TimestampType::CreateTime
        );
    });
}

#[test]
fn records_without_times_have_no_largest_one() {
    run(3, async |_, io| {
        let log = open(io, durable()).await;
        append_checked(&log, &timed(-1, -1, 10)).await;
        log.flush().await.unwrap();
        assert_eq!(log.max_timestamp().await.unwrap(), None);
        assert_eq!(log.offset_for_timestamp(0).await.unwrap(), None);
        append_checked(&log, &timed(5, -1, 10)).await;
        log.flush().await.unwrap();
        let newest = log.max_timestamp().await.unwrap().unwrap();
        assert_eq!((newest.offset, newest.timestamp), (Offset(1), 5));
    });
}

#[test]
fn retention_goes_by_the_records_and_where_they_have_no_times_by_the_files() {
    let kept_for_an_hour = LogConfig {
        retention_ms: HOUR_MS,
        ..durable()
    };
    let cases = [
        ("old records, no claim", -2 * HOUR_MS, -1),
        (
            "old records, claimed to be of tomorrow",
            -2 * HOUR_MS,
            i64::MAX,
        ),
    ];
    for (name, age, claimed) in cases {
        run(4, async |_, io| {
            let log = open(io, kept_for_an_hour).await;
            for _ in 0..3 {
                append_checked(&log, &timed(io.wall_clock_ms() + age, claimed, LARGE)).await;
            }
            log.flush().await.unwrap();
            assert_eq!(after_retention(io, &log).await, 3, "{name}");
        });
    }
    run(5, async |_, io| {
        let log = open(io, kept_for_an_hour).await;
        append_checked(&log, &timed(io.wall_clock_ms(), 0, LARGE)).await;
        log.flush().await.unwrap();
        assert_eq!(
            after_retention(io, &log).await,
            0,
            "records of now, claimed to be of 1970"
        );
    });
    for restarts in [false, true] {
        run(6, async |simulation, io| {
            let mut log = open(io, kept_for_an_hour).await;
            for _ in 0..3 {
                append_checked(&log, &timed(-1, -1, LARGE)).await;
            }
            log.flush().await.unwrap();
            simulation.move_wall_clock(HOUR_MS / 2);
            if restarts {
                log.close().await.unwrap();
                log = open(io, kept_for_an_hour).await;
            }
            assert_eq!(
                after_retention(io, &log).await,
                0,
                "no times, young files, {restarts}"
            );
            simulation.move_wall_clock(HOUR_MS);
            assert_eq!(
                after_retention(io, &log).await,
                3,
                "no times, old files, {restarts}"
            );
        });
    }
}

#[test]
fn a_limit_of_no_bytes_takes_the_active_segment_too() {
    run(7, async |_, io| {
        let config = LogConfig {
            retention_bytes: 0,
            ..durable()
        };
        let log = open(io, config).await;
        for number in 1..=3 {
            append_checked(&log, &timed(io.wall_clock_ms(), -1, 100)).await;
            log.flush().await.unwrap();
            assert_eq!(after_retention(io, &log).await, number);
        }
        assert_eq!(log.log_end(), Offset(3));
        log.close().await.unwrap();
        let log = open(io, config).await;
        assert_eq!((log.log_start(), log.log_end()), (Offset(3), Offset(3)));
    });
}

#[test]
fn a_segment_ends_by_its_first_records_time_or_by_the_clock() {
    let config = LogConfig {
        segment_ms: HOUR_MS,
        retention_ms: -1,
        ..durable()
    };
    run(8, async |simulation, io| {
        let log = open(io, config).await;
        let start = io.wall_clock_ms();
        for (timestamp, segments) in [(start, 1), (start + HOUR_MS, 1), (start + HOUR_MS + 1, 2)] {
            append_checked(&log, &timed(timestamp, 0, 10)).await;
            assert_eq!(log.segments(), segments);
        }
        // The records' times count, not the clock.
        simulation.move_wall_clock(2 * HOUR_MS);
        append_checked(&log, &timed(start + 2 * HOUR_MS, 0, 10)).await;
        assert_eq!(log.segments(), 2);
        log.flush().await.unwrap();
    });
    run(9, async |simulation, io| {
        let log = open(io, config).await;
        for (passes_ms, segments) in [(0, 1), (HOUR_MS - 60_000, 1), (120_000, 2), (0, 2)] {
            simulation.move_wall_clock(passes_ms);
            append_checked(&log, &timed(-1, -1, 10)).await;
            assert_eq!(log.segments(), segments);
        }
        log.flush().await.unwrap();
    });
}

#[test]
fn jitter_ends_segments_sooner_by_chance_and_never_later() {
    let mut lengths = Vec::new();
    for seed in 0..20 {
        run(seed, async |_, io| {
            let config = LogConfig {
                segment_ms: 100,
                segment_jitter_ms: 40,
                retention_ms: -1,
                ..durable()
            };
            let log = open(io, config).await;
            let mut timestamp = 0;
            append_checked(&log, &timed(timestamp, 0, 10)).await;
            while log.segments() == 1 {
                timestamp += 1;
                append_checked(&log, &timed(timestamp, 0, 10)).await;
            }
            lengths.push(timestamp);
            log.flush().await.unwrap();
        });
    }
    assert!(
        lengths.iter().all(|length| (61..=101).contains(length)),
        "{lengths:?}"
    );
    lengths.sort_unstable();
    lengths.dedup();
    assert!(lengths.len() > 10, "{lengths:?}");
}
