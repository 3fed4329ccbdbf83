//! The metadata stream that each broker follows: a snapshot where it needs one, then every change in order.
//!
//! Any node serves it, from what it has applied. A broker that reads too slowly is dropped and comes back for a snapshot.

use crate::history::Next;
use crate::node::Node;
use crate::raft::network::ProvenConnection;
use crate::server;
use bytes::Bytes;
use control_api::client::KEEP_ALIVE;
use control_api::frame::{self, FrameError, KIND_UPDATE, META_GROUP};
use control_api::ids::Position;
use control_api::image::MetadataImage;
use control_api::message::MetadataUpdate;
use std::io;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// Runs until the connection ends. Index 0 asks for a snapshot first.
pub(crate) async fn stream(
    node: &Arc<Node>,
    from: Position,
    mut link: ProvenConnection,
) -> Result<(), FrameError> {
    let mut applied = node.meta.shared.applied();
    let mut position = from;
    if from.index == 0 {
        position = send_image(node, &mut link, MetadataUpdate::Snapshot).await?;
    }
    // The broker waits for a sign that this node does more than to take connections.
    let mut keep_alive_at = Instant::now();
    loop {
        applied.borrow_and_update();
        let (next, (now_at, digest)) = {
            let history = node.meta.shared.history();
            (history.after(position), history.applied())
        };
        match next {
            Next::Snapshot => {
                position = send_image(node, &mut link, MetadataUpdate::Snapshot).await?
            }
            Next::Replacement => position = replace(node, &mut link, position).await?,
            // The leader has all that was ever committed, so what goes further is no part of it.
            Next::Wait if leads_up_to_date(node, position).await => {
                position = replace(node, &mut link, position).await?;
            }
            Next::Changes(frames) if !frames.is_empty() => {
                for frame in &frames {
                    server::write(&mut link, frame).await?;
                }
                position = now_at;
            }
            Next::Changes(_) | Next::Wait => {
                if next != Next::Wait {
                    position = now_at;
                }
                if keep_alive_at <= Instant::now() {
                    let update = MetadataUpdate::KeepAlive { at: now_at, digest };
                    let frame = frame::encode(link.level.get(), KIND_UPDATE, META_GROUP, &update);
                    server::write(&mut link, &frame).await?;
                    keep_alive_at = Instant::now() + KEEP_ALIVE;
                }
                wait(&mut applied, keep_alive_at, &mut link).await?;
            }
        }
    }
}

/// Until there may be more to send.
async fn wait(
    applied: &mut tokio::sync::watch::Receiver<u64>,
    until: Instant,
    link: &mut ProvenConnection,
) -> Result<(), FrameError> {
    tokio::select! {
        changed = timeout_at(until, applied.changed()) => match changed {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(_)) => Err(io::Error::other("the node is being stopped").into()),
        },
        // The broker says nothing on this connection, so whatever comes is its end.
        frame = link.reader.next() => match frame {
            Ok(frame) => Err(FrameError::Kind(frame.kind)),
            Err(error) => Err(error),
        },
    }
}

/// Whether this node leads, and has not come as far as that with everything that a majority has.
async fn leads_up_to_date(node: &Node, position: Position) -> bool {
    node.meta.led_term().is_some()
        && node.meta.read_barrier().await.is_ok()
        && node.meta.shared.history().after(position) == Next::Wait
}

async fn replace(
    node: &Arc<Node>,
    link: &mut ProvenConnection,
    position: Position,
) -> Result<Position, FrameError> {
    warn!(
        ?position,
        "a broker follows from a place that this log never had: it gets a snapshot"
    );
    send_image(node, link, MetadataUpdate::Replacement).await
}

/// Answers with the place that the image is at.
async fn send_image(
    node: &Arc<Node>,
    link: &mut ProvenConnection,
    update: fn(MetadataImage) -> MetadataUpdate,
) -> Result<Position, FrameError> {
    // Each may be as long as a frame, and as many as there are places.
    let place = node.images.acquire().await;
    let _place = place.expect("the semaphore is never closed");
    let node = node.clone();
    let encode = move || {
        let image = node.meta.shared.read(|state| state.image().clone());
        let (position, level) = (image.position(), image.feature_level);
        let update = update(image);
        (
            position,
            Bytes::from(frame::encode(level, KIND_UPDATE, META_GROUP, &update)),
        )
    };
    // A big image takes a while to encode; other connections go on meanwhile.
    let (position, frame) = tokio::task::spawn_blocking(encode)
        .await
        .map_err(io::Error::other)?;
    server::write(link, &frame).await?;
    Ok(position)
}
