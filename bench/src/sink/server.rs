//! `sink`: the server. Connections are spread over a few logs; each frame is checked, copied into its log and answered once it is stored.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, Write, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use futures::future::{Either, select};
use ring::{Listener, Ring, RingConfig, Socket};

use super::incoming::{Incoming, PIECES_HELD_MAX};
use super::log::{BUFFERS_PER_LOG, Log, Region};
use super::signal::Signal;
use super::{ANSWER_BYTES, HEADER_BYTES, PAYLOAD_BYTES_MAX, UNANSWERED_MAX};
use crate::units;

const BUFFER_BYTES: usize = 2 << 20;
const _: () = assert!(
    HEADER_BYTES + PAYLOAD_BYTES_MAX <= BUFFER_BYTES,
    "a frame spans two buffers at most"
);

const RECEIVE_BUFFERS: usize = 256;
const CONNECTIONS_MAX: usize = 32;
const _: () = assert!(
    CONNECTIONS_MAX * (PIECES_HELD_MAX + 1) < RECEIVE_BUFFERS,
    "connections that all wait for the rest of a frame leave buffers to receive it into"
);

const LISTEN_BACKLOG: u32 = 128;

/// When a frame counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Once its write has completed
    Plain,
    /// Once it is on stable storage
    Dsync,
    /// Once it has been copied; no file is used
    Memory,
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

pub fn run(arguments: Arguments) -> Result<()> {
    let region_bytes =
        arguments.file_bytes / arguments.logs / BUFFER_BYTES as u64 * BUFFER_BYTES as u64;
    let file = match arguments.mode {
        Mode::Memory => None,
        Mode::Plain | Mode::Dsync => {
            let path = arguments
                .data
                .as_deref()
                .context("this mode wants --data FILE")?;
            ensure!(
                region_bytes > 0,
                "--file-bytes has no room for {} logs",
                arguments.logs
            );
            prewrite(path, region_bytes * arguments.logs)
                .with_context(|| format!("cannot write {}", path.display()))?;
            Some(path)
        }
    };
    let ring = Ring::new(RingConfig {
        receive_buffers: RECEIVE_BUFFERS,
        pool_buffer_bytes: BUFFER_BYTES,
        pool_buffers: arguments.logs as usize * BUFFERS_PER_LOG,
        ..RingConfig::default()
    })?;
    let served = ring.block_on(serve(&ring, &arguments, file, region_bytes));
    ring.drop_tasks();
    served
}

/// Makes the file's blocks written ones: a write into blocks that are only reserved costs a change of metadata.
fn prewrite(path: &Path, bytes: u64) -> io::Result<()> {
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

/// Serves until a write fails.
async fn serve(
    ring: &Ring,
    arguments: &Arguments,
    file: Option<&Path>,
    region_bytes: u64,
) -> Result<()> {
    let mut logs = Vec::new();
    let failure = Rc::new(Failure::default());
    for number in 0..arguments.logs {
        let region = match file {
            Some(path) => Some(Region {
                file: ring
                    .open_direct(path)
                    .await
                    .with_context(|| format!("cannot open {}", path.display()))?,
                start: number * region_bytes,
                bytes: region_bytes,
                synced: arguments.mode == Mode::Dsync,
            }),
            None => None,
        };
        let log = Rc::new(Log::new(ring.clone(), region).await);
        logs.push(Rc::clone(&log));
        let failure = Rc::clone(&failure);
        ring.spawn(async move { failure.set(log.write().await) });
    }
    let listener = ring.listen(
        SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port)),
        LISTEN_BACKLOG,
    )?;
    writeln!(
        stdout(),
        "listening on {}, pid {}",
        listener.local_address()?,
        std::process::id()
    )?;
    let accepting = pin!(accept(ring, &listener, &logs));
    let failing = pin!(failure.wait());
    match select(accepting, failing).await {
        Either::Left((error, _)) => Err(error).context("no more connections can be accepted"),
        Either::Right((error, _)) => Err(error).context("a write failed"),
    }
}

