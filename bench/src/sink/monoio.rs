//! The sink's twin on monoio: the same work, as that runtime's public interface lets it be done. It has neither multishot receives nor
//! registered memory; writes are unbuffered all the same, from plain memory that is aligned by hand.

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::pin::pin;
use std::rc::Rc;

use anyhow::{Context, Result};
use futures::future::{Either, select};
use monoio::buf::{IoBuf, SliceMut};
use monoio::fs::{File, OpenOptions};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder, spawn};
use monoio_io_uring::IoUring;

use super::BLOCK_BYTES;
use super::answers::Answers;
use super::batches::{Batches, Blocks, Region};
use super::frames::Frames;
use super::server::{BUFFER_BYTES, Failure, Place, Places, Plan, announce};

const RING_ENTRIES: u32 = 1024;

type Log = Batches<Aligned>;

pub(super) fn run(plan: Plan) -> Result<()> {
    let mut ring = IoUring::builder();
    // As our own ring has it: a fifth less CPU for small frames.
    ring.setup_single_issuer().setup_defer_taskrun();
    RuntimeBuilder::<IoUringDriver>::new()
        .uring_builder(ring)
        .with_entries(RING_ENTRIES)
        .build()
        .context("cannot start monoio")?
        .block_on(serve(plan))
}

/// Serves until a write fails.
async fn serve(plan: Plan) -> Result<()> {
    let mut logs = Vec::new();
    let failure = Rc::new(Failure::default());
    for number in 0..plan.logs {
        let region = Region {
            start: number * plan.region_bytes,
            bytes: plan.region_bytes,
        };
        let region = plan.file.is_some().then_some(region);
        let log = Rc::new(Log::new(Aligned::new(), region));
        logs.push(Rc::clone(&log));
        let Some(path) = &plan.file else {
            continue;
        };
        let synced = if plan.synced { libc::O_DSYNC } else { 0 };
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT | synced)
            .open(path)
            .await
            .with_context(|| format!("cannot open {} unbuffered", path.display()))?;
        let failure = Rc::clone(&failure);
        spawn(async move { failure.set(write(&log, &file).await) });
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, plan.port))?;
    announce(listener.local_addr()?)?;
    let accepting = pin!(accept(&listener, &logs));
    let failing = pin!(failure.wait());
    match select(accepting, failing).await {
        Either::Left((error, _)) => Err(error).context("no more connections can be accepted"),
        Either::Right((error, _)) => Err(error).context("a write failed"),
    }
}

/// Writes what is appended; ends at the first failed write.
async fn write(log: &Log, file: &File) -> io::Error {
    let mut spare = Aligned::new();
    loop {
        let batch = log.take(spare).await;
        let Aligned { memory, from } = batch.blocks;
        let blocks = memory.slice(from..from + batch.bytes);
        let (result, blocks) = file.write_all_at(blocks, batch.position).await;
        if let Err(error) = result {
            return error;
        }
        let memory = blocks.into_inner();
        spare = Aligned { memory, from };
        log.written(batch.end);
    }
}

/// Connection after connection takes the next log in turn.
async fn accept(listener: &TcpListener, logs: &[Rc<Log>]) -> io::Error {
    let places = Places::default();
    for log in logs.iter().cycle() {
        let accepted = match listener.accept().await {
            Ok((stream, _)) => stream.set_nodelay(true).map(|()| stream),
            Err(error) => return error,
        };
        if let (Ok(stream), Some(place)) = (accepted, places.take()) {
            spawn(connection(stream, Rc::clone(log), place));
        }
    }
    unreachable!("there is at least one log");
}

async fn connection(stream: TcpStream, log: Rc<Log>, _place: Place) {
    let answers = Rc::new(Answers::default());
    let (reader, writer) = stream.into_split();
    spawn(answer(writer, Rc::clone(&log), Rc::clone(&answers)));
    if let Err(error) = receive(reader, &log, &answers).await {
        eprintln!("millrace-bench: a connection was closed: {error:#}");
    }
    answers.finish();
    log.progressed.wake();
}

async fn receive(mut reader: OwnedReadHalf<TcpStream>, log: &Log, answers: &Answers) -> Result<()> {
    let mut frames = Frames::new();
    loop {
        while let Some(frame) = frames.next()? {
            answers.expect(log.append(frame).await)?;
        }
        let (buffer, room) = frames.lend()?;
        let (received, buffer) = reader
            .read(SliceMut::new(buffer, room.start, room.end))
            .await;
        if !frames.received(buffer.into_inner(), received?)? {
            return Ok(());
        }
    }
}

async fn answer(mut writer: OwnedWriteHalf<TcpStream>, log: Rc<Log>, answers: Rc<Answers>) {
    while let Some(count) = log.progressed.until(|| answers.due(log.stored())).await {
        let (sent, _) = writer.write_all(Box::new(count.to_le_bytes())).await;
        // A client that is gone wants no answers; the receiving task sees that too.
        if sent.is_err() {
            return;
        }
    }
}

/// Memory with one block to spare, used from the first address in it that is a multiple of a block.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
}

impl Aligned {
    fn new() -> Self {
        let memory = vec![0; BUFFER_BYTES + BLOCK_BYTES];
        let from = memory.as_ptr().align_offset(BLOCK_BYTES);
        Self { memory, from }
    }
}

impl Blocks for Aligned {
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..][..BUFFER_BYTES]
    }
}
