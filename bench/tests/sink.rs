//! The sink and its client as two processes: everything sent is answered, and what is no frame ends one connection
//! and nothing else.

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

const SENT_BYTES_MAX: usize = 4 << 20;

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
            .args(["sink", "--port", "0", "--mode", mode])
            .args(["--file-bytes", "16m"])
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
fn frames_at_a_rate_are_all_sent_and_take_as_long_as_the_rate_says() {
    let sink = Sink::start("dsync");
    let json = sink.file.with_extension("json");
    let json_path = json.to_str().unwrap();
    // The last of 2000 frames is due after 1.999 s.
    let rate = [
        "--frames-per-second",
        "1000",
        "--bytes",
        "2000k",
        "--json",
        json_path,
    ];
    let output = sink.load(&[&["--frame-bytes", "1k", "--connections", "3"], &rate[..]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    std::fs::remove_file(&json).unwrap();
    assert_eq!(report["requests"], 2000);
    assert!(report["seconds"].as_f64().unwrap() >= 1.99);
    assert!(report["generator_late_ms_max"].is_number());
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

/// Large frames are gathered, and so is whatever comes right behind one.
#[test]
fn frames_of_mixed_sizes_lie_in_the_file_as_they_were_sent() {
    let sent: Vec<u8> = [1_000_000, 10, 200_000, 300, 0, 70_000, 500_000, 400_000, 9]
        .iter()
        .enumerate()
        .flat_map(|(number, bytes)| frame(&vec![number as u8 + 1; *bytes]))
        .collect();
    let sink = Sink::start("plain");
    let mut stream = sink.connect();
    stream.write_all(&sent).unwrap();
    let mut answer = [0; 8];
    while u64::from_le_bytes(answer) < 9 {
        stream.read_exact(&mut answer).unwrap();
    }
    let file = std::fs::read(&sink.file).unwrap();
    assert!(file.chunks(4 << 20).any(|log| log.starts_with(&sent)));
}

#[test]
fn what_is_no_frame_ends_its_connection_alone() {
    let mut damaged = frame(b"payload");
    *damaged.last_mut().unwrap() ^= 1;
    // One that is received into a buffer of its own.
    let mut large = frame(&[1; 1_000_000]);
    *large.last_mut().unwrap() ^= 1;
    let sink = Sink::start("memory");
    for bytes in [&damaged, &large, &vec![0xff; 8]] {
        let mut stream = sink.connect();
        stream.write_all(bytes).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    assert!(sink.load(&["--bytes", "1m"]).status.success());
}

/// What a sink sends from memory, every time from its start.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 31 / 8) as u8).collect()
}

#[test]
fn a_sending_sink_answers_each_request_with_the_bytes_it_asked_for() {
    let sink = Sink::start("send");
    let mut stream = sink.connect();
    let wanted = [1, 200, 65_536, 0, SENT_BYTES_MAX, 3];
    let requests: Vec<u8> = wanted
        .iter()
        .flat_map(|bytes| (*bytes as u64).to_le_bytes())
        .collect();
    // A request may come in parts.
    let (first, rest) = requests.split_at(11);
    stream.write_all(first).unwrap();
    let mut received = vec![0; 1];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(received, pattern(1));
    stream.write_all(rest).unwrap();
    for bytes in &wanted[1..] {
        received.resize(*bytes, 0);
        stream.read_exact(&mut received).unwrap();
        assert!(received == pattern(*bytes), "{bytes} bytes");
    }
}

#[test]
fn a_sending_sink_refuses_to_send_more_than_it_has() {
    let sink = Sink::start("send");
    let mut stream = sink.connect();
    let request = SENT_BYTES_MAX as u64 + 1;
    stream.write_all(&request.to_le_bytes()).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
}

#[test]
fn every_request_of_every_size_is_answered_by_a_sending_sink() {
    let sink = Sink::start("send");
    let pid = sink.process.id().to_string();
    for (frame_bytes, bytes) in [("1", "10k"), ("200", "1m"), ("64k", "40m"), ("4m", "200m")] {
        let sizes = ["--frame-bytes", frame_bytes, "--bytes", bytes];
        let output = sink.load(&[&["--receive", "--pid", &pid][..], &sizes].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{frame_bytes}: {stderr}");
    }
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
        &["sink-load", "--port", &sink.port, "--frame-bytes", "4m"],
    ] {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert!(!output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    }
}
