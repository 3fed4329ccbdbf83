//! The simulator's own promises, each as a test: one seed one run, honest crashes, honest streams.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use dataplane::io::{
    BLOCK_BYTES, Buffer, FilePosition, Gather, GatherPart, Io, OpenMode, WriteDurability,
    WriteLease,
};

use super::{
    CrashKind, FaultPlan, FileFault, Shortage, SimFile, SimIo, SimOptions, Simulation, Stopped,
};

const SEEDS: std::ops::Range<u64> = 0..64;

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9092))
}

fn blocks(value: u8, count: usize) -> WriteLease {
    let bytes = count * BLOCK_BYTES;
    let mut buffer = Buffer::allocate(bytes).unwrap();
    buffer.append(bytes, |target| target.fill(value));
    buffer.write_lease(0..bytes)
}

async fn write(io: &SimIo, file: &SimFile, block: u64, value: u8, durability: WriteDurability) {
    let at = FilePosition(block * BLOCK_BYTES as u64);
    let written = io.write(file, at, blocks(value, 1), durability).await;
    written.unwrap();
}

/// A file whose name and (empty) content are durable.
async fn durable_file(io: &SimIo, path: &str) -> SimFile {
    let file = io
        .open(Path::new(path), OpenMode::DirectCreate)
        .await
        .unwrap();
    io.sync(&file).await.unwrap();
    io.sync_directory(Path::new("/")).await.unwrap();
    file
}

fn message(bytes: &[u8]) -> Gather {
    let mut gather = Gather::default();
    gather.inline.extend_from_slice(bytes);
    gather.parts.push(GatherPart::Inline(0..bytes.len()));
    gather
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 31 / 7) as u8).collect()
}

/// Tasks, timers, files and sockets, all at once.
fn busy_run(seed: u64) -> (u64, u64) {
    let simulation = Simulation::seeded(seed);
    let io = simulation.boot("broker");
    let ended = io.run(async {
        let listener = io.listen(address()).unwrap();
        let server = io.clone();
        io.spawn(async move {
            let (socket, _) = server.accept(&listener).await.unwrap();
            loop {
                let bytes = server.receive(&socket).await.unwrap();
                if bytes.is_empty() {
                    break;
                }
                let (sent, _) = server.send(&socket, message(&bytes)).await;
                sent.unwrap();
            }
        });
        for number in 0..4 {
            let writer = io.clone();
            io.spawn(async move {
                let file = durable_file(&writer, &format!("/file-{number}")).await;
                for block in 0..8 {
                    write(&writer, &file, block, number, WriteDurability::Written).await;
                    writer.sync(&file).await.unwrap();
                }
            });
        }
        let socket = io.connect(address()).await.unwrap();
        let (sent, _) = io.send(&socket, message(&pattern(50_000))).await;
        sent.unwrap();
        let target = Buffer::allocate(50_000).unwrap();
        let (received, target) = io.receive_into(&socket, target, 50_000).await;
        assert_eq!(received.unwrap(), 50_000);
        assert_eq!(target.as_slice(), pattern(50_000));
        io.sleep_until(io.now().after_ms(100)).await;
        io.random_u64()
    });
    ended.unwrap();
    (simulation.trace_hash(), simulation.events())
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..8 {
        assert_eq!(busy_run(seed), busy_run(seed), "seed {seed}");
    }
}

#[test]
fn another_seed_is_another_run() {
    let hashes: BTreeSet<u64> = SEEDS.map(|seed| busy_run(seed).0).collect();
    assert_eq!(hashes.len(), SEEDS.count());
}

#[test]
fn the_seed_decides_the_order_of_ready_tasks() {
    let orders: BTreeSet<Vec<u8>> = SEEDS
        .map(|seed| {
            let simulation = Simulation::seeded(seed);
            let io = simulation.boot("broker");
            let order = Rc::new(RefCell::new(Vec::new()));
            for name in 0..3 {
                let order = Rc::clone(&order);
                io.spawn(async move { order.borrow_mut().push(name) });
            }
            io.run(io.sleep_until(io.now().after_ms(1))).unwrap();
            order.take()
        })
        .collect();
    assert_eq!(orders.len(), 6, "every order of three tasks turns up");
}

