//! `produce`: a closed loop, which sends as fast as the broker answers.

mod closed;

use anyhow::Result;

use crate::meter::Output;
use crate::run::Limits;
use crate::workload::Workload;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    workload: Workload,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: Arguments) -> Result<()> {
    arguments.workload.check()?;
    closed::run(arguments)
}
