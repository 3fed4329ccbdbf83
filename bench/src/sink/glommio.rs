//! The sink's twin on glommio: the same work, as that runtime's public interface lets it be done. Sockets are polled and read by plain
//! system calls; writes are unbuffered, from memory that it registers.

use std::io;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow};
use futures::future::{Either, select};
use futures::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use glommio::io::{DmaBuffer, DmaFile, OpenOptions};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement, allocate_dma_buffer, spawn_local};

use super::answers::Answers;
use super::batches::{Batches, Blocks, Region};
use super::frames::Frames;
use super::server::{BUFFER_BYTES, Failure, Place, Places, Plan, announce};

const RING_ENTRIES: usize = 1024;
/// One that is being written, one that is being filled, and one that is being replaced.
const BUFFERS_PER_LOG: usize = 3;

type Log = Batches<DmaBuffer>;

pub(super) fn run(plan: Plan) -> Result<()> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .ring_depth(RING_ENTRIES)
        .io_memory(BUFFER_BYTES * BUFFERS_PER_LOG * plan.logs as usize)
        .make()
        .map_err(|error| anyhow!("cannot start glommio: {error}"))?
        .run(serve(plan))
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
        let log = Rc::new(Log::new(allocate_dma_buffer(BUFFER_BYTES), region));
        logs.push(Rc::clone(&log));
        let Some(path) = &plan.file else {
            continue;
        };
        // A write that flushes costs half the CPU of a write and an fdatasync.
        let file = OpenOptions::new()
            .write(true)
            .read(true)
            .custom_flags(if plan.synced { libc::O_DSYNC } else { 0 })
            .dma_open(path)
            .await
            .map_err(|error| anyhow!("cannot open {} unbuffered: {error}", path.display()))?;
        let failure = Rc::clone(&failure);
        spawn_local(async move { failure.set(write(&log, &file).await) }).detach();
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, plan.port)).map_err(io::Error::from)?;
    announce(listener.local_addr().map_err(io::Error::from)?)?;
    let accepting = pin!(accept(&listener, &logs));
    let failing = pin!(failure.wait());
    match select(accepting, failing).await {
        Either::Left((error, _)) => Err(error).context("no more connections can be accepted"),
        Either::Right((error, _)) => Err(error).context("a write failed"),
    }
}

/// Writes what is appended; ends at the first failed write.
async fn write(log: &Log, file: &DmaFile) -> io::Error {
    loop {
        let mut batch = log.take(allocate_dma_buffer(BUFFER_BYTES)).await;
        batch.blocks.trim_to_size(batch.bytes);
        match file.write_at(batch.blocks, batch.position).await {
            Ok(written) if written == batch.bytes => log.written(batch.end),
            Ok(_) => return io::ErrorKind::WriteZero.into(),
            Err(error) => return error.into(),
        }
    }
}

/// Connection after connection takes the next log in turn.
async fn accept(listener: &TcpListener, logs: &[Rc<Log>]) -> io::Error {
    let places = Places::default();
    for log in logs.iter().cycle() {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => return error.into(),
        };
        if let (Ok(()), Some(place)) = (stream.set_nodelay(true), places.take()) {
            spawn_local(connection(stream, Rc::clone(log), place)).detach();
        }
    }
    unreachable!("there is at least one log");
}

async fn connection(stream: TcpStream, log: Rc<Log>, _place: Place) {
    let answers = Rc::new(Answers::default());
    let (reader, writer) = stream.split();
    spawn_local(answer(writer, Rc::clone(&log), Rc::clone(&answers))).detach();
    if let Err(error) = receive(reader, &log, &answers).await {
        eprintln!("millrace-bench: a connection was closed: {error:#}");
    }
    answers.finish();
    log.progressed.wake();
}

async fn receive(mut reader: ReadHalf<TcpStream>, log: &Log, answers: &Answers) -> Result<()> {
    let mut frames = Frames::new();
    loop {
        while let Some(frame) = frames.next()? {
            answers.expect(log.append(frame).await)?;
        }
        let (mut buffer, room) = frames.lend()?;
        let received = reader.read(&mut buffer[room]).await?;
        if !frames.received(buffer, received)? {
            return Ok(());
        }
    }
}

async fn answer(mut writer: WriteHalf<TcpStream>, log: Rc<Log>, answers: Rc<Answers>) {
    while let Some(count) = log.progressed.until(|| answers.due(log.stored())).await {
        // A client that is gone wants no answers; the receiving task sees that too.
        if writer.write_all(&count.to_le_bytes()).await.is_err() {
            return;
        }
    }
}

impl Blocks for DmaBuffer {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.as_bytes_mut()
    }
}
