//! `report`: one self-contained HTML page from the JSON that other commands wrote. It loads nothing and runs no script; the raw figures are
//! in it as links.
//!
//! ```text
//! files -> input   which of them hold what; what is damaged is named and left out
//!            |     model     their shapes
//!          series  rounds of the same workload become one series with a spread
//!            |
//!          html <- plots: bars, curves on axis, in the colours of style.css
//! ```

mod axis;
mod html;
mod input;
mod model;
mod numbers;
mod plots;
mod series;
mod spread;
mod tables;

use std::fs;
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use input::Input;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// JSON files of runs, or directories of such
    #[arg(long, required = true, num_args = 1.., value_name = "DIR|FILE")]
    runs: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Results with their targets, as scripts/bench writes them
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Which build was measured, in its own words
    #[arg(long, value_name = "TEXT")]
    measured: Option<String>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let mut input = Input::read(&arguments.runs, arguments.results.as_deref())?;
    input.measured = arguments.measured;
    for line in &input.left_out {
        writeln!(stderr(), "millrace-bench: left out: {line}").context("cannot print")?;
    }
    ensure!(!input.is_empty(), "no run is left to report on");
    let page = html::page(&input)?;
    fs::write(&arguments.out, page)
        .with_context(|| format!("cannot write {}", arguments.out.display()))?;
    writeln!(stdout(), "wrote {}", arguments.out.display()).context("cannot print")
}
