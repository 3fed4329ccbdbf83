//! Hosts that do not let a ring be made, imitated with a system call filter in a process of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use ring::{Ring, RingConfig, RingError};

/// Runs one test of this file again in a process of its own.
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

/// Makes one system call fail from now on, as an older kernel or a container's seccomp profile would.
fn refuse(system_call: libc::c_long, errno: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut filter = [
        // The number of the call is the first word that the filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: u32::try_from(system_call).unwrap(),
        },
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | errno as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: a plain call, which a filter of an unprivileged process needs.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0);
    // SAFETY: the kernel copies the program, which outlives the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn refusal() -> RingError {
    Ring::new(RingConfig::default()).err().unwrap()
}

#[test]
fn a_kernel_without_io_uring_is_told_from_others() {
    in_child("a_kernel_without_io_uring_is_told_from_others", || {
        refuse(libc::SYS_io_uring_setup, libc::ENOSYS);
        assert!(
            matches!(refusal(), RingError::NoIoUring { .. }),
            "{}",
            refusal()
        );
        let report = ring::host::probe(1 << 20).unwrap();
        assert!(report.ring.is_err());
        assert!(!report.memory_is_registered);
    });
}

#[test]
fn a_container_that_forbids_io_uring_is_told_from_a_host_that_has_none() {
    in_child(
        "a_container_that_forbids_io_uring_is_told_from_a_host_that_has_none",
        || {
            refuse(libc::SYS_io_uring_setup, libc::EPERM);
            assert!(
                matches!(
                    refusal(),
                    RingError::Forbidden | RingError::SwitchedOff { .. }
                ),
                "{}",
                refusal()
            );
        },
    );
}

#[test]
fn a_kernel_that_does_not_know_our_flags_is_called_too_old() {
    in_child(
        "a_kernel_that_does_not_know_our_flags_is_called_too_old",
        || {
            refuse(libc::SYS_io_uring_setup, libc::EINVAL);
            assert!(
                matches!(refusal(), RingError::MissingFeature { .. }),
                "{}",
                refusal()
            );
        },
    );
}

#[test]
fn too_many_open_files_pass_by_and_accepting_goes_on() {
    in_child("too_many_open_files_pass_by_and_accepting_goes_on", || {
        let ring = Ring::new(RingConfig::default()).unwrap();
        let listener = ring.listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let address = listener.local_address().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        // Descriptors are handed out lowest first, so none is left below this limit.
        let limit = |count: u64| {
            let limit = libc::rlimit {
                rlim_cur: count,
                rlim_max: 1 << 10,
            };
            // SAFETY: the limit outlives the call.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        };
        limit(std::os::fd::AsRawFd::as_raw_fd(&client) as u64 + 1);
        let error = ring.block_on(ring.accept(&listener)).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        limit(1 << 10);
        assert_eq!(
            ring.block_on(ring.accept(&listener)).unwrap().1,
            client.local_addr().unwrap()
        );
    });
}
