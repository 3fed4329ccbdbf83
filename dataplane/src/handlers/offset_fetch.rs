//! OffsetFetch: the offsets that groups have committed. Version 8 and later ask for several groups at once.

use super::groups::{check_coordinator, error_code};
use crate::dispatch::{RequestError, respond};
use crate::io::{Gather, Io};
use crate::limits::ADMIN_ITEMS_MAX;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::ids::TopicId;
use control_api::image::MetadataImage;
use control_api::message::{CommittedOffset, OffsetSelection, Request, Response};
use std::collections::{BTreeMap, HashMap};
use wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchResponse, OffsetFetchResponseGroup,
    OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use wire::{Array, ErrorCode};

/// The first version that asks for several groups.
const BATCHED_VERSION: i16 = 8;
/// The first version with an error code for the whole group.
const GROUP_ERROR_VERSION: i16 = 2;

/// What a client asks of one group; without topics, all that it has committed.
struct Wanted<'a> {
    group: &'a str,
    topics: Option<Vec<(&'a str, Vec<i32>)>>,
}

struct GroupAnswer<'a> {
    group: &'a str,
    error: ErrorCode,
    topics: Vec<(&'a str, Vec<PartitionAnswer>)>,
}

#[derive(Debug, PartialEq)]
struct PartitionAnswer {
    number: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: String,
    error: ErrorCode,
}

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &OffsetFetchRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let image = shard.image();
    let too_many = request.groups.len() > ADMIN_ITEMS_MAX;
    let mut groups = Vec::new();
    for wanted in wanted(request, to.version) {
        let group = wanted.group;
        let committed = match too_many {
            true => Err(ErrorCode::InvalidRequest),
            false => fetch(shard, &image, &wanted).await,
        };
        groups.push(match committed {
            Ok(committed) => GroupAnswer {
                group,
                error: ErrorCode::None,
                topics: topic_answers(&image, wanted.topics, committed),
            },
            Err(error) => refused(wanted, error, to.version),
        });
    }
    if to.version >= BATCHED_VERSION {
        encode_groups(to, &groups, answer)
    } else {
        encode_group(to, &groups[0], answer)
    }
}

/// The groups asked for: exactly one before [`BATCHED_VERSION`].
fn wanted<'a>(request: &OffsetFetchRequest<'a>, version: i16) -> Vec<Wanted<'a>> {
    if version < BATCHED_VERSION {
        let topics = request.topics.as_ref().map(|topics| {
            let topics = topics.iter();
            topics
                .map(|topic| (topic.name, topic.partition_indexes.iter().collect()))
                .collect()
        });
        let group = request.group_id;
        return vec![Wanted { group, topics }];
    }
    let groups = request.groups.iter().map(|group| Wanted {
        group: group.group_id,
        topics: group.topics.map(|topics| {
            let topics = topics.iter();
            topics
                .map(|topic| (topic.name, topic.partition_indexes.iter().collect()))
                .collect()
        }),
    });
    groups.collect()
}

async fn fetch<I: Io>(
    shard: &Shard<I>,
    image: &MetadataImage,
    wanted: &Wanted<'_>,
) -> Result<Vec<CommittedOffset>, ErrorCode> {
    check_coordinator(image, shard.broker, wanted.group)?;
    let request = Request::FetchOffsets {
        group: wanted.group.to_owned(),
        which: selection(image, wanted),
    };
    match shard.ask_control(request).await {
        Ok(Response::Offsets(committed)) => Ok(committed),
        // Only a controller of another version answers with anything else.
        Ok(_) => Err(ErrorCode::UnsupportedVersion),
        Err(error) => Err(error_code(&error)),
    }
}

fn selection(image: &MetadataImage, wanted: &Wanted<'_>) -> OffsetSelection {
    let Some(topics) = &wanted.topics else {
        return OffsetSelection::All;
    };
    let mut partitions = Vec::new();
    for (name, numbers) in topics {
        let Some(id) = image.topic_ids.get(*name) else {
            continue;
        };
        let numbers = numbers
            .iter()
            .filter_map(|number| u32::try_from(*number).ok());
        partitions.extend(numbers.map(|number| (*id, number)));
    }
    OffsetSelection::Partitions(partitions)
}

