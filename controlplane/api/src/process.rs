//! What a process shows of itself beside what it does: which build it is, its processor time, its memory, its descriptors. Both planes
//! register one collector; the numbers are read from `/proc` when they are scraped, and never otherwise.
//!
//! Names are those of every Prometheus client library, so that dashboards and alerts for any process fit.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;
use std::fs;

/// Which build a program is: the version, and the profile of Cargo.toml that it was built with, `full` being the fastest.
pub const BUILD: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (profile ",
    env!("MILLRACE_PROFILE"),
    ")"
);

/// Kernel ticks in a second as `/proc` counts them: USER_HZ, which is 100 wherever io_uring is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Name, help and type of each number, in the order of [`read`].
const FAMILIES: [(&str, &str, MetricType); 7] = [
    (
        "process_cpu_seconds_total",
        "User and system processor time of this process.",
        MetricType::COUNTER,
    ),
    (
        "process_resident_memory_bytes",
        "Memory of this process that is in RAM.",
        MetricType::GAUGE,
    ),
    (
        "process_virtual_memory_bytes",
        "Address space of this process.",
        MetricType::GAUGE,
    ),
    (
        "process_open_fds",
        "Descriptors that this process has open.",
        MetricType::GAUGE,
    ),
    (
        "process_max_fds",
        "Descriptors that this process may have open.",
        MetricType::GAUGE,
    ),
    (
        "process_threads",
        "Threads of this process.",
        MetricType::GAUGE,
    ),
    (
        "process_start_time_seconds",
        "When this process started, in seconds since 1970.",
        MetricType::GAUGE,
    ),
];

/// The process that it is asked in.
pub struct ProcessCollector {
    version: &'static str,
    descriptions: Vec<Desc>,
}

impl ProcessCollector {
    /// `version` is the one of the program.
    pub fn new(version: &'static str) -> prometheus::Result<ProcessCollector> {
        let describe = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        };
        let mut descriptions = vec![describe(BUILD_INFO, BUILD_INFO_HELP, &["version"])?];
        for (name, help, _) in FAMILIES {
            descriptions.push(describe(name, help, &[])?);
        }
        Ok(ProcessCollector {
            version,
            descriptions,
        })
    }

    fn build_info(&self) -> MetricFamily {
        let mut version = LabelPair::default();
        version.set_name("version".to_owned());
        version.set_value(self.version.to_owned());
        let mut metric = gauge(1.0);
        metric.set_label(vec![version]);
        family(BUILD_INFO, BUILD_INFO_HELP, MetricType::GAUGE, metric)
    }
}

const BUILD_INFO: &str = "millrace_build_info";
const BUILD_INFO_HELP: &str = "1, with the version of the program as a label.";

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = vec![self.build_info()];
        // A number that cannot be read is left out: better none than a wrong one.
        let numbers = FAMILIES.into_iter().zip(read());
        families.extend(numbers.filter_map(|((name, help, kind), number)| {
            let metric = match kind {
                MetricType::COUNTER => counter(number?),
                _ => gauge(number?),
            };
            Some(family(name, help, kind, metric))
        }));
        families
    }
}

fn family(name: &str, help: &str, kind: MetricType, metric: Metric) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(vec![metric]);
    family
}

fn gauge(value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::default();
    metric.set_gauge(gauge);
    metric
}

fn counter(value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::default();
    metric.set_counter(counter);
    metric
}

/// The numbers of [`FAMILIES`].
fn read() -> [Option<f64>; FAMILIES.len()] {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let host = fs::read_to_string("/proc/stat").unwrap_or_default();
    [
        cpu_seconds(&stat),
        after(&status, "VmRSS:").map(kibibytes),
        after(&status, "VmSize:").map(kibibytes),
        open_descriptors(),
        after(&limits, "Max open files"),
        after(&status, "Threads:"),
        start_seconds(&stat, &host),
    ]
}

/// Field `number` of `/proc/self/stat`, counted from 1 as proc(5) does. The second is a name that may hold anything, in parentheses.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    const USER: usize = 14;
    const SYSTEM: usize = 15;
    Some((stat_field(stat, USER)? + stat_field(stat, SYSTEM)?) / TICKS_PER_SECOND)
}

fn start_seconds(stat: &str, host: &str) -> Option<f64> {
    const TICKS_AFTER_BOOT: usize = 22;
    Some(after(host, "btime")? + stat_field(stat, TICKS_AFTER_BOOT)? / TICKS_PER_SECOND)
}

/// The first number on the line that begins with `name`.
fn after(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn kibibytes(count: f64) -> f64 {
    count * 1024.0
}

fn open_descriptors() -> Option<f64> {
    // Since Linux 6.2 the directory's size is their number; before it is 0, and counting takes a descriptor itself.
    let directory = "/proc/self/fd";
    match fs::metadata(directory).ok()?.len() {
        0 => Some(fs::read_dir(directory).ok()?.count().saturating_sub(1) as f64),
        count => Some(count as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_numbers_and_they_are_plausible() {
        let numbers = read().map(|number| number.expect("Linux has every number"));
        let [
            cpu,
            resident,
            virtual_memory,
            open,
            open_max,
            threads,
            started,
        ] = numbers;
        assert!(cpu >= 0.0);
        assert!(resident > 1e5 && resident < virtual_memory);
        assert!(open >= 3.0 && open <= open_max);
        assert!(threads >= 1.0);
        assert!(started > 1.6e9 && started < 4e9);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_moves_no_field() {
        let behind = (3..30)
            .map(|number| format!(" {number}"))
            .collect::<String>();
        let stat = format!("1 (a) b (c)) S{}", behind.replacen(" 3", "", 1));
        assert_eq!(stat_field(&stat, 14), Some(14.0));
        assert_eq!(cpu_seconds(&stat), Some(0.29));
        assert_eq!(start_seconds(&stat, "cpu 1\nbtime 1000\n"), Some(1000.22));
        assert_eq!(start_seconds(&stat, ""), None);
    }

    #[test]
    fn every_family_is_described_and_has_its_number() {
        let collector = ProcessCollector::new("1.2.3").unwrap();
        let families = collector.collect();
        assert_eq!(families.len(), collector.desc().len());
        let names: Vec<&str> = families.iter().map(MetricFamily::name).collect();
        assert_eq!(names[0], BUILD_INFO);
        assert!(names.contains(&"process_cpu_seconds_total"));
    }
}
