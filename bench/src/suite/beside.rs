//! What stands beside the lines on the page: the host's limits, the time from a record to its reader at a steady rate, and offset commits.

use std::time::Duration;

use anyhow::{Context, Result};

use super::children::{Core, Process, Program};
use super::cluster::Cluster;
use super::lab::{Lab, progress};

const LIMITS_MAX: Duration = Duration::from_secs(240);

pub(super) fn measure(lab: &Lab) -> Result<()> {
    progress("beside: this host's limits");
    limits(lab).context("this host's limits were not measured")?;
    let cluster = Cluster::start(lab, 1)?;
    let seconds = lab.seconds;
    progress("beside: end to end");
    let steady = "--partitions 8 --record-bytes 1024 --records-per-second 10000 --fan-out 2";
    let topic = Some("end-to-end");
    cluster.load(
        "e2e",
        "e2e",
        topic,
        &format!("{steady} --seconds {seconds}"),
    )?;
    progress("beside: offset commits");
    cluster.load("offsets", "offsets", None, &format!("--seconds {seconds}"))?;
    Ok(())
}

/// On both cores, since that is what is asked.
fn limits(lab: &Lab) -> Result<()> {
    let program = Program::new(lab.own_program()?)
        .arg("limits")
        .arg("--data")
        .arg(&lab.scratch)
        .arg("--json")
        .arg(lab.runs.join("limits.json"));
    let log = lab.scratch.join("limits.log");
    Process::start(&lab.children, Core::Both, &program, log)?.wait(LIMITS_MAX)
}