#[test]
fn time_moves_only_when_nothing_is_runnable() {
    let simulation = Simulation::seeded(1);
    let io = simulation.boot("broker");
    io.run(async {
        let start = io.now();
        let wall = io.wall_clock_ms();
        let deadline = start.after_ms(60_000);
        io.sleep_until(start).await;
        assert_eq!(io.now(), start);
        io.sleep_until(deadline).await;
        assert!(io.now() >= deadline);
        assert!(io.wall_clock_ms() >= wall + 60_000);
    })
    .unwrap();
}

#[test]
fn waiting_for_nothing_is_told_apart_from_working_for_ever() {
    let simulation = Simulation::new(SimOptions {
        steps_max: 1000,
        ..SimOptions::seeded(1)
    });
    let io = simulation.boot("broker");
    let stuck = io.run(std::future::pending::<()>());
    assert_eq!(stuck, Err(Stopped::Stuck));
    let endless = io.run(async {
        loop {
            io.sleep_until(io.now().after_ms(1)).await;
        }
    });
    assert_eq!(endless, Err::<(), _>(Stopped::Endless));
}

#[test]
fn a_kill_keeps_completed_writes_and_may_tear_those_in_flight() {
    let mut outcomes = BTreeSet::new();
    for seed in SEEDS {
        let simulation = Simulation::seeded(seed);
        let io = simulation.boot("broker");
        io.run(async {
            let file = io
                .open(Path::new("/log"), OpenMode::DirectCreate)
                .await
                .unwrap();
            write(&io, &file, 0, 1, WriteDurability::Written).await;
            write(&io, &file, 1, 1, WriteDurability::Written).await;
            let late = io.clone();
            io.spawn(async move { write(&late, &file, 1, 2, WriteDurability::Written).await });
            // One poll of the task begins the write; nothing has let it complete.
            let now = io.now();
            while io.now() == now && simulation.disk_counters("broker").writes < 3 {
                io.sleep_until(dataplane::io::Instant(now.0 + 1)).await;
            }
        })
        .unwrap();
        io.crash(CrashKind::ProcessKilled);
        let left = simulation.file_bytes("broker", "/log").unwrap();
        assert!(left[..BLOCK_BYTES].iter().all(|&byte| byte == 1));
        let second = &left[BLOCK_BYTES..];
        for sector in second.chunks(512) {
            assert!(sector.iter().all(|&byte| byte == sector[0]));
            assert!(matches!(sector[0], 1 | 2));
        }
        let new = second.chunks(512).filter(|sector| sector[0] == 2).count();
        outcomes.insert(match new {
            0 => "gone",
            8 => "stayed",
            _ => "torn",
        });
    }
    assert_eq!(outcomes.len(), 3, "a write in flight {outcomes:?}");
}

#[test]
fn a_power_loss_keeps_synced_blocks_and_any_of_the_others() {
    let mut third_blocks = BTreeSet::new();
    for seed in SEEDS {
        let simulation = Simulation::seeded(seed);
        let io = simulation.boot("broker");
        io.run(async {
            let file = durable_file(&io, "/log").await;
            write(&io, &file, 0, 1, WriteDurability::Synced).await;
            write(&io, &file, 1, 2, WriteDurability::Written).await;
            io.sync(&file).await.unwrap();
            write(&io, &file, 2, 3, WriteDurability::Written).await;
            write(&io, &file, 2, 4, WriteDurability::Written).await;
        })
        .unwrap();
        simulation.crash("broker", CrashKind::PowerLost);
        let left = simulation.file_bytes("broker", "/log").unwrap();
        assert!(left[..BLOCK_BYTES].iter().all(|&byte| byte == 1));
        assert!(
            left[BLOCK_BYTES..2 * BLOCK_BYTES]
                .iter()
                .all(|&byte| byte == 2)
        );
        third_blocks.insert(left.get(2 * BLOCK_BYTES).copied());
    }
    let any = [None, Some(0), Some(3), Some(4)];
    assert_eq!(third_blocks, BTreeSet::from(any));
}

