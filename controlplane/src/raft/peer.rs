//! The answering side of Raft between controllers.
//!
//! The server hands over a connection whose other end has proved which member it is. What comes in may be garbage all the same:
//! then the connection is closed, nothing else.

use super::machine::Machine;
use super::network::{
    KIND_ANSWER, KIND_APPEND, KIND_INTRODUCE, KIND_PRE_VOTE, KIND_SNAPSHOT, KIND_SNAPSHOT_PART,
    KIND_STREAM, KIND_TRANSFER, KIND_VOTE, ProvenConnection,
};
use super::wire::{
    Message, Sender, WireAppend, WireAppended, WireSnapshotStart, WireTransfer, WireVote,
    WireVoteAnswer, WireVoteRequest,
};
use super::{Raft, Snapshot, SnapshotMeta};
use crate::group::Group;
use crate::limits::{PEER_TIME_MAX, SNAPSHOT_BYTES_MAX, WRITE_TIME_MAX};
use bytes::Bytes;
use control_api::codec::Format;
use control_api::frame::{Frame, FrameError};
use futures::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest};
use std::io;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// Answers one frame and gives the connection back, unless the frame turned it into a stream that has now ended.
///
/// `member`: who is at the other end.
pub(crate) async fn answer<M: Machine>(
    to: &Group<M>,
    member: u64,
    frame: Frame,
    mut link: ProvenConnection,
) -> Result<Option<ProvenConnection>, FrameError> {
    let (group, raft) = (frame.group, &to.raft);
    let sender = || Sender::new(member, to.metrics().current_term);
    match frame.kind {
        KIND_INTRODUCE => {
            let introduction = to.introduction();
            send(&mut link, group, &introduction).await?;
        }
        KIND_APPEND => {
            let request: WireAppend = checked(frame.body(KIND_APPEND)?, sender())?;
            to.memory.stand_by(&request)?;
            let answer = match raft.append_entries(request.try_into()?).await {
                Ok(response) => WireAppended::from(response),
                Err(_) => WireAppended::Failed,
            };
            send(&mut link, group, &answer).await?;
        }
        KIND_VOTE | KIND_PRE_VOTE => {
            let request: WireVoteRequest = checked(frame.body(frame.kind)?, sender())?;
            let answer = match frame.kind {
                KIND_VOTE => raft.vote(request.into()).await,
                _ => raft.pre_vote(request.into()).await,
            };
            let answer = WireVoteAnswer::from(answer.map_err(io::Error::other)?);
            send(&mut link, group, &answer).await?;
        }
        KIND_SNAPSHOT => {
            let start: WireSnapshotStart = checked(frame.body(KIND_SNAPSHOT)?, sender())?;
            // A snapshot is held in memory whole, so only one comes at a time; the leader tries again.
            let busy = || io::Error::other("another snapshot is on its way");
            let _place = to.installing.try_acquire().map_err(|_| busy())?;
            let vote = install(raft, start, &mut link).await?;
            send(&mut link, group, &vote).await?;
        }
        KIND_TRANSFER => {
            let request: WireTransfer = checked(frame.body(KIND_TRANSFER)?, sender())?;
            let request = TransferLeaderRequest::from(request);
            let handled = raft.handle_transfer_leader(request).await;
            handled
                .map_err(io::Error::other)?
                .map_err(io::Error::other)?;
            send(&mut link, group, &()).await?;
        }
        KIND_STREAM => {
            stream(to, member, frame, link).await?;
            return Ok(None);
        }
        kind => return Err(FrameError::Kind(kind)),
    }
    Ok(Some(link))
}

fn checked<T: Message>(message: T, sender: Sender) -> io::Result<T> {
    message.check(&sender)?;
    Ok(message)
}

async fn send<T: Format>(
    link: &mut ProvenConnection,
    group: u8,
    answer: &T,
) -> Result<(), FrameError> {
    let sent = timeout(WRITE_TIME_MAX, link.send(KIND_ANSWER, group, answer)).await;
    Ok(sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
}

/// Appends come in until the leader closes its side; each is answered in order.
async fn stream<M: Machine>(
    to: &Group<M>,
    member: u64,
    first: Frame,
    link: ProvenConnection,
) -> Result<(), FrameError> {
    let group = first.group;
    let ProvenConnection {
        reader,
        mut writer,
        level,
    } = link;
    let (metrics, memory) = (to.raft.metrics(), to.memory.clone());
    let appends = futures::stream::unfold((Some(first), reader), move |(first, mut reader)| {
        let sender = Sender::new(member, metrics.borrow_watched().current_term);
        let memory = memory.clone();
        async move {
            let frame = match first {
                Some(first) => first,
                None => reader.next().await.ok()?,
            };
            let request: WireAppend = checked(frame.body(KIND_STREAM).ok()?, sender).ok()?;
            memory.stand_by(&request).ok()?;
            Some((request.try_into().ok()?, (None, reader)))
        }
    });
    let appends: std::pin::Pin<Box<dyn Stream<Item = AppendEntriesRequest<_>> + Send>> =
        Box::pin(appends);
    let mut answers = Box::pin(to.raft.stream_append(appends));
    while let Some(answer) = answers.next().await {
        let answer = answer.map_or(WireAppended::Failed, WireAppended::from);
        let write =
            control_api::frame::write(&mut writer, level.get(), KIND_ANSWER, group, &answer);
        let written = timeout(WRITE_TIME_MAX, write).await;
        written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    // The leader must see an end, not a cut.
    let closed = timeout(WRITE_TIME_MAX, writer.shutdown()).await;
    Ok(closed.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
}

async fn install<M: Machine>(
    raft: &Raft<M>,
    start: WireSnapshotStart,
    link: &mut ProvenConnection,
) -> Result<WireVote, FrameError> {
    let total = usize::try_from(start.bytes).unwrap_or(usize::MAX);
    if total > SNAPSHOT_BYTES_MAX {
        return Err(FrameError::Length {
            length: total,
            limit: SNAPSHOT_BYTES_MAX,
        });
    }
    // Grows with what arrives, not with what was announced.
    let mut bytes = Vec::new();
    while bytes.len() < total {
        let part = timeout(PEER_TIME_MAX, link.reader.next()).await;
        let part = part.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if part.kind != KIND_SNAPSHOT_PART
            || part.body.is_empty()
            || bytes.len() + part.body.len() > total
        {
            return Err(FrameError::Kind(part.kind));
        }
        bytes.extend_from_slice(&part.body);
    }
    let meta = SnapshotMeta::try_from(start.meta)?;
    let snapshot = Snapshot {
        meta,
        snapshot: Bytes::from(bytes),
    };
    let installed = raft
        .install_full_snapshot(start.vote.into(), snapshot)
        .await;
    Ok((&installed.map_err(io::Error::other)?.vote).into())
}
