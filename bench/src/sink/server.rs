//! `sink`: what both servers have in common. The file is prepared, the address announced, the first failed write ends the server.

use std::cell::{Cell, RefCell};
use std::fs::{self, OpenOptions};
use std::io::{self, Write, stdout};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

use super::signal::Signal;
use super::{HEADER_BYTES, PAYLOAD_BYTES_MAX, send, store};
use crate::units;

pub(super) const BUFFER_BYTES: usize = 2 << 20;
const _: () = assert!(
    HEADER_BYTES + PAYLOAD_BYTES_MAX <= BUFFER_BYTES,
    "a frame spans two buffers at most"
);

pub(super) const CONNECTIONS_MAX: usize = 32;
pub(super) const LISTEN_BACKLOG: u32 = 128;

/// When a frame counts as stored, or what is done instead of storing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Stored once its write has completed
    Plain,
    /// Stored once it is on stable storage
    Dsync,
    /// Stored once it has been copied; no file is used
    Memory,
    /// Nothing is stored: as many bytes as each request asks for are sent from memory
    Send,
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Port on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// File that frames are written into, again and again from its start; prewritten if it has not its size yet
    #[arg(long)]
    data: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "plain")]
    mode: Mode,
    /// Parts of the file that are written at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    logs: u64,
    #[arg(long, default_value = "1g", value_parser = units::bytes)]
    file_bytes: u64,
}

/// What a server that stores is to do.
pub(super) struct Plan {
    pub(super) port: u16,
    pub(super) logs: u64,
    /// `None` to copy only.
    pub(super) file: Option<PathBuf>,
    /// Each log's part of the file, a multiple of `BUFFER_BYTES`.
    pub(super) region_bytes: u64,
    pub(super) synced: bool,
}

pub fn run(arguments: Arguments) -> Result<()> {
    if arguments.mode == Mode::Send {
        return send::run(arguments.port);
    }
    store::run(&plan(&arguments)?)
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let mut plan = Plan {
        port: arguments.port,
        logs: arguments.logs,
        file: None,
        region_bytes: arguments.file_bytes / arguments.logs / BUFFER_BYTES as u64
            * BUFFER_BYTES as u64,
        synced: arguments.mode == Mode::Dsync,
    };
    if arguments.mode != Mode::Memory {
        let Some(path) = &arguments.data else {
            bail!("this mode wants --data FILE");
        };
        ensure!(
            plan.region_bytes > 0,
            "--file-bytes has no room for {} logs",
            plan.logs
        );
        prewrite(path, plan.region_bytes * plan.logs)
            .with_context(|| format!("cannot write {}", path.display()))?;
        plan.file = Some(path.clone());
    }
    Ok(plan)
}

/// Makes the file's blocks written ones: a write into blocks that are only reserved costs a change of metadata.
pub(crate) fn prewrite(path: &Path, bytes: u64) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() == bytes) {
        return Ok(());
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let zeros = vec![0; BUFFER_BYTES];
    for _ in 0..bytes / BUFFER_BYTES as u64 {
        file.write_all(&zeros)?;
    }
    file.sync_all()
}

/// Whoever started the server learns the port from this line.
pub(super) fn announce(address: SocketAddr) -> io::Result<()> {
    writeln!(
        stdout(),
        "listening on {address}, pid {}",
        std::process::id()
    )
}

/// The connections that are open.
#[derive(Clone, Default)]
pub(super) struct Seats(Rc<Cell<usize>>);

/// Free again when dropped.
pub(super) struct Seat(Rc<Cell<usize>>);

impl Seats {
    /// `None`, and a line that says so, when there are as many connections as there may be.
    pub(super) fn take(&self) -> Option<Seat> {
        if self.0.get() == CONNECTIONS_MAX {
            eprintln!("millrace-bench: more than {CONNECTIONS_MAX} connections: one was closed");
            return None;
        }
        self.0.set(self.0.get() + 1);
        Some(Seat(Rc::clone(&self.0)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The first error of any log, which ends the server.
#[derive(Default)]
pub(super) struct Failure {
    error: RefCell<Option<io::Error>>,
    signal: Signal,
}

impl Failure {
    pub(super) fn set(&self, error: io::Error) {
        self.error.replace(Some(error));
        self.signal.wake();
    }

    pub(super) async fn wait(&self) -> io::Error {
        self.signal.until(|| self.error.take()).await
    }
}
