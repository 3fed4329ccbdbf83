//! `limits`: what this host can do at all, in one run of about a minute. Every figure of a broker is to be read against these.
//!
//! ```text
//! host       what this machine is        figure     the table and the JSON
//! network    loopback, monoio            timing     how long and how often
//! disk       the same jobs twice: disk_ring, disk_glommio
//! memory     CRC-32C, memcpy             scratch    the file that the disk is measured with
//! wake       from one core to another    sink       this program's `sink` and `sink-load`, as processes
//! ```

mod disk;
mod disk_glommio;
mod disk_ring;
mod figure;
mod host;
mod memory;
mod network;
mod scratch;
mod sink;
mod timing;
mod wake;

use std::path::PathBuf;

use anyhow::{Context, Result};

use figure::Figures;
use scratch::Scratch;
use timing::Timing;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Directory on the disk to measure, where nothing is left
    #[arg(long, value_name = "DIR", default_value = ".")]
    data: PathBuf,
    /// A fifth of a second for each figure, to see that all of them can be had
    #[arg(long)]
    quick: bool,
    /// Writes the figures to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let timing = Timing::new(arguments.quick);
    let scratch = Scratch::open(&arguments.data, timing.file_bytes)?;
    let host = host::look(scratch.directory())?;
    let mut figures = Figures::default();
    memory::measure(&timing, &mut figures);
    wake::measure(&timing, &mut figures).context("cannot measure wakes")?;
    network::measure(&timing, &mut figures).context("cannot measure loopback")?;
    disk::measure(&timing, scratch.file(), &mut figures).context("cannot measure the disk")?;
    sink::measure(&timing, scratch.file(), &mut figures).context("cannot measure the sink")?;
    // A disk that it filled has room for the results again.
    drop(scratch);
    figures.finish(&host, arguments.json.as_deref())
}
