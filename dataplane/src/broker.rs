//! Puts a broker together: data directory, one thread per shard, the control link, and the end of it all on SIGTERM.

use crate::check;
use crate::config::BrokerConfig;
use crate::control::{Link, LinkMetrics, LinkParts, load_image};
use crate::data_directory::DataDirectory;
use crate::http::{self, Pages};
use crate::io::Io;
use crate::io::ring::RingIo;
use crate::lease::Lease;
use crate::limits::*;
use crate::log::limits::{CHUNKS_MAX, CHUNKS_MIN};
use crate::log::{LogShared, SpareSegments, spare};
use crate::mesh::{Receiver, Sender, ShardId, inbox};
use crate::message::{ControlMessage, Message};
use crate::metrics::Metrics;
use crate::shard::{Shard, ShardParts};
use anyhow::Context;
use control_api::ids::{BrokerId, Incarnation};
use control_api::level::Levels;
use control_api::message::BrokerRegistration;
use control_api::process::BUILD;
use ring::directory::probe_directory;
use ring::signals::Termination;
use ring::{Ring, RingConfig};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use tokio::sync::watch;

const LISTEN_BACKLOG: u32 = 4096;

type RingMessage = Message<RingIo>;

/// Runs a broker until SIGTERM or SIGINT; everything is flushed when it returns.
pub fn run(config: BrokerConfig) -> anyhow::Result<()> {
    // Before any thread is started: they inherit the blocked signals.
    let termination = ring::signals::termination().context("cannot take over signals")?;
    let open_files =
        ring::host::raise_open_files().context("cannot raise the limit of open files")?;
    let _directory = DataDirectory::open(&config.data, config.id)?;
    let file_system = probe_directory(&config.data)
        .with_context(|| format!("cannot use the data directory {}", config.data.display()))?;
    if check::advice(&file_system).is_some() {
        let how = check::describe(&file_system);
        tracing::warn!(data = %config.data.display(), "{how}. See `millrace-broker check`");
    }
    let stored = load_image(&config.data)?.unwrap_or_default();
    let metrics = Metrics::new().context("cannot make the metrics")?;
    let opening = Arc::new(AtomicUsize::new(0));
    let in_service = Arc::new(AtomicBool::new(false));
    let (shard_senders, shard_receivers): (Vec<Sender<RingMessage>>, Vec<_>) =
        (0..config.shards).map(|_| inbox()).unzip();
    let (control_sender, control_receiver) = inbox();
    let wants_shutdown = end_on_signal(termination)?;
    let lease = Lease::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control link")?;
    let link_metrics = LinkMetrics::new(&metrics.registry).context("cannot make the metrics")?;
    if let Some(address) = config.metrics {
        let pages = Pages {
            registry: metrics.registry.clone(),
            in_service: in_service.clone(),
            opening: opening.clone(),
            link: link_metrics.clone(),
            lease: lease.clone(),
            now: crate::io::ring::now,
        };
        http::start(address, pages)
            .with_context(|| format!("cannot serve metrics at {address}"))?;
    }
    let shards = Shards {
        config: &config,
        unbuffered_files: file_system.unbuffered,
        peers: shard_senders.clone(),
        control: control_sender,
        loads: (0..config.shards).map(|_| AtomicUsize::new(0)).collect(),
        connections_max: connections_max(open_files),
        reached: (0..config.shards).map(|_| AtomicU64::new(0)).collect(),
        lease: lease.clone(),
        metrics,
        opening,
    };
    let threads = shards.start(shard_receivers)?;
    give_back_freed_memory()?;
    tracing::info!(id = config.id, build = BUILD, listen = %config.listen, shards = config.shards, "broker started");
    let link = LinkParts {
        controllers: config.controllers.clone(),
        credentials: config.credentials.clone(),
        registration: BrokerRegistration {
            id: BrokerId(config.id),
            incarnation: draw_incarnation()?,
            host: config.advertise_host.clone(),
            port: config.advertise_port,
            rack: config.rack.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: stored.cluster_id.clone(),
            levels: Levels::supported(),
        },
        data: config.data.clone(),
        stored,
        shards: shard_senders,
        inbox: control_receiver,
        now: crate::io::ring::now,
        lease,
        in_service,
        metrics: link_metrics,
        wants_shutdown,
    };
    let ended = tokio::task::LocalSet::new().block_on(&runtime, Link::run(link));
    for thread in threads {
        // A panic on a shard has already ended the process.
        let _ = thread.join();
    }
    ended.map_err(anyhow::Error::msg)?;
    tracing::info!("broker stopped");
    Ok(())
}

