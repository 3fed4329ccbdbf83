//! Commands with an open loop against a broker that behaves, stalls, falls behind or breaks.

use std::process::Output;

use serde_json::Value;

use super::fake_broker::{FakeBroker, Fault};
use super::support::{bench, complaint, report, succeeded, text};

fn run(command: &str, broker: &FakeBroker, more: &[&str]) -> (Output, Value) {
    let base = [command, "--bootstrap", &broker.address, "--topic", "t"];
    report(|json| bench(&[&base[..], more, json].concat()))
}

fn at_a_rate(broker: &FakeBroker, more: &[&str]) -> (Output, Value) {
    let flags = ["--records-per-second", "2000", "--record-bytes", "100"];
    run("produce", broker, &[&flags, more].concat())
}

fn verify(broker: &FakeBroker) {
    let base = ["consume", "--bootstrap", &broker.address, "--topic", "t"];
    succeeded(&bench(&[&base[..], &["--verify"]].concat()));
}

fn milliseconds(report: &Value, quantile: &str) -> f64 {
    report["latency_ms"][quantile].as_f64().unwrap()
}

#[test]
fn exactly_the_records_of_the_schedule_are_sent() {
    for more in [
        &["--linger-ms", "0"][..],
        &["--acks", "0"],
        &["--idempotence", "--keys", "zipf"],
        &["--compression", "zstd", "--connections", "1"],
        &["--compression", "lz4", "--batch-bytes", "500"],
        &["--linger-ms", "60000"],
    ] {
        let broker = FakeBroker::start(Fault::None);
        let (output, report) = at_a_rate(&broker, &[&["--seconds", "1"], more].concat());
        succeeded(&output);
        assert_eq!(report["records"].as_u64(), Some(2000), "{more:?}");
        assert_eq!(broker.record_counts("t").iter().sum::<u64>(), 2000);
        assert!(report["generator_late_ms_max"].is_f64());
        verify(&broker);
    }
}

#[test]
fn linger_decides_how_many_records_go_together() {
    let requests = |linger_ms| {
        let broker = FakeBroker::start(Fault::None);
        let flags = ["--seconds", "1", "--linger-ms", linger_ms];
        let (output, report) = at_a_rate(&broker, &flags);
        succeeded(&output);
        report["requests"].as_u64().unwrap()
    };
    // Five records a partition in 10 ms, 50 in 100 ms.
    let (short, long) = (requests("10"), requests("100"));
    assert!(long * 3 < short, "{long} and {short}");
    assert!((10..=60).contains(&long), "{long}");
}

#[test]
fn a_stall_is_charged_to_every_record_that_was_meant_to_be_sent_meanwhile() {
    let broker = FakeBroker::start(Fault::Stall(3));
    let flags = ["--seconds", "1", "--partitions", "1", "--in-flight", "1"];
    let (output, report) = at_a_rate(&broker, &flags);
    succeeded(&output);
    // Half of the run's records wait 250 ms on average, although one request was slow.
    assert!(milliseconds(&report, "max") > 450.0, "{report}");
    assert!(milliseconds(&report, "p90") > 250.0, "{report}");
}

#[test]
fn end_to_end_counts_every_record_for_every_reader() {
    for codec in ["none", "snappy", "gzip"] {
        let broker = FakeBroker::start(Fault::None);
        // What is there already is not waited for.
        at_a_rate(&broker, &["--bytes", "5k"]);
        let flags = [
            "--seconds",
            "1",
            "--records-per-second",
            "500",
            "--fan-out",
            "3",
            "--compression",
            codec,
        ];
        let (output, report) = run("e2e", &broker, &flags);
        succeeded(&output);
        assert_eq!(report["records"].as_u64(), Some(500));
        let acknowledged = report["ack_latency_ms"]["max"].as_f64().unwrap();
        assert!(acknowledged > 0.0);
        assert!(milliseconds(&report, "p50") > 0.0);
        assert!(report["ack_latency_curve_ms"].is_array());
        verify(&broker);
    }
}

#[test]
fn a_record_that_is_never_delivered_ends_an_end_to_end_run() {
    let broker = FakeBroker::start(Fault::LoseBatch(20));
    let flags = ["--seconds", "1", "--records-per-second", "500"];
    let (output, report) = run("e2e", &broker, &flags);
    let complaint = complaint(&output);
    assert!(complaint.contains("were not delivered"), "{complaint}");
    assert_eq!(report["records"].as_u64(), Some(500));
}

