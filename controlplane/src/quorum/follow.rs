//! What each node does by itself as the members change: it speaks to them where they are now, says where it is itself, and ends
//! once it is none of them any more.

use super::change;
use crate::group::Group;
use crate::member::{disk_of, disk_text, node_of};
use crate::node::Node;
use crate::raft::machine::Machine;
use crate::raft::{TypeConfig, group_name};
use control_api::message::{QuorumChange, QuorumMember, QuorumStatus, Request, Response};
use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tracing::info;

/// How often a node looks whether it is where, and what, the others take it for.
const LOOK: Duration = Duration::from_millis(500);
/// A member that has heard of no leader for so long may be none any more: whoever was taken out is not told.
const SILENCE_MAX: Duration = Duration::from_secs(1);
const ASK_TIME_MAX: Duration = Duration::from_secs(2);

/// Keeps the addresses that this node connects to what the groups' members say.
pub(crate) async fn learn_addresses(node: Arc<Node>) {
    tokio::join!(
        learn_addresses_of(&node, &node.meta),
        learn_addresses_of(&node, &node.offsets)
    );
}

async fn learn_addresses_of<M: Machine>(node: &Node, group: &Group<M>) {
    let mut metrics = group.raft.metrics();
    let mut known = None;
    loop {
        let stored = metrics.borrow_watched().membership_config.clone();
        if known.as_ref() != Some(&stored) {
            let members = stored.membership().nodes();
            let members = members.map(|(member, node)| (*member, node.addr.clone()));
            group.addresses.set(members.collect());
            // Both groups have the same members, but for the time of a change.
            let nodes = stored.membership().nodes();
            let addresses = nodes.map(|(_, node)| node.addr.clone());
            node.client.learn(addresses);
            known = Some(stored);
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the leaders where this node is, where they take it to be elsewhere.
pub(crate) async fn announce_address(node: Arc<Node>) {
    tokio::join!(
        announce_address_to(&node, &node.meta),
        announce_address_to(&node, &node.offsets)
    );
}

async fn announce_address_to<M: Machine>(node: &Node, group: &Group<M>) {
    let (own, address) = (node.identity.member, &node.config.advertise);
    loop {
        sleep(LOOK).await;
        let stored = group.metrics().membership_config;
        let known = stored.membership().get_node(&own);
        if known.is_none_or(|known| known.addr == *address) {
            continue;
        }
        let change = QuorumChange::Move {
            node: node_of(own),
            disk: disk_of(own),
            address: address.clone(),
        };
        // What fails now is tried again at the next look. A leader would look for itself where it was.
        let told = match group.led_term() {
            Some(_) => change::change(node, group, change).await.is_ok(),
            None => {
                let group = group.id;
                let request = Request::ChangeQuorum { group, change };
                node.client.call(request, ASK_TIME_MAX).await.is_ok()
            }
        };
        if told {
            info!(
                group = group_name(group.id),
                address, "told the others where this controller is now"
            );
        }
    }
}

/// Returns once this node was taken out of both groups, with the reason why it ends.
pub(crate) async fn taken_out(node: &Node) -> String {
    loop {
        sleep(LOOK).await;
        if is_out_of(node, &node.meta).await && is_out_of(node, &node.offsets).await {
            break;
        }
    }
    let (id, disk) = (node.config.id, disk_of(node.identity.member));
    format!(
        "controller {id} with disk {} was taken out of the quorum: it can join again with an empty data directory",
        disk_text(disk)
    )
}

async fn is_out_of<M: Machine>(node: &Node, group: &Group<M>) -> bool {
    let metrics = group.metrics();
    // A node that no cluster has taken in yet waits for one.
    let waits = metrics.membership_config.log_id().is_none();
    if waits || group.led_term().is_some() || group.memory.silence() < SILENCE_MAX {
        return false;
    }
    let request = Request::DescribeQuorum {
        group: group.id,
        by_leader: true,
    };
    let asked = node.client.call(request, ASK_TIME_MAX).await;
    matches!(asked, Ok(Response::Quorum(newest)) if is_out(&metrics, &newest))
}

/// Whether the newest members are without this one. An older leader's word does not count.
fn is_out(metrics: &RaftMetrics<TypeConfig>, newest: &QuorumStatus) -> bool {
    let known = metrics.membership_config.log_id().as_ref();
    let known = known.map(|id| (id.committed_leader_id().term, id.index));
    let own = |member: &QuorumMember| {
        (member.node, member.disk) == (node_of(metrics.id), disk_of(metrics.id))
    };
    known <= Some(newest.changed_at) && !newest.members.iter().any(own)
}
