//! A broker's shards on one incarnation of a simulated host, and the control plane that they talk to.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use control_api::ids::{BrokerId, Incarnation, TopicId};
use control_api::image::MetadataImage;
use control_api::message::{BrokerRegistration, ControlError, NewTopic, Request, Response};
use controlplane::command::{FEATURE_LEVEL, MetaCommand, RegisteredBroker};
use controlplane::meta::MetaState;
use dataplane::io::Io;
use dataplane::limits::CONNECTIONS_MAX;
use dataplane::log::{LogShared, SpareSegments};
use dataplane::mesh::{Receiver, Sender, ShardId, inbox};
use dataplane::message::{ControlMessage, Message, Reply};
use dataplane::metrics::Metrics;
use dataplane::shard::{Shard, ShardParts};
use millrace_tests::sim::SimIo;

const BROKER: BrokerId = BrokerId(1);
const DATA: &str = "/data";
pub(super) const CONNECTIONS_IDLE_MS_MAX: u64 = 600_000;

pub(super) fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9092))
}

/// The state machine that Raft would replicate.
pub(super) struct ControlPlane {
    meta: MetaState,
    index: u64,
    lives: u8,
    /// The broker process that was registered last.
    registered: Option<RegisteredBroker>,
    shards: Vec<Sender<Message<SimIo>>>,
    /// Shards that have closed their partitions.
    pub(super) stopped: usize,
}

impl ControlPlane {
    pub(super) fn new() -> ControlPlane {
        let mut control = ControlPlane {
            meta: MetaState::default(),
            index: 0,
            lives: 0,
            registered: None,
            shards: Vec::new(),
            stopped: 0,
        };
        control.apply(&MetaCommand::Bootstrap {
            cluster_id: "simulated".to_owned(),
            feature_level: FEATURE_LEVEL,
        });
        control.register_broker();
        control
    }

    pub(super) fn create_topic(&mut self, name: &str, partitions: i32) {
        let answer = self.apply(&MetaCommand::CreateTopics(vec![NewTopic {
            name: name.to_owned(),
            id: TopicId([7; 16]),
            partitions,
            replication_factor: 1,
            assignment: Vec::new(),
            configs: BTreeMap::new(),
        }]));
        assert!(matches!(&answer, Response::Topics(topics) if topics[0].is_ok()));
    }

    /// The broker is taken for dead, so that it leads nothing; it hears of it with the next metadata.
    pub(super) fn fence_broker(&mut self) {
        if let Some(registered) = self.registered {
            self.apply(&MetaCommand::FenceBroker(registered));
        }
    }

    /// A new process of the broker: its predecessor's session ends, and as its metadata is ours it is in service at once.
    fn register_broker(&mut self) {
        if let Some(predecessor) = self.registered {
            self.apply(&MetaCommand::FenceBroker(predecessor));
        }
        self.lives += 1;
        let answer = self.apply(&MetaCommand::RegisterBroker(BrokerRegistration {
            id: BROKER,
            incarnation: Incarnation([self.lives; 16]),
            host: address().ip().to_string(),
            port: address().port(),
            rack: None,
            version: String::new(),
            cluster_id: String::new(),
        }));
        let Response::Registered { epoch, .. } = answer else {
            panic!("a registration is taken: {answer:?}");
        };
        let registered = RegisteredBroker { id: BROKER, epoch };
        self.apply(&MetaCommand::UnfenceBroker(registered));
        self.registered = Some(registered);
    }

    /// Tells every shard to close its partitions.
    pub(super) fn stop(&self) {
        for shard in &self.shards {
            send(shard, Message::Stop);
        }
    }

    fn image(&self) -> Arc<MetadataImage> {
        Arc::new(self.meta.image().clone())
    }

    fn apply(&mut self, command: &MetaCommand) -> Response {
        self.index += 1;
        self.meta.apply(self.index, command).0
    }

    fn answer(&mut self, request: Request) -> Result<Response, ControlError> {
        let command = match request {
            Request::CreateTopics { topics, .. } => MetaCommand::CreateTopics(topics),
            Request::DeleteTopics { topics } => MetaCommand::DeleteTopics(topics),
            Request::AllocateProducerIds { broker, epoch } => {
                MetaCommand::AllocateProducerIds(RegisteredBroker { id: broker, epoch })
            }
            _ => return Err(ControlError::Unavailable),
        };
        Ok(self.apply(&command))
    }
}

/// The shards of one life of a broker, once they have been started, and the inbox of each.
pub(super) type RunningShards = Rc<RefCell<Vec<RunningShard>>>;

pub(super) struct RunningShard {
    pub(super) shard: Rc<Shard<SimIo>>,
    pub(super) inbox: Sender<Message<SimIo>>,
}

/// Starts all tasks of a broker with so many shards.
pub(super) fn start_broker(
    io: &SimIo,
    shards: usize,
    control: &Rc<RefCell<ControlPlane>>,
) -> RunningShards {
    let running = RunningShards::default();
    let started = Rc::clone(&running);
    control.borrow_mut().register_broker();
    let (peers, inboxes): (Vec<Sender<Message<SimIo>>>, Vec<_>) =
        (0..shards).map(|_| inbox()).unzip();
    let (to_control, from_shards) = inbox();
    control.borrow_mut().shards = peers.clone();
    control.borrow_mut().stopped = 0;
    let loads: Arc<[AtomicUsize]> = (0..shards).map(|_| AtomicUsize::new(0)).collect();
    let metrics = Metrics::new().unwrap();
    let opening = Arc::new(AtomicUsize::new(0));
    let listener = io.listen(address()).unwrap();
    let main = io.clone();
    let control = Rc::clone(control);
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
            let shard = Shard::new(ShardParts {
                id: ShardId(index),
                broker: BROKER,
                data: data.clone(),
                io: shard_io.clone(),
                peers: peers.clone(),
                control: to_control.clone(),
                loads: Arc::clone(&loads),
                metrics: metrics.clone(),
                opening: Arc::clone(&opening),
                log_shared: LogShared::new(Vec::new(), SpareSegments::none()),
                tail_buffers: 32,
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
        serve_control(main, control, peers, from_shards).await;
    });
    running
}

/// The control link: hands out metadata and answers calls, each after a while.
async fn serve_control(
    io: SimIo,
    control: Rc<RefCell<ControlPlane>>,
    shards: Vec<Sender<Message<SimIo>>>,
    inbox: Receiver<ControlMessage>,
) {
    publish(&control, &shards);
    loop {
        match inbox.receive().await {
            ControlMessage::Call {
                from,
                call,
                request,
            } => {
                io.sleep_until(io.now().after_ms(io.random_u64() % 10))
                    .await;
                let answer = control.borrow_mut().answer(request);
                publish(&control, &shards);
                let reply = Reply::Control(answer);
                send(&shards[from.0], Message::Reply { call, reply });
            }
            ControlMessage::Stopped(_) => control.borrow_mut().stopped += 1,
        }
    }
}

fn publish(control: &RefCell<ControlPlane>, shards: &[Sender<Message<SimIo>>]) {
    let image = control.borrow().image();
    for shard in shards {
        send(shard, Message::Metadata(Arc::clone(&image)));
    }
}

fn send(shard: &Sender<Message<SimIo>>, message: Message<SimIo>) {
    assert!(
        shard.try_send(message).is_ok(),
        "an inbox is never full here"
    );
}
