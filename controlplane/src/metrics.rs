//! What a controller counts, and the Prometheus text of it.
//!
//! Counters are kept as things happen; everything that can be read off the node is read when it is asked for.

use crate::group::{Group, Times, follower_lag};
use crate::member::node_of;
use crate::node::Node;
use crate::raft::group_name;
use crate::raft::machine::Machine;
use crate::rules::Rules;
use control_api::image::{MetadataImage, PartitionRecord};
use control_api::message::ControlError;
use control_api::process::ProcessCollector;
use openraft::ServerState;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

pub struct Metrics {
    registry: Registry,
    pub connections: IntGauge,
    /// By result.
    pub handshakes: IntCounterVec,
    /// By group.
    pub proposals: IntCounterVec,
    pub offset_commits: IntCounter,
    /// By reason.
    refused_commits: IntCounterVec,
    pub offsets_expired: IntCounter,
    /// By reason.
    pub fences: IntCounterVec,
    raft: RaftGauges,
    cluster: ClusterGauges,
}

/// Each by group; the lag by follower too.
struct RaftGauges {
    leader: IntGaugeVec,
    majority: IntGaugeVec,
    leader_known: IntGaugeVec,
    term: IntGaugeVec,
    last_log: IntGaugeVec,
    applied: IntGaugeVec,
    snapshot: IntGaugeVec,
    purged: IntGaugeVec,
    snapshot_failures: IntCounterVec,
    voters: IntGaugeVec,
    learners: IntGaugeVec,
    follower_lag: IntGaugeVec,
}

struct ClusterGauges {
    sessions: IntGauge,
    live_brokers: IntGauge,
    fenced_brokers: IntGauge,
    topics: IntGauge,
    partitions: IntGauge,
    offline_partitions: IntGauge,
    offset_groups: IntGauge,
    offsets: IntGauge,
    offset_groups_max: IntGauge,
    offsets_max: IntGauge,
    kafka: KafkaGauges,
}

/// The names that dashboards of Kafka's controller ask for.
struct KafkaGauges {
    active_controllers: IntGauge,
    active_brokers: IntGauge,
    fenced_brokers: IntGauge,
    topics: IntGauge,
    partitions: IntGauge,
    offline_partitions: IntGauge,
    not_preferred: IntGauge,
}

impl KafkaGauges {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let name = format!("kafka_controller_kafkacontroller_{name}");
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        Ok(KafkaGauges {
            active_controllers: gauge(
                "activecontrollercount",
                "1 on the leader of the metadata, 0 on the others",
            )?,
            active_brokers: gauge("activebrokercount", "Brokers that are not fenced")?,
            fenced_brokers: gauge("fencedbrokercount", "Brokers that are fenced")?,
            topics: gauge("globaltopiccount", "Topics")?,
            partitions: gauge("globalpartitioncount", "Partitions")?,
            offline_partitions: gauge("offlinepartitionscount", "Partitions without a leader")?,
            not_preferred: gauge(
                "preferredreplicaimbalancecount",
                "Partitions that another broker leads than the first of its replicas",
            )?,
        })
    }

    fn read(&self, image: &MetadataImage, leads: bool) {
        let set = |gauge: &IntGauge, count: usize| gauge.set(count as i64);
        let live = image.live_brokers().count();
        let partitions = || image.topics.values().flat_map(|topic| &topic.partitions);
        let count = |which: fn(&PartitionRecord) -> bool| {
            partitions().filter(|partition| which(partition)).count()
        };
        set(&self.active_controllers, leads.into());
        set(&self.active_brokers, live);
        set(&self.fenced_brokers, image.brokers.len() - live);
        set(&self.topics, image.topics.len());
        set(&self.partitions, partitions().count());
        set(&self.offline_partitions, count(|one| one.leader.is_none()));
        set(
            &self.not_preferred,
            count(|one| one.leader.as_ref() != one.replicas.first()),
        );
    }
}

