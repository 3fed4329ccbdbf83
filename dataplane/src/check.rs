//! `millrace-broker check`: looks at the host and says what to change.

use crate::limits::CONNECTIONS_MAX;
use anyhow::Context;
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
        .map_err(|error| anyhow::anyhow!("a broker cannot run here: {error}"))
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

/// Whether the directory's file system takes unbuffered writes.
fn disk(data: &Path) -> Finding {
    use std::os::unix::fs::OpenOptionsExt;
    const O_DIRECT: i32 = 0o40000;
    let probe = data.join(".direct-io-probe");
    let opened = std::fs::create_dir_all(data).and_then(|()| {
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(O_DIRECT)
            .open(&probe)
    });
    let _ = std::fs::remove_file(&probe);
    Finding {
        what: "data directory",
        state: match &opened {
            Ok(_) => format!("{} takes unbuffered writes", data.display()),
            Err(error) => format!("{}: {error}", data.display()),
        },
        advice: opened
            .err()
            .map(|_| "put the data on a local ext4 or XFS file system".to_owned()),
    }
}
