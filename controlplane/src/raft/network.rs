//! The calling side of Raft between controllers: framed TCP, pipelined appends.
//!
//! openraft owns one [`Peer`] per group and member. [`super::peer`] answers.

use super::addresses::Addresses;
use super::wire::{
    Sender, WireAppend, WireAppended, WireIntroduction, WireLogId, WireSnapshotStart, WireTransfer,
    WireVote, WireVoteAnswer, WireVoteRequest,
};
use super::{Snapshot, TypeConfig, Vote};
use crate::identity::Identity;
use crate::limits::{PEER_FRAME_BYTES_MAX, PEER_TIME_MAX, SNAPSHOT_BYTES_MAX, SNAPSHOT_PART_BYTES};
use bytes::Bytes;
use control_api::codec::Format;
use control_api::frame::{self, ControlFrameReader, Frame, FrameError, KIND_PEER_FIRST};
use control_api::handshake::HandshakeError;
use control_api::level::ClusterLevel;
use control_api::secured::{Reader, Writer};
use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub(crate) const KIND_INTRODUCE: u8 = KIND_PEER_FIRST;
pub(crate) const KIND_APPEND: u8 = KIND_PEER_FIRST + 1;
/// Turns the connection into a stream of appends and answers.
pub(crate) const KIND_STREAM: u8 = KIND_PEER_FIRST + 2;
pub(crate) const KIND_VOTE: u8 = KIND_PEER_FIRST + 3;
pub(crate) const KIND_PRE_VOTE: u8 = KIND_PEER_FIRST + 4;
pub(crate) const KIND_SNAPSHOT: u8 = KIND_PEER_FIRST + 5;
pub(crate) const KIND_SNAPSHOT_PART: u8 = KIND_PEER_FIRST + 6;
pub(crate) const KIND_TRANSFER: u8 = KIND_PEER_FIRST + 7;
pub(crate) const KIND_ANSWER: u8 = KIND_PEER_FIRST + 8;

/// A peer that cannot be reached is tried again so often, so that it is found soon after its restart.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const CONNECT_TIME_MAX: Duration = Duration::from_millis(500);

type RpcError = RPCError<TypeConfig>;

/// A connection whose other end has proved who it is.
pub(crate) struct ProvenConnection {
    pub reader: ControlFrameReader<Reader>,
    pub writer: Writer,
    /// At which this side speaks.
    pub level: ClusterLevel,
}

impl ProvenConnection {
    pub(crate) async fn send<T: Format>(
        &mut self,
        kind: u8,
        group: u8,
        body: &T,
    ) -> io::Result<()> {
        frame::write(&mut self.writer, self.level.get(), kind, group, body).await
    }
}

/// Makes openraft's connections of one group.
pub(crate) struct Network {
    pub group: u8,
    pub identity: Arc<Identity>,
    pub addresses: Arc<Addresses>,
    /// By member.
    pub acknowledged: HashMap<u64, Arc<Acknowledged>>,
}

/// What a member has acknowledged to this leader in one term. It cannot be taken back: a member that does so has lost its disk's
/// contents, or a part of them.
#[derive(Default)]
pub(crate) struct Acknowledged {
    last: Mutex<(u64, Option<WireLogId>)>,
}

impl Acknowledged {
    fn in_term(&self, term: u64) -> Option<WireLogId> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.1.filter(|_| last.0 == term)
    }

    fn add(&self, term: u64, id: WireLogId) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.1.filter(|_| last.0 == term);
        if known.is_none_or(|known| known.index < id.index) {
            *last = (term, Some(id));
        }
    }

    /// An answer that denies what was acknowledged is not passed on: openraft would take the member for one that has never had it.
    fn check(&self, term: u64, answer: &WireAppended) -> io::Result<()> {
        match (answer, self.in_term(term)) {
            (WireAppended::Conflict(Some(at)), Some(known)) if at.index <= known.index => {
                Err(io::Error::other(format!(
                    "the member has lost entries up to {} that it had acknowledged",
                    known.index
                )))
            }
            _ => Ok(()),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer {
            one_by_one: false,
            target: Arc::new(Target {
                member: target,
                address: node.addr.clone(),
                identity: self.identity.clone(),
                addresses: self.addresses.clone(),
            }),
            group: self.group,
            acknowledged: self.acknowledged.entry(target).or_default().clone(),
            link: None,
            connecting: None,
        }
    }

    /// Each heartbeat is a stream of its own to openraft. As single appends all of them share one connection.
    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer {
            one_by_one: true,
            ..self.new_client(target, node).await
        }
    }
}

pub(crate) struct Peer {
    /// Appends wait for each other's answers, on a connection that stays.
    one_by_one: bool,
    target: Arc<Target>,
    group: u8,
    acknowledged: Arc<Acknowledged>,
    /// Free for the next call. A call that fails or is dropped takes it along.
    link: Option<ProvenConnection>,
    /// On its way for the calls that come, whichever of them still waits.
    connecting: Option<AbortOnDrop<Result<ProvenConnection, HandshakeError>>>,
}

