//! `compare`: the same workload against two targets in turns, so that whatever else the machine does meets both. Each turn is this program
//! itself as a child; the order within a round changes every round. What is compared are the ratios within the rounds.

pub(crate) mod ratios;
mod turn;

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use ratios::{Spread, median};
use turn::Turn;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// HOST:PORT of any broker of the first target
    #[arg(long, value_name = "HOST:PORT")]
    a: Option<String>,
    /// HOST:PORT of any broker of the second target
    #[arg(long, value_name = "HOST:PORT")]
    b: Option<String>,
    /// Both targets, in place of --a and --b
    #[arg(value_name = "A B", num_args = 0..=2)]
    targets: Vec<String>,
    /// The first broker's process id, to measure its processor time
    #[arg(long)]
    pid_a: Option<u32>,
    /// The second broker's process id
    #[arg(long)]
    pid_b: Option<u32>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Writes all runs and the ratios to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The workload: a command of this program and its flags, without those that name the target
    #[arg(last = true, required = true, value_name = "COMMAND")]
    workload: Vec<String>,
}

/// One side of the comparison.
#[derive(Debug)]
struct Target {
    name: &'static str,
    address: String,
    pid: Option<u32>,
}

#[derive(Serialize)]
struct Comparison {
    command: &'static str,
    a: String,
    b: String,
    arguments: Vec<String>,
    rounds: Vec<Round>,
    ratios: BTreeMap<&'static str, Spread>,
    error: Option<String>,
}

/// The results of the two runs. A side that has none did not get as far.
#[derive(Default, Serialize)]
struct Round {
    a: Option<Value>,
    b: Option<Value>,
}

/// A figure of a run's results that is compared.
struct Figure {
    title: &'static str,
    /// Also its name among the ratios.
    path: &'static str,
    divisor: f64,
    decimals: usize,
}

/// Those that no run has, such as the knee of what is no ramp, are not shown.
const FIGURES: [Figure; 8] = [
    Figure::new("MB/s", "/megabytes_per_second", 1.0, 1),
    Figure::new("requests/s", "/requests_per_second", 1.0, 0),
    Figure::new("records/s", "/records_per_second", 1.0, 0),
    Figure::new("p50 ms", "/latency_ms/p50", 1.0, 3),
    Figure::new("p99 ms", "/latency_ms/p99", 1.0, 3),
    Figure::new("knee records/s", "/knee_records_per_second", 1.0, 0),
    Figure::new("CPU s/GB", "/server_cpu_seconds_per_gigabyte", 1.0, 3),
    Figure::new("peak memory MB", "/server_memory_bytes_max", 1e6, 1),
];

impl Figure {
    const fn new(title: &'static str, path: &'static str, divisor: f64, decimals: usize) -> Self {
        Self {
            title,
            path,
            divisor,
            decimals,
        }
    }

    fn of(&self, run: Option<&Value>) -> Option<f64> {
        Some(run?.pointer(self.path)?.as_f64()? / self.divisor)
    }

    fn name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }
}

pub fn run(arguments: Arguments) -> Result<()> {
    let [a, b] = targets(&arguments)?;
    let turn = Turn::new(&arguments.workload)?;
    let mut comparison = Comparison {
        command: "compare",
        a: a.address.clone(),
        b: b.address.clone(),
        arguments: arguments.workload.clone(),
        rounds: Vec::new(),
        ratios: BTreeMap::new(),
        error: None,
    };
    let ended = (1..=arguments.rounds).try_for_each(|number| {
        let mut round = Round::default();
        let ended = play(&turn, &a, &b, number, &mut round);
        let shown = show_round(number, arguments.rounds, &round);
        comparison.rounds.push(round);
        ended.and(shown)
    });
    comparison.error = ended.as_ref().err().map(|error| format!("{error:#}"));
    comparison.ratios = FIGURES
        .iter()
        .filter_map(|figure| Some((figure.name(), comparison.spread(figure)?)))
        .collect();
    let printed = comparison.print().context("cannot print the results");
    let written = comparison.write(arguments.json);
    ended.and(printed).and(written)
}

fn targets(arguments: &Arguments) -> Result<[Target; 2]> {
    let mut unnamed = arguments.targets.iter();
    let mut take = |named: &Option<String>| named.clone().or_else(|| unnamed.next().cloned());
    let (Some(first), Some(second)) = (take(&arguments.a), take(&arguments.b)) else {
        bail!("two targets are needed: --a HOST:PORT --b HOST:PORT")
    };
    ensure!(unnamed.next().is_none(), "two targets are enough");
    let target = |name, address, pid| Target { name, address, pid };
    Ok([
        target("A", first, arguments.pid_a),
        target("B", second, arguments.pid_b),
    ])
}

