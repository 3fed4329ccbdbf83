//! The commands as a person runs them: exit status, what they print, and that they end whatever the broker does.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics on whatever it does not expect"
)]

mod fake_broker;
mod open_loop;
mod support;

use std::process::Output;

use fake_broker::{FakeBroker, Fault};
use support::{bench, complaint, report, succeeded, text};
use wire::ApiKey;

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
    consume_with(broker, &[])
}

fn consume_with(broker: &FakeBroker, more: &[&str]) -> Output {
    let arguments = [
        "consume",
        "--bootstrap",
        &broker.address,
        "--topic",
        "t",
        "--verify",
        "--partition-bytes",
        "5000",
    ];
    bench(&[&arguments[..], more].concat())
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
        let (output, report) =
            report(|json| produce(&broker, &[&["--seconds", "60"], json].concat()));
        let complaint = complaint(&output);
        assert!(
            complaint.contains(cause) || complaint.contains("closed"),
            "{complaint}"
        );
        assert!(
            text(&output.stdout).contains("requests/s"),
            "no partial result"
        );
        assert!(report["requests"].as_u64().unwrap() > 0);
        assert!(report["error"].is_string());
    }
}

#[test]
fn whoever_accepts_and_says_nothing_is_not_waited_for_long() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = bench(&["consume", "--bootstrap", &address, "--topic", "t"]);
    let complaint = complaint(&output);
    assert!(complaint.contains("no answer within 5 s"), "{complaint}");
}

#[test]
fn arguments_and_addresses_that_cannot_work_are_refused() {
    for arguments in [
        &["produce", "--bootstrap", "127.0.0.1:1", "--topic", "t"][..],
        &["produce", "--bootstrap", "nonsense", "--topic", "t"],
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

#[test]
fn every_codec_and_idempotence_verify() {
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let broker = FakeBroker::start(Fault::None);
        let flags = ["--bytes", "100k", "--idempotence", "--compression", codec];
        succeeded(&produce(&broker, &flags));
        succeeded(&consume(&broker));
    }
}

#[test]
fn keys_decide_which_partitions_are_written() {
    let broker = FakeBroker::start(Fault::None);
    let produced = produce(&broker, &["--keys", "zipf", "--bytes", "400k"]);
    succeeded(&produced);
    let counts = broker.record_counts("t");
    assert!(counts.is_sorted_by(|a, b| a > b), "{counts:?}");
    succeeded(&consume(&broker));
}

#[test]
fn a_timed_consumer_reads_again_and_every_reader_reads_everything() {
    let broker = FakeBroker::start(Fault::None);
    succeeded(&produce(&broker, &["--bytes", "50k"]));
    let written: u64 = broker.record_counts("t").iter().sum();
    let (output, once) =
        report(|json| consume_with(&broker, &[&["--fan-out", "3"], json].concat()));
    succeeded(&output);
    assert_eq!(once["records"].as_u64(), Some(3 * written));
    let (output, timed) =
        report(|json| consume_with(&broker, &[&["--seconds", "1"], json].concat()));
    succeeded(&output);
    assert!(timed["records"].as_u64().unwrap() > written);
    assert!(timed["seconds"].as_f64().unwrap() >= 1.0);
}

#[test]
fn records_that_are_deleted_meanwhile_are_skipped_by_a_timed_consumer_only() {
    let broker = FakeBroker::start(Fault::Forget(20));
    succeeded(&produce(&broker, &["--bytes", "50k"]));
    let timed = ["--seconds", "1", "--connections", "1"];
    succeeded(&consume_with(&broker, &timed));
    // Each fetch gets a fraction of what there is, so the second one finds the rest gone.
    let broker = FakeBroker::start(Fault::Forget(2));
    succeeded(&produce(&broker, &["--bytes", "50k"]));
    let once = ["--partition-bytes", "1000", "--connections", "1"];
    let complaint = complaint(&bench(
        &[
            &["consume", "--bootstrap", &broker.address, "--topic", "t"],
            &once[..],
        ]
        .concat(),
    ));
    assert!(complaint.contains("deleted while"), "{complaint}");
}

#[test]
fn a_timed_consumer_of_nothing_is_refused() {
    let broker = FakeBroker::start(Fault::None);
    succeeded(&produce(&broker, &["--bytes", "1", "--partitions", "1"]));
    broker.clear("t");
    let complaint = complaint(&consume_with(&broker, &["--seconds", "1"]));
    assert!(complaint.contains("holds no records"), "{complaint}");
}

#[test]
fn old_and_new_brokers_are_spoken_to_in_their_own_versions() {
    let old = [
        (ApiKey::ApiVersions, 0, 1),
        (ApiKey::Produce, 0, 5),
        (ApiKey::Fetch, 0, 6),
        (ApiKey::Metadata, 0, 5),
        (ApiKey::CreateTopics, 0, 2),
        (ApiKey::ListOffsets, 0, 2),
        (ApiKey::InitProducerId, 0, 0),
    ];
    let by_name = [(ApiKey::Metadata, 0, 9)];
    for versions in [&old[..], &by_name, &[]] {
        let broker = FakeBroker::speaking(Fault::None, versions);
        succeeded(&produce(&broker, &["--bytes", "50k", "--idempotence"]));
        succeeded(&consume(&broker));
    }
}

#[test]
fn a_broker_without_a_common_version_is_named_with_its_range() {
    let broker = FakeBroker::speaking(Fault::None, &[(ApiKey::Produce, 0, 2)]);
    let complaint = complaint(&produce(&broker, &[]));
    assert!(
        complaint.contains("the broker speaks Produce 0-2, this program 3-13"),
        "{complaint}"
    );
}

#[test]
fn a_report_has_the_whole_curve_and_the_brokers_memory() {
    let broker = FakeBroker::start(Fault::None);
    // Any process will do.
    let pid = std::process::id().to_string();
    let flags = ["--bytes", "100k", "--pid", &pid];
    let (output, report) = report(|json| produce(&broker, &[&flags, json].concat()));
    succeeded(&output);
    assert!(report["server_memory_bytes_max"].as_u64().unwrap() > 1 << 20);
    assert!(report["latency_ms"]["p9999"].is_f64());
    let curve = report["latency_curve_ms"].as_array().unwrap();
    assert_eq!(curve[0][0], 0.0);
    assert_eq!(curve.last().unwrap()[0], 1.0);
}

#[test]
fn progress_is_shown_where_stderr_is_no_terminal_if_asked_for() {
    let broker = FakeBroker::start(Fault::None);
    let output = produce(&broker, &["--seconds", "2", "--progress"]);
    succeeded(&output);
    let lines = text(&output.stderr);
    assert!(
        lines.lines().next().unwrap().contains("records/s"),
        "{lines}"
    );
    assert!(produce(&broker, &["--seconds", "1"]).stderr.is_empty());
}

#[test]
fn a_topic_is_taken_as_it_is_if_it_must_not_be_created() {
    let broker = FakeBroker::start(Fault::None);
    succeeded(&produce(&broker, &["--bytes", "1k", "--partitions", "3"]));
    let taken = produce(&broker, &["--bytes", "1k", "--create", "false"]);
    succeeded(&taken);
    let refused = produce(&broker, &["--partitions", "4", "--create", "false"]);
    assert!(complaint(&refused).contains("has 3 partitions"));
    let flags = ["--idempotence", "--in-flight", "6"];
    assert!(complaint(&produce(&broker, &flags)).contains("--in-flight 5"));
    let flags = ["--idempotence", "--acks", "1"];
    assert!(complaint(&produce(&broker, &flags)).contains("--acks all"));
}
