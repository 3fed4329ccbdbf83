//! `offsets` as a person runs it: what it finds, and that it ends with one line whatever happens.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics on whatever it does not expect"
)]

mod fake_broker;
mod support;

use std::process::Output;

use fake_broker::{FakeBroker, Fault};
use support::{bench, complaint, report, succeeded, text};

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
