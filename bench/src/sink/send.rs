//! `sink --mode send`: the ceiling for whoever reads. Each request names a number of bytes and is answered with as many, always the same
//! ones, sent from where they lie. All requests that are there are answered by one send.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use ring::memory::Slice;
use ring::{Listener, Ring, RingConfig, Socket};

use super::server::{LISTEN_BACKLOG, Place, Places, announce};
use super::{REQUEST_BYTES, SENT_BYTES_MAX, pattern};

pub(super) fn run(port: u16) -> Result<()> {
    let ring = Ring::new(RingConfig {
        pool_buffer_bytes: SENT_BYTES_MAX,
        pool_buffers: 1,
        ..RingConfig::default()
    })?;
    let served = ring.block_on(serve(&ring, port));
    ring.drop_tasks();
    served
}

async fn serve(ring: &Ring, port: u16) -> Result<()> {
    let mut buffer = ring.wait_buffer().await;
    buffer.extend_from_slice(&pattern(SENT_BYTES_MAX));
    let bytes = buffer.slice(0..SENT_BYTES_MAX);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = ring.listen(address, LISTEN_BACKLOG)?;
    announce(listener.local_address()?)?;
    Err(accept(ring, &listener, &bytes).await).context("no more connections can be accepted")
}

async fn accept(ring: &Ring, listener: &Listener, bytes: &Slice) -> io::Error {
    let places = Places::default();
    loop {
        let socket = match ring.accept(listener).await {
            Ok((socket, _)) => socket,
            Err(error) => return error,
        };
        if let Some(place) = places.take() {
            ring.spawn(connection(ring.clone(), socket, bytes.clone(), place));
        }
    }
}

async fn connection(ring: Ring, socket: Socket, bytes: Slice, _place: Place) {
    if let Err(error) = answer(&ring, &socket, &bytes).await {
        eprintln!("millrace-bench: a connection was closed: {error:#}");
    }
}

async fn answer(ring: &Ring, socket: &Socket, bytes: &Slice) -> Result<()> {
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
            message.push_shared(bytes.slice(0..wanted as usize));
        }
        requests.drain(..requests.len() - rest_bytes);
        ring.send(socket, message).await.0?;
    }
}
