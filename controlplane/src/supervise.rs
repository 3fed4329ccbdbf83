//! The tasks that a node runs beside answering: fencing silent brokers, taking snapshots, clearing up, reporting.

use crate::clock::wall_clock_ms;
use crate::command::{Expiry, MetaCommand, OffsetsCommand, RegisteredBroker};
use crate::group::Group;
use crate::levels;
use crate::limits::LOG_ENTRIES_MAX;
use crate::member::node_of;
use crate::node::Node;
use crate::offsets::OffsetsState;
use crate::quorum::change;
use crate::raft::machine::Machine;
use crate::raft::{LogId, Raft, group_name};
use control_api::message::{ControlError, Request, Response};
use openraft::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// How often the leader looks for silent brokers.
const SESSION_LOOK: Duration = Duration::from_millis(20);
const SNAPSHOT_LOOK: Duration = Duration::from_millis(200);
const CLEAR_UP_LOOK: Duration = Duration::from_secs(2);
/// Offsets go at most so much later than they expire: a tenth of what they are kept for, but not more often looked for than is cheap.
const EXPIRY_LOOKS_PER_RETENTION: u32 = 10;
const EXPIRY_LOOK_MIN: Duration = Duration::from_millis(200);
const EXPIRY_LOOK_MAX: Duration = Duration::from_secs(60);
/// After a failed proposal; the next look would only fail again.
const FAILURE_PAUSE: Duration = Duration::from_millis(200);

