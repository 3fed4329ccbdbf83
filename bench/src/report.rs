//! What a run prints and writes: throughput, latency, and what it cost the broker and this program. A run that failed reports what it
//! had reached.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write, stdout};
use std::path::Path;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::meter::Costs;
use crate::run::Run;

/// Points of a latency curve each time that the share of slower answers halves.
const CURVE_POINTS: u32 = 4;

#[derive(Debug, Serialize)]
pub struct Report {
    pub command: String,
    pub settings: BTreeMap<&'static str, String>,
    pub seconds: f64,
    pub bytes: u64,
    pub records: u64,
    pub requests: u64,
    pub megabytes_per_second: f64,
    pub records_per_second: f64,
    pub requests_per_second: f64,
    pub latency_ms: Latency,
    /// Pairs of quantile and milliseconds.
    pub latency_curve_ms: Vec<(f64, f64)>,
    pub server_cpu_seconds_per_gigabyte: Option<f64>,
    pub server_memory_bytes_max: Option<u64>,
    pub client_cpu_seconds_per_gigabyte: Option<f64>,
    /// The share of the cores this program may run on that anyone used: near 1 the machine was the limit, whatever used it.
    pub client_cores_busy: Option<f64>,
    /// Where the latency is that until a consumer has a record, also that until its producer has the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_latency_ms: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_latency_curve_ms: Option<Vec<(f64, f64)>>,
    /// The longest that this program itself kept a record of an open loop waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_late_ms_max: Option<f64>,
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
}

impl Report {
    pub fn new(
        run: &Run,
        command: &str,
        settings: &[(&'static str, String)],
        costs: &Costs,
        ended: &Result<()>,
    ) -> Self {
        let seconds = run.seconds();
        let counts = run.counts.borrow();
        let gigabytes = counts.bytes as f64 / 1e9;
        let per_gigabyte = |cpu_seconds: f64| (gigabytes > 0.0).then(|| cpu_seconds / gigabytes);
        Self {
            command: command.to_owned(),
            settings: settings.iter().cloned().collect(),
            seconds,
            bytes: counts.bytes,
            records: counts.records,
            requests: counts.requests,
            megabytes_per_second: counts.bytes as f64 / 1e6 / seconds,
            records_per_second: counts.records as f64 / seconds,
            requests_per_second: counts.requests as f64 / seconds,
            latency_ms: Latency::of(&counts.latency_us),
            latency_curve_ms: curve(&counts.latency_us),
            server_cpu_seconds_per_gigabyte: costs.server_processor_seconds.and_then(per_gigabyte),
            server_memory_bytes_max: costs.server_memory_bytes_max,
            client_cpu_seconds_per_gigabyte: per_gigabyte(costs.client_processor_seconds),
            client_cores_busy: costs.client_cores_busy,
            ack_latency_ms: None,
            ack_latency_curve_ms: None,
            generator_late_ms_max: None,
            error: ended.as_ref().err().map(|error| format!("{error:#}")),
        }
    }

    /// Makes the latency that until a consumer has a record.
    pub fn set_end_to_end(&mut self, latency_us: &Histogram<u64>) {
        self.ack_latency_ms = Some(self.latency_ms);
        self.ack_latency_curve_ms = Some(std::mem::take(&mut self.latency_curve_ms));
        self.latency_ms = Latency::of(latency_us);
        self.latency_curve_ms = curve(latency_us);
    }

    pub fn print(&self) -> io::Result<()> {
        // Not println!, which panics when nobody reads any more.
        let mut out = stdout().lock();
        writeln!(
            out,
            "{}: {:.1} MB/s  {:.0} requests/s  {:.1} MB in {:.2} s  {} records",
            self.command,
            self.megabytes_per_second,
            self.requests_per_second,
            self.bytes as f64 / 1e6,
            self.seconds,
            self.records
        )?;
        writeln!(out, "latency ms: {}", self.latency_ms.line())?;
        if let Some(acknowledged) = &self.ack_latency_ms {
            writeln!(out, "of which until acknowledged: {}", acknowledged.line())?;
        }
        if let Some(late) = self.generator_late_ms_max {
            writeln!(out, "of which this program's own: at most {late:.2} ms")?;
        }
        let cpu = |seconds: Option<f64>| {
            seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.3}"))
        };
        let memory = self.server_memory_bytes_max.map_or(String::new(), |bytes| {
            format!("  server memory: {:.1} MB at most", bytes as f64 / 1e6)
        });
        writeln!(
            out,
            "CPU s/GB: server {}  client {}{memory}",
            cpu(self.server_cpu_seconds_per_gigabyte),
            cpu(self.client_cpu_seconds_per_gigabyte)
        )
    }
}

impl Latency {
    pub fn of(latency_us: &Histogram<u64>) -> Self {
        let at = |quantile| latency_us.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: at(1.0),
        }
    }

    pub fn line(&self) -> String {
        format!(
            "p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  p99.99 {:.2}  max {:.2}",
            self.p50, self.p90, self.p99, self.p999, self.p9999, self.max
        )
    }
}

/// The whole distribution, from the fastest to the slowest, with more points where fewer answers are.
pub fn curve(latency_us: &Histogram<u64>) -> Vec<(f64, f64)> {
    if latency_us.is_empty() {
        return Vec::new();
    }
    let fastest = (0.0, latency_us.min() as f64 / 1e3);
    let point = |value: hdrhistogram::iterators::IterationValue<u64>| {
        let quantile = value.quantile_iterated_to();
        (quantile, value.value_iterated_to() as f64 / 1e3)
    };
    let points = latency_us.iter_quantiles(CURVE_POINTS).map(point);
    std::iter::once(fastest).chain(points).collect()
}

pub fn write(path: &Path, report: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    const NO_COSTS: Costs = Costs {
        server_processor_seconds: None,
        server_memory_bytes_max: None,
        client_processor_seconds: 1.0,
        client_cores_busy: None,
    };

    #[test]
    fn a_failed_run_still_reports_what_it_reached() {
        let run = Run::unlimited();
        run.count(1_000_000, 10, run.started);
        let report = Report::new(
            &run,
            "produce",
            &[("topic", "t".to_owned())],
            &NO_COSTS,
            &Err(anyhow!("the broker died")),
        );
        assert_eq!(
            (report.bytes, report.records, report.requests),
            (1_000_000, 10, 1)
        );
        assert_eq!(report.error.as_deref(), Some("the broker died"));
    }

    #[test]
    fn without_bytes_there_is_no_time_per_gigabyte_and_no_curve() {
        let report = Report::new(&Run::unlimited(), "consume", &[], &NO_COSTS, &Ok(()));
        assert_eq!(report.client_cpu_seconds_per_gigabyte, None);
        assert!(report.latency_curve_ms.is_empty());
    }

    #[test]
    fn a_curve_runs_from_the_fastest_to_the_slowest_and_never_falls() {
        let mut latency_us = Histogram::<u64>::new(3).unwrap();
        (1..=10_000).for_each(|value| latency_us.record(value).unwrap());
        let curve = curve(&latency_us);
        assert_eq!(curve.first(), Some(&(0.0, 0.001)));
        let (quantile, slowest) = *curve.last().unwrap();
        assert_eq!(quantile, 1.0);
        assert!((slowest - 10.0).abs() < 0.01, "{slowest}");
        assert!(curve.is_sorted());
    }
}
