//! What an operator may have done to the members of a group: one taken in, taken out, moved, or made the leader.
//!
//! The group's leader does it, in steps that may each be repeated, so that whoever asks can ask again until all is done. Each group
//! is changed by itself. A change that would leave voters of which no majority answers is refused, since nothing could be
//! committed after it.

use super::{members, plan, take};
use crate::config::is_address;
use crate::group::Group;
use crate::levels;
use crate::member::{NODE_MAX, disk_of, disk_text, node_of};
use crate::node::Node;
use crate::raft::machine::Machine;
use crate::raft::network::introduce;
use crate::rules::Rules;
use control_api::level::Level;
use control_api::message::{ControlError, QuorumChange, Response};
use openraft::async_runtime::watch::WatchReceiver;
use std::time::Duration;
use tokio::time::timeout;

/// A host's name and a port.
const ADDRESS_BYTES_MAX: usize = Rules::of(Level::NEWEST).host_bytes_max + 6;
const TRANSFER_TIME_MAX: Duration = Duration::from_millis(500);

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
        QuorumChange::Remove { node: id, disk } => {
            take(group, plan::remove(&members(group).await, (id, disk)), "").await?
        }
        QuorumChange::Move {
            node: id,
            disk,
            address,
        } => move_member(node, group, (id, disk), &address).await?,
        QuorumChange::Transfer { node: id } => {
            take(group, plan::transfer(&members(group).await, id), "").await?
        }
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
    let (found, theirs) = introduce(&node.identity, address, group.id)
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
    levels::check_joining(node, found, theirs.levels)?;
    let plan = plan::add(&members(group).await, found, address);
    take(group, plan, address).await
}

async fn move_member<M: Machine>(
    node: &Node,
    group: &Group<M>,
    (id, disk): (u64, u64),
    address: &str,
) -> Result<Option<String>, ControlError> {
    check_address(node, id, address)?;
    let plan = plan::relocate(&members(group).await, (id, disk), address);
    take(group, plan, address).await
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

fn check_address(node: &Node, id: u64, address: &str) -> Result<(), ControlError> {
    if !(1..=NODE_MAX).contains(&id) || !is_address(address) || address.len() > ADDRESS_BYTES_MAX {
        return Err(refused(format!("{id}={address} is no controller")));
    }
    let checked = node.identity.credentials.check_addresses([address]);
    checked.map_err(refused)
}

fn refused(why: String) -> ControlError {
    ControlError::InvalidRequest(why)
}
