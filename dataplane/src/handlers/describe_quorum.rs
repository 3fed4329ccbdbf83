//! DescribeQuorum: the controllers that vote on the metadata, those that follow without a vote, and how far each has come
//! (KIP-595, KIP-853). Kafka calls the metadata's log a topic.

use super::quorum;
use crate::dispatch::{RequestError, respond};
use crate::errors::control_error_code;
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::frame::META_GROUP;
use control_api::message::{QuorumMember, QuorumStatus};
use wire::messages::describe_quorum::{
    DescribeQuorumRequest, DescribeQuorumResponse, DescribedPartition, DescribedTopic, Listener,
    Node, PartitionData, ReplicaState, TopicData,
};
use wire::{Array, ErrorCode, Uuid};

const METADATA_TOPIC: &str = "__cluster_metadata";
/// By this name Kafka's controllers listen.
const LISTENER: &str = "CONTROLLER";
/// From this version on an answer says which disks they are and where.
const DIRECTORIES_VERSION: i16 = 2;

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &DescribeQuorumRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    if !asks_for_metadata(request) {
        return unknown_partitions(to, request, answer);
    }
    let quorum = match quorum::describe(shard, META_GROUP).await {
        Ok(quorum) => quorum,
        Err(error) => {
            let message = error.to_string();
            let response = DescribeQuorumResponse {
                error_code: control_error_code(&error) as i16,
                error_message: Some(&message),
                ..Default::default()
            };
            return respond(answer, to, |writer, version| {
                response.encode(writer, version)
            });
        }
    };
    let now_ms = shard.io.wall_clock_ms();
    let has_directories = to.version >= DIRECTORIES_VERSION;
    let states = |vote: bool| -> Vec<ReplicaState> {
        let members = quorum.members.iter();
        let wanted = members.filter(|member| member.votes == vote);
        let states = wanted.map(|one| ReplicaState {
            replica_directory_id: match has_directories {
                true => quorum::directory_id(one.disk),
                false => Uuid::ZERO,
            },
            ..state(&quorum, one, now_ms)
        });
        states.collect()
    };
    let (voters, observers) = (states(true), states(false));
    let partitions = [DescribedPartition {
        leader_id: quorum.leader.map_or(-1, id),
        leader_epoch: i32::try_from(quorum.term).unwrap_or(i32::MAX),
        high_watermark: offset(quorum.committed_index + 1),
        current_voters: Array::from(&voters),
        observers: Array::from(&observers),
        ..Default::default()
    }];
    let topics = [DescribedTopic {
        topic_name: METADATA_TOPIC,
        partitions: Array::from(&partitions),
    }];
    let listeners: Vec<[Listener<'_>; 1]> = quorum.members.iter().map(listener).collect();
    let nodes = quorum.members.iter().zip(&listeners);
    let nodes: Vec<Node<'_>> = nodes
        .filter(|_| has_directories)
        .map(|(member, listeners)| Node {
            node_id: id(member.node),
            listeners: Array::from(listeners),
        })
        .collect();
    let response = DescribeQuorumResponse {
        topics: Array::from(&topics),
        nodes: Array::from(&nodes),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

fn asks_for_metadata(request: &DescribeQuorumRequest<'_>) -> bool {
    let partition = |topic: TopicData<'_>| {
        let mut partitions = topic.partitions.iter();
        let first = partitions.next();
        topic.topic_name == METADATA_TOPIC
            && first.is_some_and(|first| first.partition_index == 0)
            && partitions.next().is_none()
    };
    let mut topics = request.topics.iter();
    topics.next().is_some_and(partition) && topics.next().is_none()
}

fn unknown_partitions(
    to: AnswerTo,
    request: &DescribeQuorumRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let unknown = |partition: PartitionData| DescribedPartition {
        partition_index: partition.partition_index,
        error_code: ErrorCode::UnknownTopicOrPartition as i16,
        ..Default::default()
    };
    let topics: Vec<(&str, Vec<DescribedPartition<'_>>)> = request
        .topics
        .iter()
        .map(|topic| {
            (
                topic.topic_name,
                topic.partitions.iter().map(unknown).collect(),
            )
        })
        .collect();
    let topics: Vec<DescribedTopic<'_>> = topics
        .iter()
        .map(|(topic_name, partitions)| DescribedTopic {
            topic_name,
            partitions: Array::from(partitions),
        })
        .collect();
    let response = DescribeQuorumResponse {
        topics: Array::from(&topics),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

/// Who has everything has it as of when it was last heard; since when one lacks something is not known.
fn state(quorum: &QuorumStatus, member: &QuorumMember, now_ms: i64) -> ReplicaState {
    let heard_ms = member
        .silent_ms
        .map_or(-1, |silent| now_ms - offset(silent));
    let has_all = member.last_index == Some(quorum.last_index);
    ReplicaState {
        replica_id: id(member.node),
        log_end_offset: member.last_index.map_or(0, |last| offset(last + 1)),
        last_fetch_timestamp: heard_ms,
        last_caught_up_timestamp: if has_all { heard_ms } else { -1 },
        ..Default::default()
    }
}

fn listener(member: &QuorumMember) -> [Listener<'_>; 1] {
    let (host, port) = member.address.rsplit_once(':').unwrap_or_default();
    [Listener {
        name: LISTENER,
        host: host.trim_start_matches('[').trim_end_matches(']'),
        port: port.parse().unwrap_or(0),
    }]
}

fn id(node: u64) -> i32 {
    i32::try_from(node).unwrap_or(-1)
}

fn offset(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}
