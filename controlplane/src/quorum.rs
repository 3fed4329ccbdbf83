//! Who votes: how a new cluster forms, and how a node whose disk was replaced is taken in again.
//!
//! A cluster is formed once, by its node with the lowest id, and only while every configured node answers and none has ever had
//! anything in its log. A node with an empty disk among others that have something therefore never starts a second cluster: it
//! waits. The leader finds it there under a new member id, lets it follow without a vote until it has caught up, and then commits
//! that it votes in place of the disk that is gone, for which the majority of the old voters is needed.

use crate::group::Group;
use crate::member::node_of;
use crate::node::Node;
use crate::raft::machine::Machine;
use crate::raft::network::introduce;
use crate::raft::{Membership, group_name};
use openraft::{BasicNode, ChangeMembers, Instant, RaftMetrics};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

type Metrics = RaftMetrics<crate::raft::TypeConfig>;

const FORM_LOOK: Duration = Duration::from_millis(100);
const MEMBERS_LOOK: Duration = Duration::from_millis(500);
/// A voter that has not answered for so long may have another disk now.
const VOTER_SILENCE_MAX: Duration = Duration::from_secs(1);
/// A follower that is so close behind catches up while its vote is being committed.
const LAG_ENTRIES_MAX: u64 = 64;
const CHANGE_TIME_MAX: Duration = Duration::from_secs(5);

/// Forms the groups that this node is to form; ends once that is done or not its business.
pub(crate) async fn form(node: Arc<Node>) {
    let first = node.config.peers.0.keys().next();
    if first != Some(&node.config.id) {
        return;
    }
    tokio::join!(
        form_group(&node, &node.meta),
        form_group(&node, &node.offsets)
    );
}

async fn form_group<M: Machine>(node: &Node, group: &Group<M>) {
    let mut told = None;
    while group.memory.is_blank() {
        match ask_all(node, group.id).await {
            Ok(members) => {
                // An error means that somebody else was first, or that Raft has ended, which is reported elsewhere.
                let _ = group.raft.initialize(members).await;
            }
            Err(why) if told.as_ref() != Some(&why) => {
                info!(
                    group = group_name(group.id),
                    why, "no new cluster is formed yet"
                );
                told = Some(why);
            }
            Err(_) => {}
        }
        sleep(FORM_LOOK).await;
    }
}

/// The members that a new cluster would have, or why there must not be one now.
async fn ask_all(node: &Node, group: u8) -> Result<BTreeMap<u64, BasicNode>, String> {
    let peers = &node.config.peers.0;
    let mut members = BTreeMap::new();
    for (id, address) in peers {
        let found = match *id == node.config.id {
            true => node.identity.member,
            false => {
                let asked = introduce(&node.identity, address, group).await;
                let (found, theirs) =
                    asked.map_err(|error| format!("controller {id} does not answer: {error}"))?;
                if theirs.peers != *peers {
                    return Err(format!("controller {id} has other peers"));
                }
                if !theirs.blank {
                    return Err(format!(
                        "controller {id} has a cluster, which will take this one in"
                    ));
                }
                found
            }
        };
        if node_of(found) != *id {
            return Err(format!(
                "at {address} is controller {}, not {id}",
                node_of(found)
            ));
        }
        members.insert(found, BasicNode::new(address));
    }
    Ok(members)
}

/// While this node leads a group: keeps its members what they should be.
pub(crate) async fn keep(node: Arc<Node>) {
    tokio::join!(
        keep_group(&node, &node.meta),
        keep_group(&node, &node.offsets)
    );
}

async fn keep_group<M: Machine>(node: &Node, group: &Group<M>) {
    loop {
        sleep(MEMBERS_LOOK).await;
        if group.led_term().is_none() {
            continue;
        }
        let metrics = group.metrics();
        let membership = metrics.membership_config.membership().clone();
        if membership.get_joint_config().len() > 1 {
            // A change that its leader did not live to end.
            change(group, ChangeMembers::AddVoterIds(BTreeSet::new())).await;
            continue;
        }
        for (id, address) in &node.config.peers.0 {
            keep_voter(node, group, *id, address, &metrics, &membership).await;
        }
    }
}

/// Makes the disk that a node has now its voter.
async fn keep_voter<M: Machine>(
    node: &Node,
    group: &Group<M>,
    id: u64,
    address: &str,
    metrics: &Metrics,
    membership: &Membership,
) {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let voter = voters.iter().copied().find(|voter| node_of(*voter) == id);
    if voter.is_none_or(|voter| voter == metrics.id || is_heard(metrics, voter)) {
        return;
    }
    let Ok((found, theirs)) = introduce(&node.identity, address, group.id).await else {
        return;
    };
    if Some(found) == voter || node_of(found) != id || theirs.peers != node.config.peers.0 {
        return;
    }
    for (gone, _) in membership.nodes() {
        if node_of(*gone) == id && *gone != found && !voters.contains(gone) {
            change(group, ChangeMembers::RemoveNodes([*gone].into())).await;
        }
    }
    if membership.get_node(&found).is_none() {
        warn!(
            group = group_name(group.id),
            node = id,
            "controller has an empty disk: it follows without a vote"
        );
        let learner = BTreeMap::from([(found, BasicNode::new(address))]);
        change(group, ChangeMembers::AddNodes(learner)).await;
    } else if has_caught_up(metrics, found) {
        let others = voters.into_iter().filter(|one| Some(*one) != voter);
        let voters: BTreeSet<u64> = others.chain([found]).collect();
        if change(group, ChangeMembers::ReplaceAllVoters(voters)).await {
            info!(
                group = group_name(group.id),
                node = id,
                "controller votes with its new disk"
            );
        }
    }
}

async fn change<M: Machine>(group: &Group<M>, change: ChangeMembers<u64, BasicNode>) -> bool {
    let changing = group.raft.change_membership(change.clone(), false);
    match timeout(CHANGE_TIME_MAX, changing).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            warn!(group = group_name(group.id), %change, %error, "the members are not changed yet");
            false
        }
        Err(_) => false,
    }
}

fn is_heard(metrics: &Metrics, voter: u64) -> bool {
    let heartbeat = metrics.heartbeat.as_ref().and_then(|all| all.get(&voter));
    heartbeat
        .and_then(Option::as_ref)
        .is_some_and(|at| at.elapsed() < VOTER_SILENCE_MAX)
}

fn has_caught_up(metrics: &Metrics, learner: u64) -> bool {
    let matched = metrics
        .replication
        .as_ref()
        .and_then(|all| all.get(&learner));
    let matched = matched.and_then(Option::as_ref).map(|id| id.index);
    matched.is_some_and(|matched| {
        metrics.last_log_index.unwrap_or(0).saturating_sub(matched) <= LAG_ENTRIES_MAX
    })
}
