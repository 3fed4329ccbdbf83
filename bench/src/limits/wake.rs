//! How long it takes until a thread on another core runs that was asleep: through our ring's eventfd, and by a futex beside it. Two threads
//! wake each other in turn.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::{self, Thread};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use monoio::utils::bind_to_cpu_set;
use ring::{RemoteWaker, Ring, RingConfig};

use super::figure::Figures;
use super::timing::{Timing, latencies};
use crate::clock::now;

const SIDES: usize = 2;
/// What the turn is when no other follows.
const OVER: u64 = u64::MAX;

pub(super) fn measure(timing: &Timing, figures: &mut Figures) -> Result<()> {
    let note = if thread::available_parallelism()?.get() < SIDES {
        "on one core: there is no other"
    } else {
        "from one core to another that sleeps"
    };
    figures.begin("wakes");
    let sides = ring_sides(timing)?;
    add(figures, "ring (eventfd)", &sides, note);
    let sides = futex_sides(timing)?;
    add(figures, "futex", &sides, note);
    Ok(())
}

fn add(figures: &mut Figures, name: &str, nanos: &Histogram<u64>, note: &str) {
    for (quantile, quantile_name) in [(0.5, "p50"), (0.99, "p99")] {
        let micros = nanos.value_at_quantile(quantile) as f64 / 1e3;
        let name = format!("wake, {name}, {quantile_name}");
        figures.add(&name, micros, "us", note);
    }
}

/// What both threads see: whose turn it is, counted up, and since when.
struct Turns {
    started: Instant,
    turn: AtomicU64,
    since_nanos: AtomicU64,
    end_nanos: u64,
}

impl Turns {
    fn new(timing: &Timing) -> Self {
        Self {
            started: now(),
            turn: AtomicU64::new(0),
            since_nanos: AtomicU64::new(0),
            end_nanos: timing.duration.as_nanos() as u64,
        }
    }

    fn nanos(&self) -> u64 {
        now().duration_since(self.started).as_nanos() as u64
    }

    /// How long ago the turn went to `side`; `None` while it is not its turn.
    fn taken(&self, side: usize) -> Option<Turn> {
        match self.turn.load(Ordering::Acquire) {
            OVER => Some(Turn::Over),
            turn if turn % SIDES as u64 == side as u64 => {
                let since = self.since_nanos.load(Ordering::Relaxed);
                Some(Turn::Mine(self.nanos().saturating_sub(since)))
            }
            _ => None,
        }
    }

    /// Passes the turn on, or ends the game. The other side has to be woken.
    fn pass(&self) {
        let at = self.nanos();
        self.since_nanos.store(at, Ordering::Relaxed);
        let next = if at < self.end_nanos {
            self.turn.load(Ordering::Relaxed) + 1
        } else {
            OVER
        };
        self.turn.store(next, Ordering::Release);
    }
}

enum Turn {
    Mine(u64),
    Over,
}

fn ring_sides(timing: &Timing) -> Result<Histogram<u64>> {
    let turns = Turns::new(timing);
    both(|side, own, other| {
        let ring = Ring::new(RingConfig {
            receive_buffers: 1,
            pool_buffers: 1,
            ..RingConfig::default()
        })?;
        let other: RemoteWaker = swap(ring.remote_waker(), own, other)?;
        ring.block_on(play(&turns, side, || ring.notified(), || other.wake()))
    })
}

fn futex_sides(timing: &Timing) -> Result<Histogram<u64>> {
    let turns = Turns::new(timing);
    both(|side, own, other| {
        let other: Thread = swap(thread::current(), own, other)?;
        // A wake that comes between the look and the sleep is not lost: parking returns at once then.
        let asleep = async || thread::park();
        futures::executor::block_on(play(&turns, side, asleep, || other.unpark()))
    })
}

type Give<W> = std::sync::mpsc::SyncSender<W>;
type Take<W> = std::sync::mpsc::Receiver<W>;

/// Tells the other side how to wake this one, and learns the same of it.
fn swap<W>(own: W, give: Give<W>, take: Take<W>) -> Result<W> {
    let gone = "the other side could not start";
    give.send(own).ok().context(gone)?;
    take.recv().context(gone)
}

/// Runs two sides, each on a thread and, if possible, a core of its own, and joins what they measured.
fn both<W: Send>(
    side: impl Fn(usize, Give<W>, Take<W>) -> Result<Histogram<u64>> + Sync,
) -> Result<Histogram<u64>> {
    let (give_first, take_first) = sync_channel(1);
    let (give_second, take_second) = sync_channel(1);
    let run = |number: usize, give, take| {
        // Where this process may not use that core, the two are wherever they are put.
        let _ = bind_to_cpu_set([number]);
        side(number, give, take)
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| run(0, give_first, take_second));
        let second = scope.spawn(|| run(1, give_second, take_first));
        let panicked = |_| anyhow!("a thread panicked");
        let mut nanos = first.join().map_err(panicked)??;
        nanos.add(second.join().map_err(panicked)??)?;
        Ok(nanos)
    })
}

/// Waits for its turn and passes it on, until the game is over.
async fn play<S: Future<Output = ()>>(
    turns: &Turns,
    side: usize,
    sleep: impl Fn() -> S,
    wake_other: impl Fn(),
) -> Result<Histogram<u64>> {
    let mut nanos = latencies();
    loop {
        match turns.taken(side) {
            Some(Turn::Over) => return Ok(nanos),
            Some(Turn::Mine(waited)) => {
                // The first turn was nobody's to give.
                if turns.turn.load(Ordering::Relaxed) > 0 {
                    nanos.saturating_record(waited.max(1));
                }
                turns.pass();
                wake_other();
            }
            None => sleep().await,
        }
    }
}
