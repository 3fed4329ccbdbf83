//! Answers to brokers and operators, one function per request.

use crate::command::{
    COMMAND_BYTES_MAX, Commit, GroupClaim, GroupDeletion, MetaCommand, OffsetsCommand,
    RegisteredBroker,
};
use crate::levels;
use crate::limits::GROUPS_PER_ANSWER_MAX;
use crate::meta::MetaState;
use crate::node::Node;
use crate::proposal;
use crate::quorum;
use crate::supervise::accepted;
use control_api::frame::{META_GROUP, OFFSETS_GROUP};
use control_api::ids::BrokerId;
use control_api::level::Levels;
use control_api::message::{
    BrokerHeartbeat, BrokerRegistration, ConfigChange, ControlError, NewTopic, NodeStatus,
    OffsetCommit, OffsetSelection, Request, Response,
};
use std::collections::BTreeMap;
use tracing::{info, warn};

type Answer = Result<Response, ControlError>;

pub(crate) async fn answer(node: &Node, request: Request) -> Response {
    let answer = match request {
        Request::RegisterBroker(registration) => register(node, registration).await,
        Request::Heartbeat(heartbeat) => beat(node, heartbeat).await,
        Request::CreateTopics {
            topics,
            validate_only,
        } => {
            let answer = create_topics(node, topics, validate_only).await;
            log_topics(&answer, "topic created", validate_only);
            answer
        }
        Request::DeleteTopics { topics } => {
            let answer = change(node, MetaCommand::DeleteTopics(topics), false).await;
            log_topics(&answer, "topic deleted", false);
            answer
        }
        Request::CreatePartitions {
            topics,
            validate_only,
        } => {
            let answer = change(node, MetaCommand::CreatePartitions(topics), validate_only).await;
            log_topics(&answer, "partitions added", validate_only);
            answer
        }
        Request::AlterConfigs {
            changes,
            validate_only,
        } => alter_configs(node, changes, validate_only).await,
        Request::AllocateProducerIds { broker, epoch } => {
            let broker = RegisteredBroker { id: broker, epoch };
            change(node, MetaCommand::AllocateProducerIds(broker), false).await
        }
        Request::CommitOffsets { commits } => commit_offsets(node, commits).await,
        Request::FetchOffsets { group, which } => fetch_offsets(node, &group, &which).await,
        Request::DeleteOffsets {
            group,
            coordinator_epoch,
            partitions,
        } => {
            let command = OffsetsCommand::DeleteOffsets {
                group,
                coordinator_epoch,
                partitions,
            };
            propose_offsets(node, &command).await
        }
        Request::DeleteGroups { groups } => delete_groups(node, groups).await,
        Request::ListGroups { after } => list_groups(node, after.as_deref()).await,
        Request::FindGroups { groups } => find_groups(node, &groups).await,
        Request::Status => Ok(Response::Status(Box::new(status(node)))),
        Request::RaiseFeatureLevel {
            level,
            validate_only,
        } => levels::raise(node, level, validate_only).await,
        Request::UnregisterBroker { broker } => unregister(node, broker).await,
        Request::MetadataIndex => {
            let read = node.meta.read_barrier().await;
            read.map(|()| Response::MetadataIndex(*node.meta.shared.applied().borrow()))
        }
        Request::Barrier { group } => {
            let read = match group {
                META_GROUP => node.meta.read_barrier().await,
                OFFSETS_GROUP => node.offsets.read_barrier().await,
                _ => Err(no_group(group)),
            };
            read.map(|()| Response::Done(vec![Ok(())]))
        }
        Request::DescribeQuorum { group, by_leader } => describe_quorum(node, group, by_leader),
        Request::ChangeQuorum { group, change } => match group {
            META_GROUP => quorum::change::change(node, &node.meta, change).await,
            OFFSETS_GROUP => quorum::change::change(node, &node.offsets, change).await,
            _ => Err(no_group(group)),
        },
        Request::WatchMetadata { .. } => Err(ControlError::InvalidRequest(
            "a metadata stream takes a connection of its own".to_owned(),
        )),
    };
    answer.unwrap_or_else(Response::Error)
}

