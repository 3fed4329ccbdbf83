//! `offsets`, `failover` and `compare` as a person runs them: what they find, and that they end with one line whatever happens.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics on whatever it does not expect"
)]

mod fake_broker;
mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Output};

use fake_broker::{FakeBroker, Fault};
use support::{bench, complaint, report, succeeded, text};

/// A process to be killed in place of a broker.
struct Victim(Child);

impl Victim {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may have been killed already, as intended.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

fn offsets(broker: &FakeBroker, more: &[&str]) -> Output {
    let arguments = ["offsets", "--bootstrap", &broker.address, "--bytes", "200k"];
    bench(&[&arguments[..], more].concat())
}

#[test]
fn commits_are_counted_and_found_again() {
    let broker = FakeBroker::start(Fault::None);
    let sizes = ["--groups", "33", "--partitions", "4", "--connections", "3"];
    let (output, results) = report(|json| offsets(&broker, &[&sizes[..], json].concat()));
    succeeded(&output);
    assert!(text(&output.stdout).contains("commits/s"));
    let figure = |name: &str| results[name].as_u64().unwrap();
    assert!(figure("requests") > 100);
    assert_eq!(figure("records"), 4 * figure("requests"));
}

#[test]
fn more_groups_than_requests_is_no_loss() {
    let broker = FakeBroker::start(Fault::None);
    let few = [
        "offsets",
        "--bootstrap",
        &broker.address,
        "--bytes",
        "1k",
        "--groups",
        "200",
    ];
    succeeded(&bench(&few));
}

#[test]
fn lost_and_refused_commits_are_found() {
    for (fault, found) in [
        (Fault::LoseCommits(1), "has no offset"),
        (Fault::LoseCommits(150), "an acknowledged commit is lost"),
        (Fault::RefuseCommit(150), "NOT_COORDINATOR"),
    ] {
        let complaint = complaint(&offsets(&FakeBroker::start(fault), &[]));
        assert!(complaint.contains(found), "{complaint}");
    }
}

fn failover(broker: &FakeBroker, pid: &str, more: &[&str]) -> Output {
    let arguments = ["failover", "--bootstrap", &broker.address, "--pid", pid];
    let sizes = [
        "--seconds-steady",
        "1",
        "--seconds-max",
        "2",
        "--partitions",
        "4",
    ];
    bench(&[&arguments[..], &sizes, more].concat())
}

#[test]
fn a_failover_that_nobody_notices_is_short_and_loses_nothing() {
    let (broker, victim) = (FakeBroker::start(Fault::None), Victim::start());
    let more = ["--restart-command", "true"];
    let (output, results) =
        report(|json| failover(&broker, &victim.pid(), &[&more[..], json].concat()));
    succeeded(&output);
    assert!(results["produce_ms"].as_f64().unwrap() < 1000.0);
    assert!(results["offset_commit_ms"].as_f64().unwrap() < 1000.0);
    assert!(results["records_acknowledged"].as_u64().unwrap() > 100);
    assert_eq!(results["records_acknowledged"], results["records_found"]);
    assert!(broker.topics().is_empty());
}

#[test]
fn a_record_that_a_failover_loses_is_found() {
    for fault in [Fault::LoseBatch(50), Fault::LoseCommits(1)] {
        let (broker, victim) = (FakeBroker::start(fault), Victim::start());
        let complaint = complaint(&failover(&broker, &victim.pid(), &[]));
        assert!(complaint.contains("lost"), "{complaint}");
    }
}

#[test]
fn a_failover_that_never_ends_is_given_up() {
    let (broker, victim) = (FakeBroker::start(Fault::FallSilent(100)), Victim::start());
    let output = failover(&broker, &victim.pid(), &[]);
    let complaint = complaint(&output);
    assert!(complaint.contains("not back 2 s after"), "{complaint}");
    assert!(complaint.contains("produce to partition"), "{complaint}");
    assert!(text(&output.stdout).contains("produce not back"));
}

#[test]
fn a_failover_that_cannot_begin_kills_nothing() {
    let victim = Victim::start();
    let refusing = FakeBroker::start(Fault::HangUp(1));
    let working = FakeBroker::start(Fault::None);
    assert!(complaint(&failover(&refusing, &victim.pid(), &[])).contains("even before the kill"));
    assert!(complaint(&failover(&working, "4194304", &[])).contains("cannot kill process"));
    assert!(complaint(&failover(&working, "1", &[])).contains("--pid"));
    let nowhere = [
        "failover",
        "--bootstrap",
        "127.0.0.1:1",
        "--pid",
        &victim.pid(),
    ];
    assert!(complaint(&bench(&nowhere)).contains("cannot connect"));
    assert!(PathBuf::from(format!("/proc/{}/exe", victim.pid())).exists());
}

#[test]
fn a_restart_command_that_fails_is_named() {
    // The load must still fail when the command ends, or there is nothing to restart.
    let (broker, victim) = (FakeBroker::start(Fault::FallSilent(100)), Victim::start());
    let more = ["--restart-command", "exit 7"];
    let complaint = complaint(&failover(&broker, &victim.pid(), &more));
    assert!(complaint.contains("exit status: 7"), "{complaint}");
}

const WORKLOAD: [&str; 5] = ["--", "produce", "--bytes", "200k", "--batch-bytes=1000"];

#[test]
fn a_comparison_keeps_every_run_and_leaves_no_topic() {
    let (a, b) = (
        FakeBroker::start(Fault::None),
        FakeBroker::start(Fault::None),
    );
    let own = std::process::id().to_string();
    let targets = ["compare", &a.address, &b.address];
    let more = ["--rounds", "3", "--pid-a", &own];
    let (output, results) = report(|json| bench(&[&targets[..], &more, json, &WORKLOAD].concat()));
    succeeded(&output);
    assert!(
        text(&output.stdout).contains("MB/s"),
        "{}",
        text(&output.stdout)
    );
    let rounds = results["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 3);
    for round in rounds {
        assert_ne!(
            round["a"]["settings"]["topic"],
            round["b"]["settings"]["topic"]
        );
        assert!(round["a"]["server_cpu_seconds_per_gigabyte"].is_number());
        assert!(round["b"]["server_cpu_seconds_per_gigabyte"].is_null());
    }
    let ratio = &results["ratios"]["megabytes_per_second"];
    assert!(ratio["min"].as_f64() <= ratio["median"].as_f64());
    assert!(ratio["median"].as_f64() <= ratio["max"].as_f64());
    assert!(a.topics().is_empty() && b.topics().is_empty());
}

#[test]
fn a_side_that_fails_is_named_and_the_other_one_kept() {
    let (a, b) = (
        FakeBroker::start(Fault::None),
        FakeBroker::start(Fault::Refuse(300)),
    );
    let targets = ["compare", "--a", &a.address, "--b", &b.address];
    let (output, results) = report(|json| bench(&[&targets[..], json, &WORKLOAD].concat()));
    let complaint = complaint(&output);
    let side = format!("side B ({}) failed in round 2", b.address);
    assert!(complaint.contains(&side), "{complaint}");
    assert!(complaint.contains("NOT_LEADER_OR_FOLLOWER"), "{complaint}");
    assert!(results["error"].is_string());
    let rounds = results["rounds"].as_array().unwrap();
    assert!(rounds[0]["a"].is_object() && rounds[0]["b"].is_object());
    assert!(rounds[1]["b"]["error"].is_string());
}

#[test]
fn comparisons_that_make_no_sense_are_refused() {
    for (arguments, why) in [
        (&["compare", "--a", "x:1"][..], "required"),
        (
            &["compare", "x:1", "--", "produce"],
            "two targets are needed",
        ),
        (
            &["compare", "x:1", "y:1", "--b", "z:1", "--", "produce"],
            "two targets are enough",
        ),
        (
            &["compare", "x:1", "y:1", "--", "produce", "--json", "f"],
            "compare sets --json",
        ),
        (
            &["compare", "x:1", "y:1", "--", "no-such-command"],
            "no-such-command",
        ),
        (
            &["compare", "x:1", "y:1", "--", "produce"],
            "side A (x:1) failed",
        ),
    ] {
        let complaint = complaint(&bench(arguments));
        assert!(complaint.contains(why), "{complaint}");
    }
}
