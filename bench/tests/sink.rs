//! The sink and its client as two processes: everything sent is answered, and what is no frame ends one connection and nothing else.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics on whatever it does not expect"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const PROGRAM: &str = env!("CARGO_BIN_EXE_millrace-bench");

struct Sink {
    process: Child,
    port: String,
    file: PathBuf,
}

impl Sink {
    fn start(mode: &str) -> Self {
        static SINKS: AtomicU32 = AtomicU32::new(0);
        let number = SINKS.fetch_add(1, Ordering::Relaxed);
        let name = format!("millrace-sink-{}-{number}", std::process::id());
        // A file system in memory would hide what unbuffered writes need.
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut process = Command::new(PROGRAM)
            .args(["sink", "--port", "0", "--mode", mode, "--file-bytes", "16m"])
            .arg("--data")
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.strip_prefix("listening on 127.0.0.1:").unwrap();
        let (port, _) = address.split_once(',').unwrap();
        let port = port.to_owned();
        Self {
            process,
            port,
            file,
        }
    }

    fn load(&self, more: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(["sink-load", "--port", &self.port]);
        command.args(more).output().unwrap()
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(format!("127.0.0.1:{}", self.port)).unwrap()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        // The memory mode makes none.
        let _ = std::fs::remove_file(&self.file);
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let crc = crc32c::crc32c(payload);
    [&length.to_le_bytes()[..], &crc.to_le_bytes(), payload].concat()
}

#[test]
fn every_frame_of_every_size_is_answered_in_every_mode() {
    for mode in ["plain", "dsync", "memory"] {
        let sink = Sink::start(mode);
        for (frame_bytes, bytes) in [
            ("200", "1m"),
            ("5000", "8m"),
            ("100k", "40m"),
            ("1m", "40m"),
        ] {
            let output = sink.load(&["--frame-bytes", frame_bytes, "--bytes", bytes]);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{mode} {frame_bytes}: {stderr}");
        }
    }
}

/// Frames that fill a buffer to its last byte, each stored before the next comes: the log once stopped for good there.
#[test]
fn frames_that_fill_a_buffer_exactly_are_all_answered() {
    let sink = Sink::start("plain");
    let one_at_a_time = ["--in-flight", "1", "--connections", "1"];
    let sizes = ["--frame-bytes", "1k", "--bytes", "2m"];
    let output = sink.load(&[sizes, one_at_a_time].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

#[test]
fn frames_lie_in_the_file_as_they_were_sent() {
    let sink = Sink::start("plain");
    let mut stream = sink.connect();
    let sent: Vec<u8> = (0..9_000)
        .map(|index| index as u8)
        .flat_map(|byte| frame(&[byte; 700]))
        .collect();
    stream.write_all(&sent).unwrap();
    let mut answer = [0; 8];
    while u64::from_le_bytes(answer) < 9_000 {
        stream.read_exact(&mut answer).unwrap();
    }
    // The first connection's log is one of four parts of the file, each written from its start, over and over.
    let file = std::fs::read(&sink.file).unwrap();
    let part = 4 << 20;
    let rest = &sent[part..];
    let written = file.chunks(part).any(|log| {
        log[..rest.len()] == *rest && log[rest.len() + 4096..] == sent[rest.len() + 4096..part]
    });
    assert!(written);
}

#[test]
fn what_is_no_frame_ends_its_connection_alone() {
    let sink = Sink::start("memory");
    let mut damaged = frame(b"payload");
    *damaged.last_mut().unwrap() ^= 1;
    for bytes in [damaged, vec![0xff; 8]] {
        let mut stream = sink.connect();
        stream.write_all(&bytes).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    assert!(sink.load(&["--bytes", "1m"]).status.success());
}

#[test]
fn a_sink_that_dies_is_one_line_with_partial_results() {
    let mut sink = Sink::start("memory");
    let loading = Command::new(PROGRAM)
        .args(["sink-load", "--port", &sink.port, "--seconds", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The client cannot be asked whether it has begun; whenever the sink dies, the client must end.
    sink.process.kill().unwrap();
    let output = loading.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert_eq!(
        output.stderr.iter().filter(|byte| **byte == b'\n').count(),
        1
    );
    sink.process.wait().unwrap();
}

#[test]
fn a_sink_without_a_file_or_a_port_says_so() {
    let sink = Sink::start("memory");
    for arguments in [
        &["sink", "--port", "0"][..],
        &["sink", "--port", "0", "--data", "/nowhere/file"],
        &["sink", "--port", &sink.port, "--mode", "memory"],
    ] {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert!(!output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    }
}
