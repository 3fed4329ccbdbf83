//! What a run prints and writes: throughput, latency, and the processor time per gigabyte of the broker and of this program. A run that
//! failed reports what it had reached.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use crate::clock::{now, processor_seconds};
use crate::run::Run;

/// Flags that every measured command has.
#[derive(Clone, Debug, clap::Args)]
pub struct Output {
    /// The broker's process id, to measure its processor time
    #[arg(long)]
    pub pid: Option<u32>,
    /// Writes the results to this file too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Processor times at the start of a run.
pub struct Meter {
    output: Output,
    server_start: Option<f64>,
    client_start: f64,
}

#[derive(Serialize)]
struct Report<'a> {
    command: &'a str,
    settings: BTreeMap<&'a str, String>,
    seconds: f64,
    bytes: u64,
    records: u64,
    requests: u64,
    megabytes_per_second: f64,
    requests_per_second: f64,
    latency_ms: Latency,
    server_cpu_seconds_per_gigabyte: Option<f64>,
    client_cpu_seconds_per_gigabyte: Option<f64>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Meter {
    pub fn start(output: Output) -> Result<Self> {
        let server_start = match output.pid {
            Some(pid) => {
                Some(processor_seconds(pid).ok_or_else(|| anyhow!("there is no process {pid}"))?)
            }
            None => None,
        };
        Ok(Self {
            output,
            server_start,
            client_start: own_processor_seconds(),
        })
    }

    /// Prints and writes the results, then passes on how the run ended.
    pub fn finish(
        self,
        run: &Run,
        command: &str,
        settings: &[(&'static str, String)],
        ended: Result<()>,
    ) -> Result<()> {
        let report = self.report(run, command, settings, &ended);
        let printed = print(&report).context("cannot print the results");
        let written = self
            .output
            .json
            .as_deref()
            .map_or(Ok(()), |path| write(path, &report));
        ended.and(printed).and(written)
    }

    fn report<'a>(
        &self,
        run: &Run,
        command: &'a str,
        settings: &[(&'static str, String)],
        ended: &Result<()>,
    ) -> Report<'a> {
        let seconds = now().duration_since(run.started).as_secs_f64();
        let server_end = self.output.pid.and_then(processor_seconds);
        let counts = run.counts.borrow();
        let gigabytes = counts.bytes as f64 / 1e9;
        let per_gigabyte = |cpu_seconds: f64| (gigabytes > 0.0).then(|| cpu_seconds / gigabytes);
        let server = server_end
            .zip(self.server_start)
            .map(|(end, start)| end - start);
        let latency = |quantile| counts.latency_us.value_at_quantile(quantile) as f64 / 1e3;
        Report {
            command,
            settings: settings.iter().cloned().collect(),
            seconds,
            bytes: counts.bytes,
            records: counts.records,
            requests: counts.requests,
            megabytes_per_second: counts.bytes as f64 / 1e6 / seconds,
            requests_per_second: counts.requests as f64 / seconds,
            latency_ms: Latency {
                p50: latency(0.5),
                p90: latency(0.9),
                p99: latency(0.99),
                p999: latency(0.999),
                max: latency(1.0),
            },
            server_cpu_seconds_per_gigabyte: server.and_then(per_gigabyte),
            client_cpu_seconds_per_gigabyte: per_gigabyte(
                own_processor_seconds() - self.client_start,
            ),
            error: ended.as_ref().err().map(|error| format!("{error:#}")),
        }
    }
}

fn own_processor_seconds() -> f64 {
    processor_seconds(std::process::id()).unwrap_or(0.0)
}

fn print(report: &Report<'_>) -> io::Result<()> {
    // Not println!, which panics when nobody reads any more.
    let mut out = stdout().lock();
    let Report {
        command,
        seconds,
        megabytes_per_second,
        requests_per_second,
        records,
        latency_ms,
        ..
    } = report;
    writeln!(
        out,
        "{command}: {megabytes_per_second:.1} MB/s  {requests_per_second:.0} requests/s  {:.1} MB in {seconds:.2} s  {records} records",
        report.bytes as f64 / 1e6
    )?;
    let Latency {
        p50,
        p90,
        p99,
        p999,
        max,
    } = latency_ms;
    writeln!(
        out,
        "latency ms: p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2}"
    )?;
    let cpu =
        |seconds: Option<f64>| seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.3}"));
    writeln!(
        out,
        "CPU s/GB: server {}  client {}",
        cpu(report.server_cpu_seconds_per_gigabyte),
        cpu(report.client_cpu_seconds_per_gigabyte)
    )
}

fn write(path: &Path, report: &Report<'_>) -> Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> Output {
        Output {
            pid: None,
            json: None,
        }
    }

    #[test]
    fn a_failed_run_still_reports_what_it_reached() {
        let run = Run::unlimited();
        run.count(1_000_000, 10, run.started);
        let meter = Meter::start(output()).unwrap();
        let report = meter.report(
            &run,
            "produce",
            &[("topic", "t".to_owned())],
            &Err(anyhow!("the broker died")),
        );
        assert_eq!(
            (report.bytes, report.records, report.requests),
            (1_000_000, 10, 1)
        );
        assert_eq!(report.error.as_deref(), Some("the broker died"));
        assert!(
            meter
                .finish(&run, "produce", &[], Err(anyhow!("the broker died")))
                .is_err()
        );
    }

    #[test]
    fn without_bytes_there_is_no_time_per_gigabyte() {
        let meter = Meter::start(output()).unwrap();
        let report = meter.report(&Run::unlimited(), "consume", &[], &Ok(()));
        assert_eq!(report.client_cpu_seconds_per_gigabyte, None);
    }

    #[test]
    fn a_process_that_does_not_exist_is_refused_before_the_run() {
        assert!(
            Meter::start(Output {
                pid: Some(u32::MAX),
                json: None
            })
            .is_err()
        );
    }
}