/// The partitions asked for in their order, or all that have an offset.
fn topic_answers<'a>(
    image: &'a MetadataImage,
    wanted: Option<Vec<(&'a str, Vec<i32>)>>,
    committed: Vec<CommittedOffset>,
) -> Vec<(&'a str, Vec<PartitionAnswer>)> {
    let Some(wanted) = wanted else {
        return all_answers(image, committed);
    };
    let by_partition: HashMap<(TopicId, i64), CommittedOffset> = committed
        .into_iter()
        .map(|committed| ((committed.topic, i64::from(committed.partition)), committed))
        .collect();
    let topics = wanted.into_iter().map(|(name, numbers)| {
        let id = image.topic_ids.get(name);
        let partitions = numbers.into_iter().map(|number| {
            let committed = id.and_then(|id| by_partition.get(&(*id, i64::from(number))));
            match committed {
                Some(committed) => partition_answer(number, committed.clone()),
                None => nothing(number, ErrorCode::None),
            }
        });
        (name, partitions.collect())
    });
    topics.collect()
}

/// Offsets of a topic that this broker does not know, because it is new or just deleted, are left out.
fn all_answers(
    image: &MetadataImage,
    committed: Vec<CommittedOffset>,
) -> Vec<(&str, Vec<PartitionAnswer>)> {
    let mut topics: BTreeMap<&str, Vec<PartitionAnswer>> = BTreeMap::new();
    for committed in committed {
        let topic = image.topics.get(&committed.topic);
        let number = i32::try_from(committed.partition);
        if let (Some(topic), Ok(number)) = (topic, number) {
            let partitions = topics.entry(&topic.name).or_default();
            partitions.push(partition_answer(number, committed));
        }
    }
    topics.into_iter().collect()
}

fn partition_answer(number: i32, committed: CommittedOffset) -> PartitionAnswer {
    PartitionAnswer {
        number,
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata,
        error: ErrorCode::None,
    }
}

/// A partition for which nothing was committed.
fn nothing(number: i32, error: ErrorCode) -> PartitionAnswer {
    PartitionAnswer {
        number,
        offset: -1,
        leader_epoch: -1,
        metadata: String::new(),
        error,
    }
}

