//! Both sides of the handshake before the other has proved anything: whatever comes is refused, and costs no more than it is long.
#![no_main]

use control_api::handshake::{self, Party, Role};
use control_api::secret::Secret;
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

fuzz_target!(|input: (&[u8], Vec<(u16, u8)>)| {
    let (bytes, damage) = input;
    refused(bytes);
    // Few inputs begin as a handshake does, so others are good ones in which some bytes were changed.
    for mut said in [hello(), answer()] {
        for (position, bits) in &damage {
            let position = usize::from(*position) % said.len();
            said[position] ^= bits;
        }
        said.extend_from_slice(bytes);
        refused(&said);
    }
});

fn refused(bytes: &[u8]) {
    let party = party();
    let accepted = block_on(handshake::accept(&mut Said::new(bytes), &party));
    assert!(accepted.is_err(), "nobody can answer a nonce in advance");
    let offered = block_on(handshake::offer(
        &mut Said::new(bytes),
        &party,
        Role::Broker,
        2,
    ));
    assert!(offered.is_err(), "nobody can answer a nonce in advance");
}

fn hello() -> Vec<u8> {
    let mut said = Said::new(&[]);
    let _ = block_on(handshake::offer(&mut said, &party(), Role::Controller, 2));
    said.heard
}

fn answer() -> Vec<u8> {
    let hello = hello();
    let mut said = Said::new(&hello);
    let _ = block_on(handshake::accept(&mut said, &party()));
    said.heard
}

fn party() -> Party {
    Party {
        credentials: Secret::of(b"the secret that nobody is to find").into(),
        member: 2,
        cluster_id: "mQxNyM-0RYK1AUOhzXb8dw".into(),
    }
}

/// A stream on which the other side has said all that it will say; what it hears is kept.
struct Said<'a> {
    bytes: &'a [u8],
    heard: Vec<u8>,
}

impl<'a> Said<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Said {
            bytes,
            heard: Vec::new(),
        }
    }
}

impl AsyncRead for Said<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(context, buffer)
    }
}

impl AsyncWrite for Said<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.heard.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