/// Once the cluster has an id, no other cluster's processes are spoken to.
pub(crate) async fn learn_cluster_id(node: Arc<Node>) {
    let mut applied = node.meta.shared.applied();
    loop {
        let id = node
            .meta
            .shared
            .read(|state| state.image().cluster_id.clone());
        if !id.is_empty() {
            // Nobody else sets it.
            let _ = node.identity.cluster_id.set(id);
            return;
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// While this node leads `meta`: gives the cluster its id and fences brokers whose session ended.
pub(crate) async fn lead_brokers(node: Arc<Node>) {
    loop {
        sleep(SESSION_LOOK).await;
        let Some(term) = node.meta.led_term() else {
            continue;
        };
        let now = node.now();
        let (named, dead) = node.meta.shared.read(|state| {
            let mut sessions = node.sessions();
            sessions.lead(term, state.image(), now);
            (
                !state.image().cluster_id.is_empty(),
                sessions.dead(state.image(), now),
            )
        });
        if !named {
            bootstrap(&node).await;
        }
        for broker in dead {
            fence(&node, broker).await;
        }
    }
}

async fn bootstrap(node: &Node) {
    let cluster_id = random_cluster_id();
    let command = MetaCommand::Bootstrap {
        cluster_id,
        feature_level: levels::first(node).await,
    };
    match node.meta.propose(&command).await {
        Ok(_) => {
            let id = node
                .meta
                .shared
                .read(|state| state.image().cluster_id.clone());
            info!(cluster = id, "cluster formed");
        }
        Err(_) => sleep(FAILURE_PAUSE).await,
    }
}

async fn fence(node: &Node, broker: RegisteredBroker) {
    match node.meta.propose(&MetaCommand::FenceBroker(broker)).await {
        Ok(_) => {
            node.metrics.fences.with_label_values(&["silent"]).inc();
            warn!(
                broker = broker.id.0,
                epoch = broker.epoch.0,
                "broker fenced: its session ended"
            );
        }
        Err(_) => sleep(FAILURE_PAUSE).await,
    }
}

/// While this node leads `offsets`: removes what was committed for topics that are gone.
pub(crate) async fn forget_deleted_topics(node: Arc<Node>) {
    loop {
        sleep(CLEAR_UP_LOOK).await;
        if node.offsets.led_term().is_none() {
            continue;
        }
        let with_offsets = node.offsets.shared.read(|state| state.topics());
        let unknown_here = node.meta.shared.read(|state| {
            let topics = &state.image().topics;
            with_offsets.iter().any(|topic| !topics.contains_key(topic))
        });
        if !unknown_here {
            continue;
        }
        // This node's metadata may be behind: only what is missing at an index that the `meta` leader vouches for now was
        // deleted, because offsets are committed only for topics that exist.
        let asked = node
            .client
            .call(Request::MetadataIndex, CLEAR_UP_LOOK)
            .await;
        let Ok(Response::MetadataIndex(index)) = asked else {
            continue;
        };
        let mut applied = node.meta.shared.applied();
        let reached = applied.wait_for(|applied| *applied >= index);
        if timeout(CLEAR_UP_LOOK, reached).await.is_err() {
            continue;
        }
        let deleted: Vec<_> = node.meta.shared.read(|state| {
            let topics = &state.image().topics;
            with_offsets
                .iter()
                .filter(|topic| !topics.contains_key(*topic))
                .copied()
                .collect()
        });
        if deleted.is_empty() {
            continue;
        }
        let count = deleted.len();
        // What fails now is found again at the next look.
        if node
            .offsets
            .propose(&OffsetsCommand::ForgetTopics(deleted))
            .await
            .is_ok()
        {
            info!(
                topics = count,
                "removed the committed offsets of deleted topics"
            );
        }
    }
}

/// While this node leads `offsets`: removes what was committed long ago, and groups that have nothing left.
pub(crate) async fn expire_offsets(node: Arc<Node>) {
    let retention = node.config.offsets_retention;
    let pause = (retention / EXPIRY_LOOKS_PER_RETENTION).clamp(EXPIRY_LOOK_MIN, EXPIRY_LOOK_MAX);
    loop {
        sleep(pause).await;
        if node.offsets.led_term().is_none() {
            continue;
        }
        let expiry = Expiry {
            now_ms: i64::try_from(wall_clock_ms()).unwrap_or(i64::MAX),
            retention_ms: i64::try_from(retention.as_millis()).unwrap_or(i64::MAX),
        };
        // A clone is cheap, and looking through it holds nothing up.
        let state = node.offsets.shared.read(OffsetsState::clone);
        let found = tokio::task::spawn_blocking(move || state.expired(expiry)).await;
        let mut removed = 0;
        for groups in found.unwrap_or_default() {
            let offsets: usize = groups.iter().map(|group| group.partitions.len()).sum();
            // What fails now is found again at the next look.
            let command = OffsetsCommand::ExpireOffsets { expiry, groups };
            if node.offsets.propose(&command).await.is_err() {
                break;
            }
            removed += offsets as u64;
        }
        if removed > 0 {
            node.metrics.offsets_expired.inc_by(removed);
            info!(offsets = removed, "removed committed offsets that expired");
        }
    }
}

/// Takes a snapshot of a group once its log has grown enough.
pub(crate) async fn take_snapshots(node: Arc<Node>) {
    loop {
        sleep(SNAPSHOT_LOOK).await;
        take_snapshot(&node, &node.meta).await;
        take_snapshot(&node, &node.offsets).await;
    }
}

async fn take_snapshot<M: Machine>(node: &Node, group: &Group<M>) {
    // A snapshot writes the whole state. Taken once the log behind the last one is as long as that, all of them together write
    // at most as much as the log does, however large the state is.
    let due_bytes = node
        .config
        .snapshot_log_bytes
        .max(group.shared.snapshot_bytes());
    // Small entries cost more memory than their bytes say.
    let metrics = group.metrics();
    let index = |id: &Option<LogId>| id.as_ref().map_or(0, |id| id.index);
    let entries = index(&metrics.last_applied).saturating_sub(index(&metrics.snapshot));
    if group.shared.unsaved_bytes() < due_bytes && entries < LOG_ENTRIES_MAX {
        return;
    }
    // A failure is fatal to the group and reported there.
    let _ = group.raft.trigger().snapshot().await;
}

/// Says so whenever another node becomes the leader of a group.
pub(crate) async fn report_leaders(node: Arc<Node>) {
    tokio::join!(report_leader(&node.meta), report_leader(&node.offsets));
}

async fn report_leader<M: Machine>(group: &Group<M>) {
    let mut metrics = group.raft.metrics();
    let mut known = None;
    loop {
        let (leader, term) = {
            let metrics = metrics.borrow_watched();
            (metrics.current_leader.map(node_of), metrics.current_term)
        };
        if leader != known {
            known = leader;
            match leader {
                Some(leader) => info!(group = group_name(group.id), leader, term, "leader changed"),
                None => warn!(group = group_name(group.id), term, "no leader"),
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Returns once the group has failed for good.
pub(crate) async fn fatal<M: Machine>(raft: &Raft<M>) -> anyhow::Error {
    let mut metrics = raft.metrics();
    loop {
        if let Err(error) = &metrics.borrow_watched().running_state {
            return anyhow::anyhow!("{error}");
        }
        if metrics.changed().await.is_err() {
            return anyhow::anyhow!("its task is gone");
        }
    }
}

/// Before a stop: lets the follower that has most of the log lead, so that nobody has to wait for an election.
pub(crate) async fn hand_over<M: Machine>(group: &Group<M>) {
    if group.led_term().is_none() {
        return;
    }
    let known = group.metrics();
    let lag = crate::group::follower_lag(&known);
    let closest = lag.into_iter().min_by_key(|(_, lag)| *lag);
    let mut voters = known.membership_config.voter_ids();
    let Some(successor) = closest.and_then(|(node, _)| voters.find(|one| node_of(*one) == node))
    else {
        return;
    };
    if !change::hand_over(group, successor).await {
        warn!(
            group = group_name(group.id),
            successor = node_of(successor),
            "the leadership did not move in time"
        );
    }
}

/// Refuses what a command answered with an error of its own.
pub(crate) fn accepted(response: Response) -> Result<Response, ControlError> {
    match response {
        Response::Error(error) => Err(error),
        other => Ok(other),
    }
}

/// A version 4 UUID in base64url without padding, as Kafka prints cluster ids. As in Kafka, none that a command line would
/// take for a flag.
fn random_cluster_id() -> String {
    loop {
        let id = base64url(uuid(rand::random()));
        if !id.starts_with('-') {
            return id;
        }
    }
}

fn uuid(random: u128) -> u128 {
    let version_4 = random & !(0xf << 76) | 0x4 << 76;
    version_4 & !(0x3 << 62) | 0x2 << 62
}

fn base64url(id: u128) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 128 bits are 21 digits of six and a last one of two, padded with zero bits.
    let digit = |position: u32| {
        let shifted = if position == 21 {
            id << 4
        } else {
            id >> (122 - 6 * position)
        };
        char::from(ALPHABET[(shifted & 63) as usize])
    };
    (0..22).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_looks_like_kafkas_and_differs_each_time() {
        let ids: Vec<String> = (0..100).map(|_| random_cluster_id()).collect();
        for id in &ids {
            assert_eq!(id.len(), 22);
            assert!(!id.starts_with('-'));
            assert!(
                id.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            );
            // The last digit holds two bits.
            assert!("AQgw".contains(&id[21..]), "{id}");
        }
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