#[test]
fn a_run_that_breaks_reports_what_it_reached() {
    for command in ["produce", "e2e"] {
        for (fault, cause) in [
            (Fault::HangUp(100), "the connection"),
            (Fault::Refuse(100), "NOT_LEADER_OR_FOLLOWER"),
            (Fault::FallSilent(100), "answered nothing"),
        ] {
            let broker = FakeBroker::start(fault);
            let flags = ["--seconds", "60", "--records-per-second", "2000"];
            let (output, report) = run(command, &broker, &flags);
            let complaint = complaint(&output);
            assert!(
                complaint.contains(cause) || complaint.contains("closed"),
                "{command}: {complaint}"
            );
            assert!(report["records"].as_u64().unwrap() > 0);
            assert!(report["error"].is_string());
            assert!(text(&output.stdout).contains("latency ms"));
        }
    }
}

#[test]
fn a_ramp_ends_at_the_rate_that_the_broker_does_not_hold() {
    // At most 500 requests of one record a second.
    let broker = FakeBroker::start(Fault::Slow(1));
    let flags = [
        "--step-seconds",
        "1",
        "--from",
        "20",
        "--factor",
        "5",
        "--p99-ms-max",
        "400",
        "--partitions",
        "1",
        "--batch-bytes",
        "200",
    ];
    let (output, report) = run("ramp", &broker, &flags);
    succeeded(&output);
    let steps = report["steps"].as_array().unwrap();
    let rates = steps
        .iter()
        .map(|step| step["settings"]["records_per_second"].as_str());
    let rates: Vec<_> = rates.map(Option::unwrap).collect();
    assert_eq!(rates[..2], ["20", "100"]);
    let knee = report["knee_records_per_second"].as_u64().unwrap();
    // The rate above it was tried twice.
    assert_eq!(rates[rates.len() - 3], knee.to_string());
    assert_eq!(rates[rates.len() - 2], rates[rates.len() - 1]);
    assert!(text(&output.stdout).contains(&format!("knee: {knee} records/s")));
    assert!(report["broken_by"].is_string());
}

#[test]
fn a_broker_that_falls_behind_for_long_is_said_not_to_keep_up() {
    let broker = FakeBroker::start(Fault::Slow(1));
    let flags = [
        "--step-seconds",
        "30",
        "--from",
        "100000",
        "--partitions",
        "1",
        "--batch-bytes",
        "200",
    ];
    let (output, report) = run("ramp", &broker, &flags);
    let complaint = complaint(&output);
    assert!(
        complaint.contains("the broker cannot keep up with 100000 records/s"),
        "{complaint}"
    );
    assert!(report["knee_records_per_second"].is_null());
    assert!(report["steps"][0]["records"].as_u64().unwrap() > 0);
}

#[test]
fn a_ramp_whose_broker_dies_reports_the_steps_before() {
    let broker = FakeBroker::start(Fault::HangUp(150));
    let flags = [
        "--step-seconds",
        "1",
        "--from",
        "20",
        "--factor",
        "10",
        "--p99-ms-max",
        "5000",
    ];
    let (output, report) = run("ramp", &broker, &flags);
    complaint(&output);
    assert_eq!(report["knee_records_per_second"].as_u64(), Some(20));
    assert!(report["error"].is_string());
    assert!(report["steps"][1]["error"].is_string());
}

#[test]
fn flags_that_cannot_work_are_refused() {
    let broker = FakeBroker::start(Fault::None);
    let base = ["--bootstrap", &broker.address, "--topic", "t"];
    for (command, more, found) in [
        ("produce", &["--linger-ms", "5"][..], "--records-per-second"),
        (
            "produce",
            &["--records-per-second", "0"],
            "--records-per-second",
        ),
        ("e2e", &["--record-bytes", "31"], "32 bytes"),
        ("e2e", &["--record-bytes", "70000"], "does not fit"),
        ("ramp", &["--factor", "1"], "--factor"),
        ("ramp", &["--p99-ms-max", "0"], "--p99-ms-max"),
        ("ramp", &["--idempotence", "--acks", "0"], "--acks all"),
    ] {
        let complaint = complaint(&bench(&[&[command], &base[..], more].concat()));
        assert!(complaint.contains(found), "{complaint}");
    }
    let unreachable = ["--bootstrap", "127.0.0.1:1", "--topic", "t"];
    for command in ["e2e", "ramp", "consume"] {
        complaint(&bench(&[&[command], &unreachable[..]].concat()));
    }
}
