//! The metadata stream that each broker follows: a snapshot where it needs one, then every change in order.
//!
//! Any node serves it, from what it has applied. A broker that reads too slowly is dropped and comes back for a snapshot.

use crate::node::Node;
use crate::raft::network::Link;
use crate::server;
use bytes::Bytes;
use control_api::client::KEEP_ALIVE;
use control_api::frame::{self, FrameError, KIND_UPDATE, META_GROUP};
use control_api::message::MetadataUpdate;
use std::io;
use std::sync::Arc;
use tokio::time::timeout;

/// Runs until the connection ends. `from_index` 0 asks for a snapshot first.
pub(crate) async fn stream(
    node: &Arc<Node>,
    from_index: u64,
    mut link: Link,
) -> Result<(), FrameError> {
    let mut applied = node.meta.shared.applied();
    let mut position = from_index;
    match from_index {
        0 => position = send_snapshot(node, &mut link).await?,
        // The broker waits for a sign that this node does more than to take connections.
        _ => keep_alive(position, &mut link).await?,
    }
    loop {
        applied.borrow_and_update();
        let (changes, now_at) = {
            let history = node.meta.shared.history();
            (history.since(position), history.applied())
        };
        match changes {
            None => position = position.max(send_snapshot(node, &mut link).await?),
            Some(frames) if !frames.is_empty() => {
                for frame in &frames {
                    server::write(&mut link, frame).await?;
                }
                position = position.max(now_at);
            }
            Some(_) => {
                position = position.max(now_at);
                wait_or_keep_alive(&mut applied, position, &mut link).await?;
            }
        }
    }
}

async fn wait_or_keep_alive(
    applied: &mut tokio::sync::watch::Receiver<u64>,
    position: u64,
    link: &mut Link,
) -> Result<(), FrameError> {
    tokio::select! {
        changed = timeout(KEEP_ALIVE, applied.changed()) => match changed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::other("the node is being stopped").into()),
            Err(_) => keep_alive(position, link).await,
        },
        // The broker says nothing on this connection, so whatever comes is its end.
        frame = link.reader.next() => match frame {
            Ok(frame) => Err(FrameError::Kind(frame.kind)),
            Err(error) => Err(error),
        },
    }
}

async fn keep_alive(position: u64, link: &mut Link) -> Result<(), FrameError> {
    let update = MetadataUpdate::Delta {
        index: position,
        events: Vec::new(),
    };
    server::write(link, &frame::encode(KIND_UPDATE, META_GROUP, &update)).await
}

/// Answers with the index that the snapshot is at.
async fn send_snapshot(node: &Arc<Node>, link: &mut Link) -> Result<u64, FrameError> {
    // Each may be as long as a frame, and as many as there are places.
    let place = node.images.acquire().await;
    let _place = place.expect("the semaphore is never closed");
    let node = node.clone();
    let encode = move || {
        let image = node.meta.shared.read(|state| state.image().clone());
        let index = image.index;
        let update = MetadataUpdate::Snapshot(image);
        (
            index,
            Bytes::from(frame::encode(KIND_UPDATE, META_GROUP, &update)),
        )
    };
    // A big image takes a while to encode; other connections go on meanwhile.
    let (index, frame) = tokio::task::spawn_blocking(encode)
        .await
        .map_err(io::Error::other)?;
    server::write(link, &frame).await?;
    Ok(index)
}