/// Proposes a command to `meta`, or tells what it would answer.
pub(crate) async fn change(node: &Node, command: MetaCommand, validate_only: bool) -> Answer {
    if validate_only {
        node.meta.read_barrier().await?;
        return Ok(node.meta.shared.read(|state| state.validate(&command)));
    }
    node.metrics.proposals.with_label_values(&["meta"]).inc();
    accepted(node.meta.propose(&command).await?)
}

async fn create_topics(node: &Node, topics: Vec<NewTopic>, validate_only: bool) -> Answer {
    node.meta.require_leader()?;
    let settle = |state: &MetaState| proposal::topics(state.image(), topics);
    let (topics, refused) = node.meta.shared.read(settle);
    let answers = match topics.is_empty() {
        true => Vec::new(),
        false => match change(node, MetaCommand::CreateTopics(topics), validate_only).await? {
            Response::Topics(answers) => answers,
            other => return Ok(other),
        },
    };
    Ok(Response::Topics(proposal::weave(answers, refused)))
}

async fn alter_configs(node: &Node, changes: Vec<ConfigChange>, validate_only: bool) -> Answer {
    node.meta.require_leader()?;
    let settle = |state: &MetaState| proposal::config_changes(state.image(), changes);
    let (changes, list_defaults, refused) = node.meta.shared.read(settle);
    let answers = match changes.is_empty() {
        true => Vec::new(),
        false => {
            let command = MetaCommand::AlterConfigs {
                changes,
                list_defaults,
            };
            match change(node, command, validate_only).await? {
                Response::Done(answers) => answers,
                other => return Ok(other),
            }
        }
    };
    Ok(Response::Done(proposal::weave(answers, refused)))
}

async fn register(node: &Node, registration: BrokerRegistration) -> Answer {
    let term = node.meta.require_leader()?;
    let (id, incarnation) = (registration.id, registration.incarnation);
    let wanted = node.meta.shared.read(|state| {
        let (mut sessions, now) = (node.sessions(), node.now());
        sessions.lead(term, state.image(), now);
        sessions.register(&registration, now)
    })?;
    let response = change(node, wanted, false).await?;
    if let Response::Registered { epoch, .. } = &response {
        node.sessions().renew(id, *epoch, incarnation, node.now());
        let address = format!("{}:{}", registration.host, registration.port);
        info!(broker = id.0, epoch = epoch.0, address, "broker registered");
    }
    Ok(response)
}

/// A new leader takes every broker that is in service for alive at first, so none is forgotten that it has not waited for.
async fn unregister(node: &Node, id: BrokerId) -> Answer {
    let term = node.meta.require_leader()?;
    let wanted = node.meta.shared.read(|state| {
        let (mut sessions, now) = (node.sessions(), node.now());
        sessions.lead(term, state.image(), now);
        sessions.unregister(id, state.image(), now)
    })?;
    let answer = change(node, wanted, false).await?;
    node.sessions().end(id);
    info!(broker = id.0, "broker unregistered");
    Ok(answer)
}