/// The member that a [`Peer`] speaks to.
struct Target {
    /// Nobody else is spoken to, at whichever address.
    member: u64,
    /// Where it was when openraft began to speak to it.
    address: String,
    identity: Arc<Identity>,
    addresses: Arc<Addresses>,
}

impl Target {
    async fn connect(&self, time: Duration) -> Result<ProvenConnection, HandshakeError> {
        let time = time.min(CONNECT_TIME_MAX);
        let mut failed = None;
        for address in self.addresses.of(self.member, &self.address) {
            match self.identity.connect(&address, self.member, time).await {
                Ok((stream, _)) => {
                    let (reader, writer) = stream.split();
                    let reader = ControlFrameReader::new(reader, PEER_FRAME_BYTES_MAX);
                    let level = self.identity.level.clone();
                    return Ok(ProvenConnection {
                        reader,
                        writer,
                        level,
                    });
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.expect("a member has an address"))
    }
}

impl Peer {
    async fn call<Q: Format, A: Format>(
        &mut self,
        kind: u8,
        request: &Q,
        time: Duration,
    ) -> Result<A, RpcError> {
        let group = self.group;
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect_for_all(time).await?,
        };
        let exchange = async {
            link.send(kind, group, request).await?;
            link.reader.next().await?.body(KIND_ANSWER)
        };
        let answer = within(time, exchange).await?;
        self.link = Some(link);
        Ok(answer)
    }

    async fn connect(&self, time: Duration) -> Result<ProvenConnection, RpcError> {
        let connected = self.target.connect(time).await;
        connected.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    /// Goes on when the call is given up: a heartbeat may have less time than a handshake takes, and the next one finds it done.
    async fn connect_for_all(&mut self, time: Duration) -> Result<ProvenConnection, RpcError> {
        let target = &self.target;
        let connecting = self.connecting.get_or_insert_with(|| {
            let target = target.clone();
            let connecting = async move { target.connect(CONNECT_TIME_MAX).await };
            AbortOnDrop(tokio::spawn(connecting))
        });
        let connected = timeout(time, &mut connecting.0).await;
        let connected = connected.map_err(|late| RPCError::Network(NetworkError::new(&late)))?;
        self.connecting = None;
        match connected {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(RPCError::Unreachable(Unreachable::new(&error))),
            Err(panic) => Err(RPCError::Unreachable(Unreachable::new(&panic))),
        }
    }

    async fn ask_for_vote(
        &mut self,
        kind: u8,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let term = request.vote.leader_id.term;
        let request = WireVoteRequest::from(request);
        let answer: WireVoteAnswer = self.call(kind, &request, option.hard_ttl()).await?;
        sane(answer.vote(), term)?;
        Ok(answer.into())
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> Result<Vote, RpcError> {
        let mut link = self.connect(CONNECT_TIME_MAX).await?;
        let bytes = snapshot.snapshot;
        let start = WireSnapshotStart {
            vote: (&vote).into(),
            meta: (&snapshot.meta).into(),
            bytes: bytes.len() as u64,
        };
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            let error = io::Error::other("the snapshot is longer than a node takes");
            return Err(RPCError::Network(NetworkError::new(&error)));
        }
        within(PEER_TIME_MAX, async {
            Ok(link.send(KIND_SNAPSHOT, self.group, &start).await?)
        })
        .await?;
        for part in bytes.chunks(SNAPSHOT_PART_BYTES) {
            let part = frame::encode_raw(KIND_SNAPSHOT_PART, self.group, part);
            within(PEER_TIME_MAX, async {
                Ok(frame::send(&mut link.writer, &part).await?)
            })
            .await?;
        }
        // The peer decodes, writes and flushes it before it answers.
        let time = PEER_TIME_MAX * 12;
        let answer: WireVote =
            within(time, async { link.reader.next().await?.body(KIND_ANSWER) }).await?;
        sane(answer, vote.leader_id.term)?;
        Ok(answer.into())
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let term = request.vote.leader_id.term;
        let previous = request.prev_log_id.as_ref().map(WireLogId::from);
        let mut request = WireAppend::from(request);
        request.acknowledged = self.acknowledged.in_term(term);
        let answer: WireAppended = self.call(KIND_APPEND, &request, option.hard_ttl()).await?;
        let answer = match answer {
            WireAppended::Conflict(None) => WireAppended::Conflict(previous),
            other => other,
        };
        let checked = self.acknowledged.check(term, &answer);
        checked
            .and_then(|()| answer.single(term))
            .map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    /// Appends follow each other without waiting for answers. When openraft ends its side, ours ends cleanly: an error
    /// here would make it retry for ever a follower that merely has nothing to get.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.one_by_one {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let time = option.hard_ttl().max(CONNECT_TIME_MAX);
            let link = match self.connect(time).await {
                Ok(link) => link,
                Err(error) => {
                    // openraft pauses only when it is asked for what to send, and it was not.
                    sleep(RETRY_PAUSE).await;
                    return Err(error);
                }
            };
            let progress = Arc::new(Progress::default());
            let acknowledged = self.acknowledged.clone();
            let sending = send_appends(
                input,
                (link.writer, link.level),
                self.group,
                (progress.clone(), acknowledged.clone()),
            );
            let answers = Answers {
                reader: link.reader,
                progress,
                acknowledged,
                answered: 0,
                _sender: AbortOnDrop(tokio::spawn(sending)),
            };
            let stream = futures::stream::unfold(Some(answers), |answers| async {
                let mut answers = answers?;
                let next = answers.next().await?;
                // Only an ordinary answer has others after it.
                let goes_on = matches!(next, Ok(Ok(_)));
                Some((next, goes_on.then_some(answers)))
            });
            let stream: BoxStream<'s, _> = Box::pin(stream);
            Ok(stream)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_for_vote(KIND_VOTE, request, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_for_vote(KIND_PRE_VOTE, request, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            sent = self.send_snapshot(vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let request = WireTransfer::from(&request);
        let () = self
            .call(KIND_TRANSFER, &request, option.hard_ttl())
            .await?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_PAUSE)))
    }
}

/// An answer must not move this node to a term out of all proportion to the one that it asked in.
fn sane(vote: WireVote, term: u64) -> Result<(), RpcError> {
    let checked = Sender::answering(term).check_term(vote);
    checked.map_err(|error| RPCError::Network(NetworkError::new(&error)))
}

/// How far a stream of appends has come.
#[derive(Default)]
struct Progress {
    sent: AtomicU64,
    /// Of the last append that was sent.
    term: AtomicU64,
    ended: AtomicBool,
}

async fn send_appends<S>(
    mut input: S,
    (mut writer, level): (Writer, ClusterLevel),
    group: u8,
    (progress, acknowledged): (Arc<Progress>, Arc<Acknowledged>),
) where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    while let Some(request) = input.next().await {
        progress
            .term
            .store(request.vote.leader_id.term, Ordering::SeqCst);
        progress.sent.fetch_add(1, Ordering::SeqCst);
        let mut body = WireAppend::from(request);
        body.acknowledged = acknowledged.in_term(body.term());
        if frame::write(&mut writer, level.get(), KIND_STREAM, group, &body)
            .await
            .is_err()
        {
            // Both halves are one stream, which would else stay open for as long as nothing is read.
            let _ = writer.shutdown().await;
            return;
        }
    }
    progress.ended.store(true, Ordering::SeqCst);
    // The peer answers what it has and closes; an error here it will notice itself.
    let _ = writer.shutdown().await;
}

struct Answers {
    reader: ControlFrameReader<Reader>,
    progress: Arc<Progress>,
    acknowledged: Arc<Acknowledged>,
    answered: u64,
    _sender: AbortOnDrop<()>,
}

impl Answers {
    /// `None` when the stream has ended as it should.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        // Silence is fine while nothing is asked. What was asked before the last look is due by the next.
        let mut due = self.answered;
        let frame = loop {
            tokio::select! {
                frame = self.reader.next() => break frame,
                () = sleep(PEER_TIME_MAX) => {}
            }
            if self.answered < due {
                break Err(FrameError::Io(io::ErrorKind::TimedOut.into()));
            }
            due = self.progress.sent.load(Ordering::SeqCst);
        };
        self.answered += 1;
        let answer = match frame {
            Err(FrameError::Closed) if self.progress.ended.load(Ordering::SeqCst) => return None,
            Err(error) => Err(io::Error::other(error)),
            Ok(frame) => self.streamed(frame),
        };
        Some(answer.map_err(|error| RPCError::Network(NetworkError::new(&error))))
    }

