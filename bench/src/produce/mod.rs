//! `produce`: as fast as the broker answers, or at a fixed rate.

mod closed;
mod open;

use anyhow::{Result, ensure};

use crate::meter::Output;
use crate::open::Linger;
use crate::run::Limits;
use crate::workload::Workload;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    workload: Workload,
    /// The rate at which records are meant to be sent, of all partitions together; latency counts from when a record was meant to be sent
    /// [default: as fast as the broker answers]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    records_per_second: Option<u64>,
    #[command(flatten)]
    linger: Linger,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: Arguments) -> Result<()> {
    arguments.workload.check()?;
    match arguments.records_per_second {
        None => {
            let linger_ms = arguments.linger.linger_ms;
            ensure!(
                linger_ms.is_none(),
                "--linger-ms needs --records-per-second: without a rate every batch is full"
            );
            closed::run(arguments)
        }
        Some(records_per_second) => open::run(&arguments, records_per_second),
    }
}