/// One round: each side once, the one that was last now first. A failed side still leaves what it reached.
fn play(turn: &Turn, a: &Target, b: &Target, number: u32, round: &mut Round) -> Result<()> {
    let mut order = [(a, &mut round.a), (b, &mut round.b)];
    if number.is_multiple_of(2) {
        order.reverse();
    }
    for (target, place) in order {
        let (result, ended) = turn.play(target)?;
        *place = result;
        ended.with_context(|| {
            let Target { name, address, .. } = target;
            format!("side {name} ({address}) failed in round {number}")
        })?;
    }
    Ok(())
}

fn show_round(number: u32, rounds: u32, round: &Round) -> Result<()> {
    let show = |run: &Option<Value>| {
        let [bytes, requests, ..] = &FIGURES;
        let of = |figure: &Figure| cell(figure.of(run.as_ref()), figure.decimals);
        format!("{} MB/s  {} requests/s", of(bytes), of(requests))
    };
    let (a, b) = (show(&round.a), show(&round.b));
    writeln!(stdout(), "round {number} of {rounds}:  A {a}  |  B {b}").context("cannot print")
}

impl Comparison {
    /// The ratios A / B of the rounds in which both sides have this figure.
    fn spread(&self, figure: &Figure) -> Option<Spread> {
        let ratio = |round: &Round| {
            let (a, b) = (figure.of(round.a.as_ref())?, figure.of(round.b.as_ref())?);
            (b != 0.0 && is_whole(&round.a) && is_whole(&round.b)).then(|| a / b)
        };
        Spread::of(self.rounds.iter().filter_map(ratio).collect())
    }

    fn print(&self) -> std::io::Result<()> {
        let mut out = stdout().lock();
        writeln!(
            out,
            "{:<16}{:>12}{:>12}{:>9}   min - max",
            "median of", "A", "B", "A/B"
        )?;
        for figure in &FIGURES {
            let side = |of: fn(&Round) -> &Option<Value>| {
                let whole = self.rounds.iter().map(of).filter(|run| is_whole(run));
                median(whole.filter_map(|run| figure.of(run.as_ref())).collect())
            };
            let (a, b) = (side(|round| &round.a), side(|round| &round.b));
            if a.or(b).is_none() {
                continue;
            }
            let (a, b) = (cell(a, figure.decimals), cell(b, figure.decimals));
            let (ratio, spread) = match self.spread(figure) {
                Some(Spread { median, min, max }) => {
                    (format!("{median:.3}"), format!("{min:.3} - {max:.3}"))
                }
                None => ("-".to_owned(), "-".to_owned()),
            };
            writeln!(
                out,
                "{:<16}{a:>12}{b:>12}{ratio:>9}   {spread}",
                figure.title
            )?;
        }
        Ok(())
    }

    fn write(&self, path: Option<PathBuf>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What a broken run reached is kept, but it is no figure to compare.
fn is_whole(run: &Option<Value>) -> bool {
    run.as_ref().is_some_and(|run| run["error"].is_null())
}

fn cell(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn comparison(rounds: &[(f64, f64)]) -> Comparison {
        let run = |rate: f64| Some(json!({"megabytes_per_second": rate, "error": null}));
        let round = |(a, b): &(f64, f64)| Round {
            a: run(*a),
            b: run(*b),
        };
        Comparison {
            command: "compare",
            a: String::new(),
            b: String::new(),
            arguments: Vec::new(),
            rounds: rounds.iter().map(round).collect(),
            ratios: BTreeMap::new(),
            error: None,
        }
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_and_not_of_the_sides() {
        let spread = comparison(&[(100.0, 50.0), (10.0, 10.0), (30.0, 10.0)]).spread(&FIGURES[0]);
        let (min, median, max) = (1.0, 2.0, 3.0);
        assert_eq!(spread, Some(Spread { median, min, max }));
    }

    #[test]
    fn a_figure_that_no_round_has_gets_no_ratio() {
        let comparison = comparison(&[(1.0, 1.0)]);
        assert_eq!(comparison.spread(&FIGURES[1]), None);
        assert_eq!(comparison.spread(&FIGURES[7]), None);
    }

    #[test]
    fn a_run_that_broke_is_not_compared() {
        let mut comparison = comparison(&[(100.0, 50.0), (10.0, 10.0)]);
        comparison.rounds[0].a.as_mut().unwrap()["error"] = json!("the broker died");
        let spread = comparison.spread(&FIGURES[0]).unwrap();
        assert_eq!((spread.min, spread.max), (1.0, 1.0));
    }
}
