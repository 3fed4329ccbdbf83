//! AddRaftVoter: has a controller that waits for it follow, catch up, and vote (KIP-853).

use super::quorum;
use crate::dispatch::{RequestError, respond};
use crate::errors::control_error_code;
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::message::{ControlError, QuorumChange};
use wire::ErrorCode;
use wire::messages::add_raft_voter::{AddRaftVoterRequest, AddRaftVoterResponse};

/// Longer than this no client waits; one that does may ask again, and goes on where this ended.
const TIME_MS_MAX: u64 = 60_000;

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &AddRaftVoterRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let (error_code, message) = match add(shard, request).await {
        Ok(()) => (ErrorCode::None, None),
        Err((code, message)) => (code, Some(message)),
    };
    let response = AddRaftVoterResponse {
        error_code: error_code as i16,
        error_message: message.as_deref(),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

async fn add<I: Io>(
    shard: &Shard<I>,
    request: &AddRaftVoterRequest<'_>,
) -> Result<(), (ErrorCode, String)> {
    quorum::check_cluster(shard, request.cluster_id)?;
    let invalid = |text: &str| (ErrorCode::InvalidRequest, text.to_owned());
    let node = u64::try_from(request.voter_id).map_err(|_| invalid("no such voter id"))?;
    let disk = quorum::disk_of(request.voter_directory_id)
        .map_err(|()| invalid("no controller has this directory id"))?;
    let listener = request.listeners.iter().next();
    let listener = listener.ok_or_else(|| invalid("an endpoint of the controller is missing"))?;
    let address = match listener.host.contains(':') {
        true => format!("[{}]:{}", listener.host, listener.port),
        false => format!("{}:{}", listener.host, listener.port),
    };
    let told = |error: ControlError| (control_error_code(&error), error.to_string());
    let votes = quorum::votes(shard, node, disk).await.map_err(told)?;
    if votes == [true; 2] {
        let text = format!("controller {node} votes already");
        return Err((ErrorCode::DuplicateVoter, text));
    }
    let time_ms = u64::try_from(request.timeout_ms).unwrap_or(0);
    let change = QuorumChange::Add {
        node,
        disk,
        address,
    };
    let changed = quorum::change(shard, change, time_ms.min(TIME_MS_MAX)).await;
    changed.map_err(told)
}
