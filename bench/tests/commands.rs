//! The commands as a person runs them: exit status, what they print, and that they end whatever the broker does.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics on whatever it does not expect"
)]

mod fake_broker;

use std::process::{Command, Output};

use fake_broker::{FakeBroker, Fault};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace-bench"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The one line on stderr of a command that failed.
fn complaint(output: &Output) -> String {
    let stderr = text(&output.stderr);
    assert!(
        !output.status.success(),
        "it did not fail: {}",
        text(&output.stdout)
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

/// Batches are small unless `more` says otherwise.
fn produce(broker: &FakeBroker, more: &[&str]) -> Output {
    let mut arguments = vec!["produce", "--bootstrap", &broker.address, "--topic", "t"];
    if !more.contains(&"--batch-bytes") {
        arguments.extend(["--batch-bytes", "1000"]);
    }
    arguments.extend(more);
    bench(&arguments)
}

fn consume(broker: &FakeBroker) -> Output {
    let arguments = [
        "consume",
        "--bootstrap",
        &broker.address,
        "--topic",
        "t",
        "--verify",
    ];
    bench(&[&arguments[..], &["--partition-bytes", "5000"]].concat())
}

#[test]
fn smoke_leaves_no_topic_behind() {
    let broker = FakeBroker::start(Fault::None);
    let output = bench(&["smoke", "--bootstrap", &broker.address]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(broker.topics().is_empty());
}

#[test]
fn smoke_fails_on_a_refused_record_and_still_leaves_no_topic() {
    let broker = FakeBroker::start(Fault::Refuse(1));
    let output = bench(&["smoke", "--bootstrap", &broker.address]);
    assert!(complaint(&output).contains("NOT_LEADER_OR_FOLLOWER"));
    assert!(broker.topics().is_empty());
}

#[test]
fn what_was_produced_is_consumed_whatever_the_acks() {
    for acks in ["0", "1", "all"] {
        let broker = FakeBroker::start(Fault::None);
        let produced = produce(
            &broker,
            &["--acks", acks, "--bytes", "1m", "--record-bytes", "100"],
        );
        assert!(produced.status.success(), "{}", text(&produced.stderr));
        let consumed = consume(&broker);
        assert!(consumed.status.success(), "{}", text(&consumed.stderr));
        let records = |output: &Output| {
            let words = text(&output.stdout);
            let line = words.lines().next().unwrap().to_owned();
            line.split_whitespace()
                .rev()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        assert!(records(&produced) >= 8_000);
        assert_eq!(records(&produced), records(&consumed), "acks={acks}");
    }
}

#[test]
fn large_batches_and_several_runs_verify() {
    let broker = FakeBroker::start(Fault::None);
    for _ in 0..2 {
        let produced = produce(
            &broker,
            &[
                "--batch-bytes",
                "100k",
                "--bytes",
                "4m",
                "--connections",
                "7",
            ],
        );
        assert!(produced.status.success(), "{}", text(&produced.stderr));
    }
    let consumed = consume(&broker);
    assert!(consumed.status.success(), "{}", text(&consumed.stderr));
}

#[test]
fn a_consumer_waits_for_a_broker_that_does_not_lead_yet() {
    let broker = FakeBroker::start(Fault::LeadLate(3));
    assert!(produce(&broker, &["--bytes", "100k"]).status.success());
    let consumed = consume(&broker);
    assert!(consumed.status.success(), "{}", text(&consumed.stderr));
}

#[test]
fn lost_and_repeated_batches_are_found() {
    for (fault, found) in [
        (Fault::LoseBatch(50), "a gap"),
        (Fault::RepeatBatch(50), "a duplicate"),
    ] {
        let broker = FakeBroker::start(fault);
        assert!(produce(&broker, &["--bytes", "200k"]).status.success());
        let complaint = complaint(&consume(&broker));
        assert!(complaint.contains(found), "{complaint}");
    }
}

#[test]
fn a_run_that_breaks_reports_what_it_reached() {
    for (fault, cause) in [
        (Fault::HangUp(100), "the connection"),
        (Fault::Refuse(100), "NOT_LEADER_OR_FOLLOWER"),
        (Fault::FallSilent(100), "answered nothing"),
    ] {
        let broker = FakeBroker::start(fault);
        let file = std::env::temp_dir().join(format!(
            "millrace-bench-{}-{}",
            std::process::id(),
            broker.address
        ));
        let output = produce(
            &broker,
            &["--seconds", "60", "--json", file.to_str().unwrap()],
        );
        let complaint = complaint(&output);
        assert!(
            complaint.contains(cause) || complaint.contains("closed"),
            "{complaint}"
        );
        assert!(
            text(&output.stdout).contains("requests/s"),
            "no partial result"
        );
        let report: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(report["requests"].as_u64().unwrap() > 0);
        assert!(report["error"].is_string());
    }
}

#[test]
fn arguments_and_addresses_that_cannot_work_are_refused() {
    for arguments in [
        &["smoke", "--bootstrap", "127.0.0.1:1"][..],
        &["smoke", "--bootstrap", "nonsense"],
        &["produce", "--bootstrap", "127.0.0.1:1", "--topic", "t"],
        &[
            "produce",
            "--bootstrap",
            "127.0.0.1:1",
            "--topic",
            "t",
            "--batch-bytes",
            "50",
        ],
    ] {
        complaint(&bench(arguments));
    }
    let broker = FakeBroker::start(Fault::None);
    assert!(produce(&broker, &["--bytes", "1k"]).status.success());
    assert!(complaint(&produce(&broker, &["--partitions", "9"])).contains("has 4 partitions"));
    assert!(complaint(&produce(&broker, &["--pid", "4294967295"])).contains("no process"));
    assert!(complaint(&produce(&broker, &["--acks", "2"])).contains("--acks"));
    assert!(complaint(&bench(&["produce"])).contains("--topic"));
}