#[test]
fn a_sync_covers_only_writes_that_had_completed() {
    let lost = SEEDS.filter(|&seed| {
        let simulation = Simulation::seeded(seed);
        let io = simulation.boot("broker");
        io.run(async {
            let file = durable_file(&io, "/log").await;
            io.allocate(&file, FilePosition(0), BLOCK_BYTES as u64)
                .await
                .unwrap();
            io.sync(&file).await.unwrap();
            let done = Rc::new(Cell::new(0));
            for task in 0..2 {
                let (io, file, done) = (io.clone(), file.clone(), Rc::clone(&done));
                io.clone().spawn(async move {
                    match task {
                        0 => io.sync(&file).await.unwrap(),
                        _ => write(&io, &file, 0, 1, WriteDurability::Written).await,
                    }
                    done.set(done.get() + 1);
                });
            }
            while done.get() < 2 {
                io.sleep_until(io.now().after_ms(1)).await;
            }
        })
        .unwrap();
        simulation.crash("broker", CrashKind::PowerLost);
        simulation.file_bytes("broker", "/log").unwrap()[0] == 0
    });
    assert!(lost.count() > 0);
}

#[test]
fn truncated_data_never_comes_back_once_later_metadata_is_synced() {
    for seed in SEEDS {
        let simulation = Simulation::seeded(seed);
        let io = simulation.boot("broker");
        io.run(async {
            let file = durable_file(&io, "/log").await;
            for block in 0..4 {
                write(&io, &file, block, 7, WriteDurability::Synced).await;
            }
            io.truncate(&file, 0).await.unwrap();
            let end = 4 * BLOCK_BYTES as u64;
            io.allocate(&file, FilePosition(0), end).await.unwrap();
            write(&io, &file, 0, 1, WriteDurability::Synced).await;
        })
        .unwrap();
        simulation.crash("broker", CrashKind::PowerLost);
        let left = simulation.file_bytes("broker", "/log").unwrap();
        assert_eq!(left.len(), 4 * BLOCK_BYTES, "seed {seed}");
        assert!(left[..BLOCK_BYTES].iter().all(|&byte| byte == 1));
        assert!(left[BLOCK_BYTES..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next_one() {
    let lost = SEEDS.filter(|&seed| {
        let simulation = Simulation::seeded(seed);
        let io = simulation.boot("broker");
        io.run(async {
            let file = durable_file(&io, "/log").await;
            write(&io, &file, 0, 1, WriteDurability::Written).await;
            simulation.fail_once(FileFault::SyncError, "log", 0);
            assert!(io.sync(&file).await.is_err());
            io.sync(&file).await.unwrap();
        })
        .unwrap();
        simulation.crash("broker", CrashKind::PowerLost);
        simulation.file_bytes("broker", "/log").unwrap().first() != Some(&1)
    });
    assert!(lost.count() > 0);
}

#[test]
fn names_are_sure_only_after_a_directory_sync() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let simulation = Simulation::seeded(seed);
        let io = simulation.boot("broker");
        io.run(async {
            io.create_directories(Path::new("/data")).await.unwrap();
            io.sync_directory(Path::new("/")).await.unwrap();
            io.open(Path::new("/data/sure"), OpenMode::DirectCreate)
                .await
                .unwrap();
            io.sync_directory(Path::new("/data")).await.unwrap();
            let checkpoint = Path::new("/data/checkpoint");
            io.replace_file(checkpoint, b"one".to_vec()).await.unwrap();
            io.open(Path::new("/data/perhaps"), OpenMode::DirectCreate)
                .await
                .unwrap();
            io.rename(Path::new("/data/sure"), Path::new("/data/renamed"))
                .await
                .unwrap();
        })
        .unwrap();
        simulation.crash("broker", CrashKind::PowerLost);
        let checkpoint = simulation.file_bytes("broker", "/data/checkpoint");
        assert_eq!(checkpoint.as_deref(), Some(&b"one"[..]));
        let has = |path| simulation.file_bytes("broker", path).is_some();
        assert_ne!(
            has("/data/sure"),
            has("/data/renamed"),
            "a rename is one step"
        );
        seen.insert((has("/data/perhaps"), has("/data/renamed")));
    }
    assert_eq!(seen.len(), 4, "each name decides for itself: {seen:?}");
}

#[test]
fn a_replaced_file_is_the_old_one_or_the_new_one() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        for operations in 1..=5 {
            let simulation = Simulation::seeded(seed);
            let io = simulation.boot("broker");
            let path = Path::new("/checkpoint");
            io.run(io.replace_file(path, b"old".to_vec()))
                .unwrap()
                .unwrap();
            simulation.crash_after("broker", operations, CrashKind::PowerLost);
            let crashed = io.run(async {
                let _ = io.replace_file(path, b"newer".to_vec()).await;
                std::future::pending().await
            });
            assert_eq!(crashed, Err::<(), _>(Stopped::Crashed));
            seen.insert(simulation.file_bytes("broker", path).unwrap());
        }
    }
    assert_eq!(seen, BTreeSet::from([b"old".to_vec(), b"newer".to_vec()]));
}