/// Turns true at the first SIGTERM or SIGINT.
fn end_on_signal(termination: Termination) -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let waiting = thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let signal = termination.wait();
            tracing::info!(signal, "stopping");
            sender.send_replace(true);
            // A second one means that the operator does not want to wait.
            termination.wait();
            std::process::exit(1);
        });
    waiting.context("cannot start a thread")?;
    Ok(receiver)
}

/// A burst of long requests would otherwise leave its memory with the process for good.
fn give_back_freed_memory() -> anyhow::Result<()> {
    let thread = thread::Builder::new().name("memory".to_owned());
    let giving_back = thread.spawn(|| {
        loop {
            thread::sleep(FREED_MEMORY_KEPT);
            ring::allocations::give_back_freed();
        }
    });
    giving_back.context("cannot start a thread")?;
    Ok(())
}

fn draw_incarnation() -> anyhow::Result<Incarnation> {
    use std::io::Read;
    let mut bytes = [0; 16];
    let source =
        std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    source.context("cannot read /dev/urandom")?;
    Ok(Incarnation(bytes))
}

/// What the threads of all shards are started with.
struct Shards<'a> {
    config: &'a BrokerConfig,
    unbuffered_files: bool,
    peers: Vec<Sender<RingMessage>>,
    control: Sender<ControlMessage>,
    loads: Arc<[AtomicUsize]>,
    connections_max: usize,
    reached: Arc<[AtomicU64]>,
    lease: Lease,
    metrics: Metrics,
    opening: Arc<AtomicUsize>,
}

/// What a shard's thread needs to start.
struct ShardThread {
    id: ShardId,
    config: BrokerConfig,
    unbuffered_files: bool,
    peers: Vec<Sender<RingMessage>>,
    control: Sender<ControlMessage>,
    loads: Arc<[AtomicUsize]>,
    connections_max: usize,
    reached: Arc<[AtomicU64]>,
    lease: Lease,
    metrics: Metrics,
    opening: Arc<AtomicUsize>,
    inbox: Receiver<RingMessage>,
}

impl Shards<'_> {
    /// Starts every shard and waits until each can serve, or the first cannot.
    fn start(self, inboxes: Vec<Receiver<RingMessage>>) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let (started, outcomes) = mpsc::channel();
        let mut threads = Vec::new();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let shard = ShardThread {
                id: ShardId(index),
                config: self.config.clone(),
                unbuffered_files: self.unbuffered_files,
                peers: self.peers.clone(),
                control: self.control.clone(),
                loads: self.loads.clone(),
                connections_max: self.connections_max,
                reached: self.reached.clone(),
                lease: self.lease.clone(),
                metrics: self.metrics.clone(),
                opening: self.opening.clone(),
                inbox,
            };
            let started = started.clone();
            let thread = thread::Builder::new().name(format!("shard-{index}"));
            threads.push(
                thread
                    .spawn(move || shard.run(&started))
                    .context("cannot start a thread")?,
            );
        }
        drop(started);
        for _ in 0..threads.len() {
            outcomes
                .recv()
                .context("a shard ended before it served")??;
        }
        Ok(threads)
    }
}

impl ShardThread {
    fn run(self, started: &mpsc::Sender<anyhow::Result<()>>) {
        let result = self.serve(started);
        // Only a shard that could not start has an error to tell, and then someone still listens.
        if let Err(error) = result {
            let _ = started.send(Err(error));
        }
    }

    /// This shard's part of the segments that are kept prepared.
    fn spare_segments(&self) -> SpareSegments {
        let (all, shards) = (self.config.spare_segments, self.config.shards);
        let own = all / shards + usize::from(self.id.0 < all % shards);
        let directory = self.spare_directory().join(self.id.0.to_string());
        SpareSegments::new(directory, own, self.config.spare_segment_bytes)
    }