/// The first error of any log, which ends the server.
#[derive(Default)]
struct Failure {
    error: RefCell<Option<io::Error>>,
    signal: Signal,
}

impl Failure {
    fn set(&self, error: io::Error) {
        self.error.replace(Some(error));
        self.signal.wake();
    }

    async fn wait(&self) -> io::Error {
        self.signal.until(|| self.error.take()).await
    }
}

/// Connection after connection takes the next log in turn.
async fn accept(ring: &Ring, listener: &Listener, logs: &[Rc<Log>]) -> io::Error {
    let open = Rc::new(Cell::new(0));
    let mut turn = 0;
    loop {
        let socket = match ring.accept(listener).await {
            Ok((socket, _)) if open.get() < CONNECTIONS_MAX => socket,
            Ok(_) => {
                eprintln!(
                    "millrace-bench: more than {CONNECTIONS_MAX} connections: one was closed"
                );
                continue;
            }
            Err(error) => return error,
        };
        open.set(open.get() + 1);
        turn = (turn + 1) % logs.len();
        ring.spawn(connection(
            ring.clone(),
            socket,
            Rc::clone(&logs[turn]),
            Rc::clone(&open),
        ));
    }
}

async fn connection(ring: Ring, socket: Socket, log: Rc<Log>, open: Rc<Cell<usize>>) {
    let answers = Rc::new(Answers::default());
    ring.spawn(answer(
        ring.clone(),
        socket.clone(),
        Rc::clone(&log),
        Rc::clone(&answers),
    ));
    if let Err(error) = receive(ring, socket, &log, &answers).await {
        eprintln!("millrace-bench: a connection was closed: {error:#}");
    }
    answers.end(&log);
    open.set(open.get() - 1);
}

/// What the two tasks of a connection share: where in the log its unanswered frames end.
#[derive(Default)]
struct Answers {
    ends: RefCell<VecDeque<u64>>,
    answered: Cell<u64>,
    ended: Cell<bool>,
}

impl Answers {
    fn end(&self, log: &Log) {
        self.ended.set(true);
        log.progressed.wake();
    }

    /// Takes the frames that are stored; the number answered, or `None` where the last answer said as much. The inner `None` is the end.
    fn due(&self, log: &Log) -> Option<Option<u64>> {
        let mut ends = self.ends.borrow_mut();
        let stored = ends.iter().take_while(|end| **end <= log.stored()).count();
        if stored == 0 {
            return (self.ended.get() && ends.is_empty()).then_some(None);
        }
        ends.drain(..stored);
        self.answered.set(self.answered.get() + stored as u64);
        Some(Some(self.answered.get()))
    }
}

async fn receive(ring: Ring, socket: Socket, log: &Log, answers: &Answers) -> Result<()> {
    let mut incoming = Incoming::new(ring, socket);
    let mut frame = Vec::new();
    while incoming.next(&mut frame).await? {
        let end = log.append(&frame).await;
        let mut ends = answers.ends.borrow_mut();
        ensure!(
            ends.len() < UNANSWERED_MAX,
            "more than {UNANSWERED_MAX} unanswered frames"
        );
        ends.push_back(end);
    }
    Ok(())
}

async fn answer(ring: Ring, socket: Socket, log: Rc<Log>, answers: Rc<Answers>) {
    let mut bytes = Vec::new();
    while let Some(count) = log.progressed.until(|| answers.due(&log)).await {
        bytes.clear();
        bytes.extend_from_slice(&count.to_le_bytes());
        let mut message = ring.message(bytes);
        message.push_inline(0..ANSWER_BYTES);
        let sent;
        (sent, bytes) = ring.send(&socket, message).await;
        // A client that is gone wants no answers; the receiving task sees that too.
        if sent.is_err() {
            return;
        }
    }
}
