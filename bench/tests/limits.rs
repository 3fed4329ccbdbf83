//! `limits` as a process: every figure can be had, nothing is left behind, and what cannot be measured is one line.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics on whatever it does not expect"
)]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_millrace-bench");

/// An empty directory on a disk.
fn empty_directory(name: &str) -> PathBuf {
    let name = format!("millrace-{name}-{}", std::process::id());
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn limits(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.current_dir(directory).args(["limits", "--quick"]);
    command.args(arguments).output().unwrap()
}

#[test]
fn every_figure_is_positive_and_nothing_is_left_behind() {
    let directory = empty_directory("limits");
    let json = directory.with_extension("json");
    let output = limits(&directory, &["--json", json.to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    // It is empty again, or this fails.
    fs::remove_dir(&directory).unwrap();

    let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    fs::remove_file(&json).unwrap();
    assert_eq!(report["command"], "limits");
    assert!(report["host"]["memory_bytes"].as_u64().unwrap() > 0);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let mut names = HashSet::new();
    for figure in report["figures"].as_array().unwrap() {
        let name = figure["name"].as_str().unwrap();
        assert!(figure["value"].as_f64().unwrap() > 0.0, "{figure}");
        assert!(!figure["unit"].as_str().unwrap().is_empty(), "{figure}");
        assert!(stdout.contains(name), "{figure}");
        assert!(names.insert(name), "two figures are named {name}");
    }
    for name in [
        "CRC-32C, 200 B hot",
        "memcpy, 64 KiB hot",
        "wake, ring (eventfd), p99",
        "wake, futex, p99",
        "loopback, 1 MiB",
        "sequential read 256 KiB, depth 64, ring",
        "random write 4 KiB, depth 8, glommio",
        "DSYNC write 64 KiB, depth 1, ring, p99",
        "sink, plain, 200 B",
        "sink, dsync, 64 KiB",
        "sink, dsync, one log, 64 KiB",
        "sink, memory, 1 MiB",
        "sink, send, 1 MiB",
    ] {
        assert!(names.contains(name), "{name}");
    }
}

#[test]
fn a_directory_that_cannot_be_measured_is_one_line() {
    let directory = empty_directory("limits-refused");
    for data in ["/nowhere", "/proc", "/dev/shm"] {
        let output = limits(&directory, &["--data", data]);
        assert!(!output.status.success(), "{data}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(data), "{stderr}");
    }
    fs::remove_dir(&directory).unwrap();
}
