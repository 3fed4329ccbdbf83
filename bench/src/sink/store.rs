//! The sink that stores. Connections are spread over a few logs; each frame is checked, copied into its log and answered
//! once it is stored.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;

use anyhow::{Context, Result};
use futures::future::{Either, select};
use ring::{Listener, Ring, RingConfig, Socket};

use super::ANSWER_BYTES;
use super::answers::Answers;
use super::incoming::{Incoming, PIECES_HELD_MAX};
use super::log::{BUFFERS_PER_LOG, Log, Region};
use super::server::{
    BUFFER_BYTES, CONNECTIONS_MAX, Failure, LISTEN_BACKLOG, Plan, Seat, Seats, announce,
};

const RECEIVE_BUFFERS: usize = 256;
const _: () = assert!(
    CONNECTIONS_MAX * (PIECES_HELD_MAX + 1) < RECEIVE_BUFFERS,
    "connections that all wait for the rest of a frame leave buffers to receive it into"
);

pub(super) fn run(plan: &Plan) -> Result<()> {
    let ring = Ring::new(RingConfig {
        receive_buffers: RECEIVE_BUFFERS,
        pool_buffer_bytes: BUFFER_BYTES,
        pool_buffers: plan.logs as usize * BUFFERS_PER_LOG,
        ..RingConfig::default()
    })?;
    let served = ring.block_on(serve(&ring, plan));
    ring.drop_tasks();
    served
}

/// Serves until a write fails.
async fn serve(ring: &Ring, plan: &Plan) -> Result<()> {
    let mut logs = Vec::new();
    let failure = Rc::new(Failure::default());
    for number in 0..plan.logs {
        let region = match &plan.file {
            Some(path) => Some(Region {
                file: ring
                    .create_direct(path)
                    .await
                    .with_context(|| format!("cannot open {}", path.display()))?,
                start: number * plan.region_bytes,
                bytes: plan.region_bytes,
                synced: plan.synced,
            }),
            None => None,
        };
        let log = Rc::new(Log::new(ring.clone(), region).await);
        logs.push(Rc::clone(&log));
        let failure = Rc::clone(&failure);
        ring.spawn(async move { failure.set(log.write().await) });
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, plan.port));
    let listener = ring.listen(address, LISTEN_BACKLOG)?;
    announce(listener.local_address()?)?;
    let accepting = pin!(accept(ring, &listener, &logs));
    let failing = pin!(failure.wait());
    match select(accepting, failing).await {
        Either::Left((error, _)) => Err(error).context("no more connections can be accepted"),
        Either::Right((error, _)) => Err(error).context("a write failed"),
    }
}

/// Connection after connection takes the next log in turn.
async fn accept(ring: &Ring, listener: &Listener, logs: &[Rc<Log>]) -> io::Error {
    let seats = Seats::default();
    for log in logs.iter().cycle() {
        let socket = match ring.accept(listener).await {
            Ok((socket, _)) => socket,
            Err(error) => return error,
        };
        if let Some(seat) = seats.take() {
            ring.spawn(connection(ring.clone(), socket, Rc::clone(log), seat));
        }
    }
    unreachable!("there is at least one log");
}

async fn connection(ring: Ring, socket: Socket, log: Rc<Log>, _seat: Seat) {
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
    answers.finish();
    log.progressed.wake();
}

async fn receive(ring: Ring, socket: Socket, log: &Log, answers: &Answers) -> Result<()> {
    let mut incoming = Incoming::new(ring, socket);
    let mut frame = Vec::new();
    loop {
        while let Some(frame) = incoming.next_whole()? {
            answers.expect(log.append(&[frame]).await)?;
        }
        if !incoming.next(&mut frame).await? {
            return Ok(());
        }
        let pieces: Vec<&[u8]> = frame.iter().map(|piece| &piece[..]).collect();
        answers.expect(log.append(&pieces).await)?;
    }
}

async fn answer(ring: Ring, socket: Socket, log: Rc<Log>, answers: Rc<Answers>) {
    let mut bytes = Vec::new();
    while let Some(count) = log.progressed.until(|| answers.due(log.stored())).await {
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