/// Renews the session and proposes what the heartbeat asks for: to be unfenced, to shut down, to be gone.
async fn beat(node: &Node, beat: BrokerHeartbeat) -> Answer {
    let term = node.meta.require_leader()?;
    let wanted = node.meta.shared.read(|state| {
        let (mut sessions, now) = (node.sessions(), node.now());
        sessions.lead(term, state.image(), now);
        sessions.beat(&beat, state.image(), now)
    })?;
    if let Some(command) = wanted {
        let what = match command {
            MetaCommand::FenceBroker(_) => "broker left",
            MetaCommand::ShutDownBroker(_) => "broker is shutting down",
            _ => "broker is live",
        };
        change(node, command, false).await?;
        info!(broker = beat.id.0, epoch = beat.epoch.0, "{what}");
        if beat.goodbye {
            node.metrics.fences.with_label_values(&["left"]).inc();
        }
    }
    if beat.goodbye {
        node.sessions().end(beat.id);
    }
    node.meta.shared.read(|state| {
        let image = state.image();
        let record = image
            .brokers
            .get(&beat.id)
            .ok_or(ControlError::UnknownBroker)?;
        Ok(Response::Heartbeat {
            fenced: record.fenced,
            // What another broker can take over has moved by the time that this is committed.
            may_shut_down: record.shutting_down || record.fenced,
            metadata_index: image.index,
            lease_ms: u32::try_from(node.config.times.session.as_millis() / 2).unwrap_or(u32::MAX),
        })
    })
}

/// Commits are proposed a bounded number of bytes at a time; each group's name and claim is written once per proposal.
async fn commit_offsets(node: &Node, commits: Vec<OffsetCommit>) -> Answer {
    let mut results = Vec::with_capacity(commits.len());
    for commits in split(commits) {
        let count = commits.len() as u64;
        match propose_offsets(node, &commits_command(commits)).await? {
            Response::Done(done) => {
                node.metrics.count_refused_commits(&done);
                results.extend(done);
            }
            other => warn!(?other, "an answer that does not belong to a commit"),
        }
        node.metrics.offset_commits.inc_by(count);
    }
    Ok(Response::Done(results))
}

fn split(commits: Vec<OffsetCommit>) -> Vec<Vec<OffsetCommit>> {
    // An archived commit takes about a hundred bytes beside its strings.
    const FIXED_BYTES: usize = 128;
    let mut parts: Vec<Vec<OffsetCommit>> = Vec::new();
    let mut room = 0;
    for commit in commits {
        let bytes = FIXED_BYTES + commit.group.len() + commit.metadata.len();
        match parts.last_mut().filter(|_| bytes <= room) {
            Some(part) => part.push(commit),
            None => {
                parts.push(vec![commit]);
                room = COMMAND_BYTES_MAX / 2;
            }
        }
        room = room.saturating_sub(bytes);
    }
    parts
}

fn commits_command(commits: Vec<OffsetCommit>) -> OffsetsCommand {
    let mut claims: BTreeMap<GroupClaim, u32> = BTreeMap::new();
    let mut groups = Vec::new();
    let commits = commits.into_iter().map(|commit| {
        let claim = GroupClaim {
            group: commit.group,
            coordinator_epoch: commit.coordinator_epoch,
            generation: commit.generation,
        };
        let next = u32::try_from(groups.len()).expect("bounded by the bytes of one command");
        let position = *claims.entry(claim.clone()).or_insert(next);
        if position == next {
            groups.push(claim);
        }
        Commit {
            claim: position,
            topic: commit.topic,
            partition: commit.partition,
            offset: commit.offset,
            leader_epoch: commit.leader_epoch,
            metadata: commit.metadata,
            timestamp_ms: commit.timestamp_ms,
            retention_ms: commit.retention_ms,
        }
    });
    let commits = commits.collect();
    OffsetsCommand::Commit { groups, commits }
}

async fn fetch_offsets(node: &Node, group: &str, which: &OffsetSelection) -> Answer {
    node.offsets.read_barrier().await?;
    Ok(Response::Offsets(
        node.offsets.shared.read(|state| state.fetch(group, which)),
    ))
}

async fn delete_groups(node: &Node, groups: Vec<(String, i32)>) -> Answer {
    let deletions = groups
        .into_iter()
        .map(|(group, coordinator_epoch)| GroupDeletion {
            group,
            coordinator_epoch,
        });
    let command = OffsetsCommand::DeleteGroups(deletions.collect());
    propose_offsets(node, &command).await
}

