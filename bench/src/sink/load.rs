//! `sink-load`: the client of the sink. The same frames again and again, built once, with a window of unanswered ones on every connection.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::FutureExt;
use futures::future::try_join;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;

use super::server::CONNECTIONS_MAX;
use super::{
    ANSWER_BYTES, HEADER_BYTES, PAYLOAD_BYTES_MAX, SENT_BYTES_MAX, UNANSWERED_MAX, header, pattern,
    receive,
};
use crate::clock::now;
use crate::connection::connect;
use crate::meter::{Meter, Output};
use crate::open::schedule::Schedule;
use crate::report::Report;
use crate::run::{Limits, Run};
use crate::timer::Timer;
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
    /// Asks for frames instead, of a sink with --mode send
    #[arg(long)]
    receive: bool,
    /// Bytes of a frame, its header included if it has one
    #[arg(long, default_value = "64k", value_parser = units::message_bytes)]
    frame_bytes: usize,
    /// Unanswered frames of each connection
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=UNANSWERED_MAX as i64))]
    in_flight: u32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX as i64))]
    connections: u32,
    /// Sends so many frames a second, whatever the sink does, and counts each one's latency from when it was meant to be sent
    /// [default: as many as are answered]
    #[arg(long, conflicts_with = "receive", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    frames_per_second: Option<u64>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let (bytes_min, bytes_max) = if arguments.receive {
        (1, SENT_BYTES_MAX)
    } else {
        (HEADER_BYTES + 1, HEADER_BYTES + PAYLOAD_BYTES_MAX)
    };
    let frame_bytes = arguments.frame_bytes;
    ensure!(
        (bytes_min..=bytes_max).contains(&frame_bytes),
        "--frame-bytes must be from {bytes_min} to {bytes_max}"
    );
    crate::block_on(async move {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port)).to_string();
        let mut streams = Vec::new();
        for _ in 0..arguments.connections {
            streams.push(connect(&address).await?);
        }
        let meter = Meter::start(arguments.output.clone())?;
        let run = Run::new(arguments.limits);
        let late_max = Cell::new(Duration::ZERO);
        let ended = supervise(&arguments, streams, &run, &meter, &late_max).await;
        let late_max = arguments.frames_per_second.map(|_| late_max.get());
        let mut settings = vec![
            ("receive", arguments.receive.to_string()),
            ("frame_bytes", frame_bytes.to_string()),
            ("in_flight", arguments.in_flight.to_string()),
            ("connections", arguments.connections.to_string()),
        ];
        if let Some(rate) = arguments.frames_per_second {
            settings.push(("frames_per_second", rate.to_string()));
        }
        let mut report = Report::new(&run, "sink-load", &settings, &meter.costs(), &ended);
        report.generator_late_ms_max = late_max.map(|late| late.as_secs_f64() * 1e3);
        Meter::publish(&arguments.output, &report, ended)
    })
}

async fn supervise(
    arguments: &Arguments,
    streams: Vec<TcpStream>,
    run: &Run,
    meter: &Meter,
    late_max: &Cell<Duration>,
) -> Result<()> {
    let in_flight = arguments.in_flight as usize;
    let connections = streams.len();
    let streams = streams.into_iter();
    if arguments.receive {
        let loads = streams
            .map(|stream| receive::load(stream, arguments.frame_bytes, in_flight, run))
            .collect();
        return meter.supervise(run, loads).await;
    }
    let payload = pattern(arguments.frame_bytes - HEADER_BYTES);
    let frame = [&header(&payload)[..], &payload].concat();
    let schedule = arguments.frames_per_second.map(|rate| Schedule {
        records_per_second: rate,
        records: arguments.limits.records(rate, frame.len()),
    });
    let loads = streams
        .enumerate()
        .map(|(first, stream)| {
            let pace = schedule.map(|schedule| Pace {
                schedule,
                first: first as u64,
                step: connections,
                late_max,
            });
            load(stream, &frame, in_flight, run, pace)
        })
        .collect();
    meter.supervise(run, loads).await
}

async fn load(
    stream: TcpStream,
    frame: &[u8],
    in_flight: usize,
    run: &Run,
    pace: Option<Pace<'_>>,
) -> Result<()> {
    let (reader, writer) = stream.into_split();
    let window = Window::new(in_flight);
    let sender = match pace {
        Some(pace) => send_at_rate(writer, frame, &window, run, pace).left_future(),
        None => send(writer, frame, &window, run).right_future(),
    };
    try_join(sender, receive(reader, frame.len() as u64, &window, run))
        .await
        .map(drop)
}

/// When the frames of one connection are due: the `first` of the schedule and every `step`-th behind it.
struct Pace<'a> {
    schedule: Schedule,
    first: u64,
    step: usize,
    /// The longest that this program itself kept a frame waiting.
    late_max: &'a Cell<Duration>,
}

async fn send_at_rate(
    mut writer: OwnedWriteHalf<TcpStream>,
    frame: &[u8],
    window: &Window<Instant>,
    run: &Run,
    pace: Pace<'_>,
) -> Result<()> {
    let timer = Timer::new()?;
    let mut frame = frame.to_vec();
    for number in (pace.first..pace.schedule.records).step_by(pace.step) {
        let due = run.started + Duration::from_nanos(pace.schedule.intended_ns(number));
        window.room().await;
        let may_leave = due.max(now());
        timer.wait(due).await?;
        let late = now().saturating_duration_since(may_leave);
        pace.late_max.set(pace.late_max.get().max(late));
        if !run.claim(frame.len() as u64, due) {
            break;
        }
        window.sent(due);
        let (sent, returned) = writer.write_all(frame).await;
        sent.context("the connection broke while sending")?;
        frame = returned;
    }
    window.finish();
    Ok(())
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