/// What one writer has made, the other cuts to nothing, writes over or gives its name: two at once are a fault, and it shows.
#[test]
fn two_replacements_of_one_file_at_once_meet_each_other() {
    let mut met = 0;
    for seed in SEEDS {
        let simulation = Simulation::seeded(seed);
        let io = simulation.boot("broker");
        let failed = Rc::new(Cell::new(0));
        let left = Rc::new(Cell::new(2));
        for value in 1..=2u8 {
            let (writing, failed, left) = (io.clone(), Rc::clone(&failed), Rc::clone(&left));
            io.spawn(async move {
                let bytes = vec![value; 9000 * usize::from(value)];
                let result = writing.replace_file(Path::new("/index"), bytes).await;
                failed.set(failed.get() + u32::from(result.is_err()));
                left.set(left.get() - 1);
            });
        }
        io.run(async {
            while left.get() > 0 {
                io.sleep_until(io.now().after_ms(1)).await;
            }
        })
        .unwrap();
        let bytes = simulation.file_bytes("broker", "/index").unwrap();
        let whole = bytes.iter().all(|byte| *byte == bytes[0])
            && bytes.len() == 9000 * usize::from(bytes[0]);
        met += u32::from(failed.get() > 0 || !whole);
    }
    assert!(met > 0, "no seed had both at work at once");
}

#[test]
fn a_process_without_descriptors_and_a_full_disk_refuse_before_anything_happened() {
    let simulation = Simulation::seeded(12);
    let io = simulation.boot("broker");
    io.run(async {
        let open = async |path: &str, mode| io.open(Path::new(path), mode).await;
        let first = open("/one", OpenMode::DirectCreate).await.unwrap();
        let again = first.clone();
        simulation.set_descriptors("broker", 2);
        let second = open("/one", OpenMode::Direct).await.unwrap();
        assert_eq!(simulation.descriptors("broker"), 2, "a clone is no other");
        let refused = open("/two", OpenMode::DirectCreate).await.err().unwrap();
        assert_eq!(refused.raw_os_error(), Some(24));
        assert!(io.sync_directory(Path::new("/")).await.is_err());
        assert!(io.replace_file(Path::new("/three"), vec![1]).await.is_err());
        drop((first, again));
        open("/two", OpenMode::DirectCreate).await.unwrap();
        drop(second);
        let missing = open("/four", OpenMode::Direct).await.err().unwrap();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        for shortage in Shortage::ALL {
            simulation.fail_once(FileFault::Refused(shortage), "/five", 0);
            assert!(open("/five", OpenMode::DirectCreate).await.is_err());
            assert_eq!(simulation.paths("broker").len(), 2, "{shortage:?}");
        }
        // Room comes back with the last name and the last handle.
        let file = open("/two", OpenMode::Direct).await.unwrap();
        simulation.set_disk_bytes("broker", 4 * BLOCK_BYTES as u64);
        io.allocate(&file, FilePosition(0), 3 * BLOCK_BYTES as u64)
            .await
            .unwrap();
        let one = open("/one", OpenMode::Direct).await.unwrap();
        let full = io.allocate(&one, FilePosition(0), 2 * BLOCK_BYTES as u64);
        assert_eq!(full.await.unwrap_err().kind(), ErrorKind::StorageFull);
        io.remove_file(Path::new("/two")).await.unwrap();
        let full = io.allocate(&one, FilePosition(0), 2 * BLOCK_BYTES as u64);
        assert_eq!(full.await.unwrap_err().kind(), ErrorKind::StorageFull);
        drop(file);
        io.allocate(&one, FilePosition(0), 2 * BLOCK_BYTES as u64)
            .await
            .unwrap();
    })
    .unwrap();
}

