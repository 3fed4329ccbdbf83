//! One Raft group of this node: proposing, reading at a known index, and how it is doing.

use crate::clock::wall_clock_ms;
use crate::command::{Command, proposed};
use crate::config::{NodeConfig, Peers};
use crate::data::DataDirectory;
use crate::identity::Identity;
use crate::limits::{ENTRIES_PER_BATCH_MAX, QUORUM_TIME_MAX};
use crate::member::{disk_of, disk_text, node_of};
use crate::raft::addresses::Addresses;
use crate::raft::log::LogStore;
use crate::raft::machine::{Applier, Machine, Shared};
use crate::raft::memory::Memory;
use crate::raft::network::Network;
use crate::raft::snapshot::SnapshotStore;
use crate::raft::wire::{WireIntroduction, WireLogId};
use crate::raft::{Proposal, Raft, TypeConfig, group_name};
use anyhow::Context;
use control_api::client::ControlClient;
use control_api::level::{Level, Levels};
use control_api::message::{
    ControlError, QuorumMember, QuorumStatus, RaftGroupStatus, Request, Response,
};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::ForwardToLeader;
use openraft::{Instant, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy};
use prometheus::{Histogram, HistogramOpts};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A leader that no majority has answered for so long may have been replaced.
const QUORUM_SILENCE_MAX: Duration = Duration::from_millis(1_000);
/// How long a quorum may take to answer a node that wants to know whether it is there.
const QUORUM_PROBE_TIME_MAX: Duration = Duration::from_millis(500);
/// How long sending a snapshot may take.
const SNAPSHOT_TIME_MAX_MS: u64 = 60_000;

pub struct Group<M: Machine> {
    pub id: u8,
    pub raft: Raft<M>,
    pub shared: Arc<Shared<M>>,
    pub times: Times,
    pub(crate) memory: Memory,
    pub(crate) addresses: Arc<Addresses>,
    peers: Peers,
    /// For the one snapshot that may be on its way here.
    pub installing: Semaphore,
}

/// How long things take, for Prometheus.
pub struct Times {
    /// From a proposal to its answer, where it was committed.
    pub proposal: Histogram,
    /// From a write of the log to its being on stable storage.
    pub flush: Histogram,
}

impl Times {
    fn new(group: &str) -> prometheus::Result<Self> {
        let histogram = |name: &str, help: &str| {
            // 0.1 ms, below any device's flush, to 1.6 s, above any timeout.
            let buckets = prometheus::exponential_buckets(0.0001, 2.0, 15)?;
            let options = HistogramOpts::new(name, help).buckets(buckets);
            Histogram::with_opts(options.const_label("group", group))
        };
        Ok(Times {
            proposal: histogram(
                "millrace_raft_proposal_seconds",
                "From a command's proposal on this node to its having been committed and applied",
            )?,
            flush: histogram(
                "millrace_raft_flush_seconds",
                "From a write of the Raft log to its being on stable storage",
            )?,
        })
    }
}

fn damaged(config: &NodeConfig) -> String {
    let shown = config.data.display();
    format!("data directory {shown} is damaged, or of a later version")
}

/// A group's files, opened and found to be in order.
pub(crate) struct GroupFiles<M: Machine> {
    id: u8,
    times: Times,
    log: LogStore,
    applier: Applier<M>,
}

impl<M: Machine> GroupFiles<M> {
    pub(crate) fn open(
        id: u8,
        (config, identity): (&NodeConfig, &Arc<Identity>),
        data: &DataDirectory,
    ) -> anyhow::Result<Self> {
        let directory = &data.group(group_name(id));
        let name = group_name(id);
        let damaged = || damaged(config);
        let times = Times::new(name)?;
        let log = LogStore::open(&directory.join("log")).with_context(damaged)?;
        let log = log.timed(times.flush.clone());
        anyhow::ensure!(
            log.is_of(&disk_text(data.disk)),
            "data directory {} is damaged: the log of {} is not the one that this disk was formatted with",
            config.data.display(),
            group_name(id)
        );
        let snapshots = SnapshotStore::open(directory).with_context(damaged)?;
        let applier = Applier::open(snapshots, identity.level.clone()).with_context(damaged)?;
        Ok(GroupFiles {
            id,
            times,
            log,
            applier,
        })
    }
}

