//! A broker on one incarnation of a simulated host: its shards and its link to the control plane.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use control_api::ids::{BrokerId, Incarnation};
use control_api::image::MetadataImage;
use control_api::level::Levels;
use control_api::message::BrokerRegistration;
use dataplane::io::Io;
use dataplane::lease::Lease;
use dataplane::limits::CONNECTIONS_MAX;
use dataplane::log::spare::replenish;
use dataplane::log::{LogShared, SpareSegments};
use dataplane::mesh::{Sender, ShardId, inbox};
use dataplane::message::Message;
use dataplane::metrics::Metrics;
use dataplane::shard::{Shard, ShardParts};
use millrace_tests::sim::SimIo;

use super::control::ControlPlane;
use super::link::{Link, Seen};

pub(super) const BROKER: BrokerId = BrokerId(1);
/// Where the broker listens.
pub(super) const PORT: u16 = 9092;
pub(super) const DATA: &str = "/data";
/// Append buffers of each shard.
pub(super) const TAIL_BUFFERS: usize = 32;
const SPARE_BYTES: u64 = 64 * 1024;
pub(super) const CONNECTIONS_IDLE_MS_MAX: u64 = 600_000;

pub(super) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The shards of one life of a broker, once they have been started, and the inbox of each.
pub(super) type RunningShards = Rc<RefCell<Vec<RunningShard>>>;

pub(super) struct RunningShard {
    pub(super) shard: Rc<Shard<SimIo>>,
    pub(super) inbox: Sender<Message<SimIo>>,
}

/// What can be seen of a process from outside.
pub(super) struct Process {
    pub(super) shards: RunningShards,
    /// Shards that have closed their partitions.
    pub(super) stopped: Rc<Cell<usize>>,
    pub(super) incarnation: Incarnation,
    /// The metadata that its shards have.
    pub(super) image: Rc<RefCell<Arc<MetadataImage>>>,
    /// Why it ended by itself, if it did.
    pub(super) ended: Rc<RefCell<Option<Result<(), String>>>>,
}

impl Process {
    /// Tells every shard to close its partitions.
    pub(super) fn stop_shards(&self) {
        for shard in self.shards.borrow().iter() {
            assert!(shard.inbox.try_send(Message::Stop).is_ok(), "there is room");
        }
    }
}

/// Starts all tasks of a broker with so many shards.
pub(super) fn start_broker(
    io: &SimIo,
    shards: usize,
    control: &Rc<RefCell<ControlPlane>>,
) -> RunningShards {
    start_process(io, shards, PORT, 0, control).shards
}

/// The same for one that listens elsewhere, prepares `spares` segments for each shard, and may come to its end.
pub(super) fn start_process(
    io: &SimIo,
    shards: usize,
    port: u16,
    spares: usize,
    control: &Rc<RefCell<ControlPlane>>,
) -> Process {
    let mut incarnation = Incarnation([0; 16]);
    incarnation.0[..8].copy_from_slice(&io.random_u64().to_be_bytes());
    let registration = BrokerRegistration {
        id: BROKER,
        incarnation,
        host: address(port).ip().to_string(),
        port,
        rack: None,
        version: String::new(),
        cluster_id: String::new(),
        levels: Levels::supported(),
    };
    let (peers, inboxes): (Vec<Sender<Message<SimIo>>>, Vec<_>) =
        (0..shards).map(|_| inbox()).unzip();
    let (to_control, from_shards) = inbox();
    let process = Process {
        shards: RunningShards::default(),
        stopped: Rc::default(),
        incarnation,
        image: Rc::default(),
        ended: Rc::default(),
    };
    let loads: Arc<[AtomicUsize]> = (0..shards).map(|_| AtomicUsize::new(0)).collect();
    let reached: Arc<[AtomicU64]> = (0..shards).map(|_| AtomicU64::new(0)).collect();
    let lease = Lease::default();
    let metrics = Metrics::new().unwrap();
    let opening = Arc::new(AtomicUsize::new(0));
    let listener = io.listen(address(port)).unwrap();
    let main = io.clone();
    let control = Rc::clone(control);
    let seen = Seen {
        stopped: Rc::clone(&process.stopped),
        ended: Rc::clone(&process.ended),
        image: Rc::clone(&process.image),
    };
    let started = Rc::clone(&process.shards);
    io.spawn(async move {
        // The process makes its directory before any shard starts.
        let data = PathBuf::from(DATA);
        while main.create_directories(&data).await.is_err() {}
        while main.sync_directory(&PathBuf::from("/")).await.is_err() {}
        let mut listener = Some(listener);
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let shard_io = match index {
                0 => main.clone(),
                _ => main.another_shard(),
            };
            let spare = data.join("spare").join(index.to_string());
            let log_shared =
                LogShared::new(Vec::new(), SpareSegments::new(spare, spares, SPARE_BYTES));
            shard_io.spawn(replenish(shard_io.clone(), Rc::clone(&log_shared)));
            let shard = Shard::new(ShardParts {
                id: ShardId(index),
                broker: BROKER,
                data: data.clone(),
                io: shard_io.clone(),
                peers: peers.clone(),
                control: to_control.clone(),
                loads: Arc::clone(&loads),
                reached: Arc::clone(&reached),
                lease: lease.clone(),
                metrics: metrics.clone(),
                opening: Arc::clone(&opening),
                log_shared,
                tail_buffers: TAIL_BUFFERS,
                connections_idle_ms_max: Some(CONNECTIONS_IDLE_MS_MAX),
            });
            if let Some(listener) = listener.take() {
                shard_io.spawn(Rc::clone(&shard).accept(listener, CONNECTIONS_MAX));
            }
            started.borrow_mut().push(RunningShard {
                shard: Rc::clone(&shard),
                inbox: peers[index].clone(),
            });
            shard_io.spawn(async move { shard.run(inbox).await });
        }
        Link::run(main, control, registration, peers, from_shards, lease, seen).await;
    });
    process
}