#[test]
fn a_crash_ends_every_task_and_the_disk_outlives_it() {
    let simulation = Simulation::seeded(3);
    let io = simulation.boot("broker");
    let ticks = Rc::new(Cell::new(0));
    let (ticking, counter) = (io.clone(), Rc::clone(&ticks));
    io.spawn(async move {
        loop {
            ticking.sleep_until(ticking.now().after_ms(1)).await;
            counter.set(counter.get() + 1);
        }
    });
    io.run(async {
        let file = durable_file(&io, "/log").await;
        write(&io, &file, 0, 9, WriteDurability::Synced).await;
    })
    .unwrap();
    io.crash(CrashKind::PowerLost);
    let before = ticks.get();
    assert_eq!(simulation.tasks(), 0);
    let again = simulation.boot("broker");
    let first = again.run(async {
        let file = again
            .open(Path::new("/log"), OpenMode::ReadCached)
            .await
            .unwrap();
        let buffer = Buffer::allocate(BLOCK_BYTES).unwrap();
        let (read, buffer) = again.read(&file, FilePosition(0), buffer, 100).await;
        assert_eq!(read.unwrap(), 100);
        buffer.as_slice()[99]
    });
    assert_eq!(first, Ok(9));
    assert_eq!(ticks.get(), before);
    assert_eq!(io.run(async {}), Err(Stopped::Crashed));
}

#[test]
fn a_stream_keeps_its_bytes_in_order_and_comes_in_chunks_of_any_size() {
    let mut sizes = BTreeSet::new();
    let sent = pattern(300_000);
    for seed in 0..16 {
        let simulation = Simulation::seeded(seed);
        let server = simulation.boot("broker");
        let client = simulation.boot("client");
        let listener = server.listen(address()).unwrap();
        let bytes = sent.clone();
        let sending = client.clone();
        client.spawn(async move {
            let socket = sending.connect(address()).await.unwrap();
            let (result, _) = sending.send(&socket, message(&bytes)).await;
            result.unwrap();
        });
        let received = server.run(async {
            let (socket, _) = server.accept(&listener).await.unwrap();
            let mut received = Vec::new();
            loop {
                let bytes = server.receive(&socket).await.unwrap();
                if bytes.is_empty() {
                    return received;
                }
                sizes.insert(bytes.len());
                received.extend_from_slice(&bytes);
            }
        });
        assert!(received.unwrap() == sent, "seed {seed}");
    }
    assert!(sizes.iter().any(|&bytes| bytes < 8));
    assert!(sizes.iter().any(|&bytes| bytes > 16_000));
    assert!(sizes.iter().all(|&bytes| bytes <= 32 * 1024));
}

#[test]
fn a_sender_waits_while_nobody_reads() {
    let simulation = Simulation::seeded(5);
    let server = simulation.boot("broker");
    let client = simulation.boot("client");
    let listener = server.listen(address()).unwrap();
    let stuck = client.run(async {
        let socket = client.connect(address()).await.unwrap();
        let (_accepted, _) = server.accept(&listener).await.unwrap();
        client.send(&socket, message(&pattern(1 << 20))).await.0
    });
    assert!(matches!(stuck, Err(Stopped::Stuck)));
}

#[test]
fn held_slices_exhaust_the_receive_buffers_until_one_is_dropped() {
    let simulation = Simulation::new(SimOptions {
        receive_buffers: 2,
        ..SimOptions::seeded(6)
    });
    let io = simulation.boot("broker");
    let listener = io.listen(address()).unwrap();
    let sending = io.clone();
    io.spawn(async move {
        let socket = sending.connect(address()).await.unwrap();
        let _ = sending.send(&socket, message(&pattern(100_000))).await;
        std::future::pending::<()>().await;
    });
    let held = Rc::new(RefCell::new(Vec::new()));
    let (receiving, holder) = (io.clone(), Rc::clone(&held));
    io.spawn(async move {
        let (socket, _) = receiving.accept(&listener).await.unwrap();
        loop {
            let slice = receiving.receive(&socket).await.unwrap();
            holder.borrow_mut().push(slice);
        }
    });
    io.run(io.sleep_until(io.now().after_ms(1000))).unwrap();
    assert_eq!(held.borrow().len(), 2);
    held.borrow_mut().remove(0);
    io.run(io.sleep_until(io.now().after_ms(1000))).unwrap();
    assert_eq!(held.borrow().len(), 2);
}