impl<M: Machine> Group<M> {
    /// Starts Raft. A node with an empty log waits there until it is one of the members.
    pub(crate) async fn start(
        files: GroupFiles<M>,
        (config, identity): (&NodeConfig, &Arc<Identity>),
    ) -> anyhow::Result<Self> {
        let GroupFiles {
            id,
            times,
            log,
            applier,
        } = files;
        let shared = applier.shared();
        let addresses = Arc::new(Addresses::new(config.peers.0.clone()));
        let network = Network {
            group: id,
            identity: identity.clone(),
            addresses: addresses.clone(),
            acknowledged: HashMap::new(),
        };
        let raft_config = Arc::new(raft_config(group_name(id), config).validate()?);
        let memory = Memory::new(log.clone());
        let raft = Raft::new(identity.member, raft_config, network, log, applier).await;
        let raft = raft.with_context(|| damaged(config))?;
        Ok(Group {
            id,
            raft,
            shared,
            times,
            memory,
            addresses,
            peers: config.peers.clone(),
            installing: Semaphore::new(1),
        })
    }

    /// Commits a command and answers what applying it answered, or that there is no majority, in bounded time.
    pub async fn propose<C: Command>(&self, command: &C) -> Result<Response, ControlError> {
        let level = self.shared.read(M::feature_level).max(Level::FIRST);
        let bytes = proposed(command, level)?;
        self.refuse_without_majority()?;
        let started = tokio::time::Instant::now();
        let write = self.raft.client_write(Proposal(bytes.into()));
        match timeout(QUORUM_TIME_MAX, write).await {
            Ok(Ok(written)) => {
                self.times.proposal.observe(started.elapsed().as_secs_f64());
                Ok(written.data.0)
            }
            Ok(Err(error)) => Err(refusal(error.forward_to_leader())),
            Err(_) => Err(ControlError::Unavailable),
        }
    }

    /// Returns once the state here has everything that was acknowledged before the call. Only the leader can tell.
    pub async fn read_barrier(&self) -> Result<(), ControlError> {
        self.refuse_without_majority()?;
        let barrier = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match timeout(QUORUM_TIME_MAX, barrier).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(refusal(error.forward_to_leader())),
            Err(_) => Err(ControlError::Unavailable),
        }
    }

    /// Whether a majority answered the group's leader just now; this node asks it where it does not lead itself.
    pub async fn has_quorum(&self, leader: &ControlClient) -> bool {
        if self.led_term().is_some() {
            let barrier = timeout(QUORUM_PROBE_TIME_MAX, self.read_barrier());
            return matches!(barrier.await, Ok(Ok(())));
        }
        let read = Request::Barrier { group: self.id };
        leader.call(read, QUORUM_PROBE_TIME_MAX).await.is_ok()
    }

    /// The term that this node leads, once it has applied all that earlier leaders committed and as long as a majority
    /// answers it.
    pub fn led_term(&self) -> Option<u64> {
        let metrics = self.metrics();
        let applied_term = metrics
            .last_applied
            .as_ref()
            .map(|id| id.committed_leader_id().term);
        let leads = metrics.state == ServerState::Leader
            && applied_term == Some(metrics.current_term)
            && has_majority(&metrics);
        leads.then_some(metrics.current_term)
    }

    /// Whether this node leads and a majority has answered it of late.
    pub fn leads_majority(&self) -> bool {
        let metrics = self.metrics();
        metrics.state == ServerState::Leader && has_majority(&metrics)
    }

    /// `Err` names the leader, as far as it is known here.
    pub fn require_leader(&self) -> Result<u64, ControlError> {
        self.led_term().ok_or_else(|| {
            let leader = self.leader_address();
            ControlError::NotLeader { leader }
        })
    }

    /// The leader's address, unless that is this node.
    pub fn leader_address(&self) -> Option<String> {
        let metrics = self.metrics();
        let leader = metrics
            .current_leader
            .filter(|leader| *leader != metrics.id)?;
        let node = metrics.membership_config.membership().get_node(&leader);
        node.map(|node| node.addr.clone())
    }

    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// What another controller is told that asks who this is.
    pub(crate) fn introduction(&self) -> WireIntroduction {
        WireIntroduction {
            peers: self.peers.0.clone(),
            levels: Levels::supported(),
            blank: self.memory.is_blank() && self.metrics().snapshot.is_none(),
        }
    }

    pub fn status(&self) -> RaftGroupStatus {
        let metrics = self.metrics();
        let taken = Some(self.shared.snapshot_time_ms()).filter(|taken| *taken > 0);
        RaftGroupStatus {
            name: group_name(self.id).to_owned(),
            role: format!("{:?}", metrics.state).to_lowercase(),
            leader: metrics.current_leader.map(node_of),
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.as_ref().map_or(0, |id| id.index),
            follower_lag: follower_lag(&metrics),
            has_majority: metrics.state == ServerState::Leader && has_majority(&metrics),
            voters: voters(&metrics),
            snapshot_index: metrics.snapshot.as_ref().map_or(0, |id| id.index),
            snapshot_age_ms: taken.map(|taken| wall_clock_ms().saturating_sub(taken)),
            digests: self.shared.digests(),
        }
    }

    /// Who is in the group, as far as this node knows.
    pub fn quorum(&self) -> QuorumStatus {
        let metrics = self.metrics();
        let leads = metrics.state == ServerState::Leader;
        let stored = &metrics.membership_config;
        let changed_at = stored.log_id().as_ref().map(WireLogId::from);
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let members = stored.membership().nodes();
        let members = members.map(|(member, node)| QuorumMember {
            node: node_of(*member),
            disk: disk_of(*member),
            address: node.addr.clone(),
            votes: voters.contains(member),
            last_index: stored_index(&metrics, *member).filter(|_| leads),
            silent_ms: silence(&metrics, *member).filter(|_| leads).map(ms),
        });
        QuorumStatus {
            leader: metrics.current_leader.map(node_of),
            term: metrics.current_term,
            changed_at: changed_at.map_or((0, 0), |id| (id.term, id.index)),
            committed_index: metrics.last_applied.as_ref().map_or(0, |id| id.index),
            last_index: metrics.last_log_index.unwrap_or(0),
            members: members.collect(),
        }
    }

    /// Without this, every attempt on a leader that lost its majority would leave one more entry in its log.
    fn refuse_without_majority(&self) -> Result<(), ControlError> {
        let metrics = self.metrics();
        match metrics.state == ServerState::Leader && !has_majority(&metrics) {
            true => Err(ControlError::Unavailable),
            false => Ok(()),
        }
    }
}