    /// Holds one directory of prepared segments for each shard.
    fn spare_directory(&self) -> PathBuf {
        self.config.data.join("spare")
    }

    fn serve(self, started: &mpsc::Sender<anyhow::Result<()>>) -> anyhow::Result<()> {
        if let Err(error) = ring::host::pin_to_cpu(self.id.0) {
            tracing::warn!(shard = self.id.0, %error, "cannot pin the shard to a core");
        }
        let tail_buffers = self.config.tail_bytes / self.config.shards / TAIL_BUFFER_BYTES;
        let ring = Ring::new(RingConfig {
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
            receive_buffers: RECEIVE_BUFFERS,
            pool_buffer_bytes: TAIL_BUFFER_BYTES,
            pool_buffers: tail_buffers,
            unbuffered_files: self.unbuffered_files,
            ..RingConfig::default()
        })?;
        if self.id.0 == 0 && !ring.memory_is_registered() {
            tracing::warn!(
                "memory cannot be registered under this memlock limit; writes cost more. See `millrace-broker check`"
            );
        }
        let io = RingIo::new(ring.clone());
        let chunks = chunk_buffers(tail_buffers);
        let log_shared = LogShared::new(
            (0..chunks).filter_map(|_| io.take_buffer()).collect(),
            self.spare_segments(),
        );
        let listener = match self.id.0 {
            0 => {
                let address = self.config.listen;
                Some(
                    ring.listen(address, LISTEN_BACKLOG)
                        .with_context(|| format!("cannot listen at {address}"))?,
                )
            }
            _ => None,
        };
        let families = self.metrics.clone();
        let spare_directory = self.spare_directory();
        let shard = Shard::new(ShardParts {
            id: self.id,
            broker: BrokerId(self.config.id),
            data: self.config.data,
            io: io.clone(),
            peers: self.peers,
            control: self.control,
            loads: self.loads,
            reached: self.reached,
            lease: self.lease,
            metrics: self.metrics,
            opening: self.opening,
            log_shared: Rc::clone(&log_shared),
            tail_buffers: tail_buffers - chunks,
            connections_idle_ms_max: self.config.connections_idle_ms_max,
        });
        // Nobody waits any more if another shard could not start.
        let _ = started.send(Ok(()));
        ring.spawn(report_ring(ring.clone(), io, families, self.id));
        ring.spawn(spare::replenish(RingIo::new(ring.clone()), log_shared));
        if self.id.0 == 0 {
            ring.spawn(spare::remove_unused(
                RingIo::new(ring.clone()),
                spare_directory,
                self.config.shards,
            ));
        }
        if let Some(listener) = listener {
            ring.spawn(Rc::clone(&shard).accept(listener, self.connections_max));
        }
        ring.block_on(shard.run(self.inbox));
        ring.drop_tasks();
        Ok(())
    }
}

/// How many of a shard's buffers hold old bytes on their way to consumers.
fn chunk_buffers(buffers: usize) -> usize {
    (buffers / 4).clamp(CHUNKS_MIN, CHUNKS_MAX)
}

/// Publishes how busy the ring was, once a second.
async fn report_ring(ring: Ring, io: RingIo, metrics: Metrics, shard: ShardId) {
    let label = shard.0.to_string();
    let shard_busy = metrics.shard_busy.with_label_values(&[&label]);
    let ring_enters = metrics.ring_enters.with_label_values(&[&label]);
    let allocations = metrics.shard_allocations.with_label_values(&[&label]);
    let mut before = ring.counters();
    let (mut enters_shown, mut allocations_shown) = (0, 0);
    loop {
        io.sleep_until(io.now().after_ms(1000)).await;
        let now = ring.counters();
        let total = now.total_nanos.saturating_sub(before.total_nanos).max(1);
        let parked = now.parked_nanos.saturating_sub(before.parked_nanos);
        let busy = 1.0 - parked as f64 / total as f64;
        shard_busy.set(busy.clamp(0.0, 1.0));
        ring_enters.inc_by(now.enters - enters_shown);
        enters_shown = now.enters;
        let allocated = ring::allocations::of_this_thread();
        allocations.inc_by(allocated - allocations_shown);
        allocations_shown = allocated;
        before = now;
    }
}
