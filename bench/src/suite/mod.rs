//! `suite`: the whole target table, measured on this host. Servers run on its first core, whatever loads them on its second; every run is a
//! process of its own, broker and ceiling take turns, and a line is the median of the rounds' ratios.
//!
//! ```text
//! produce  durable  fetch     against the sink and the disk, in interleaved runs
//! instructions  callgrind     what a request costs, counted and not timed
//! memory                      what an idle connection and an idle partition cost
//! stock                       a client library at its defaults, against this program
//! beside                      what the page shows beside the lines
//!    lab  cluster             servers, runs and what they wrote
//!    children                 processes, and that none is left behind
//!    rows                     the table
//! ```

mod beside;
mod callgrind;
mod children;
mod cluster;
mod durable;
mod fetch;
mod instructions;
mod lab;
mod memory;
mod produce;
mod rows;
mod stock;

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use children::{Children, remove};
use lab::{Lab, progress, require_file};
use rows::{Row, Spec};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The broker's program
    #[arg(long)]
    broker: PathBuf,
    /// The controller's program
    #[arg(long)]
    controller: PathBuf,
    /// A library that lets the broker run under valgrind; without it nothing is counted
    #[arg(long, value_name = "FILE")]
    preload: Option<PathBuf>,
    /// Where results go
    #[arg(long, default_value = "bench-results", value_name = "DIR")]
    out: PathBuf,
    /// Measures this line and those that come from the same runs; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Turns of ceiling and broker
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of a run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// First of four ports on 127.0.0.1; where one of them is taken, the next four that are free
    #[arg(long, default_value_t = 29_092, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    port: u16,
}

/// Lines that come from the same runs.
struct Measurement {
    lines: &'static [Spec],
    run: fn(&Lab) -> Result<Vec<Row>>,
}

const MEASUREMENTS: [Measurement; 13] = [
    Measurement {
        lines: &[
            rows::PRODUCE_64K,
            rows::PRODUCE_64K_CPU,
            rows::GENERATOR_64K,
        ],
        run: produce::at_64k,
    },
    Measurement {
        lines: &[rows::PRODUCE_1M, rows::GENERATOR_1M],
        run: produce::at_1m,
    },
    Measurement {
        lines: &[rows::PRODUCE_200B, rows::GENERATOR_200B],
        run: produce::at_200b,
    },
    Measurement {
        lines: &[rows::DURABLE_8],
        run: durable::over_8_partitions,
    },
    Measurement {
        lines: &[rows::DURABLE_256],
        run: durable::over_256_partitions,
    },
    Measurement {
        lines: &[rows::DURABLE_P99, rows::DURABLE_P99_SINK],
        run: durable::latency,
    },
    Measurement {
        lines: &[rows::FETCH_TAIL],
        run: fetch::tail,
    },
    Measurement {
        lines: &[rows::FETCH_COLD],
        run: fetch::cold,
    },
    Measurement {
        lines: &[rows::FETCH_STOCK_TAIL, rows::FETCH_STOCK_OLD],
        run: stock::measure,
    },
    Measurement {
        lines: &[rows::UNDER_SCAN],
        run: fetch::under_scan,
    },
    Measurement {
        lines: &[rows::SHARDS_NO_HOP, rows::SHARDS_HOP, rows::ALLOCATIONS],
        run: instructions::measure,
    },
    Measurement {
        lines: &[rows::IDLE_CONNECTION],
        run: memory::idle_connections,
    },
    Measurement {
        lines: &[rows::IDLE_PARTITION],
        run: memory::idle_partitions,
    },
];

impl Measurement {
    fn is_asked_for(&self, only: &[String]) -> bool {
        only.is_empty()
            || self
                .lines
                .iter()
                .any(|line| only.iter().any(|name| name == line.name))
    }

    /// Its lines, whatever happens: what cannot be measured says why.
    fn rows(&self, lab: &Lab) -> Vec<Row> {
        let measured = (self.run)(lab);
        let stalls = lab.take_stalls();
        let mut rows = measured.unwrap_or_else(|error| {
            let why = format!("{error:#}");
            let missing = |line: &Spec| Row::not_measured(*line, &why);
            self.lines.iter().map(missing).collect()
        });
        for line in self.lines {
            if !rows.iter().any(|row| row.name() == line.name) {
                rows.push(Row::not_measured(*line, "the runs gave no figure for it"));
            }
        }
        if stalls.is_empty() {
            return rows;
        }
        let stalls = stalls.join(", ");
        rows.into_iter().map(|row| row.with_note(&stalls)).collect()
    }
}