/// On the leader: the last entry that a member is known to have stored.
pub(crate) fn stored_index(metrics: &RaftMetrics<TypeConfig>, member: u64) -> Option<u64> {
    if member == metrics.id {
        return metrics.last_log_index;
    }
    let matched = metrics.replication.as_ref()?.get(&member)?.as_ref()?;
    Some(matched.index)
}

/// On the leader: how long ago a member last answered.
pub(crate) fn silence(metrics: &RaftMetrics<TypeConfig>, member: u64) -> Option<Duration> {
    if member == metrics.id {
        return Some(Duration::ZERO);
    }
    let heartbeat = metrics.heartbeat.as_ref()?.get(&member)?.as_ref()?;
    Some(heartbeat.elapsed())
}

/// On the leader: how many entries each node that votes is behind.
pub(crate) fn follower_lag(metrics: &RaftMetrics<TypeConfig>) -> Vec<(u64, u64)> {
    let last = metrics.last_log_index.map_or(0, |index| index + 1);
    let followers = metrics.replication.iter().flatten();
    let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    let others = followers.filter(|(id, _)| **id != metrics.id && voters.contains(id));
    let lag = others.map(|(id, matched)| {
        let stored = matched.as_ref().map_or(0, |matched| matched.index + 1);
        (node_of(*id), last.saturating_sub(stored))
    });
    lag.collect()
}

fn voters(metrics: &RaftMetrics<TypeConfig>) -> Vec<(u64, String)> {
    let membership = metrics.membership_config.membership();
    let ids = membership.voter_ids();
    let known = ids.filter_map(|id| Some((node_of(id), membership.get_node(&id)?.addr.clone())));
    known.collect()
}

fn has_majority(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let alone = metrics.membership_config.voter_ids().count() == 1;
    let acked = metrics.last_quorum_acked.as_ref();
    alone || acked.is_none_or(|acked| acked.elapsed() < QUORUM_SILENCE_MAX)
}

/// Either another node leads, or the group cannot work now.
fn refusal(forward: Option<&ForwardToLeader<TypeConfig>>) -> ControlError {
    match forward {
        Some(forward) => ControlError::NotLeader {
            leader: forward.leader_node.as_ref().map(|node| node.addr.clone()),
        },
        None => ControlError::Unavailable,
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn raft_config(name: &str, config: &NodeConfig) -> openraft::Config {
    openraft::Config {
        cluster_name: name.to_owned(),
        heartbeat_interval: ms(config.times.heartbeat),
        // For the longer of the two every follower believes in a leader that it heard, and asks for votes after another time between
        // them: after one and three quarters to twice the setting in all. The shorter is also how long an answer to that may take.
        election_timeout_min: ms(config.times.election * 3 / 4),
        election_timeout_max: ms(config.times.election),
        enable_pre_vote: Some(true),
        max_payload_entries: ENTRIES_PER_BATCH_MAX as u64,
        // The node asks for snapshots itself, by bytes of log: a count says little about their cost.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.log_entries_kept,
        // What a member has acknowledged it has; a disk that was replaced is another member.
        allow_log_reversion: Some(false),
        install_snapshot_timeout: SNAPSHOT_TIME_MAX_MS,
        // A node that led before it was restarted knows nothing of what happened since, so it asks for votes like any other.
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    }
}
