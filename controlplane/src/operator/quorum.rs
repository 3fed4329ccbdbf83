//! Who votes, for operators: both Raft groups' members as a table, and changes of them from beginning to end.

use super::table::Table;
use super::{Form, print};
use crate::member::disk_text;
use crate::raft::group_name;
use anyhow::bail;
use control_api::client::{ClientError, ControlClient};
use control_api::frame::{META_GROUP, OFFSETS_GROUP};
use control_api::message::{
    ControlError, QUORUM_GROUPS, QuorumChange, QuorumStatus, Request, Response,
};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A leader is there by then if there is to be one.
const ASK_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two looks at whether a change has come further.
const PENDING_PAUSE: Duration = Duration::from_millis(100);

/// A row for each member of each group.
pub async fn quorum(client: &ControlClient, form: Form) -> anyhow::Result<String> {
    let mut table = Table::new(&[
        "group",
        "controller",
        "disk",
        "address",
        "role",
        "last_index",
        "lag",
        "silent_ms",
    ]);
    for group in [META_GROUP, OFFSETS_GROUP] {
        let name = group_name(group);
        let quorum = describe(client, group).await?;
        for member in &quorum.members {
            let leads = quorum.leader == Some(member.node) && member.votes;
            let last = member.last_index;
            table.row([
                json!(name),
                json!(member.node),
                json!(disk_text(member.disk)),
                json!(member.address),
                json!(match (leads, member.votes) {
                    (true, _) => "leader",
                    (false, true) => "voter",
                    (false, false) => "learner",
                }),
                json!(last),
                json!(last.map(|last| quorum.last_index.saturating_sub(last))),
                json!(member.silent_ms),
            ]);
        }
    }
    Ok(print(&table, form).text)
}

/// Changes both groups and waits until it is done. Where one has come to nothing, that one and what was refused is said; the other
/// may have been changed, and the same change can be asked for again.
pub async fn change_quorum(
    client: &ControlClient,
    change: QuorumChange,
    time: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + time;
    check(client, &change).await?;
    for group in QUORUM_GROUPS {
        let name = group_name(group);
        let mut waiting = "no answer yet".to_owned();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{name}: not done in time: {waiting}");
            }
            let change = change.clone();
            let request = Request::ChangeQuorum { group, change };
            match client.call(request, left).await {
                Ok(Response::Done(_)) => break,
                Ok(Response::Pending(why)) => waiting = why,
                Ok(other) => bail!("a controller answered {other:?}"),
                Err(error) => bail!("{name}: {error}"),
            }
            sleep(PENDING_PAUSE).await;
        }
    }
    Ok(())
}

/// What the groups would take for done already, since they cannot tell a repeated request from a mistaken one.
async fn check(client: &ControlClient, change: &QuorumChange) -> anyhow::Result<()> {
    let QuorumChange::Remove { node, .. } = change else {
        return Ok(());
    };
    for group in QUORUM_GROUPS {
        let quorum = describe(client, group).await?;
        if quorum.members.iter().any(|member| member.node == *node) {
            return Ok(());
        }
    }
    bail!("controller {node} is none of the members");
}

/// What the leader of the group says.
async fn describe(client: &ControlClient, group: u8) -> Result<QuorumStatus, ClientError> {
    let by_leader = true;
    let request = Request::DescribeQuorum { group, by_leader };
    match client.call(request, ASK_TIME_MAX).await? {
        Response::Quorum(quorum) => Ok(quorum),
        // Only a controller of another version answers with anything else.
        _ => Err(ControlError::UnsupportedVersion.into()),
    }
}