pub fn run(arguments: Arguments) -> Result<()> {
    check_names(&arguments.only)?;
    let broker = require_file(&arguments.broker)?;
    let controller = require_file(&arguments.controller)?;
    let measured = build_of(&broker)?;
    progress(&format!("measured: {measured}"));
    let preload = arguments.preload.as_deref().map(require_file).transpose()?;
    let out = &arguments.out;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let out = out.canonicalize()?;
    let _lock = lock(&out)?;
    let scratch = Scratch::new(out.join("data"))?;
    let lab = Lab {
        broker,
        controller,
        preload,
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        port: arguments.port,
        children: Children::default(),
        runs: empty_directory(out.join("runs"))?,
        scratch: scratch.0.clone(),
        stalls: RefCell::default(),
    };
    lab.children.end_on_interrupt(scratch.0.clone())?;
    let mut rows = Vec::new();
    print(&rows::heading())?;
    let asked_for = MEASUREMENTS
        .iter()
        .filter(|measurement| measurement.is_asked_for(&arguments.only));
    for measurement in asked_for {
        for row in measurement.rows(&lab) {
            print(&row)?;
            rows.push(row);
        }
    }
    if arguments.only.is_empty() {
        beside::measure(&lab)?;
    }
    let missing: Vec<&str> = rows
        .iter()
        .filter(|row| !row.is_measured())
        .map(Row::name)
        .collect();
    let latest = out.join("latest.json");
    write(&latest, &rows)?;
    // Some lines are counted and come from no run.
    let has_runs = fs::read_dir(&lab.runs)?.next().is_some();
    if has_runs {
        report(&lab.runs, &latest, &measured, &out.join("report.html"))?;
    }
    ensure!(missing.is_empty(), "not measured: {}", missing.join(", "));
    Ok(())
}

/// What a program says of its version and of how it was built.
fn build_of(program: &Path) -> Result<String> {
    let said = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let version = String::from_utf8_lossy(&said.stdout);
    Ok(version.trim().to_owned())
}

fn check_names(only: &[String]) -> Result<()> {
    let names: Vec<&str> = MEASUREMENTS
        .iter()
        .flat_map(|measurement| measurement.lines)
        .map(|line| line.name)
        .collect();
    for name in only {
        if !names.contains(&name.as_str()) {
            bail!("there is no line '{name}'; there are {}", names.join(", "));
        }
    }
    Ok(())
}

/// Two suites at once would measure each other and remove each other's files.
fn lock(out: &Path) -> Result<File> {
    let path = out.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    file.try_lock()
        .with_context(|| format!("another suite runs in {}", out.display()))?;
    Ok(file)
}

/// The directory of everything that goes when the suite ends. One that is there already was left by a suite that was killed.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: PathBuf) -> Result<Self> {
        remove(&path);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Runs of before would be taken for those of now.
fn empty_directory(path: PathBuf) -> Result<PathBuf> {
    remove(&path);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

fn print(line: &dyn Display) -> Result<()> {
    writeln!(stdout(), "{line}").context("cannot print the results")
}

fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let mut text = serde_json::to_string_pretty(rows)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Makes a page of all runs by this program's own command for it.
fn report(runs: &Path, latest: &Path, measured: &str, page: &Path) -> Result<()> {
    progress("report");
    let made = Command::new(std::env::current_exe()?)
        .args(["report", "--runs"])
        .arg(runs)
        .arg("--results")
        .arg(latest)
        .args(["--measured", measured])
        .arg("--out")
        .arg(page)
        .output()
        .context("cannot make the report")?;
    let words = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "no report: {}", words.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_a_name_of_its_own() {
        let mut names: Vec<&str> = MEASUREMENTS
            .iter()
            .flat_map(|measurement| measurement.lines)
            .map(|line| line.name)
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_line_brings_those_of_the_same_runs() {
        let only = ["produce-64k-cpu".to_owned()];
        let chosen: Vec<&Measurement> = MEASUREMENTS
            .iter()
            .filter(|measurement| measurement.is_asked_for(&only))
            .collect();
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].lines[0].name, "produce-64k-throughput");
    }

    #[test]
    fn an_unknown_line_is_refused_with_the_names_there_are() {
        let error = check_names(&["fetch".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("'fetch'") && error.contains("fetch-tail"));
    }
}
