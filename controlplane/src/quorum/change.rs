//! What an operator may have done to the members of a group: one taken in, taken out, moved, or made the leader.
//!
//! The group's leader does it, in steps that may each be repeated, so that whoever asks can ask again until all is done. Each group
//! is changed by itself. A change that would leave voters of which no majority answers is refused, since nothing could be
//! committed after it.

use super::{admit, check_majority, commit, is_heard, lag, voters};
use crate::config::{MEMBERS_MAX, is_address};
use crate::group::Group;
use crate::limits::HOST_BYTES_MAX;
use crate::member::{NODE_MAX, disk_of, disk_text, node_of};
use crate::node::Node;
use crate::raft::machine::Machine;
use crate::raft::network::introduce;
use crate::raft::{Membership, group_name};
use control_api::message::{ControlError, QuorumChange, Response};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{BasicNode, ChangeMembers};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::timeout;
use tracing::info;

/// A host's name and a port.
const ADDRESS_BYTES_MAX: usize = HOST_BYTES_MAX + 6;
const TRANSFER_TIME_MAX: Duration = Duration::from_millis(500);
/// Whoever is to lead must first store what it lacks, while the leader proposes nothing.
const TRANSFER_LAG_MAX: u64 = 1_000;

pub(crate) async fn change<M: Machine>(
    node: &Node,
    group: &Group<M>,
    change: QuorumChange,
) -> Result<Response, ControlError> {
    group.require_leader()?;
    let metrics = group.metrics();
    let membership = metrics.membership_config.membership();
    if membership.get_joint_config().len() > 1 {
        let text = "another change of the voters is being ended".to_owned();
        return Ok(Response::Pending(text));
    }
    let pending = match change {
        QuorumChange::Add {
            node: id,
            disk,
            address,
        } => add(node, group, (id, disk), &address).await?,
        QuorumChange::Remove { node: id, disk } => remove(group, (id, disk)).await?,
        QuorumChange::Move {
            node: id,
            disk,
            address,
        } => move_member(node, group, (id, disk), &address).await?,
        QuorumChange::Transfer { node: id } => transfer(group, id).await?,
    };
    Ok(match pending {
        Some(text) => Response::Pending(text),
        None => Response::Done(vec![Ok(())]),
    })
}

async fn add<M: Machine>(
    node: &Node,
    group: &Group<M>,
    (id, disk): (u64, Option<u64>),
    address: &str,
) -> Result<Option<String>, ControlError> {
    check_address(node, id, address)?;
    let (found, _) = introduce(&node.identity, address, group.id)
        .await
        .map_err(|error| refused(format!("controller {id} at {address}: {error}")))?;
    if node_of(found) != id {
        return Err(refused(format!(
            "at {address} is controller {}, not {id}",
            node_of(found)
        )));
    }
    if let Some(disk) = disk.filter(|disk| *disk != disk_of(found)) {
        return Err(refused(format!(
            "controller {id} has disk {}, not {}",
            disk_text(disk_of(found)),
            disk_text(disk)
        )));
    }
    let metrics = group.metrics();
    let voters = voters(metrics.membership_config.membership());
    let own = |voter: &&u64| node_of(**voter) == id;
    match voters.iter().find(own) {
        Some(voter) if *voter != found && is_heard(&metrics, *voter) => {
            return Err(refused(format!(
                "controller {id} votes already, with disk {}",
                disk_text(disk_of(*voter))
            )));
        }
        Some(_) => {}
        None if voters.len() >= MEMBERS_MAX => {
            return Err(refused(format!(
                "{} controllers vote already: remove one first",
                voters.len()
            )));
        }
        None => {}
    }
    admit(group, found, address).await
}

