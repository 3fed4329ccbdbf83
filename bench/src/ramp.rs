//! `ramp`: raises the rate of an open loop step by step until the broker is too slow twice in a row, and prints the last rate that it held:
//! the knee.

use std::io::{Write, stdout};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::meter::Output;
use crate::open::{self, Linger, Overload, Rate};
use crate::report::{self, Report};
use crate::run::Limits;
use crate::topic::Topic;
use crate::workload::Workload;

/// After a step that broke, for the broker to finish what is left of it.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES_MAX: usize = 2;

/// A step that is this far behind is over its knee; waiting until the broker had caught up would take long.
const BACKLOG_SECONDS_MAX: u64 = 2;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    workload: Workload,
    /// Records per second of the first step
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    from: u64,
    /// What each step's rate is multiplied by to get the next one's
    #[arg(long, default_value_t = 1.5)]
    factor: f64,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    step_seconds: u64,
    /// A step whose 99th percentile is above this is too fast, if it is so twice in a row
    #[arg(long, default_value_t = 20.0)]
    p99_ms_max: f64,
    #[command(flatten)]
    linger: Linger,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Ramp {
    command: &'static str,
    steps: Vec<Report>,
    knee_records_per_second: Option<u64>,
    /// Why the step after the knee did not hold.
    broken_by: Option<String>,
    error: Option<String>,
}

/// How a step ended.
enum Verdict {
    Held,
    /// The rate was too high, for this reason.
    Broke(String),
    Failed(anyhow::Error),
}

pub fn run(arguments: Arguments) -> Result<()> {
    arguments.workload.check()?;
    open::record_bytes(&arguments.workload)?;
    ensure!(
        arguments.factor.is_finite() && arguments.factor > 1.0,
        "--factor must be above 1"
    );
    ensure!(arguments.p99_ms_max > 0.0, "--p99-ms-max must be above 0");
    crate::block_on(async {
        let topic = arguments.workload.prepare_topic().await?;
        let mut ramp = Ramp {
            command: "ramp",
            steps: Vec::new(),
            knee_records_per_second: None,
            broken_by: None,
            error: None,
        };
        let ended = climb(&arguments, &topic, &mut ramp).await;
        ramp.error = ended.as_ref().err().map(|error| format!("{error:#}"));
        let printed = print_knee(&ramp).context("cannot print the results");
        let json = arguments.output.json.as_deref();
        let written = json.map_or(Ok(()), |path| report::write(path, &ramp));
        ended.and(printed).and(written)
    })
}

async fn climb(arguments: &Arguments, topic: &Topic, ramp: &mut Ramp) -> Result<()> {
    let mut rate = arguments.from;
    loop {
        match hold(arguments, topic, rate, &mut ramp.steps).await? {
            Verdict::Held => ramp.knee_records_per_second = Some(rate),
            Verdict::Broke(why) if ramp.knee_records_per_second.is_none() => {
                bail!("already the first rate was too high: {why}")
            }
            Verdict::Broke(why) => {
                ramp.broken_by = Some(why);
                return Ok(());
            }
            Verdict::Failed(error) => return Err(error),
        }
        rate = next_rate(rate, arguments.factor);
    }
}

/// Whether the broker holds a rate. One that breaks is tried again, so that a hiccup of the machine is not taken for the knee.
async fn hold(
    arguments: &Arguments,
    topic: &Topic,
    rate: u64,
    steps: &mut Vec<Report>,
) -> Result<Verdict> {
    let mut tries = 0;
    loop {
        let (report, ended) = step(arguments, topic, rate).await?;
        let verdict = verdict(arguments.p99_ms_max, &report, ended);
        print_step(rate, &report, &verdict).context("cannot print the results")?;
        steps.push(report);
        tries += 1;
        match verdict {
            Verdict::Broke(_) if tries < TRIES_MAX => monoio::time::sleep(PAUSE).await,
            verdict => return Ok(verdict),
        }
    }
}

async fn step(
    arguments: &Arguments,
    topic: &Topic,
    records_per_second: u64,
) -> Result<(Report, Result<()>)> {
    let rate = Rate {
        records_per_second,
        backlog_seconds_max: BACKLOG_SECONDS_MAX,
    };
    let limits = Limits {
        bytes: None,
        seconds: Some(arguments.step_seconds),
    };
    open::run_once(
        &arguments.workload,
        topic,
        arguments.linger,
        rate,
        limits,
        arguments.output.clone(),
    )
    .await
}

fn verdict(p99_ms_max: f64, report: &Report, ended: Result<()>) -> Verdict {
    match ended {
        Ok(()) if report.latency_ms.p99 <= p99_ms_max => Verdict::Held,
        Ok(()) => Verdict::Broke(too_slow(p99_ms_max, report)),
        Err(error) => match error.downcast_ref::<Overload>() {
            Some(overload) => Verdict::Broke(overload.to_string()),
            None => Verdict::Failed(error),
        },
    }
}

fn too_slow(p99_ms_max: f64, report: &Report) -> String {
    let p99 = report.latency_ms.p99;
    let late = report.generator_late_ms_max.unwrap_or_default();
    // Who reads of a knee should know if it may be that of this program.
    let own = if late > p99_ms_max / 2.0 {
        format!(", of which this program's own up to {late:.2} ms")
    } else {
        String::new()
    };
    format!("p99 was {p99:.2} ms, above {p99_ms_max} ms{own}")
}

/// Higher by the factor, and by one at least.
fn next_rate(rate: u64, factor: f64) -> u64 {
    ((rate as f64 * factor) as u64).max(rate + 1)
}

fn print_step(rate: u64, report: &Report, verdict: &Verdict) -> std::io::Result<()> {
    let said = match verdict {
        Verdict::Held => "held".to_owned(),
        Verdict::Broke(why) => why.clone(),
        Verdict::Failed(error) => format!("{error:#}"),
    };
    writeln!(
        stdout(),
        "{rate} records/s: {:.1} MB/s  {}  late {:.2} ms: {said}",
        report.megabytes_per_second,
        report.latency_ms.line(),
        report.generator_late_ms_max.unwrap_or_default(),
    )
}

fn print_knee(ramp: &Ramp) -> std::io::Result<()> {
    match ramp.knee_records_per_second {
        Some(knee) => writeln!(stdout(), "knee: {knee} records/s"),
        None => writeln!(stdout(), "knee: none found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_faster_than_the_one_before() {
        assert_eq!(next_rate(1_000, 1.5), 1_500);
        assert_eq!(next_rate(1, 1.01), 2);
        assert!(next_rate(u64::MAX / 2, 1.5) > u64::MAX / 2);
    }
}
