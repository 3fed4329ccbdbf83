//! OffsetCommit: stores how far the readers of a group are, for readers that assign partitions to themselves.
//!
//! A commit is answered once the control plane's Raft log has it. No group has members yet, so one that claims to come from a
//! member is refused.

use super::groups::{check_coordinator, error_code};
use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::pace::Pace;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::ids::BrokerId;
use control_api::image::{MetadataImage, TopicRecord};
use control_api::message::{ControlError, OffsetCommit, Request, Response};
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitResponse,
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use wire::{Array, ErrorCode};

/// Kafka's `offset.metadata.max.bytes`.
const METADATA_BYTES_MAX: usize = 4096;

/// Bytes of commits that one question to the control plane carries; a larger request becomes several.
const QUESTION_BYTES_MAX: usize = 1024 * 1024;

/// What a commit takes beside its names and metadata, generously.
const COMMIT_BYTES: usize = 64;

/// Where a commit's result goes: the positions of its topic and its partition in the request.
type ResultSlot = (usize, usize);

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &OffsetCommitRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let image = shard.image();
    let authority = authority(&image, shard.broker, request);
    let now_ms = shard.io.wall_clock_ms();
    let mut commits: Vec<(ResultSlot, OffsetCommit)> = Vec::new();
    let mut topics: Vec<(&str, Vec<OffsetCommitResponsePartition>)> = Vec::new();
    let mut pace = Pace::default();
    for (topic_place, topic) in request.topics.iter().enumerate() {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        let known = image.topic(topic.name);
        pace.step().await;
        for (place, partition) in topic.partitions.iter().enumerate() {
            pace.step().await;
            let commit = commit(known, &partition, authority);
            let error = match commit {
                Ok(commit) => {
                    let commit = OffsetCommit {
                        timestamp_ms: now_ms,
                        retention_ms: request.retention_time_ms,
                        ..commit
                    };
                    commits.push(((topic_place, place), commit));
                    ErrorCode::None
                }
                Err(error) => error,
            };
            partitions.push(OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: error as i16,
            });
        }
        topics.push((topic.name, partitions));
    }
    for ((topic, partition), error) in store(shard, request.group_id, commits).await {
        topics[topic].1[partition].error_code = error as i16;
    }
    let topics: Vec<OffsetCommitResponseTopic<'_>> = topics
        .iter()
        .map(|(name, partitions)| OffsetCommitResponseTopic {
            name,
            partitions: Array::from(partitions),
        })
        .collect();
    let response = OffsetCommitResponse {
        topics: Array::from(&topics),
        ..Default::default()
    };
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await
}

/// The epoch under which this broker may store the group's offsets, or what the client is told instead.
///
/// A reader that assigns partitions to itself names no generation. It may still name itself (the Java client sends
/// `group.instance.id` either way), which Kafka overlooks in a group without members, and so does this.
fn authority(
    image: &MetadataImage,
    broker: BrokerId,
    request: &OffsetCommitRequest<'_>,
) -> Result<i32, ErrorCode> {
    let epoch = check_coordinator(image, broker, request.group_id)?;
    if request.generation_id_or_member_epoch >= 0 {
        return Err(ErrorCode::UnknownMemberId);
    }
    Ok(epoch)
}

/// One partition's commit, whose group and times are still to be filled in.
fn commit(
    topic: Option<&TopicRecord>,
    partition: &OffsetCommitRequestPartition<'_>,
    authority: Result<i32, ErrorCode>,
) -> Result<OffsetCommit, ErrorCode> {
    let unknown = ErrorCode::UnknownTopicOrPartition;
    let topic = topic.ok_or(unknown)?;
    let number = u32::try_from(partition.partition_index).map_err(|_| unknown)?;
    if number as usize >= topic.partitions.len() {
        return Err(unknown);
    }
    let coordinator_epoch = authority?;
    let metadata = partition.committed_metadata.unwrap_or_default();
    if metadata.len() > METADATA_BYTES_MAX {
        return Err(ErrorCode::OffsetMetadataTooLarge);
    }
    Ok(OffsetCommit {
        group: String::new(),
        topic: topic.id,
        partition: number,
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: metadata.to_owned(),
        timestamp_ms: 0,
        coordinator_epoch,
        generation: -1,
        retention_ms: -1,
    })
}

