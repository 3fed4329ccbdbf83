//! One of each message between controllers, with something in every field.

use super::*;
use crate::raft::log::LogStore;
use control_api::level::Level;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

const ID: WireLogId = WireLogId { term: 3, index: 20 };
const EARLIER: WireLogId = WireLogId { term: 2, index: 19 };
const VOTE: WireVote = WireVote {
    term: 3,
    node: 1,
    committed: true,
};

pub(crate) fn votes() -> Vec<WireVote> {
    vec![VOTE]
}

fn membership() -> WireMembership {
    WireMembership {
        configs: vec![[1, 2].into(), [1, 2, 3].into()],
        nodes: [(1, "a:1"), (2, "b:2"), (3, "c:3")]
            .map(|(id, address)| (id, address.to_owned()))
            .into(),
    }
}

pub(crate) fn memberships() -> Vec<WireMembership> {
    vec![membership()]
}

pub(crate) fn appends() -> Vec<WireAppend> {
    let payloads = [
        WirePayload::Blank,
        WirePayload::Command(b"command".to_vec()),
        WirePayload::Membership(membership()),
    ];
    let entry = |(index, payload)| WireEntry {
        id: WireLogId { term: 3, index },
        payload,
    };
    vec![WireAppend {
        vote: VOTE,
        acknowledged: Some(EARLIER),
        previous: Some(EARLIER),
        committed: Some(EARLIER),
        entries: (20..).zip(payloads).map(entry).collect(),
    }]
}

pub(crate) fn appended() -> Vec<WireAppended> {
    vec![
        WireAppended::All,
        WireAppended::Up(Some(ID)),
        WireAppended::Conflict(Some(EARLIER)),
        WireAppended::HigherVote(VOTE),
        WireAppended::Failed,
    ]
}

pub(crate) fn vote_requests() -> Vec<WireVoteRequest> {
    vec![WireVoteRequest {
        vote: VOTE,
        last: Some(ID),
        leadership_transfer: true,
    }]
}

pub(crate) fn vote_answers() -> Vec<WireVoteAnswer> {
    vec![WireVoteAnswer {
        vote: VOTE,
        last: Some(ID),
        granted: true,
    }]
}

pub(crate) fn transfers() -> Vec<WireTransfer> {
    vec![WireTransfer {
        from: VOTE,
        to: 2,
        last: Some(ID),
    }]
}

pub(crate) fn introductions() -> Vec<WireIntroduction> {
    vec![WireIntroduction {
        peers: [(1, "a:1".to_owned())].into(),
        levels: Levels {
            min: Level(1),
            max: Level(1),
        },
        blank: true,
    }]
}

pub(crate) fn snapshot_meta() -> SnapshotMeta {
    let wire = WireSnapshotMeta {
        last: Some(ID),
        membership_at: Some(EARLIER),
        membership: membership(),
    };
    wire.try_into().expect("a membership with voters")
}

pub(crate) fn snapshot_starts() -> Vec<WireSnapshotStart> {
    vec![WireSnapshotStart {
        vote: VOTE,
        meta: (&snapshot_meta()).into(),
        bytes: 1 << 20,
    }]
}

/// Writes a log as a node does: votes, a membership, commands, and what was committed.
pub(crate) async fn fill(mut log: LogStore, commands: Vec<Vec<u8>>) {
    log.save_vote(&VOTE.into()).await.expect("the log works");
    let membership = WirePayload::Membership(membership());
    let commands = commands.into_iter().map(WirePayload::Command);
    let payloads = [WirePayload::Blank, membership].into_iter().chain(commands);
    let entry = |(index, payload)| {
        let id = WireLogId { term: 3, index };
        WireEntry { id, payload }.into_entry().expect("it is sound")
    };
    let entries: Vec<Entry> = (0..).zip(payloads).map(entry).collect();
    let last = entries.last().map(|entry| entry.log_id);
    let (sender, receiver) = TypeConfig::oneshot();
    let appended = log.append(entries, IOFlushed::signal(sender)).await;
    appended.expect("the log works");
    receiver
        .await
        .expect("it is answered")
        .expect("the log works");
    log.save_committed(last).await.expect("the log works");
}
