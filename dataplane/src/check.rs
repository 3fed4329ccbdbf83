//! `millrace-broker check`: looks at the host and says what to change.

use crate::limits::CONNECTIONS_MAX;
use anyhow::Context;
use ring::directory::{FileSystem, probe_directory};
use ring::host::{HostReport, probe};
use std::path::Path;

/// One finding: what was looked at, how it is, and what to do if it is not good.
struct Finding {
    what: &'static str,
    state: String,
    advice: Option<String>,
}

/// Prints the findings; an error if a broker could not run here.
pub fn run(tail_bytes: usize, data: Option<&Path>) -> anyhow::Result<()> {
    let report = probe(tail_bytes).context("cannot look at this host")?;
    let mut findings = vec![
        kernel(&report),
        switch(&report),
        memory_lock(&report),
        open_files(&report),
    ];
    findings.extend(data.map(disk));
    for finding in &findings {
        let mark = if finding.advice.is_some() { "!!" } else { "ok" };
        println!("{mark}  {:<14} {}", finding.what, finding.state);
        if let Some(advice) = &finding.advice {
            println!("    {:<14} {advice}", "");
        }
    }
    report
        .ring
        .map_err(|error| anyhow::anyhow!("a broker cannot run here: {error}"))?;
    if let Some(data) = data {
        probe_directory(data)
            .with_context(|| format!("a broker cannot run on {}", data.display()))?;
    }
    Ok(())
}

fn kernel(report: &HostReport) -> Finding {
    Finding {
        what: "kernel",
        state: report.kernel.clone(),
        advice: report.ring.as_ref().err().map(|error| error.to_string()),
    }
}

fn switch(report: &HostReport) -> Finding {
    let (state, advice) = match report.io_uring_disabled {
        None | Some(0) => ("io_uring is enabled".to_owned(), None),
        Some(value) => (
            format!("kernel.io_uring_disabled = {value}"),
            Some("sysctl -w kernel.io_uring_disabled=0".to_owned()),
        ),
    };
    Finding {
        what: "io_uring",
        state,
        advice,
    }
}

fn memory_lock(report: &HostReport) -> Finding {
    let limit = report
        .memlock_bytes
        .map_or("unlimited".to_owned(), |bytes| {
            format!("{} KiB", bytes >> 10)
        });
    let advice = (!report.memory_is_registered && report.ring.is_ok()).then(|| {
        let text = "writes cost about a quarter more CPU without registered memory: set `LimitMEMLOCK=infinity` for the service";
        text.to_owned()
    });
    Finding {
        what: "memlock",
        state: limit,
        advice,
    }
}

fn open_files(report: &HostReport) -> Finding {
    let hard = report.open_files.hard;
    let advice = (hard < CONNECTIONS_MAX as u64).then(|| {
        format!("each connection and each segment takes one: raise the hard limit (`LimitNOFILE={CONNECTIONS_MAX}` for the service)")
    });
    Finding {
        what: "open files",
        state: format!("{} now, {hard} at most", report.open_files.soft),
        advice,
    }
}

/// Whether a broker's data can be in this directory, and how.
fn disk(data: &Path) -> Finding {
    let shown = data.display();
    let (state, advice) = match probe_directory(data) {
        Ok(found) => (
            format!("{shown}: {}", describe(&found)),
            advice(&found).map(str::to_owned),
        ),
        Err(error) => (
            format!("{shown}: {error}"),
            Some("no broker can run on it".to_owned()),
        ),
    };
    Finding {
        what: "data directory",
        state,
        advice,
    }
}

/// How records are stored on a file system.
pub(crate) fn describe(found: &FileSystem) -> &'static str {
    match (found.full, found.unbuffered, found.reserves) {
        (true, _, _) => "no room for one block: partitions take no records until there is",
        (false, true, true) => "unbuffered writes into reserved space",
        (false, true, false) => "unbuffered writes, each extent written with zeros first",
        (false, false, true) => "writes through the page cache into reserved space",
        (false, false, false) => {
            "writes through the page cache, each extent written with zeros first"
        }
    }
}

/// What to change, if storing costs more than it need.
pub(crate) fn advice(found: &FileSystem) -> Option<&'static str> {
    if found.full {
        Some("make room")
    } else if found.unbuffered && found.reserves {
        None
    } else {
        Some("it works but costs more: ext4 and XFS with blocks of 4 KiB do without")
    }
}
