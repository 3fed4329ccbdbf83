//! `suite` as a person gets it wrong: one line and exit status 1, before anything is started or removed.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics on whatever it does not expect"
)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A directory of the test's own, which must still hold what it held.
struct Results(PathBuf);

impl Results {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("suite-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("runs")).unwrap();
        fs::write(path.join("runs/earlier.json"), "{}").unwrap();
        Self(path)
    }

    fn suite(&self, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_millrace-bench"))
            .args(["suite", "--out"])
            .arg(&self.0)
            .args(more)
            .output()
            .unwrap()
    }

    /// The one line of a command that was refused.
    fn complaint(&self, more: &[&str]) -> String {
        let output = self.suite(more);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            self.0.join("runs/earlier.json").exists(),
            "results of before were removed"
        );
        stderr
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Any program: none of these tests gets as far as running it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_millrace-bench");

#[test]
fn a_program_that_is_not_there_is_named() {
    let results = Results::new("program");
    let complaint = results.complaint(&["--broker", "/nowhere/broker", "--controller", PROGRAM]);
    assert!(complaint.contains("/nowhere/broker"), "{complaint}");
    let complaint = results.complaint(&["--broker", PROGRAM, "--controller", "/nowhere/c"]);
    assert!(complaint.contains("/nowhere/c"), "{complaint}");
}

#[test]
fn a_line_that_does_not_exist_is_refused_with_those_that_do() {
    let results = Results::new("line");
    let arguments = [
        "--broker",
        PROGRAM,
        "--controller",
        PROGRAM,
        "--only",
        "fast",
    ];
    let complaint = results.complaint(&arguments);
    assert!(complaint.contains("'fast'"), "{complaint}");
    assert!(complaint.contains("produce-64k-throughput"), "{complaint}");
}

#[test]
fn numbers_out_of_range_are_refused() {
    let results = Results::new("numbers");
    for wrong in [["--rounds", "0"], ["--seconds", "0"], ["--port", "80"]] {
        let programs = ["--broker", PROGRAM, "--controller", PROGRAM];
        let complaint = results.complaint(&[&programs[..], &wrong[..]].concat());
        assert!(complaint.contains(wrong[0]), "{complaint}");
    }
}