#[test]
fn a_waiter_gets_the_pooled_buffer_that_another_task_returns() {
    let simulation = Simulation::new(SimOptions {
        buffers: 1,
        ..SimOptions::seeded(7)
    });
    let io = simulation.boot("broker");
    io.run(async {
        let buffer = io.take_buffer().unwrap();
        assert!(io.take_buffer().is_none());
        let returning = io.clone();
        io.spawn(async move {
            returning.sleep_until(returning.now().after_ms(5)).await;
            drop(buffer);
        });
        assert_eq!(io.wait_buffer().await.capacity(), io.buffer_bytes());
    })
    .unwrap();
    assert_eq!(io.buffers_available(), 1);
}

#[test]
fn the_peer_of_a_crashed_process_is_told() {
    for seed in SEEDS {
        let simulation = Simulation::seeded(seed);
        let server = simulation.boot("broker");
        let client = simulation.boot("client");
        let listener = server.listen(address()).unwrap();
        let accepting = server.clone();
        server.spawn(async move {
            let _socket = accepting.accept(&listener).await.unwrap();
            std::future::pending::<()>().await;
        });
        let crashing = client.clone();
        let heard = client.run(async {
            let socket = crashing.connect(address()).await.unwrap();
            crashing.sleep_until(crashing.now().after_ms(10)).await;
            server.crash(CrashKind::ProcessKilled);
            let heard = crashing.receive(&socket).await;
            let refused = crashing.connect(address()).await.err();
            assert_eq!(
                refused.map(|error| error.kind()),
                Some(ErrorKind::ConnectionRefused)
            );
            heard
        });
        match heard.unwrap() {
            Ok(end) => assert!(end.is_empty()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(simulation.connections(), 0);
    }
}

#[test]
fn a_socket_is_handed_to_another_shard_or_closed() {
    let simulation = Simulation::seeded(8);
    let io = simulation.boot("broker");
    let listener = io.listen(address()).unwrap();
    let client = simulation.boot("client");
    client
        .run(async {
            let socket = client.connect(address()).await.unwrap();
            let (accepted, _) = io.accept(&listener).await.unwrap();
            let shard = io.another_shard();
            let taken = shard.take_over(io.hand_off(accepted));
            shard.send(&taken, message(b"hello")).await.0.unwrap();
            let target = Buffer::allocate(8).unwrap();
            let (received, _) = client.receive_into(&socket, target, 5).await;
            assert_eq!(received.unwrap(), 5);
            drop(shard.hand_off(taken));
            assert!(client.receive(&socket).await.unwrap().is_empty());
        })
        .unwrap();
}

#[test]
fn faults_come_by_chance_and_on_demand() {
    let plan = FaultPlan {
        write_errors: 100_000,
        short_writes: 100_000,
        ..FaultPlan::default()
    };
    let simulation = Simulation::new(SimOptions {
        faults: plan,
        ..SimOptions::seeded(9)
    });
    let io = simulation.boot("broker");
    io.run(async {
        let file = io
            .open(Path::new("/log"), OpenMode::DirectCreate)
            .await
            .unwrap();
        let mut failed = 0;
        for _ in 0..200 {
            let at = FilePosition(0);
            let lease = blocks(1, 2);
            failed += u32::from(
                io.write(&file, at, lease, WriteDurability::Written)
                    .await
                    .is_err(),
            );
        }
        assert!((10..100).contains(&failed), "{failed} of 200 writes failed");
        simulation.set_faults(FaultPlan::default());
        simulation.fail_once(FileFault::WriteError, "log", 1);
        for expected in [true, false, true] {
            let at = FilePosition(0);
            let result = io.write(&file, at, blocks(2, 1), WriteDurability::Written);
            assert_eq!(result.await.is_ok(), expected);
        }
        simulation.set_disk_bytes("broker", 4 * BLOCK_BYTES as u64);
        let full = io.allocate(&file, FilePosition(0), 1 << 20).await;
        assert_eq!(full.unwrap_err().kind(), ErrorKind::StorageFull);
    })
    .unwrap();
}

#[test]
fn overlapping_writes_are_counted() {
    let simulation = Simulation::seeded(10);
    let io = simulation.boot("broker");
    io.run(async {
        let file = io
            .open(Path::new("/log"), OpenMode::DirectCreate)
            .await
            .unwrap();
        for value in 0..2 {
            let (io, file) = (io.clone(), file.clone());
            io.clone()
                .spawn(async move { write(&io, &file, 0, value, WriteDurability::Written).await });
        }
        io.sleep_until(io.now().after_ms(100)).await;
    })
    .unwrap();
    assert_eq!(simulation.disk_counters("broker").overlapping_writes, 1);
}
