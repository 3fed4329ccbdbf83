//! Which feature level the cluster is at, and what must be so before it is raised.
//!
//! Brokers say what they support when they register, so a command that raises the level is refused where it is applied. Controllers
//! are asked when they are needed: one that does not answer might run an older program, which could not go on. It takes the
//! leader of `meta` to raise the level; the leader of `offsets` follows.

use crate::command::{MetaCommand, OffsetsCommand};
use crate::group::Group;
use crate::member::node_of;
use crate::node::Node;
use crate::raft::machine::Machine;
use crate::raft::network::introduce;
use crate::requests::change;
use control_api::level::{Level, Levels};
use control_api::message::{ControlError, Response};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tracing::info;

const FOLLOW_LOOK: Duration = Duration::from_millis(200);

/// Raises the level, or says why that cannot be done now.
pub(crate) async fn raise(
    node: &Node,
    level: Level,
    validate_only: bool,
) -> Result<Response, ControlError> {
    node.meta.require_leader()?;
    for (member, supported) in all_supported(node).await {
        let whose = format!("controller {}", node_of(member));
        let Some(levels) = supported else {
            return Err(ControlError::UnsupportedLevel(format!(
                "{whose} does not answer, so it is not known which feature levels it supports"
            )));
        };
        if !levels.contain(level) {
            return Err(ControlError::UnsupportedLevel(format!(
                "{whose} supports feature levels {levels}, not {level}"
            )));
        }
    }
    let answer = change(node, MetaCommand::RaiseFeatureLevel(level), validate_only).await?;
    if !validate_only {
        info!(level = level.0, "feature level raised");
    }
    Ok(answer)
}

/// Whether a controller may become a member while the cluster is where it is.
pub(crate) fn check_joining(node: &Node, member: u64, theirs: Levels) -> Result<(), ControlError> {
    let level = node.meta.shared.read(|state| state.feature_level());
    if level == Level::default() || theirs.contain(level) {
        return Ok(());
    }
    Err(ControlError::UnsupportedLevel(format!(
        "the cluster is at feature level {level}, and controller {} supports levels {theirs}",
        node_of(member)
    )))
}

/// The level that a new cluster starts at: the newest that all of its controllers support.
pub(crate) async fn first(node: &Node) -> Level {
    let supported = all_supported(node).await;
    let newest = |levels: Option<Levels>| levels.map_or(Level::FIRST, |levels| levels.max);
    let common = supported.into_values().map(newest).min();
    common.unwrap_or(Level::FIRST)
}

/// What each member of either group supports; `None` for one that does not answer.
async fn all_supported(node: &Node) -> BTreeMap<u64, Option<Levels>> {
    let mut all = members(&node.meta);
    all.extend(members(&node.offsets));
    let asked = all.into_iter().map(|(member, address)| async move {
        if member == node.identity.member {
            return (member, Some(Levels::supported()));
        }
        let answer = introduce(&node.identity, &address, node.meta.id).await;
        // Another disk of the node is another member.
        let answer = answer.ok().filter(|(found, _)| *found == member);
        (member, answer.map(|(_, introduction)| introduction.levels))
    });
    futures::future::join_all(asked).await.into_iter().collect()
}

fn members<M: Machine>(group: &Group<M>) -> BTreeMap<u64, String> {
    let metrics = group.metrics();
    let membership = metrics.membership_config.membership();
    let nodes = membership.nodes();
    nodes
        .map(|(member, node)| (*member, node.addr.clone()))
        .collect()
}

/// While this node leads `offsets`: brings it to the level that `meta` is at.
pub(crate) async fn follow(node: Arc<Node>) {
    loop {
        sleep(FOLLOW_LOOK).await;
        let level = node.meta.shared.read(|state| state.feature_level());
        let behind = node.offsets.shared.read(|state| state.feature_level()) < level;
        if behind && node.offsets.led_term().is_some() {
            // What fails now is tried again at the next look.
            let _ = node
                .offsets
                .propose(&OffsetsCommand::RaiseFeatureLevel(level))
                .await;
        }
    }
}
