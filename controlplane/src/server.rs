//! The listener that brokers, operators and the other controllers share.
//!
//! A connection first proves that it belongs to the cluster, in bounded time and a few hundred bytes. Until then it is a stranger:
//! there are only so many of them, and a new one puts the oldest out. What it proved itself to be decides what it may say from
//! then on. A connection that sends garbage, nothing, or reads nothing is closed and costs the others nothing.

use crate::limits::{
    CLIENT_MEMORY_BYTES_MAX, CONTROLLER_MEMORY_BYTES_MAX, CONTROLLERS_MAX, FRAME_TIME_MAX,
    HANDSHAKE_TIME_MAX, PEER_FRAME_BYTES_MAX, STRANGERS_MAX, WRITE_TIME_MAX,
};
use crate::node::Node;
use crate::raft::network::ProvenConnection;
use crate::raft::peer;
use crate::{requests, watch};
use control_api::frame::{
    self, ControlFrameReader, FRAME_BYTES_MAX, FrameError, FrameMemory, KIND_REQUEST,
    KIND_RESPONSE, META_GROUP, OFFSETS_GROUP, REQUEST_BYTES_MAX,
};
use control_api::handshake::{Client, HandshakeError, Role};
use control_api::level::Level;
use control_api::message::{ControlError, Request, Response};
use control_api::secured::{self, Refusals, Stream};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// A client keeps connections for later; after this it has forgotten them.
const IDLE_TIME_MAX: Duration = Duration::from_secs(600);
/// After a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the connections of one kind share: places, and memory for what they send.
struct Share {
    places: Arc<Semaphore>,
    memory: FrameMemory,
}

impl Share {
    fn new(places: usize, bytes: usize) -> Self {
        Share {
            places: Arc::new(Semaphore::new(places)),
            memory: FrameMemory::new(bytes, FRAME_TIME_MAX),
        }
    }
}

