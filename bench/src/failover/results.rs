//! What a failover prints and writes. One that ended badly reports what it had seen.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write, stdout};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use super::timeline::{GAP_MIN, Timeline};
use super::{Arguments, Load};

pub(super) struct Results {
    settings: BTreeMap<&'static str, String>,
    started: Instant,
    pub(super) killed_at: Option<Instant>,
    pub(super) gone_at: Option<Instant>,
    /// Acknowledged records that were read back.
    pub(super) records_found: usize,
}

#[derive(Serialize)]
struct Report<'a> {
    command: &'static str,
    settings: &'a BTreeMap<&'static str, String>,
    process_gone_ms: Option<f64>,
    /// From the kill to the first success on every partition.
    produce_ms: Option<f64>,
    offset_commit_ms: Option<f64>,
    records_acknowledged: usize,
    records_found: usize,
    commits_acknowledged: usize,
    gaps: Vec<Gap<'a>>,
    error: Option<String>,
}

/// Milliseconds after the kill; negative before it.
#[derive(Serialize)]
struct Gap<'a> {
    of: &'a str,
    from_ms: f64,
    gap_ms: f64,
}

impl Results {
    pub(super) fn new(arguments: &Arguments, topic: &str) -> Self {
        let settings = [
            ("topic", topic.to_owned()),
            ("partitions", arguments.partitions.to_string()),
            ("pace_ms", arguments.pace_ms.to_string()),
            (
                "restart_command",
                arguments.restart_command.clone().unwrap_or_default(),
            ),
        ];
        Self {
            settings: BTreeMap::from(settings),
            started: crate::clock::now(),
            killed_at: None,
            gone_at: None,
            records_found: 0,
        }
    }

    /// Prints and writes, then passes on how it ended.
    pub(super) fn finish(self, load: &Load, json: Option<&Path>, ended: Result<()>) -> Result<()> {
        let report = self.report(load, &ended);
        let printed = print(&report).context("cannot print the results");
        let written = json.map_or(Ok(()), |path| {
            let mut text = serde_json::to_string_pretty(&report)?;
            text.push('\n');
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        });
        ended.and(printed).and(written)
    }

    fn report<'a>(&'a self, load: &'a Load, ended: &Result<()>) -> Report<'a> {
        let zero = self.killed_at.unwrap_or(self.started);
        let returned = |timeline: &Timeline| {
            let at = timeline.first_sent_after(self.gone_at?)?;
            Some(milliseconds(zero, at))
        };
        let produced = load.producers.iter().map(|each| returned(&each.timeline));
        let gaps = load.timelines().flat_map(|timeline| {
            timeline.gaps().into_iter().map(|gap| Gap {
                of: &timeline.name,
                from_ms: milliseconds(zero, gap.from),
                gap_ms: milliseconds(gap.from, gap.until),
            })
        });
        Report {
            command: "failover",
            settings: &self.settings,
            process_gone_ms: self.gone_at.map(|at| milliseconds(zero, at)),
            // All partitions are back only when the last one is; one that is not back makes this `None`.
            produce_ms: produced
                .collect::<Option<Vec<_>>>()
                .and_then(|each| each.into_iter().reduce(f64::max)),
            offset_commit_ms: returned(&load.committer.timeline),
            records_acknowledged: load.producers.iter().map(|each| each.acknowledged()).sum(),
            records_found: self.records_found,
            commits_acknowledged: load.committer.timeline.successes(),
            gaps: gaps.collect(),
            error: ended.as_ref().err().map(|error| format!("{error:#}")),
        }
    }
}

fn milliseconds(from: Instant, until: Instant) -> f64 {
    let signed = if until >= from {
        (until - from).as_secs_f64()
    } else {
        -(from - until).as_secs_f64()
    };
    (signed * 1e6).round() / 1e3
}

fn print(report: &Report<'_>) -> io::Result<()> {
    let mut out = stdout().lock();
    let back = |value: Option<f64>| {
        value.map_or("not back".to_owned(), |ms| format!("back after {ms:.0} ms"))
    };
    match report.process_gone_ms {
        Some(gone_ms) => writeln!(
            out,
            "failover: process gone after {gone_ms:.0} ms, produce {}, offset commit {}",
            back(report.produce_ms),
            back(report.offset_commit_ms)
        )?,
        None => writeln!(out, "failover: no process is gone")?,
    }
    for Gap {
        of,
        from_ms,
        gap_ms,
    } in &report.gaps
    {
        writeln!(
            out,
            "gap over {} ms: {of}, {gap_ms:.0} ms long, from {from_ms:.0} ms after the kill",
            GAP_MIN.as_millis()
        )?;
    }
    writeln!(
        out,
        "{} records acknowledged, {} read back; {} commits acknowledged",
        report.records_acknowledged, report.records_found, report.commits_acknowledged
    )
}