/// An error of the whole group, which the first version has to tell of every partition.
fn refused(wanted: Wanted<'_>, error: ErrorCode, version: i16) -> GroupAnswer<'_> {
    let topics = match version < GROUP_ERROR_VERSION {
        true => wanted.topics.unwrap_or_default(),
        false => Vec::new(),
    };
    let topics = topics.into_iter().map(|(name, numbers)| {
        let numbers = numbers.into_iter();
        let partitions = numbers.map(|number| nothing(number, error));
        (name, partitions.collect())
    });
    GroupAnswer {
        group: wanted.group,
        error,
        topics: topics.collect(),
    }
}

fn encode_group(
    to: AnswerTo,
    group: &GroupAnswer<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let partitions: Vec<Vec<OffsetFetchResponsePartition<'_>>> = group
        .topics
        .iter()
        .map(|(_, partitions)| {
            let partitions = partitions.iter();
            let partitions = partitions.map(|partition| OffsetFetchResponsePartition {
                partition_index: partition.number,
                committed_offset: partition.offset,
                committed_leader_epoch: partition.leader_epoch,
                metadata: Some(&partition.metadata),
                error_code: partition.error as i16,
            });
            partitions.collect()
        })
        .collect();
    let topics: Vec<OffsetFetchResponseTopic<'_>> = group
        .topics
        .iter()
        .zip(&partitions)
        .map(|((name, _), partitions)| OffsetFetchResponseTopic {
            name,
            partitions: Array::from(partitions),
        })
        .collect();
    let response = OffsetFetchResponse {
        topics: Array::from(&topics),
        error_code: group.error as i16,
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

fn encode_groups(
    to: AnswerTo,
    groups: &[GroupAnswer<'_>],
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let partitions: Vec<Vec<Vec<OffsetFetchResponsePartitions<'_>>>> = groups
        .iter()
        .map(|group| {
            let topics = group.topics.iter();
            topics
                .map(|(_, partitions)| partitions.iter().map(partition_response).collect())
                .collect()
        })
        .collect();
    let topics: Vec<Vec<OffsetFetchResponseTopics<'_>>> = groups
        .iter()
        .zip(&partitions)
        .map(|(group, partitions)| {
            let topics = group.topics.iter().zip(partitions);
            let topics = topics.map(|((name, _), partitions)| OffsetFetchResponseTopics {
                name,
                partitions: Array::from(partitions),
            });
            topics.collect()
        })
        .collect();
    let groups: Vec<OffsetFetchResponseGroup<'_>> = groups
        .iter()
        .zip(&topics)
        .map(|(group, topics)| OffsetFetchResponseGroup {
            group_id: group.group,
            topics: Array::from(topics),
            error_code: group.error as i16,
        })
        .collect();
    let response = OffsetFetchResponse {
        groups: Array::from(&groups),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

fn partition_response(partition: &PartitionAnswer) -> OffsetFetchResponsePartitions<'_> {
    OffsetFetchResponsePartitions {
        partition_index: partition.number,
        committed_offset: partition.offset,
        committed_leader_epoch: partition.leader_epoch,
        metadata: Some(&partition.metadata),
        error_code: partition.error as i16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::image::TopicRecord;

    const TOPIC: TopicId = TopicId([1; 16]);

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        let topic = TopicRecord {
            id: TOPIC,
            name: "t".to_owned(),
            partitions: Vec::new(),
            configs: Default::default(),
        };
        image.topic_ids.insert("t".to_owned(), TOPIC);
        image.topics.insert(TOPIC, topic);
        image
    }

    fn committed(topic: TopicId, partition: u32, offset: i64) -> CommittedOffset {
        CommittedOffset {
            topic,
            partition,
            offset,
            leader_epoch: 2,
            metadata: "m".to_owned(),
            timestamp_ms: 0,
        }
    }

    #[test]
    fn a_partition_without_a_commit_is_answered_with_minus_one_and_no_error() {
        let image = image();
        let wanted = vec![("t", vec![1, 0, -1]), ("unknown", vec![0])];
        let answers = topic_answers(&image, Some(wanted), vec![committed(TOPIC, 0, 7)]);
        let offsets: Vec<(&str, Vec<i64>)> = answers
            .iter()
            .map(|(name, partitions)| (*name, partitions.iter().map(|p| p.offset).collect()))
            .collect();
        assert_eq!(offsets, [("t", vec![-1, 7, -1]), ("unknown", vec![-1])]);
        assert_eq!(answers[0].1[0], nothing(1, ErrorCode::None));
        assert_eq!(answers[0].1[1].metadata, "m");
    }

    #[test]
    fn all_offsets_are_those_of_known_topics() {
        let image = image();
        let gone = committed(TopicId([9; 16]), 0, 1);
        let answers = topic_answers(&image, None, vec![committed(TOPIC, 3, 7), gone]);
        assert_eq!(answers.len(), 1);
        assert_eq!((answers[0].0, answers[0].1[0].number), ("t", 3));
    }

    #[test]
    fn only_known_partitions_are_asked_for() {
        let wanted = Wanted {
            group: "g",
            topics: Some(vec![("t", vec![0, -1]), ("unknown", vec![0])]),
        };
        let expected = OffsetSelection::Partitions(vec![(TOPIC, 0)]);
        assert_eq!(selection(&image(), &wanted), expected);
    }

    #[test]
    fn version_1_tells_an_error_of_the_group_by_its_partitions() {
        let wanted = || Wanted {
            group: "g",
            topics: Some(vec![("t", vec![0])]),
        };
        let error = ErrorCode::NotCoordinator;
        assert_eq!(refused(wanted(), error, 1).topics[0].1[0].error, error);
        assert!(refused(wanted(), error, 2).topics.is_empty());
    }
}
