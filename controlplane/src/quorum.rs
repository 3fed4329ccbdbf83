//! Who votes: how a new cluster forms, and how a node whose disk was replaced is taken in again.
//!
//! A cluster is formed once, by its node with the lowest id, and only while every configured node answers and none has ever had
//! anything in its log. A node with an empty disk among others that have something therefore never starts a second cluster: it
//! waits. The leader finds it there under a new member id, lets it follow without a vote until it has caught up, and then commits
//! that it votes in place of the disk that is gone, for which the majority of the old voters is needed.
//!
//! From then on the members are what the log says. [`change`] is what an operator may have done to them, [`plan`] decides in which
//! steps, and [`follow`] is what each node does by itself as they change.

pub(crate) mod change;
pub(crate) mod follow;
pub mod plan;

use self::plan::{Members, Plan, Step};
use crate::group::{Group, silence, stored_index};
use crate::levels;
use crate::member::node_of;
use crate::node::Node;
use crate::raft::machine::Machine;
use crate::raft::network::introduce;
use crate::raft::{Membership, group_name};
use control_api::frame::META_GROUP;
use control_api::message::ControlError;
use openraft::{BasicNode, ChangeMembers, RaftMetrics};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

type Metrics = RaftMetrics<crate::raft::TypeConfig>;

const FORM_LOOK: Duration = Duration::from_millis(100);
const MEMBERS_LOOK: Duration = Duration::from_millis(500);
/// Nobody else is asked where a node is to form a cluster alone, so it waits for so long whether it is called: where it was a member
/// before its disk was replaced, the leader does that once the old disk was silent, in the time of an election and two looks.
const ALONE_TIME_MIN: Duration = Duration::from_secs(2);
/// A voter that has not answered for so long may have another disk now.
const VOTER_SILENCE_MAX: Duration = Duration::from_secs(1);
/// Several heartbeats. With what follows it is shorter than a client waits for its answer.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(400);
const ANSWER_LOOK: Duration = Duration::from_millis(10);
const CHANGE_TIME_MAX: Duration = Duration::from_millis(1_000);

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
    if peers.len() == 1 {
        check_alone(node, group)?;
    }
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

/// Whether a node that is to form a cluster alone, and so has nobody to ask, has good reason to think that there is none.
fn check_alone(node: &Node, group: u8) -> Result<(), String> {
    if group != META_GROUP {
        // Decided once for both: where `meta` came from others, so will this.
        let metrics = node.meta.metrics();
        let formed = voters(metrics.membership_config.membership());
        return match formed == BTreeSet::from([node.identity.member]) {
            true => Ok(()),
            false => Err("meta is not formed here".to_owned()),
        };
    }
    if let Some(cluster_id) = node.identity.called_by.get() {
        return Err(format!(
            "cluster {cluster_id} has this node, and will take its empty disk in"
        ));
    }
    match node.now() < ALONE_TIME_MIN {
        true => Err("a cluster that has this node would call it now".to_owned()),
        false => Ok(()),
    }
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
            // A change that its leader did not live to end. What fails now is tried again at the next look.
            let _ = commit(group, ChangeMembers::AddVoterIds(BTreeSet::new())).await;
            continue;
        }
        for voter in membership.voter_ids() {
            keep_voter(node, group, voter, &metrics, &membership).await;
        }
    }
}

/// Where a voter is silent, makes the disk that its node has now the voter.
async fn keep_voter<M: Machine>(
    node: &Node,
    group: &Group<M>,
    voter: u64,
    metrics: &Metrics,
    membership: &Membership,
) {
    let address = membership.get_node(&voter).map(|node| &node.addr);
    let Some(address) = address.filter(|_| !is_heard(metrics, voter)) else {
        return;
    };
    let Ok((found, theirs)) = introduce(&node.identity, address, group.id).await else {
        return;
    };
    if found != voter && node_of(found) == node_of(voter) {
        if let Err(error) = levels::check_joining(node, found, theirs.levels) {
            warn!(group = group_name(group.id), %error, "a controller is not taken in");
            return;
        }
        // What fails now is tried again at the next look.
        let _ = take(
            group,
            plan::admit(&members(group).await, found, address),
            address,
        )
        .await;
    }
}