    fn streamed(&self, frame: Frame) -> io::Result<StreamAppendResult<TypeConfig>> {
        let answer: WireAppended = frame.body(KIND_ANSWER).map_err(io::Error::other)?;
        let term = self.progress.term.load(Ordering::SeqCst);
        self.acknowledged.check(term, &answer)?;
        if let WireAppended::Up(Some(id)) = &answer {
            self.acknowledged.add(term, *id);
        }
        answer.streamed(term)
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks whoever answers at an address which member it is, and how it stands with a group.
pub(crate) async fn introduce(
    identity: &Identity,
    address: &str,
    group: u8,
) -> io::Result<(u64, WireIntroduction)> {
    let connected = identity.connect(address, 0, CONNECT_TIME_MAX).await;
    let (stream, server) = connected.map_err(io::Error::other)?;
    let (reader, writer) = stream.split();
    let reader = ControlFrameReader::new(reader, PEER_FRAME_BYTES_MAX);
    let mut link = ProvenConnection {
        reader,
        writer,
        level: identity.level.clone(),
    };
    let asking = async {
        link.send(KIND_INTRODUCE, group, &()).await?;
        link.reader.next().await?.body(KIND_ANSWER)
    };
    let answer = timeout(CONNECT_TIME_MAX, asking).await;
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let introduction = answer.map_err(|_| late())?.map_err(io::Error::other)?;
    Ok((server.member, introduction))
}

async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, FrameError>>,
) -> Result<T, RpcError> {
    match timeout(time, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(RPCError::Network(NetworkError::new(&error))),
        Err(elapsed) => Err(RPCError::Network(NetworkError::new(&elapsed))),
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
