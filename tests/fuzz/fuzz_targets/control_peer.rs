//! What controllers send each other about Raft, once they have proved who they are: each message is refused, or turns into one
//! of openraft's.
//!
//! Few inputs are a message, so others are good ones in which some bytes were changed.
#![no_main]

use control_api::codec;
use controlplane::raft::wire::{
    Message, Sender, WireAppend, WireAppended, WireLogId, WireSnapshotMeta, WireSnapshotStart,
    WireTransfer, WireVote, WireVoteAnswer, WireVoteRequest,
};
use controlplane::raft::{Membership, Proposal, SnapshotMeta, StoredMembership, TypeConfig};
use libfuzzer_sys::fuzz_target;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft::{Entry, EntryPayload};

fuzz_target!(|input: (Vec<(u16, u8)>, &[u8])| {
    let (damage, bytes) = input;
    read(bytes);
    for mut message in messages() {
        for (position, bits) in &damage {
            let position = usize::from(*position) % message.len();
            message[position] ^= bits;
        }
        read(&message);
    }
});

/// Reads the bytes as each message that a controller takes from another, request or answer.
fn read(bytes: &[u8]) {
    let sender = Sender::new(1, 3);
    if let Ok(vote) = codec::decode::<WireVote>(bytes) {
        let _ = sender.check_term(vote);
    }
    if let Ok(append) = codec::decode::<WireAppend>(bytes)
        && append.check(&sender).is_ok()
        && let Ok(append) = AppendEntriesRequest::<TypeConfig>::try_from(append)
    {
        let first = append.prev_log_id.map_or(0, |previous| previous.index + 1);
        for (entry, expected) in append.entries.iter().zip(first..) {
            assert_eq!(entry.log_id.index, expected, "entries follow each other");
        }
    }
    if let Ok(appended) = codec::decode::<WireAppended>(bytes) {
        let _ = appended.clone().single(3);
        let _ = appended.streamed(3);
    }
    if let Ok(request) = codec::decode::<WireVoteRequest>(bytes) {
        let _ = request.check(&sender);
        let _ = VoteRequest::<TypeConfig>::from(request);
    }
    if let Ok(answer) = codec::decode::<WireVoteAnswer>(bytes) {
        let _ = VoteResponse::<TypeConfig>::from(answer);
    }
    if let Ok(transfer) = codec::decode::<WireTransfer>(bytes) {
        let _ = transfer.check(&sender);
        let _ = TransferLeaderRequest::<TypeConfig>::from(transfer);
    }
    if let Ok(start) = codec::decode::<WireSnapshotStart>(bytes) {
        let _ = start.check(&sender);
        let _ = SnapshotMeta::try_from(start.meta);
    }
}

fn messages() -> [Vec<u8>; 5] {
    let id = |index| WireLogId { term: 3, index };
    let vote = WireVote {
        term: 3,
        node: 1,
        committed: true,
    };
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(Proposal(b"command".to_vec().into())),
        EntryPayload::Membership(membership()),
    ];
    let entries = payloads.into_iter().zip(5..).map(|(payload, index)| Entry {
        log_id: id(index).into(),
        payload,
    });
    let append = AppendEntriesRequest::<TypeConfig> {
        vote: vote.into(),
        prev_log_id: Some(id(4).into()),
        leader_commit: Some(id(4).into()),
        entries: entries.collect(),
    };
    let snapshot = SnapshotMeta {
        last_log_id: Some(id(4).into()),
        last_membership: StoredMembership::new(Some(id(1).into()), membership()),
    };
    let request = VoteRequest::<TypeConfig>::new(vote.into(), Some(id(4).into()));
    let answer = VoteResponse::<TypeConfig>::new(
        openraft::alias::VoteOf::<TypeConfig>::from(vote),
        Some(id(4).into()),
        true,
    );
    [
        codec::encode(&WireAppend::from(append)),
        codec::encode(&WireAppended::Conflict(Some(id(4)))),
        codec::encode(&WireVoteRequest::from(request)),
        codec::encode(&WireVoteAnswer::from(answer)),
        codec::encode(&WireSnapshotStart {
            vote,
            meta: WireSnapshotMeta::from(&snapshot),
            bytes: 1000,
        }),
    ]
}

fn membership() -> Membership {
    Membership::new_with_defaults(vec![[1, 2, 3].into()], [])
}