/// `connections_max`: what the process has descriptors for, strangers' included.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, connections_max: usize) {
    let strangers_max = STRANGERS_MAX.min(connections_max / 4);
    let controllers_max = CONTROLLERS_MAX.min(connections_max / 4);
    let clients_max = connections_max - strangers_max - controllers_max;
    let clients = Share::new(clients_max, CLIENT_MEMORY_BYTES_MAX);
    let controllers = Share::new(controllers_max, CONTROLLER_MEMORY_BYTES_MAX);
    let mut strangers = JoinSet::new();
    let mut oldest = VecDeque::new();
    let mut connections = JoinSet::new();
    let refusals = Refusals::default();
    loop {
        tokio::select! {
            accepted = listener.accept(), if strangers.len() < strangers_max => match accepted {
                Ok((stream, peer)) => {
                    oldest.push_back(strangers.spawn(introduce(node.clone(), stream, peer)));
                    if strangers.len() == strangers_max {
                        put_out_the_oldest(&mut oldest);
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(introduced) = strangers.join_next() => {
                let (stream, client) = match introduced {
                    Ok(Ok(introduced)) => {
                        node.metrics.handshakes.with_label_values(&["accepted"]).inc();
                        introduced
                    }
                    Ok(Err((peer, error))) => {
                        node.metrics.handshakes.with_label_values(&["refused"]).inc();
                        refusals.add("refused a connection", &peer, &error);
                        continue;
                    }
                    // It was put out.
                    Err(_) => continue,
                };
                let share = match client.role {
                    Role::Controller => &controllers,
                    Role::Broker | Role::Operator => &clients,
                };
                let Ok(place) = share.places.clone().try_acquire_owned() else {
                    warn!(role = ?client.role, "closed a connection: there are too many");
                    continue;
                };
                let (node, memory) = (node.clone(), share.memory.clone());
                connections.spawn(async move {
                    let _place = place;
                    node.metrics.connections.inc();
                    if let Err(error) = connection(&node, stream, client, memory).await {
                        debug!(%error, "connection closed");
                    }
                    node.metrics.connections.dec();
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Puts out the stranger that has had the longest time. Its descriptor is free, and another may come, once it was joined.
fn put_out_the_oldest(oldest: &mut VecDeque<AbortHandle>) {
    oldest.retain(|stranger| !stranger.is_finished());
    if let Some(stranger) = oldest.pop_front() {
        stranger.abort();
    }
}

async fn introduce(
    node: Arc<Node>,
    stream: TcpStream,
    peer: SocketAddr,
) -> Result<(Stream, Client), (SocketAddr, HandshakeError)> {
    let party = node.identity.party();
    let accepted = timeout(HANDSHAKE_TIME_MAX, secured::accept(stream, &party)).await;
    let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut).into());
    let (stream, client) = accepted
        .unwrap_or_else(late)
        .map_err(|error| (peer, error))?;
    if client.role == Role::Controller && !client.cluster_id.is_empty() {
        node.identity
            .called_by
            .get_or_init(|| client.cluster_id.clone());
    }
    Ok((stream, client))
}

async fn connection(
    node: &Arc<Node>,
    stream: Stream,
    client: Client,
    memory: FrameMemory,
) -> Result<(), FrameError> {
    let (reader, writer) = stream.split();
    let limit = match client.role {
        Role::Controller => PEER_FRAME_BYTES_MAX,
        Role::Broker | Role::Operator => REQUEST_BYTES_MAX,
    };
    let reader = ControlFrameReader::within(reader, limit, memory);
    let link = ProvenConnection {
        reader,
        writer,
        level: node.identity.level.clone(),
    };
    match client.role {
        Role::Controller => controller(node, client.member, link).await,
        Role::Broker | Role::Operator => requests(node, link).await,
    }
}

async fn requests(node: &Arc<Node>, mut link: ProvenConnection) -> Result<(), FrameError> {
    loop {
        let frame = match timeout(IDLE_TIME_MAX, link.reader.next()).await {
            Ok(Err(FrameError::Closed)) | Err(_) => return Ok(()),
            Ok(frame) => frame?,
        };
        match frame.body(KIND_REQUEST)? {
            Request::WatchMetadata { from } => {
                return watch::stream(node, from, link).await;
            }
            request => {
                // A status has the whole image.
                let _place = match request {
                    Request::Status => node.images.acquire().await.ok(),
                    _ => None,
                };
                let response = requests::answer(node, request).await;
                // A refusal may be what tells a program that it is too old, so that one reads it.
                let level = match &response {
                    Response::Error(_) => Level::FIRST,
                    _ => link.level.get(),
                };
                let mut bytes = frame::encode(level, KIND_RESPONSE, frame.group, &response);
                if bytes.len() > FRAME_BYTES_MAX {
                    let text = "the answer is too long: ask for less at a time".to_owned();
                    let refusal = Response::Error(ControlError::InvalidRequest(text));
                    bytes = frame::encode(Level::FIRST, KIND_RESPONSE, frame.group, &refusal);
                }
                write(&mut link, &bytes).await?;
            }
        }
    }
}

/// A connection from another controller, which is this member.
async fn controller(
    node: &Node,
    member: u64,
    mut link: ProvenConnection,
) -> Result<(), FrameError> {
    loop {
        let frame = match timeout(IDLE_TIME_MAX, link.reader.next()).await {
            Ok(Err(FrameError::Closed)) | Err(_) => return Ok(()),
            Ok(frame) => frame?,
        };
        let answered = match frame.group {
            META_GROUP => peer::answer(&node.meta, member, frame, link).await?,
            OFFSETS_GROUP => peer::answer(&node.offsets, member, frame, link).await?,
            _ => return Err(FrameError::Kind(frame.kind)),
        };
        match answered {
            Some(next) => link = next,
            None => return Ok(()),
        }
    }
}

/// Gives up on a reader that does not read.
pub(crate) async fn write(link: &mut ProvenConnection, bytes: &[u8]) -> Result<(), FrameError> {
    let written = timeout(WRITE_TIME_MAX, frame::send(&mut link.writer, bytes)).await;
    Ok(written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
}
