//! `sink --mode send`: the ceiling for whoever reads. Each request names a number of bytes and is answered with as many, sent from where
//! they lie: one piece of memory after the other, over half of what a broker keeps of recent records, because bytes that are sent again
//! and again come from a processor's cache and not from memory. All requests that are there are answered by one send.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use ring::memory::Slice;
use ring::{Listener, Ring, RingConfig, Socket};

use super::server::{LISTEN_BACKLOG, Seat, Seats, announce};
use super::{REQUEST_BYTES, SENT_BYTES_MAX, pattern};

const BUFFERS: usize = (64 << 20) / SENT_BYTES_MAX;
/// A multiple of the pattern's period, so that an answer has the same content wherever it lies.
const STEP_BYTES: usize = 4096;

pub(super) fn run(port: u16) -> Result<()> {
    let ring = Ring::new(RingConfig {
        pool_buffer_bytes: SENT_BYTES_MAX,
        pool_buffers: BUFFERS,
        ..RingConfig::default()
    })?;
    let served = ring.block_on(serve(&ring, port));
    ring.drop_tasks();
    served
}

async fn serve(ring: &Ring, port: u16) -> Result<()> {
    let memory = Rc::new(Memory::fill(ring).await);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = ring.listen(address, LISTEN_BACKLOG)?;
    announce(listener.local_address()?)?;
    Err(accept(ring, &listener, &memory).await).context("no more connections can be accepted")
}

/// What is sent, and where the next answer lies.
struct Memory {
    buffers: Vec<Slice>,
    next: Cell<usize>,
}

impl Memory {
    async fn fill(ring: &Ring) -> Memory {
        let content = pattern(SENT_BYTES_MAX);
        let mut buffers = Vec::with_capacity(BUFFERS);
        for _ in 0..BUFFERS {
            let mut buffer = ring.wait_buffer().await;
            buffer.extend_from_slice(&content);
            buffers.push(buffer.slice(0..SENT_BYTES_MAX));
        }
        Memory {
            buffers,
            next: Cell::new(0),
        }
    }

    fn next(&self, bytes: usize) -> Slice {
        let (buffer, start) = (
            self.next.get() / SENT_BYTES_MAX,
            self.next.get() % SENT_BYTES_MAX,
        );
        let (buffer, start) = if start + bytes <= SENT_BYTES_MAX {
            (buffer, start)
        } else {
            ((buffer + 1) % BUFFERS, 0)
        };
        let end = (buffer * SENT_BYTES_MAX + start + bytes).next_multiple_of(STEP_BYTES);
        self.next.set(end % (BUFFERS * SENT_BYTES_MAX));
        self.buffers[buffer].slice(start..start + bytes)
    }
}

async fn accept(ring: &Ring, listener: &Listener, memory: &Rc<Memory>) -> io::Error {
    let seats = Seats::default();
    loop {
        let socket = match ring.accept(listener).await {
            Ok((socket, _)) => socket,
            Err(error) => return error,
        };
        if let Some(seat) = seats.take() {
            ring.spawn(connection(ring.clone(), socket, Rc::clone(memory), seat));
        }
    }
}

async fn connection(ring: Ring, socket: Socket, memory: Rc<Memory>, _seat: Seat) {
    if let Err(error) = answer(&ring, &socket, &memory).await {
        eprintln!("millrace-bench: a connection was closed: {error:#}");
    }
}

async fn answer(ring: &Ring, socket: &Socket, memory: &Memory) -> Result<()> {
    let mut requests: Vec<u8> = Vec::new();
    loop {
        let received = ring.receive(socket).await?;
        if received.is_empty() {
            return Ok(());
        }
        requests.extend_from_slice(&received);
        drop(received);
        let (whole, rest) = requests.as_chunks::<REQUEST_BYTES>();
        let rest_bytes = rest.len();
        let mut message = ring.message(Vec::new());
        for request in whole {
            let wanted = u64::from_le_bytes(*request);
            ensure!(
                wanted <= SENT_BYTES_MAX as u64,
                "a request for {wanted} bytes"
            );
            message.push_shared(memory.next(wanted as usize));
        }
        requests.drain(..requests.len() - rest_bytes);
        ring.send(socket, message).await.0?;
    }
}
