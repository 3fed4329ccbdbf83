//! Files of a ring on the real file system.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::task::{Context, Waker};

use ring::memory::{BLOCK_BYTES, Buffer};
use ring::{Ring, RingConfig, RingError, WriteLeases};

fn ring(register_memory: bool) -> Ring {
    let config = RingConfig {
        pool_buffer_bytes: 16384,
        pool_buffers: 8,
        register_memory,
        ..RingConfig::default()
    };
    Ring::new(config).unwrap()
}

/// An empty directory of this test's own.
fn directory(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{error}"),
        _ => std::fs::create_dir_all(&path).unwrap(),
    }
    path
}

/// Runs one test of this file again in a process of its own, whose limits it may change.
fn in_child(test: &str, body: impl FnOnce()) {
    const CHILD: &str = "RING_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn limit(resource: libc::__rlimit_resource_t, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: the limit outlives the call.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

#[test]
fn blocks_are_written_and_read_back_registered_or_not_synced_or_not() {
    for registered in [true, false] {
        for synced in [true, false] {
            let path = directory(&format!("blocks-{registered}-{synced}")).join("log");
            let ring = ring(registered);
            if !registered {
                assert!(!ring.memory_is_registered());
            }
            ring.block_on(async {
                let file = ring.create_direct(&path).await.unwrap();
                let mut buffer = ring.wait_buffer().await;
                buffer.append(10_000, |bytes| bytes.fill(1));
                ring.write(&file, 4096, buffer.write_lease(0..3 * BLOCK_BYTES), synced)
                    .await
                    .unwrap();
                assert!(buffer.clear(), "the lease is gone with its write");
                ring.sync(&file).await.unwrap();
                assert_eq!(ring.file_bytes(&file).await.unwrap(), 4 * 4096);
                let (result, buffer) = ring.read(&file, 0, ring.wait_buffer().await, 16384).await;
                assert_eq!(result.unwrap(), 4 * 4096);
                let mut expected = vec![0; 4 * 4096];
                expected[4096..14_096].fill(1);
                assert!(buffer.as_slice() == expected);
                let (result, _) = ring.read(&file, 4 * 4096, buffer, 0).await;
                assert_eq!(result.unwrap(), 0);
            });
        }
    }
}

#[test]
fn leases_of_several_buffers_are_written_one_behind_the_other() {
    for synced in [true, false] {
        let path = directory(&format!("gathered-{synced}")).join("log");
        let ring = ring(true);
        ring.block_on(async {
            let file = ring.create_direct(&path).await.unwrap();
            let mut buffers = Vec::new();
            for (number, bytes) in [(1, 4096), (2, 16384), (3, 5000)] {
                let mut buffer = ring.wait_buffer().await;
                buffer.append(bytes, |target| target.fill(number));
                buffers.push(buffer);
            }
            let leases = WriteLeases::from(buffers[0].write_lease(0..4096))
                .followed_by(buffers[1].write_lease(4096..12288))
                .followed_by(buffers[2].write_lease(0..8192));
            ring.write(&file, 8192, leases, synced).await.unwrap();
            assert!(buffers.iter_mut().all(Buffer::clear), "no lease is left");
            let buffer = Buffer::allocate(1 << 20).unwrap();
            let (result, buffer) = ring.read(&file, 0, buffer, 1 << 20).await;
            assert_eq!(result.unwrap(), 8192 + 4096 + 8192 + 8192);
            let parts = [(0, 8192), (1, 4096), (2, 8192), (3, 5000), (0, 3192)];
            let expected: Vec<u8> = parts
                .iter()
                .flat_map(|(number, bytes)| vec![*number; *bytes])
                .collect();
            assert!(buffer.as_slice() == expected);
        });
    }
}

#[test]
fn large_buffers_of_their_own_are_written_and_read() {
    let path = directory("large").join("log");
    let ring = ring(true);
    ring.block_on(async {
        let file = ring.create_direct(&path).await.unwrap();
        let mut buffer = Buffer::allocate(3 << 20).unwrap();
        buffer.append(3 << 20, |bytes| {
            bytes
                .iter_mut()
                .enumerate()
                .for_each(|(place, byte)| *byte = (place / 97) as u8)
        });
        ring.write(&file, 0, buffer.write_lease(0..3 << 20), false)
            .await
            .unwrap();
        let (result, again) = ring
            .read(&file, 0, Buffer::allocate(4 << 20).unwrap(), 4 << 20)
            .await;
        assert_eq!(
            result.unwrap(),
            3 << 20,
            "fewer bytes at the end of the file"
        );
        assert!(again.as_slice() == buffer.as_slice());
    });
}

#[test]
fn a_file_is_allocated_truncated_and_read_through_the_cache() {
    let path = directory("sizes").join("segment");
    let ring = ring(true);
    ring.block_on(async {
        let file = ring.create_direct(&path).await.unwrap();
        ring.allocate(&file, 0, 1 << 20).await.unwrap();
        assert_eq!(ring.file_bytes(&file).await.unwrap(), 1 << 20);
        ring.truncate(&file, 5000).await.unwrap();
        assert_eq!(ring.file_bytes(&file).await.unwrap(), 5000);
        let cached = ring.open_cached(&path).await.unwrap();
        let (result, buffer) = ring
            .read(&cached, 1, Buffer::allocate(8192).unwrap(), 8192)
            .await;
        assert_eq!(result.unwrap(), 4999);
        assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
        let (result, _) = ring
            .read(&file, 0, Buffer::allocate(8192).unwrap(), 8192)
            .await;
        assert_eq!(result.unwrap(), 5000, "an unaligned end of a direct file");
    });
}

#[test]
fn names_are_made_listed_renamed_and_removed() {
    let root = directory("names");
    let ring = ring(true);
    ring.block_on(async {
        let deep = root.join("a/b/c");
        ring.create_directories(&deep).await.unwrap();
        ring.create_directories(&deep).await.unwrap();
        ring.create_direct(&deep.join("two")).await.unwrap();
        ring.create_direct(&deep.join("one")).await.unwrap();
        assert_eq!(ring.list(&deep).unwrap(), ["one", "two"]);
        ring.rename(&deep.join("one"), &deep.join("three"))
            .await
            .unwrap();
        ring.sync_directory(&deep).await.unwrap();
        assert_eq!(ring.list(&deep).unwrap(), ["three", "two"]);
        let error = ring
            .create_directories(&deep.join("two"))
            .await
            .unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::AlreadyExists,
            "a file is no directory"
        );
        assert!(ring.remove_directory(&deep).await.is_err(), "not empty");
        ring.remove_file(&deep.join("two")).await.unwrap();
        ring.remove_file(&deep.join("three")).await.unwrap();
        ring.remove_directory(&deep).await.unwrap();
        assert_eq!(
            ring.list(&deep).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(
            ring.open_cached(&deep).await.err().unwrap().kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(
            ring.remove_file(Path::new("a\0b"))
                .await
                .unwrap_err()
                .kind(),
            io::ErrorKind::InvalidInput
        );
    });
}

#[test]
fn a_small_file_is_replaced_as_one_step_and_read_up_to_a_limit() {
    let root = directory("small");
    let ring = ring(true);
    ring.block_on(async {
        let path = root.join("checkpoint");
        ring.replace_file(&path, b"first, longer".to_vec())
            .await
            .unwrap();
        ring.replace_file(&path, b"second".to_vec()).await.unwrap();
        assert_eq!(ring.read_file(&path, 6).await.unwrap(), b"second");
        assert_eq!(
            ring.read_file(&path, 5).await.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(
            ring.list(&root).unwrap(),
            ["checkpoint"],
            "no temporary file stays"
        );
        ring.replace_file(&path, Vec::new()).await.unwrap();
        assert_eq!(ring.read_file(&path, 5).await.unwrap(), b"");
    });
}

#[test]
fn a_full_device_is_an_error() {
    let ring = ring(true);
    ring.block_on(async {
        let file = ring.create_direct(Path::new("/dev/full")).await.unwrap();
        let mut buffer = ring.wait_buffer().await;
        let error = ring
            .write(&file, 0, buffer.write_lease(0..4096), false)
            .await
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    });
}

#[test]
fn a_write_that_ends_short_is_an_error_that_says_why() {
    in_child("a_write_that_ends_short_is_an_error_that_says_why", || {
        let path = directory("short").join("log");
        // SAFETY: a plain call; the signal that comes with the limit would end the process.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        limit(libc::RLIMIT_FSIZE, 8192);
        let ring = ring(true);
        ring.block_on(async {
            let file = ring.create_direct(&path).await.unwrap();
            let mut buffer = ring.wait_buffer().await;
            let error = ring
                .write(&file, 0, buffer.write_lease(0..16384), false)
                .await
                .unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
            assert_eq!(
                ring.file_bytes(&file).await.unwrap(),
                8192,
                "it was a short write"
            );
            assert!(buffer.clear());
            ring.truncate(&file, 0).await.unwrap();
            let mut other = ring.wait_buffer().await;
            let leases = WriteLeases::from(buffer.write_lease(0..4096))
                .followed_by(other.write_lease(0..8192));
            let error = ring.write(&file, 0, leases, false).await;
            assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EFBIG));
            assert_eq!(
                ring.file_bytes(&file).await.unwrap(),
                8192,
                "it ended in the middle of the second lease"
            );
            assert!(buffer.clear() && other.clear());
        });
    });
}

#[test]
fn under_a_small_memlock_limit_memory_stays_unregistered_and_writes_work() {
    in_child(
        "under_a_small_memlock_limit_memory_stays_unregistered_and_writes_work",
        || {
            let path = std::env::temp_dir().join(format!("ring-memlock-{}", std::process::id()));
            // Room for the ring itself, which older kernels count too, and not for its pool of 16 MiB.
            limit(libc::RLIMIT_MEMLOCK, 1 << 20);
            // SAFETY: a plain call in a process of our own: root is above the limit, so root goes.
            if unsafe { libc::geteuid() } == 0 {
                // SAFETY: as above.
                assert_eq!(unsafe { libc::setuid(65534) }, 0);
            }
            let ring = Ring::new(RingConfig::default()).unwrap();
            assert!(!ring.memory_is_registered());
            assert!(!ring::host::probe(16 << 20).unwrap().memory_is_registered);
            ring.block_on(async {
                let file = ring.create_direct(&path).await.unwrap();
                let mut buffer = ring.wait_buffer().await;
                ring.write(&file, 0, buffer.write_lease(0..4096), true)
                    .await
                    .unwrap();
                assert_eq!(ring.file_bytes(&file).await.unwrap(), 4096);
                ring.remove_file(&path).await.unwrap();
            });
            limit(libc::RLIMIT_MEMLOCK, 4096);
            match Ring::new(RingConfig::default()) {
                // Some kernels count the ring itself and say so; others do not.
                Err(error) => assert!(matches!(error, RingError::MemoryLimit), "{error}"),
                Ok(ring) => assert!(!ring.memory_is_registered()),
            }
        },
    );
}

#[test]
fn dropped_reads_writes_and_opens_are_kept_until_they_complete_and_then_let_go() {
    in_child(
        "dropped_reads_writes_and_opens_are_kept_until_they_complete_and_then_let_go",
        || {
            let path = directory("dropped").join("log");
            let ring = ring(true);
            let open_descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            ring.block_on(async {
                let file = ring.create_direct(&path).await.unwrap();
                let before = open_descriptors();
                for round in 0..50 {
                    let mut buffer = ring.wait_buffer().await;
                    buffer.append(16384, |bytes| bytes.fill(round));
                    poll_once(ring.write(&file, 0, buffer.write_lease(0..16384), false));
                    assert!(!buffer.clear(), "the kernel still reads it");
                    drop(buffer);
                    let mut buffer = ring.wait_buffer().await;
                    let leases = WriteLeases::from(buffer.write_lease(0..4096))
                        .followed_by(buffer.write_lease(8192..12288));
                    poll_once(ring.write(&file, 0, leases, true));
                    assert!(!buffer.clear(), "the kernel still reads both");
                    drop(buffer);
                    poll_once(ring.read(&file, 0, ring.wait_buffer().await, 16384));
                    poll_once(ring.open_cached(&path));
                }
                while ring.pool().available() < ring.pool().count() || open_descriptors() > before {
                    ring.sleep_until(ring.now() + 1_000_000).await;
                }
            });
        },
    );
}

#[test]
fn a_ring_that_is_dropped_in_the_middle_waits_for_its_operations() {
    let path = directory("farewell").join("log");
    let ring = ring(true);
    let pool = ring.pool().clone();
    ring.block_on(async {
        let file = ring.create_direct(&path).await.unwrap();
        for _ in 0..4 {
            let mut buffer = ring.wait_buffer().await;
            poll_once(ring.write(&file, 0, buffer.write_lease(0..16384), false));
        }
        assert_eq!(pool.available(), pool.count() - 4);
    });
    drop(ring);
    assert_eq!(pool.available(), pool.count());
}

/// Polls a future once and drops it while it is pending.
fn poll_once(future: impl Future) {
    assert!(
        pin!(future)
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
}