impl Metrics {
    pub fn new(groups: [&Times; 2]) -> prometheus::Result<Self> {
        let registry = Registry::new();
        for times in groups {
            registry.register(Box::new(times.proposal.clone()))?;
            registry.register(Box::new(times.flush.clone()))?;
        }
        registry.register(Box::new(ProcessCollector::new(env!("CARGO_PKG_VERSION"))?))?;
        let by_group = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["group"])?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let by_group_counter = |name: &str, help: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &["group"])?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let follower_lag = IntGaugeVec::new(
            Opts::new(
                "millrace_raft_follower_lag_entries",
                "On the leader: entries a follower has yet to store",
            ),
            &["group", "follower"],
        )?;
        registry.register(Box::new(follower_lag.clone()))?;
        let proposals = IntCounterVec::new(
            Opts::new(
                "millrace_raft_proposals_total",
                "Commands that brokers and operators had this node propose",
            ),
            &["group"],
        )?;
        registry.register(Box::new(proposals.clone()))?;
        let offset_commits = IntCounter::new(
            "millrace_controller_offset_commits_total",
            "Offset commits that this node has had committed",
        )?;
        registry.register(Box::new(offset_commits.clone()))?;
        let refused_commits = IntCounterVec::new(
            Opts::new(
                "millrace_controller_offset_commits_refused_total",
                "Offset commits that this node has had refused, by reason: limit (too many groups or offsets), fenced, invalid",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(refused_commits.clone()))?;
        for reason in ["limit", "fenced", "invalid"] {
            refused_commits.with_label_values(&[reason]);
        }
        let offsets_expired = IntCounter::new(
            "millrace_controller_offsets_expired_total",
            "Committed offsets that this node has had removed because they expired",
        )?;
        registry.register(Box::new(offsets_expired.clone()))?;
        let fences = IntCounterVec::new(
            Opts::new(
                "millrace_controller_fences_total",
                "Brokers that this node has had fenced, by reason: silent (the session ended), left (the broker stopped)",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(fences.clone()))?;
        for reason in ["silent", "left"] {
            fences.with_label_values(&[reason]);
        }
        let handshakes = IntCounterVec::new(
            Opts::new(
                "millrace_controller_handshakes_total",
                "Connections that proved to belong to the cluster (accepted) or did not (refused)",
            ),
            &["result"],
        )?;
        registry.register(Box::new(handshakes.clone()))?;
        for result in ["accepted", "refused"] {
            handshakes.with_label_values(&[result]);
        }
        Ok(Metrics {
            handshakes,
            connections: gauge("millrace_controller_connections", "Open connections")?,
            proposals,
            offset_commits,
            refused_commits,
            offsets_expired,
            fences,
            raft: RaftGauges {
                leader: by_group("millrace_raft_leader", "1 where this node leads the group")?,
                majority: by_group(
                    "millrace_raft_leader_with_majority",
                    "1 where this node leads the group and a majority has answered it of late",
                )?,
                leader_known: by_group(
                    "millrace_raft_leader_known",
                    "1 where this node knows a leader",
                )?,
                term: by_group("millrace_raft_term", "Current term")?,
                last_log: by_group(
                    "millrace_raft_last_log_index",
                    "Index of the last log entry",
                )?,
                applied: by_group(
                    "millrace_raft_applied_index",
                    "Index of the last entry applied",
                )?,
                snapshot: by_group(
                    "millrace_raft_snapshot_index",
                    "Index that the last snapshot covers",
                )?,
                purged: by_group(
                    "millrace_raft_purged_index",
                    "Index up to which the log was deleted",
                )?,
                snapshot_failures: by_group_counter(
                    "millrace_raft_snapshot_failures_total",
                    "Snapshots that could not be written, read or installed and are tried again",
                )?,
                voters: by_group(
                    "millrace_raft_voters",
                    "Members whose vote counts, of which a majority must answer",
                )?,
                learners: by_group(
                    "millrace_raft_learners",
                    "Members that follow without a vote: disks that are being taken in",
                )?,
                follower_lag,
            },
            cluster: ClusterGauges {
                sessions: gauge(
                    "millrace_controller_broker_sessions",
                    "On the meta leader: live broker sessions",
                )?,
                live_brokers: gauge(
                    "millrace_controller_live_brokers",
                    "Brokers that clients may be sent to",
                )?,
                fenced_brokers: gauge(
                    "millrace_controller_fenced_brokers",
                    "Registered brokers that are fenced",
                )?,
                topics: gauge("millrace_controller_topics", "Topics")?,
                partitions: gauge("millrace_controller_partitions", "Partitions")?,
                offline_partitions: gauge(
                    "millrace_controller_offline_partitions",
                    "Partitions without a leader",
                )?,
                offset_groups: gauge(
                    "millrace_controller_offset_groups",
                    "Consumer groups with committed offsets",
                )?,
                offsets: gauge(
                    "millrace_controller_committed_offsets",
                    "Committed offsets kept",
                )?,
                offset_groups_max: gauge(
                    "millrace_controller_offset_groups_max",
                    "How many groups may have committed offsets; commits of more are refused",
                )?,
                offsets_max: gauge(
                    "millrace_controller_committed_offsets_max",
                    "How many committed offsets are kept; more are refused",
                )?,
                kafka: KafkaGauges::new(&registry)?,
            },
            registry,
        })
    }

    pub fn count_refused_commits(&self, results: &[Result<(), ControlError>]) {
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            let reason = match error {
                ControlError::LimitReached(_) => "limit",
                ControlError::FencedCommit => "fenced",
                _ => "invalid",
            };
            self.refused_commits.with_label_values(&[reason]).inc();
        }
    }

    /// The text that Prometheus reads.
    pub fn render(&self, node: &Node) -> prometheus::Result<String> {
        self.raft.read(&node.meta);
        self.raft.read(&node.offsets);
        self.cluster.read(node);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl RaftGauges {
    fn read<M: Machine>(&self, group: &Group<M>) {
        let metrics = group.metrics();
        let name = group_name(group.id);
        let set = |gauge: &IntGaugeVec, value: u64| {
            gauge
                .with_label_values(&[name])
                .set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.leader, (metrics.state == ServerState::Leader).into());
        set(&self.majority, group.leads_majority().into());
        set(&self.leader_known, metrics.current_leader.is_some().into());
        set(&self.term, metrics.current_term);
        set(&self.last_log, metrics.last_log_index.unwrap_or(0));
        set(
            &self.applied,
            metrics.last_applied.as_ref().map_or(0, |id| id.index),
        );
        set(
            &self.snapshot,
            metrics.snapshot.as_ref().map_or(0, |id| id.index),
        );
        set(
            &self.purged,
            metrics.purged.as_ref().map_or(0, |id| id.index),
        );
        let failures = self.snapshot_failures.with_label_values(&[name]);
        failures.inc_by(
            group
                .shared
                .snapshot_failures()
                .saturating_sub(failures.get()),
        );
        let membership = metrics.membership_config.membership();
        let voters = membership.voter_ids().count();
        set(&self.voters, voters as u64);
        set(&self.learners, membership.learner_ids().count() as u64);
        let lag = follower_lag(&metrics);
        for member in metrics.membership_config.voter_ids() {
            let node = node_of(member);
            let follower = node.to_string();
            match lag.iter().find(|(id, _)| *id == node) {
                Some((_, entries)) => {
                    let gauge = self.follower_lag.with_label_values(&[name, &follower]);
                    gauge.set(i64::try_from(*entries).unwrap_or(i64::MAX));
                }
                // A value from a time as leader would only mislead.
                None => drop(self.follower_lag.remove_label_values(&[name, &follower])),
            }
        }
    }
}

impl ClusterGauges {
    fn read(&self, node: &Node) {
        let set = |gauge: &IntGauge, count: usize| gauge.set(count as i64);
        let leads = node.meta.led_term().is_some();
        let sessions = if leads {
            node.sessions().live_count(node.now())
        } else {
            0
        };
        set(&self.sessions, sessions);
        node.meta.shared.read(|state| {
            let image = state.image();
            self.kafka.read(image, leads);
            let live = image.live_brokers().count();
            set(&self.live_brokers, live);
            set(&self.fenced_brokers, image.brokers.len() - live);
            set(&self.topics, image.topics.len());
            let partitions = || image.topics.values().flat_map(|topic| &topic.partitions);
            set(&self.partitions, partitions().count());
            set(
                &self.offline_partitions,
                partitions().filter(|one| one.leader.is_none()).count(),
            );
        });
        node.offsets.shared.read(|state| {
            let rules = Rules::of(state.feature_level());
            set(&self.offset_groups, state.group_count());
            set(&self.offsets, state.offset_count());
            set(&self.offset_groups_max, rules.groups_max);
            set(&self.offsets_max, rules.offsets_max);
        });
    }
}
