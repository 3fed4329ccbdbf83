//! What controllers send each other and keep on disk about Raft itself, as rkyv types.
//!
//! openraft's own types cannot be archived, so each has a twin here. What comes in may be garbage: turning it into
//! openraft's types can fail but not panic.

use super::{
    Entry, EntryPayload, LogId, Membership, Proposal, SnapshotMeta, StoredMembership, Vote,
};
use crate::limits::{INDEX_MAX, TERM_STEP_MAX};
use control_api::formats;
use control_api::level::Levels;
use openraft::BasicNode;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::vote::leader_id_std;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

type TypeConfig = super::TypeConfig;

#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireLogId {
    pub term: u64,
    pub index: u64,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireVote {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct WireMembership {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, String>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum WirePayload {
    Blank,
    Command(Vec<u8>),
    Membership(WireMembership),
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct WireEntry {
    pub id: WireLogId,
    pub payload: WirePayload,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct WireAppend {
    vote: WireVote,
    /// What the leader has seen its follower acknowledge in this term. A follower that lacks it has lost what it stored.
    pub acknowledged: Option<WireLogId>,
    previous: Option<WireLogId>,
    committed: Option<WireLogId>,
    entries: Vec<WireEntry>,
}

/// The answer to an append, alone or in a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum WireAppended {
    /// Everything was stored.
    All,
    /// Stored up to here.
    Up(Option<WireLogId>),
    /// What was to come before is not there.
    Conflict(Option<WireLogId>),
    HigherVote(WireVote),
    /// The node cannot serve this group now.
    Failed,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct WireVoteRequest {
    vote: WireVote,
    last: Option<WireLogId>,
    leadership_transfer: bool,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct WireVoteAnswer {
    vote: WireVote,
    last: Option<WireLogId>,
    granted: bool,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct WireTransfer {
    from: WireVote,
    to: u64,
    last: Option<WireLogId>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct WireSnapshotMeta {
    last: Option<WireLogId>,
    membership_at: Option<WireLogId>,
    membership: WireMembership,
}

/// What a controller says of one Raft group when it is asked who it is.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WireIntroduction {
    /// The nodes that it was configured with.
    pub peers: BTreeMap<u64, String>,
    /// What its program reads and writes.
    pub levels: Levels,
    /// It has never had anything in its log.
    pub blank: bool,
}

/// Announces a snapshot; its bytes follow in parts.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct WireSnapshotStart {
    pub vote: WireVote,
    pub meta: WireSnapshotMeta,
    pub bytes: u64,
}

formats! { struct WireVote: 192 }
formats! { struct WireMembership: 193 }
formats! { struct WireAppend: 194 }
formats! { struct WireVoteRequest: 195 }
formats! { struct WireVoteAnswer: 196 }
formats! { struct WireTransfer: 197 }
formats! { struct WireIntroduction: 198 }
formats! { struct WireSnapshotStart: 199 }
formats! {
    enum WireAppended {
        200 All,
        201 Up(Option<WireLogId>),
        202 Conflict(Option<WireLogId>),
        203 HigherVote(WireVote),
        204 Failed,
    }
}

/// Who sent a message, and which terms it may speak of: whoever is let in may be faulty, and a term cannot be taken back.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    member: u64,
    term_max: u64,
}

impl Sender {
    /// `term`: the receiver's own.
    pub fn new(member: u64, term: u64) -> Self {
        Sender {
            member,
            term_max: term.saturating_add(TERM_STEP_MAX),
        }
    }

    /// Who answers may name anybody's vote. `term`: the one that was asked in.
    pub fn answering(term: u64) -> Self {
        Sender::new(0, term)
    }

    pub fn check_term(&self, vote: WireVote) -> io::Result<()> {
        match vote.term <= self.term_max {
            true => Ok(()),
            false => Err(io::Error::other("a term far beyond the current one")),
        }
    }

    /// A vote is its sender's own, and so are the entries that go with it: none is of a later term.
    fn check(&self, vote: WireVote, ids: impl IntoIterator<Item = WireLogId>) -> io::Result<()> {
        self.check_term(vote)?;
        if vote.node != self.member {
            return Err(io::Error::other("a vote of another member than its sender"));
        }
        let sound = |id: WireLogId| id.term <= vote.term && id.index <= INDEX_MAX;
        match ids.into_iter().all(sound) {
            true => Ok(()),
            false => Err(io::Error::other(
                "a log beyond its sender's term or any length",
            )),
        }
    }
}

/// What another controller asks; it is checked before it is believed.
pub trait Message {
    fn check(&self, sender: &Sender) -> io::Result<()>;
}

impl Message for WireAppend {
    fn check(&self, sender: &Sender) -> io::Result<()> {
        let ends = [self.previous, self.committed, self.acknowledged];
        let ends = ends.into_iter().flatten();
        let entries = self.entries.iter().map(|entry| entry.id);
        sender.check(self.vote, ends.chain(entries))
    }
}

impl Message for WireVoteRequest {
    fn check(&self, sender: &Sender) -> io::Result<()> {
        sender.check(self.vote, self.last)
    }
}

impl Message for WireTransfer {
    fn check(&self, sender: &Sender) -> io::Result<()> {
        sender.check(self.from, self.last)
    }
}

impl Message for WireSnapshotStart {
    fn check(&self, sender: &Sender) -> io::Result<()> {
        let ends = [self.meta.last, self.meta.membership_at];
        sender.check(self.vote, ends.into_iter().flatten())
    }
}

impl From<&LogId> for WireLogId {
    fn from(id: &LogId) -> Self {
        WireLogId {
            term: id.committed_leader_id().term,
            index: id.index,
        }
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        openraft::LogId::new(leader_id_std::CommittedLeaderId::new(id.term), id.index)
    }
}

impl From<&Vote> for WireVote {
    fn from(vote: &Vote) -> Self {
        WireVote {
            term: vote.leader_id.term,
            node: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}

impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        openraft::Vote {
            leader_id: leader_id_std::LeaderId {
                term: vote.term,
                voted_for: vote.node,
            },
            committed: vote.committed,
        }
    }
}

impl From<&Membership> for WireMembership {
    fn from(membership: &Membership) -> Self {
        let configs = membership.get_joint_config().iter();
        let nodes = membership
            .nodes()
            .map(|(id, node)| (*id, node.addr.clone()));
        WireMembership {
            configs: configs
                .map(|members| members.iter().copied().collect())
                .collect(),
            nodes: nodes.collect(),
        }
    }
}

impl TryFrom<WireMembership> for Membership {
    type Error = io::Error;

    fn try_from(wire: WireMembership) -> io::Result<Self> {
        let nodes = wire
            .nodes
            .into_iter()
            .map(|(id, address)| (id, BasicNode::new(address)));
        let nodes: BTreeMap<u64, BasicNode> = nodes.collect();
        Membership::new(wire.configs, nodes).map_err(io::Error::other)
    }
}

impl WireMembership {
    /// What an entry says that holds this. Without voters any node would be a majority; only a node that has not applied a
    /// membership yet has none.
    pub fn into_payload(self) -> io::Result<EntryPayload> {
        if self.configs.is_empty() {
            return Err(io::Error::other("a membership without voters"));
        }
        self.try_into().map(EntryPayload::Membership)
    }
}

impl From<Entry> for WireEntry {
    fn from(entry: Entry) -> Self {
        WireEntry {
            id: (&entry.log_id).into(),
            payload: match entry.payload {
                EntryPayload::Blank => WirePayload::Blank,
                EntryPayload::Normal(command) => WirePayload::Command(command.0.into()),
                EntryPayload::Membership(membership) => {
                    WirePayload::Membership((&membership).into())
                }
            },
        }
    }
}

impl WireEntry {
    fn into_entry(self) -> io::Result<Entry> {
        let payload = match self.payload {
            WirePayload::Blank => EntryPayload::Blank,
            WirePayload::Command(bytes) => EntryPayload::Normal(Proposal(bytes.into())),
            WirePayload::Membership(membership) => membership.into_payload()?,
        };
        let log_id = self.id.into();
        Ok(openraft::Entry { log_id, payload })
    }
}

impl From<AppendEntriesRequest<TypeConfig>> for WireAppend {
    fn from(request: AppendEntriesRequest<TypeConfig>) -> Self {
        WireAppend {
            vote: (&request.vote).into(),
            acknowledged: None,
            previous: request.prev_log_id.as_ref().map(Into::into),
            committed: request.leader_commit.as_ref().map(Into::into),
            entries: request.entries.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<WireAppend> for AppendEntriesRequest<TypeConfig> {
    type Error = io::Error;

    fn try_from(wire: WireAppend) -> io::Result<Self> {
        // openraft takes it for granted that entries follow each other.
        let next = wire
            .previous
            .map_or(0, |previous| previous.index.saturating_add(1));
        let indexes = wire.entries.iter().map(|entry| entry.id.index);
        if !indexes
            .zip(next..)
            .all(|(index, expected)| index == expected)
        {
            return Err(io::Error::other("an append with a gap"));
        }
        let entries = wire.entries.into_iter().map(WireEntry::into_entry);
        Ok(AppendEntriesRequest {
            vote: wire.vote.into(),
            prev_log_id: wire.previous.map(Into::into),
            leader_commit: wire.committed.map(Into::into),
            entries: entries.collect::<io::Result<_>>()?,
        })
    }
}

impl From<AppendEntriesResponse<TypeConfig>> for WireAppended {
    fn from(response: AppendEntriesResponse<TypeConfig>) -> Self {
        match response {
            AppendEntriesResponse::Success => WireAppended::All,
            AppendEntriesResponse::PartialSuccess(last) => {
                WireAppended::Up(last.as_ref().map(Into::into))
            }
            AppendEntriesResponse::Conflict => WireAppended::Conflict(None),
            AppendEntriesResponse::HigherVote(vote) => WireAppended::HigherVote((&vote).into()),
        }
    }
}

impl From<StreamAppendResult<TypeConfig>> for WireAppended {
    fn from(result: StreamAppendResult<TypeConfig>) -> Self {
        match result {
            Ok(last) => WireAppended::Up(last.as_ref().map(Into::into)),
            Err(StreamAppendError::Conflict(at)) => WireAppended::Conflict(Some((&at).into())),
            Err(StreamAppendError::HigherVote(vote)) => WireAppended::HigherVote((&vote).into()),
        }
    }
}

impl WireAppend {
    pub fn term(&self) -> u64 {
        self.vote.term
    }
}

impl WireAppended {
    fn check(&self, term: u64) -> io::Result<()> {
        match self {
            WireAppended::HigherVote(vote) => Sender::answering(term).check_term(*vote),
            WireAppended::All
            | WireAppended::Up(_)
            | WireAppended::Conflict(_)
            | WireAppended::Failed => Ok(()),
        }
    }

    /// As the answer to a single append of this term.
    pub fn single(self, term: u64) -> io::Result<AppendEntriesResponse<TypeConfig>> {
        self.check(term)?;
        Ok(match self {
            WireAppended::All => AppendEntriesResponse::Success,
            WireAppended::Up(last) => AppendEntriesResponse::PartialSuccess(last.map(Into::into)),
            WireAppended::Conflict(_) => AppendEntriesResponse::Conflict,
            WireAppended::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
            WireAppended::Failed => return Err(io::Error::other("the peer failed to append")),
        })
    }

    /// As one answer in a stream, to appends of this term.
    pub fn streamed(self, term: u64) -> io::Result<StreamAppendResult<TypeConfig>> {
        self.check(term)?;
        match self {
            WireAppended::Up(last) => Ok(Ok(last.map(Into::into))),
            WireAppended::Conflict(Some(at)) => Ok(Err(StreamAppendError::Conflict(at.into()))),
            WireAppended::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote.into()))),
            WireAppended::Failed => Err(io::Error::other("the peer failed to append")),
            WireAppended::All | WireAppended::Conflict(None) => Err(io::Error::other(
                "an answer that does not belong in a stream",
            )),
        }
    }
}

impl From<VoteRequest<TypeConfig>> for WireVoteRequest {
    fn from(request: VoteRequest<TypeConfig>) -> Self {
        WireVoteRequest {
            vote: (&request.vote).into(),
            last: request.last_log_id.as_ref().map(Into::into),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl From<WireVoteRequest> for VoteRequest<TypeConfig> {
    fn from(wire: WireVoteRequest) -> Self {
        let mut request = VoteRequest::new(wire.vote.into(), wire.last.map(Into::into));
        request.leadership_transfer = wire.leadership_transfer;
        request
    }
}

impl WireVoteAnswer {
    pub fn vote(&self) -> WireVote {
        self.vote
    }
}

impl From<VoteResponse<TypeConfig>> for WireVoteAnswer {
    fn from(response: VoteResponse<TypeConfig>) -> Self {
        WireVoteAnswer {
            vote: (&response.vote).into(),
            last: response.last_log_id.as_ref().map(Into::into),
            granted: response.vote_granted,
        }
    }
}

impl From<WireVoteAnswer> for VoteResponse<TypeConfig> {
    fn from(wire: WireVoteAnswer) -> Self {
        VoteResponse::new(
            Vote::from(wire.vote),
            wire.last.map(Into::into),
            wire.granted,
        )
    }
}

impl From<&TransferLeaderRequest<TypeConfig>> for WireTransfer {
    fn from(request: &TransferLeaderRequest<TypeConfig>) -> Self {
        WireTransfer {
            from: request.from_leader().into(),
            to: *request.to_node_id(),
            last: request.last_log_id().map(Into::into),
        }
    }
}

impl From<WireTransfer> for TransferLeaderRequest<TypeConfig> {
    fn from(wire: WireTransfer) -> Self {
        TransferLeaderRequest::new(wire.from.into(), wire.to, wire.last.map(Into::into))
    }
}

impl From<&SnapshotMeta> for WireSnapshotMeta {
    fn from(meta: &SnapshotMeta) -> Self {
        WireSnapshotMeta {
            last: meta.last_log_id.as_ref().map(Into::into),
            membership_at: meta.last_membership.log_id().as_ref().map(Into::into),
            membership: meta.last_membership.membership().into(),
        }
    }
}

impl TryFrom<WireSnapshotMeta> for SnapshotMeta {
    type Error = io::Error;

    fn try_from(wire: WireSnapshotMeta) -> io::Result<Self> {
        let membership = wire.membership.try_into()?;
        let at = wire.membership_at.map(Into::into);
        Ok(SnapshotMeta {
            last_log_id: wire.last.map(Into::into),
            last_membership: StoredMembership::new(at, membership),
        })
    }
}

/// One of each, for the golden files.
#[cfg(test)]
pub(crate) mod samples;