/// Stores the commits and returns those that failed. Each gets the group's name as it is asked for, since that may be far longer than
/// the commit.
async fn store<I: Io>(
    shard: &Shard<I>,
    group: &str,
    commits: Vec<(ResultSlot, OffsetCommit)>,
) -> Vec<(ResultSlot, ErrorCode)> {
    let mut failed = Vec::new();
    let mut commits = commits.into_iter().peekable();
    while commits.peek().is_some() {
        let mut bytes = 0;
        let (mut places, mut question) = (Vec::new(), Vec::new());
        while let Some((place, commit)) = commits.next_if(|_| bytes < QUESTION_BYTES_MAX) {
            bytes += COMMIT_BYTES + group.len() + commit.metadata.len();
            places.push(place);
            question.push(OffsetCommit {
                group: group.to_owned(),
                ..commit
            });
        }
        let request = Request::CommitOffsets { commits: question };
        let results = match shard.ask_control(request).await {
            Ok(Response::Done(results)) if results.len() == places.len() => results,
            Ok(_) => vec![Err(ControlError::UnsupportedVersion); places.len()],
            Err(error) => vec![Err(error); places.len()],
        };
        let results = places.into_iter().zip(results);
        failed.extend(
            results.filter_map(|(place, result)| Some((place, error_code(&result.err()?)))),
        );
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::ids::{BrokerEpoch, Incarnation, TopicId};
    use control_api::ids::{LeaderEpoch, PartitionEpoch};
    use control_api::image::{
        BrokerRecord, COORDINATOR_SHARDS, CoordinatorRecord, PartitionRecord,
    };

    const ME: BrokerId = BrokerId(1);

    /// Topic "t" with one partition; every group is coordinated by `owner` under epoch 5.
    fn image(owner: Option<BrokerId>) -> MetadataImage {
        let mut image = MetadataImage::default();
        for id in [1, 2].map(BrokerId) {
            let broker = BrokerRecord {
                id,
                epoch: BrokerEpoch(1),
                incarnation: Incarnation([0; 16]),
                host: "localhost".to_owned(),
                port: 9092,
                rack: None,
                version: String::new(),
                fenced: false,
                shutting_down: false,
                levels: control_api::level::Levels::supported(),
            };
            image.brokers.insert(id, broker);
        }
        let record = CoordinatorRecord { owner, epoch: 5 };
        image.coordinators = vec![record; COORDINATOR_SHARDS as usize];
        let id = TopicId([1; 16]);
        let partition = PartitionRecord {
            replicas: vec![ME],
            in_sync: vec![ME],
            leader: Some(ME),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
        };
        let topic = TopicRecord {
            id,
            name: "t".to_owned(),
            partitions: vec![partition],
            configs: Default::default(),
        };
        image.topic_ids.insert("t".to_owned(), id);
        image.topics.insert(id, topic);
        image
    }

    fn request(generation: i32) -> OffsetCommitRequest<'static> {
        OffsetCommitRequest {
            group_id: "g",
            generation_id_or_member_epoch: generation,
            group_instance_id: Some("named"),
            ..Default::default()
        }
    }

    #[test]
    fn only_the_groups_coordinator_takes_commits() {
        let authority = |owner| authority(&image(owner), ME, &request(-1));
        assert_eq!(authority(Some(ME)), Ok(5));
        let other = Some(BrokerId(2));
        assert_eq!(authority(other), Err(ErrorCode::NotCoordinator));
        assert_eq!(authority(None), Err(ErrorCode::CoordinatorNotAvailable));
    }

    #[test]
    fn a_member_of_a_generation_is_unknown() {
        let refused = authority(&image(Some(ME)), ME, &request(0));
        assert_eq!(refused, Err(ErrorCode::UnknownMemberId));
    }

    #[test]
    fn each_partition_is_checked_for_itself() {
        let image = image(Some(ME));
        let code = |topic, partition_index, metadata| {
            let partition = OffsetCommitRequestPartition {
                partition_index,
                committed_metadata: metadata,
                ..Default::default()
            };
            commit(image.topic(topic), &partition, Ok(5)).map(|commit| commit.metadata)
        };
        let unknown = Err(ErrorCode::UnknownTopicOrPartition);
        assert_eq!(code("t", 0, None), Ok(String::new()));
        assert_eq!(code("t", 1, None), unknown);
        assert_eq!(code("t", -1, None), unknown);
        assert_eq!(code("u", 0, None), unknown);
        let longest = "m".repeat(METADATA_BYTES_MAX);
        assert_eq!(code("t", 0, Some(&longest)), Ok(longest.clone()));
        let longer = "m".repeat(METADATA_BYTES_MAX + 1);
        let too_large = Err(ErrorCode::OffsetMetadataTooLarge);
        assert_eq!(code("t", 0, Some(&longer)), too_large);
    }

    #[test]
    fn what_may_pass_sends_the_client_to_look_for_the_coordinator_again() {
        let code = error_code(&ControlError::Unavailable);
        assert_eq!(code, ErrorCode::CoordinatorNotAvailable);
        let code = error_code(&ControlError::FencedCommit);
        assert_eq!(code, ErrorCode::NotCoordinator);
    }
}