async fn remove<M: Machine>(
    group: &Group<M>,
    wanted: (u64, Option<u64>),
) -> Result<Option<String>, ControlError> {
    let metrics = group.metrics();
    let membership = metrics.membership_config.membership();
    let gone = members(membership, wanted);
    let (voters, learners): (BTreeSet<u64>, BTreeSet<u64>) = {
        let voters = voters(membership);
        gone.into_iter().partition(|one| voters.contains(one))
    };
    if !learners.is_empty() {
        commit(group, ChangeMembers::RemoveNodes(learners)).await?;
    }
    if voters.is_empty() {
        return Ok(None);
    }
    let rest = super::voters(membership);
    let rest: BTreeSet<u64> = rest.difference(&voters).copied().collect();
    if rest.is_empty() {
        return Err(refused("it is the only controller that votes".to_owned()));
    }
    check_majority(group, &rest).await?;
    if voters.contains(&metrics.id) {
        // Another one leads from then on, and is asked next.
        let behind = |voter: &u64| (lag(&metrics, *voter), *voter);
        let live = rest.into_iter().filter(|voter| is_heard(&metrics, *voter));
        let Some(successor) = live.min_by_key(behind) else {
            return Err(ControlError::Unavailable);
        };
        hand_over(group, successor).await;
        return Err(ControlError::NotLeader {
            leader: address_of(membership, successor),
        });
    }
    commit(group, ChangeMembers::RemoveVoters(voters)).await?;
    info!(
        group = group_name(group.id),
        node = wanted.0,
        "controller was taken out"
    );
    Ok(None)
}

async fn move_member<M: Machine>(
    node: &Node,
    group: &Group<M>,
    (id, disk): (u64, u64),
    address: &str,
) -> Result<Option<String>, ControlError> {
    check_address(node, id, address)?;
    let metrics = group.metrics();
    let membership = metrics.membership_config.membership();
    let Some(moved) = members(membership, (id, Some(disk))).pop_first() else {
        return Err(unknown(id));
    };
    if address_of(membership, moved).as_deref() != Some(address) {
        let there = BTreeMap::from([(moved, BasicNode::new(address))]);
        commit(group, ChangeMembers::SetNodes(there)).await?;
        info!(
            group = group_name(group.id),
            node = id,
            address,
            "controller has moved"
        );
    }
    Ok(None)
}

async fn transfer<M: Machine>(group: &Group<M>, id: u64) -> Result<Option<String>, ControlError> {
    let metrics = group.metrics();
    let voters = voters(metrics.membership_config.membership());
    let Some(successor) = voters.into_iter().find(|voter| node_of(*voter) == id) else {
        return Err(unknown(id));
    };
    if successor == metrics.id {
        return Ok(None);
    }
    if !is_heard(&metrics, successor) {
        return Err(refused(format!("controller {id} does not answer")));
    }
    let lag = lag(&metrics, successor);
    if lag > TRANSFER_LAG_MAX {
        return Ok(Some(format!("controller {id} is {lag} entries behind")));
    }
    match hand_over(group, successor).await {
        true => Ok(None),
        false => Ok(Some(format!("controller {id} has not taken over"))),
    }
}

/// Has another voter lead instead of this node; answers whether it does, or at least this one no longer.
pub(crate) async fn hand_over<M: Machine>(group: &Group<M>, successor: u64) -> bool {
    let mut metrics = group.raft.metrics();
    let own = metrics.borrow_watched().id;
    let asked = group.raft.trigger().transfer_leader(successor).await;
    let moved = async {
        while metrics.borrow_watched().current_leader == Some(own)
            && metrics.changed().await.is_ok()
        {}
    };
    if asked.is_ok() && timeout(TRANSFER_TIME_MAX, moved).await.is_err() {
        // A leader proposes nothing once it has begun to hand over, so it must not stay one.
        let _ = group.raft.trigger().elect(false).await;
        return false;
    }
    true
}

/// The disks of a node, or the one of them that is meant.
fn members(membership: &Membership, (id, disk): (u64, Option<u64>)) -> BTreeSet<u64> {
    let members = membership.nodes().map(|(member, _)| *member);
    members
        .filter(|one| node_of(*one) == id && disk.is_none_or(|disk| disk == disk_of(*one)))
        .collect()
}

fn address_of(membership: &Membership, member: u64) -> Option<String> {
    membership.get_node(&member).map(|node| node.addr.clone())
}

fn check_address(node: &Node, id: u64, address: &str) -> Result<(), ControlError> {
    if !(1..=NODE_MAX).contains(&id) || !is_address(address) || address.len() > ADDRESS_BYTES_MAX {
        return Err(refused(format!("{id}={address} is no controller")));
    }
    let checked = node.identity.secret.check_addresses([address]);
    checked.map_err(refused)
}

fn unknown(id: u64) -> ControlError {
    refused(format!("controller {id} is none of the members"))
}

fn refused(why: String) -> ControlError {
    ControlError::InvalidRequest(why)
}
