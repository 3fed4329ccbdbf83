//! `sink-load --receive`: asks a sink in its mode `send` for the same number of bytes again and again, and counts what comes.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures::future::try_join;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;

use crate::clock::now;
use crate::run::Run;
use crate::window::Window;

const REQUESTS_AT_ONCE_MAX: usize = 1024;
/// More would not stay in a processor's own cache.
const RECEIVE_BYTES: usize = 256 << 10;

pub(super) async fn load(
    stream: TcpStream,
    frame_bytes: usize,
    in_flight: usize,
    run: &Run,
) -> Result<()> {
    let (reader, writer) = stream.into_split();
    let window = Window::new(in_flight);
    try_join(
        ask(writer, frame_bytes, &window, run),
        receive(reader, frame_bytes, &window, run),
    )
    .await
    .map(drop)
}

async fn ask(
    mut writer: OwnedWriteHalf<TcpStream>,
    frame_bytes: usize,
    window: &Window<Instant>,
    run: &Run,
) -> Result<()> {
    let request = (frame_bytes as u64).to_le_bytes();
    loop {
        let room = window.room().await.min(REQUESTS_AT_ONCE_MAX);
        let at = now();
        let count = (0..room)
            .take_while(|_| run.claim(frame_bytes as u64, at))
            .count();
        if count == 0 {
            window.finish();
            return Ok(());
        }
        (0..count).for_each(|_| window.sent(at));
        let (sent, _) = writer.write_all(request.repeat(count)).await;
        sent.context("the connection broke while sending")?;
    }
}

async fn receive(
    mut reader: OwnedReadHalf<TcpStream>,
    frame_bytes: usize,
    window: &Window<Instant>,
    run: &Run,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
    let mut missing = frame_bytes;
    while window.answer_due().await {
        let received;
        (received, buffer) = reader.read(buffer).await;
        let mut received = received.context("the connection broke")?;
        if received == 0 {
            bail!("the sink closed the connection");
        }
        while received >= missing {
            received -= missing;
            missing = frame_bytes;
            let sent_at = window.answered().context("more came than was asked for")?;
            run.count(frame_bytes as u64, 1, sent_at);
        }
        missing -= received;
    }
    Ok(())
}
