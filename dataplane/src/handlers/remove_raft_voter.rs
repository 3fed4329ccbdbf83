//! RemoveRaftVoter: takes a controller out, whether it runs or not (KIP-853).

use super::quorum;
use crate::dispatch::{RequestError, respond};
use crate::errors::control_error_code;
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::message::{ControlError, QuorumChange};
use wire::ErrorCode;
use wire::messages::remove_raft_voter::{RemoveRaftVoterRequest, RemoveRaftVoterResponse};

/// For a change that another one is in the way of, and for the leader to hand over where it is the one to go.
const TIME_MS: u64 = 10_000;

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &RemoveRaftVoterRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let (error_code, message) = match remove(shard, request).await {
        Ok(()) => (ErrorCode::None, None),
        Err((code, message)) => (code, Some(message)),
    };
    let response = RemoveRaftVoterResponse {
        error_code: error_code as i16,
        error_message: message.as_deref(),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

async fn remove<I: Io>(
    shard: &Shard<I>,
    request: &RemoveRaftVoterRequest<'_>,
) -> Result<(), (ErrorCode, String)> {
    quorum::check_cluster(shard, request.cluster_id)?;
    let told = |error: ControlError| (control_error_code(&error), error.to_string());
    let unknown = || {
        let text = format!("controller {} has no vote with this disk", request.voter_id);
        (ErrorCode::VoterNotFound, text)
    };
    let node = u64::try_from(request.voter_id).map_err(|_| unknown())?;
    let disk = quorum::disk_of(request.voter_directory_id).map_err(|()| unknown())?;
    let votes = quorum::votes(shard, node, disk).await.map_err(told)?;
    if votes == [false; 2] {
        return Err(unknown());
    }
    let change = QuorumChange::Remove { node, disk };
    quorum::change(shard, change, TIME_MS).await.map_err(told)
}
