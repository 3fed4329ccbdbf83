//! The control link's thread against a controller that answers as a test wants, over real sockets.

use super::*;
use crate::calls::{CallId, Calls};
use crate::io::ring::RingIo;
use crate::mesh::{ShardId, inbox};
use control_api::frame::{self, ControlFrameReader, KIND_REQUEST, KIND_RESPONSE, KIND_UPDATE};
use control_api::handshake;
use control_api::ids::{BrokerEpoch, BrokerId, Incarnation, TopicId};
use control_api::level::{Level, Levels};
use control_api::message::{MetadataUpdate, OffsetCommit};
use control_api::secret::Secret;
use std::process::Command;
use std::sync::atomic::AtomicUsize;
use std::thread;
use tokio::net::{TcpListener, TcpStream};

/// So many in a row that no session would have ended between them.
const BEATS: usize = 10;
/// Far longer than the beats take, and shorter than a call goes on.
const PATIENCE_MS: u64 = 10_000;

/// A controller that leads, keeps everyone registered and alive, and never answers a commit.
#[derive(Default)]
struct Controller {
    beats: AtomicUsize,
    /// Commits that wait.
    commits: AtomicUsize,
}

impl Controller {
    /// On a thread of its own, so that whatever holds the link's up does not hold this one up. Answers with its address.
    fn start(self: &Arc<Self>) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let controller = self.clone();
        let runtime = runtime();
        let serve = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(controller.clone().connection(stream));
            }
        };
        let thread = thread::Builder::new().name("controller".into());
        thread.spawn(move || runtime.block_on(serve)).unwrap();
        address
    }

    async fn connection(self: Arc<Self>, mut stream: TcpStream) {
        let party = Party::client(Secret::none(), String::new());
        handshake::accept(&mut stream, &party).await.unwrap();
        let mut connection = ControlFrameReader::new(stream, frame::REQUEST_BYTES_MAX);
        while let Ok(frame) = connection.next().await {
            let response = match frame.body(KIND_REQUEST).unwrap() {
                Request::RegisterBroker(_) => Response::Registered {
                    epoch: BrokerEpoch(5),
                    cluster_id: String::new(),
                },
                Request::Heartbeat(_) => {
                    self.beats.fetch_add(1, Ordering::SeqCst);
                    Response::Heartbeat {
                        fenced: false,
                        may_shut_down: false,
                        metadata_index: 7,
                        lease_ms: 500,
                    }
                }
                Request::WatchMetadata { .. } => return stream_metadata(connection).await,
                _ => {
                    self.commits.fetch_add(1, Ordering::SeqCst);
                    std::future::pending().await
                }
            };
            let stream = connection.get_mut();
            let written =
                frame::write(stream, Level::FIRST, KIND_RESPONSE, frame.group, &response).await;
            if written.is_err() {
                return;
            }
        }
    }

    fn wait_for(&self, count: &AtomicUsize, more: usize, what: &str) {
        let goal = count.load(Ordering::SeqCst) + more;
        let deadline = crate::io::ring::now().after_ms(PATIENCE_MS);
        while count.load(Ordering::SeqCst) < goal {
            let now = crate::io::ring::now();
            assert!(now < deadline, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait_for_beats(&self) {
        self.wait_for(&self.beats, BEATS, "heartbeats");
    }
}

async fn stream_metadata(mut connection: ControlFrameReader<TcpStream>) {
    let image = MetadataImage {
        index: 7,
        term: 1,
        ..MetadataImage::default()
    };
    let keep_alive = MetadataUpdate::KeepAlive {
        at: image.position(),
        digest: image.digest(),
    };
    let mut update = MetadataUpdate::Snapshot(image);
    while frame::write(connection.get_mut(), Level::FIRST, KIND_UPDATE, 0, &update)
        .await
        .is_ok()
    {
        update = keep_alive.clone();
        sleep(Duration::from_millis(100)).await;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A link with one shard, on a thread of its own: the way into it, and the shard's inbox.
fn start_link(
    controller: String,
    data: PathBuf,
) -> (Sender<ControlMessage>, Receiver<Message<RingIo>>) {
    let (shard, from_link) = inbox();
    let (to_link, inbox) = inbox();
    let run = move || {
        let (_open, wants_shutdown) = watch::channel(false);
        let parts = LinkParts {
            controllers: vec![controller],
            credentials: Credentials::default(),
            registration: BrokerRegistration {
                id: BrokerId(1),
                incarnation: Incarnation([1; 16]),
                host: "localhost".into(),
                port: 9092,
                rack: None,
                version: String::new(),
                cluster_id: String::new(),
                levels: Levels::supported(),
            },
            data,
            stored: MetadataImage::default(),
            shards: vec![shard],
            inbox,
            now: crate::io::ring::now,
            lease: Lease::default(),
            in_service: Arc::default(),
            metrics: LinkMetrics::new(&prometheus::Registry::new()).unwrap(),
            wants_shutdown,
        };
        tokio::task::LocalSet::new().block_on(&runtime(), Link::run(parts))
    };
    let thread = thread::Builder::new().name("link".into());
    thread.spawn(run).unwrap();
    (to_link, from_link)
}

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("millrace-link-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn some_call() -> CallId {
    Rc::new(Calls::<()>::default()).open().unwrap().id()
}

/// A shard's request that the controllers have much to do with.
fn commit(call: CallId) -> ControlMessage {
    let commit = OffsetCommit {
        group: "g".into(),
        topic: TopicId([7; 16]),
        partition: 0,
        offset: 1,
        leader_epoch: -1,
        metadata: String::new(),
        timestamp_ms: 0,
        coordinator_epoch: 1,
        generation: -1,
        retention_ms: -1,
    };
    ControlMessage::Call {
        from: ShardId(0),
        call,
        request: Request::CommitOffsets {
            commits: vec![commit],
        },
    }
}

#[test]
fn heartbeats_do_not_wait_behind_commits_that_nobody_answers() {
    let controller = Arc::<Controller>::default();
    let data = directory("commits");
    let (to_link, from_link) = start_link(controller.start(), data.clone());
    controller.wait_for_beats();
    // More than one client has in flight at a time.
    let call = some_call();
    for _ in 0..300 {
        assert!(to_link.try_send(commit(call)).is_ok());
    }
    controller.wait_for(&controller.commits, 64, "commits");
    controller.wait_for_beats();
    while let Some(message) = from_link.try_receive() {
        let given_up = matches!(message, Message::Reply { .. });
        assert!(!given_up, "all of them were in the way all the time");
    }
    std::fs::remove_dir_all(data).unwrap();
}

/// Nobody reads the pipe that is where the image goes, so opening it takes for ever, as on a disk that hangs.
#[test]
fn heartbeats_do_not_wait_for_the_disk() {
    let controller = Arc::<Controller>::default();
    let data = directory("disk");
    let pipe = data.join("metadata.image.tmp");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let _link = start_link(controller.start(), data.clone());
    controller.wait_for_beats();
    controller.wait_for_beats();
    // It has been waiting there.
    let image = std::fs::read(&pipe).unwrap();
    assert_eq!(super::super::decode_image(&image).unwrap().index, 7);
    std::fs::remove_dir_all(data).unwrap();
}