async fn list_groups(node: &Node, after: Option<&str>) -> Answer {
    node.offsets.read_barrier().await?;
    Ok(node.offsets.shared.read(|state| {
        let groups = state.groups_after(after).take(GROUPS_PER_ANSWER_MAX);
        Response::Groups(groups.collect())
    }))
}

async fn find_groups(node: &Node, groups: &[String]) -> Answer {
    node.offsets.read_barrier().await?;
    Ok(node.offsets.shared.read(|state| {
        let known = groups.iter().map(|group| match state.knows(group) {
            true => Ok(()),
            false => Err(ControlError::UnknownGroup),
        });
        Response::Done(known.collect())
    }))
}

async fn propose_offsets(node: &Node, command: &OffsetsCommand) -> Answer {
    node.metrics.proposals.with_label_values(&["offsets"]).inc();
    accepted(node.offsets.propose(command).await?)
}

fn describe_quorum(node: &Node, group: u8, by_leader: bool) -> Answer {
    let (leads, quorum) = match group {
        META_GROUP => (node.meta.require_leader(), node.meta.quorum()),
        OFFSETS_GROUP => (node.offsets.require_leader(), node.offsets.quorum()),
        _ => return Err(no_group(group)),
    };
    if by_leader {
        leads?;
    }
    Ok(Response::Quorum(quorum))
}

fn no_group(group: u8) -> ControlError {
    ControlError::InvalidRequest(format!("no group {group}"))
}

fn status(node: &Node) -> NodeStatus {
    NodeStatus {
        node: node.config.id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        groups: vec![node.meta.status(), node.offsets.status()],
        image: node.meta.shared.read(|state| state.image().clone()),
        feature_level: node.meta.shared.read(|state| state.feature_level()),
        levels: Levels::supported(),
        last_beats_ms: match node.meta.led_term() {
            Some(_) => node.sessions().silences_ms(node.now()),
            None => Vec::new(),
        },
        offset_groups: node.offsets.shared.read(|state| state.group_count() as u64),
        committed_offsets: node
            .offsets
            .shared
            .read(|state| state.offset_count() as u64),
    }
}

fn log_topics(answer: &Answer, what: &str, validate_only: bool) {
    let Ok(Response::Topics(topics)) = answer else {
        return;
    };
    for topic in topics.iter().flatten().filter(|_| !validate_only) {
        info!(topic = topic.name, id = %topic.id, partitions = topic.partitions.len(), "{what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::ids::TopicId;

    fn commit(group: &str, offset: i64, metadata_bytes: usize) -> OffsetCommit {
        OffsetCommit {
            group: group.into(),
            topic: TopicId([1; 16]),
            partition: 0,
            offset,
            leader_epoch: -1,
            metadata: "m".repeat(metadata_bytes),
            timestamp_ms: 0,
            coordinator_epoch: 1,
            generation: -1,
            retention_ms: -1,
        }
    }

    #[test]
    fn commits_are_split_in_order_into_commands_that_may_be_proposed() {
        let commits: Vec<_> = (0..2_000)
            .map(|offset| commit("g", offset, 1_000))
            .collect();
        let parts = split(commits.clone());
        assert!(parts.len() > 1);
        assert_eq!(parts.concat(), commits);
        for part in parts {
            let bytes = control_api::codec::encode(&commits_command(part));
            assert!(bytes.len() <= COMMAND_BYTES_MAX, "{}", bytes.len());
        }
    }

    #[test]
    fn a_command_names_each_group_once() {
        let commits = vec![commit("a", 1, 0), commit("b", 2, 0), commit("a", 3, 0)];
        let OffsetsCommand::Commit { groups, commits } = commits_command(commits) else {
            panic!("commits make a commit command")
        };
        assert_eq!(groups.len(), 2);
        assert_eq!(
            commits
                .iter()
                .map(|commit| commit.claim)
                .collect::<Vec<_>>(),
            [0, 1, 0]
        );
    }
}