/// What this node knows of the group's members. To have been heard a moment ago is not enough, as one that has just died would leave
/// a change half done and the group without any leader: all are given the time to answer from now on.
async fn members<M: Machine>(group: &Group<M>) -> Members {
    let asked = Instant::now();
    loop {
        let (metrics, time) = (group.metrics(), asked.elapsed());
        let membership = metrics.membership_config.membership();
        let nodes = membership.nodes();
        let addresses = nodes.map(|(member, node)| (*member, node.addr.clone()));
        let addresses: BTreeMap<u64, String> = addresses.collect();
        let all = addresses.keys().copied();
        let heard: BTreeSet<u64> = all
            .clone()
            .filter(|member| silence(&metrics, *member).is_some_and(|silence| silence < time))
            .collect();
        if heard.len() < addresses.len() && time < ANSWER_TIME_MAX {
            sleep(ANSWER_LOOK).await;
            continue;
        }
        return Members {
            leader: metrics.id,
            voters: membership.voter_ids().collect(),
            heard,
            lag: all.map(|member| (member, lag(&metrics, member))).collect(),
            addresses,
        };
    }
}

/// Takes one step. Answers what is left to wait for; whoever wants the change plans again.
async fn take<M: Machine>(
    group: &Group<M>,
    plan: Plan,
    address: &str,
) -> Result<Option<String>, ControlError> {
    let there = |member| BTreeMap::from([(member, BasicNode::new(address))]);
    let step = plan.map_err(ControlError::InvalidRequest)?;
    let change = match step.clone() {
        Step::Done => return Ok(None),
        Step::Wait(why) => return Ok(Some(why)),
        Step::HandOver(successor) => {
            change::hand_over(group, successor).await;
            return Ok(Some(format!(
                "controller {} is to lead",
                node_of(successor)
            )));
        }
        Step::Forget(members) => ChangeMembers::RemoveNodes(members),
        Step::Follow(member) => ChangeMembers::AddNodes(there(member)),
        Step::Locate(member) => ChangeMembers::SetNodes(there(member)),
        Step::Vote(voters) => ChangeMembers::ReplaceAllVoters(voters),
    };
    commit(group, change).await?;
    let name = group_name(group.id);
    match step {
        Step::Follow(member) => info!(
            group = name,
            node = node_of(member),
            "controller has an empty disk: it follows without a vote"
        ),
        Step::Locate(member) => info!(
            group = name,
            node = node_of(member),
            address,
            "controller has moved"
        ),
        Step::Vote(voters) => {
            let nodes: Vec<u64> = voters.into_iter().map(node_of).collect();
            info!(group = name, ?nodes, "these controllers vote from now on");
        }
        Step::Done | Step::Wait(_) | Step::HandOver(_) | Step::Forget(_) => {}
    }
    Ok(Some(
        "what was committed just now is taking effect".to_owned(),
    ))
}

fn voters(membership: &Membership) -> BTreeSet<u64> {
    membership.voter_ids().collect()
}

/// Commits a change of the members, and of the voters in both steps that Raft takes.
async fn commit<M: Machine>(
    group: &Group<M>,
    change: ChangeMembers<u64, BasicNode>,
) -> Result<(), ControlError> {
    let changing = group.raft.change_membership(change.clone(), false);
    match timeout(CHANGE_TIME_MAX, changing).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            warn!(group = group_name(group.id), %change, %error, "the members are not changed yet");
            Err(ControlError::Unavailable)
        }
        Err(_) => Err(ControlError::Unavailable),
    }
}

/// Whether the leader has heard from a member of late, or is it.
fn is_heard(metrics: &Metrics, member: u64) -> bool {
    let silence = silence(metrics, member);
    silence.is_some_and(|silence| silence < VOTER_SILENCE_MAX)
}

/// How many entries a follower lacks.
fn lag(metrics: &Metrics, follower: u64) -> u64 {
    let stored = stored_index(metrics, follower).map_or(0, |index| index + 1);
    let last = metrics.last_log_index.map_or(0, |index| index + 1);
    last.saturating_sub(stored)
}
