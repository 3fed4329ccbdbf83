//! Loopback: one connection, one monoio thread at each end, one that only writes and one that only reads.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};

use super::figure::Figures;
use super::timing::Timing;
use crate::clock::now;
use crate::process::thread_processor_seconds;

const SIZES: [(&str, usize); 2] = [("64 KiB", 64 << 10), ("1 MiB", 1 << 20)];

pub(super) fn measure(timing: &Timing, figures: &mut Figures) -> Result<()> {
    for (size, bytes) in SIZES {
        figures.begin("loopback");
        let (sent, received) = transfer(bytes, timing.duration)?;
        let gigabytes = received.bytes as f64 / 1e9;
        let note = format!("monoio, {size} writes");
        let name = format!("loopback, {size}");
        figures.add(&name, gigabytes / received.seconds, "GB/s", &note);
        for (end, cpu_seconds) in [
            ("sender", sent.cpu_seconds),
            ("receiver", received.cpu_seconds),
        ] {
            let name = format!("loopback {end}, {size}");
            figures.add(&name, cpu_seconds / gigabytes, "CPU s/GB", &note);
        }
    }
    Ok(())
}

/// What one end did.
struct End {
    bytes: u64,
    seconds: f64,
    cpu_seconds: f64,
}

fn transfer(bytes: usize, duration: Duration) -> Result<(End, End)> {
    let (sender, receiver) = connected()?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            // However it ends, the other end must see it.
            let also_sender = sender.try_clone()?;
            let sent = measured(async { send(sender, bytes, duration).await });
            also_sender.shutdown(Shutdown::Both).ok();
            sent
        });
        let receiving = scope.spawn(|| measured(async { receive(receiver, bytes).await }));
        let panicked = |_| anyhow!("a thread panicked");
        let sent = sending.join().map_err(panicked)??;
        let received = receiving.join().map_err(panicked)??;
        Ok((sent, received))
    })
}

fn connected() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sender = TcpStream::connect(listener.local_addr()?)?;
    let (receiver, _) = listener.accept()?;
    Ok((sender, receiver))
}

/// Runs one end on this thread, which must have been started for it.
fn measured(end: impl Future<Output = Result<u64>>) -> Result<End> {
    let started = now();
    let bytes = crate::block_on(end)?;
    Ok(End {
        bytes,
        seconds: now().duration_since(started).as_secs_f64(),
        cpu_seconds: thread_processor_seconds()
            .context("the kernel does not count a thread's processor time")?,
    })
}

async fn send(stream: TcpStream, bytes: usize, duration: Duration) -> Result<u64> {
    let mut stream = monoio::net::TcpStream::from_std(stream)?;
    let deadline = now() + duration;
    let mut buffer = vec![7; bytes];
    let mut total = 0;
    while now() < deadline {
        let sent;
        (sent, buffer) = stream.write_all(buffer).await;
        sent?;
        total += bytes as u64;
    }
    Ok(total)
}

async fn receive(stream: TcpStream, bytes: usize) -> Result<u64> {
    let mut stream = monoio::net::TcpStream::from_std(stream)?;
    let mut buffer = Vec::with_capacity(bytes);
    let mut total = 0;
    loop {
        let received;
        (received, buffer) = stream.read(buffer).await;
        match received? {
            0 => return Ok(total),
            received => total += received as u64,
        }
    }
}
