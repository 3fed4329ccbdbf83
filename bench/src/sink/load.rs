//! `sink-load`: the client of the sink. The same frames again and again, built once, with a window of unanswered ones on every connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;

use super::{ANSWER_BYTES, HEADER_BYTES, PAYLOAD_BYTES_MAX, UNANSWERED_MAX, header};
use crate::clock::now;
use crate::connection::connect;
use crate::meter::{Meter, Output};
use crate::run::{Limits, Run};
use crate::units;
use crate::window::Window;

/// Small frames are sent several at a time.
const SEND_BYTES: usize = 64 << 10;
const RECEIVE_BYTES: usize = 64 << 10;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Port of the sink on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// Bytes of a frame, its header included
    #[arg(long, default_value = "64k", value_parser = units::message_bytes)]
    frame_bytes: usize,
    /// Unanswered frames of each connection
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=UNANSWERED_MAX as i64))]
    in_flight: u32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=32))]
    connections: u32,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let payload_bytes = arguments.frame_bytes.saturating_sub(HEADER_BYTES);
    ensure!(
        (1..=PAYLOAD_BYTES_MAX).contains(&payload_bytes),
        "--frame-bytes must be from {} to {}",
        HEADER_BYTES + 1,
        HEADER_BYTES + PAYLOAD_BYTES_MAX
    );
    let payload: Vec<u8> = (0..payload_bytes)
        .map(|index| (index * 31 / 8) as u8)
        .collect();
    let frame = [&header(&payload)[..], &payload].concat();
    crate::block_on(async move {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port)).to_string();
        let mut streams = Vec::new();
        for _ in 0..arguments.connections {
            streams.push(connect(&address).await?);
        }
        let meter = Meter::start(arguments.output.clone())?;
        let run = Run::new(arguments.limits);
        let in_flight = arguments.in_flight as usize;
        let ended = meter
            .supervise(
                &run,
                streams
                    .into_iter()
                    .map(|stream| load(stream, &frame, in_flight, &run))
                    .collect(),
            )
            .await;
        let settings = [
            ("frame_bytes", frame.len().to_string()),
            ("in_flight", arguments.in_flight.to_string()),
            ("connections", arguments.connections.to_string()),
        ];
        meter.finish(&run, "sink-load", &settings, ended)
    })
}

async fn load(stream: TcpStream, frame: &[u8], in_flight: usize, run: &Run) -> Result<()> {
    let (reader, writer) = stream.into_split();
    let window = Window::new(in_flight);
    try_join(
        send(writer, frame, &window, run),
        receive(reader, frame.len() as u64, &window, run),
    )
    .await
    .map(drop)
}

async fn send(
    mut writer: OwnedWriteHalf<TcpStream>,
    frame: &[u8],
    window: &Window<Instant>,
    run: &Run,
) -> Result<()> {
    let at_once = (SEND_BYTES / frame.len()).max(1);
    let mut frames = frame.repeat(at_once);
    loop {
        let room = window.room().await.min(at_once);
        let at = now();
        let count = (0..room)
            .take_while(|_| run.claim(frame.len() as u64, at))
            .count();
        if count == 0 {
            window.finish();
            return Ok(());
        }
        (0..count).for_each(|_| window.sent(at));
        frames.resize(count * frame.len(), 0);
        let (sent, sent_frames) = writer.write_all(frames).await;
        sent.context("the connection broke while sending")?;
        frames = sent_frames;
        while frames.len() < at_once * frame.len() {
            frames.extend_from_slice(frame);
        }
    }
}

async fn receive(
    mut reader: OwnedReadHalf<TcpStream>,
    frame_bytes: u64,
    window: &Window<Instant>,
    run: &Run,
) -> Result<()> {
    let mut answered = 0;
    let mut held: Vec<u8> = Vec::new();
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
    while window.answer_due().await {
        let received;
        (received, buffer) = reader.read(buffer).await;
        if received.context("the connection broke")? == 0 {
            bail!("the sink closed the connection");
        }
        held.extend_from_slice(&buffer);
        let whole = held.len() / ANSWER_BYTES * ANSWER_BYTES;
        // Answers are counts: the last one says what all before it said.
        if let Some(count) = held[..whole].last_chunk() {
            let count = u64::from_le_bytes(*count);
            while answered < count {
                let sent_at = window
                    .answered()
                    .context("more frames were answered than sent")?;
                run.count(frame_bytes, 1, sent_at);
                answered += 1;
            }
        }
        held.drain(..whole);
    }
    Ok(())
}
