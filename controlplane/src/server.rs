//! The listener that brokers, operators and the other controllers share.
//!
//! The first frame of a connection says who is there: a hello comes from a controller, a request from anyone else. A
//! connection that sends garbage, nothing, or reads nothing is closed and costs the others nothing.

use crate::limits::{PEER_FRAME_BYTES_MAX, WRITE_TIME_MAX};
use crate::node::Node;
use crate::raft::network::{KIND_HELLO, Link};
use crate::raft::peer;
use crate::raft::wire::Hello;
use crate::{group, requests, watch};
use control_api::frame::{
    self, FRAME_BYTES_MAX, Frame, FrameError, FrameReader, KIND_REQUEST, KIND_RESPONSE, META_GROUP,
    OFFSETS_GROUP, REQUEST_BYTES_MAX,
};
use control_api::message::{ControlError, Request, Response};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// A new connection must say something within this.
const FIRST_FRAME_TIME_MAX: Duration = Duration::from_secs(10);
/// A client keeps connections for later; after this it has forgotten them.
const IDLE_TIME_MAX: Duration = Duration::from_secs(600);
/// After a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// `connections_max`: what the process has descriptors for.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, connections_max: usize) {
    let free = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        // At the limit, new connections wait in the kernel's queue.
        let permit = free.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let node = node.clone();
        connections.spawn(async move {
            let _permit = permit;
            node.metrics.connections.inc();
            if let Err(error) = connection(&node, stream).await {
                debug!(%error, "connection closed");
            }
            node.metrics.connections.dec();
        });
    }
}

async fn connection(node: &Arc<Node>, stream: TcpStream) -> Result<(), FrameError> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let reader = FrameReader::new(reader, REQUEST_BYTES_MAX);
    let mut link = Link { reader, writer };
    let mut patience = FIRST_FRAME_TIME_MAX;
    loop {
        let frame = match timeout(patience, link.reader.next()).await {
            Ok(Err(FrameError::Closed)) | Err(_) => return Ok(()),
            Ok(frame) => frame?,
        };
        patience = IDLE_TIME_MAX;
        if frame.kind == KIND_HELLO {
            return controller(node, frame, link).await;
        }
        match frame.body(KIND_REQUEST)? {
            Request::WatchMetadata { from_index } => {
                return watch::stream(node, from_index, link).await;
            }
            request => {
                let response = requests::answer(node, request).await;
                let mut bytes = frame::encode(KIND_RESPONSE, frame.group, &response);
                if bytes.len() > FRAME_BYTES_MAX {
                    let text = "the answer is too long: ask for less at a time".to_owned();
                    let refusal = Response::Error(ControlError::InvalidRequest(text));
                    bytes = frame::encode(KIND_RESPONSE, frame.group, &refusal);
                }
                write(&mut link, &bytes).await?;
            }
        }
    }
}

/// A connection from another controller, after its hello.
async fn controller(node: &Node, hello: Frame, mut link: Link) -> Result<(), FrameError> {
    let theirs: Hello = hello.body(KIND_HELLO)?;
    let ours = group::hello(&node.config);
    let answer = frame::encode(KIND_HELLO, META_GROUP, &ours);
    write(&mut link, &answer).await?;
    if theirs != ours {
        warn!(peers = ?theirs.peers, "refused a controller with other peers than this one's");
        return Ok(());
    }
    link.reader.set_limit(PEER_FRAME_BYTES_MAX);
    loop {
        let frame = match timeout(IDLE_TIME_MAX, link.reader.next()).await {
            Ok(Err(FrameError::Closed)) | Err(_) => return Ok(()),
            Ok(frame) => frame?,
        };
        let answered = match frame.group {
            META_GROUP => peer::answer(&node.meta.raft, frame, link).await?,
            OFFSETS_GROUP => peer::answer(&node.offsets.raft, frame, link).await?,
            _ => return Err(FrameError::Kind(frame.kind)),
        };
        match answered {
            Some(next) => link = next,
            None => return Ok(()),
        }
    }
}

/// Gives up on a reader that does not read.
pub(crate) async fn write(link: &mut Link, bytes: &[u8]) -> Result<(), FrameError> {
    use tokio::io::AsyncWriteExt;
    let written = timeout(WRITE_TIME_MAX, link.writer.write_all(bytes)).await;
    Ok(written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
}
