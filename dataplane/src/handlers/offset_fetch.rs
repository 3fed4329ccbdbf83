//! OffsetFetch: the offsets that groups have committed. Version 8 and later ask for several groups at once.

use super::groups::{check_coordinator, error_code};
use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::limits::ADMIN_ITEMS_MAX;
use crate::pace::Pace;
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
    let mut pace = Pace::default();
    let too_many = request.groups.len() > ADMIN_ITEMS_MAX;
    let mut groups = Vec::with_capacity(request.groups.len().max(1));
    for wanted in wanted(request, to.version, &mut pace).await {
        let group = wanted.group;
        pace.step().await;
        let committed = match too_many {
            true => Err(ErrorCode::InvalidRequest),
            false => fetch(shard, &image, &wanted, &mut pace).await,
        };
        groups.push(match committed {
            Ok(committed) => GroupAnswer {
                group,
                error: ErrorCode::None,
                topics: topic_answers(&image, wanted.topics, committed, &mut pace).await,
            },
            Err(error) => refused(wanted, error, to.version, &mut pace).await,
        });
    }
    if to.version >= BATCHED_VERSION {
        encode_groups(to, &groups, answer, &mut pace).await
    } else {
        encode_group(to, &groups[0], answer, &mut pace).await
    }
}

/// The groups asked for: exactly one before [`BATCHED_VERSION`].
async fn wanted<'a>(
    request: &OffsetFetchRequest<'a>,
    version: i16,
    pace: &mut Pace,
) -> Vec<Wanted<'a>> {
    if version < BATCHED_VERSION {
        let topics = match &request.topics {
            Some(topics) => {
                let topics = topics.iter();
                let topics = topics.map(|topic| (topic.name, topic.partition_indexes));
                Some(numbers(topics, pace).await)
            }
            None => None,
        };
        let group = request.group_id;
        return vec![Wanted { group, topics }];
    }
    let mut groups = Vec::with_capacity(request.groups.len());
    for group in &request.groups {
        pace.step().await;
        let topics = match group.topics {
            Some(topics) => {
                let topics = topics.iter();
                let topics = topics.map(|topic| (topic.name, topic.partition_indexes));
                Some(numbers(topics, pace).await)
            }
            None => None,
        };
        let group = group.group_id;
        groups.push(Wanted { group, topics });
    }
    groups
}

async fn numbers<'a>(
    topics: impl Iterator<Item = (&'a str, Array<'a, i32>)>,
    pace: &mut Pace,
) -> Vec<(&'a str, Vec<i32>)> {
    let mut named = Vec::with_capacity(topics.size_hint().0);
    for (name, partitions) in topics {
        pace.step().await;
        let mut numbers = Vec::with_capacity(partitions.len());
        for number in partitions {
            pace.step().await;
            numbers.push(number);
        }
        named.push((name, numbers));
    }
    named
}

async fn fetch<I: Io>(
    shard: &Shard<I>,
    image: &MetadataImage,
    wanted: &Wanted<'_>,
    pace: &mut Pace,
) -> Result<Vec<CommittedOffset>, ErrorCode> {
    check_coordinator(image, shard.broker, wanted.group)?;
    let request = Request::FetchOffsets {
        group: wanted.group.to_owned(),
        which: selection(image, wanted, pace).await,
    };
    match shard.ask_control(request).await {
        Ok(Response::Offsets(committed)) => Ok(committed),
        // Only a controller of another version answers with anything else.
        Ok(_) => Err(ErrorCode::UnsupportedVersion),
        Err(error) => Err(error_code(&error)),
    }
}

async fn selection(image: &MetadataImage, wanted: &Wanted<'_>, pace: &mut Pace) -> OffsetSelection {
    let Some(topics) = &wanted.topics else {
        return OffsetSelection::All;
    };
    let mut partitions = Vec::new();
    for (name, numbers) in topics {
        pace.step().await;
        let Some(id) = image.topic_ids.get(*name) else {
            continue;
        };
        for number in numbers {
            pace.step().await;
            partitions.extend(u32::try_from(*number).ok().map(|number| (*id, number)));
        }
    }
    OffsetSelection::Partitions(partitions)
}

/// The partitions asked for in their order, or all that have an offset.
async fn topic_answers<'a>(
    image: &'a MetadataImage,
    wanted: Option<Vec<(&'a str, Vec<i32>)>>,
    committed: Vec<CommittedOffset>,
    pace: &mut Pace,
) -> Vec<(&'a str, Vec<PartitionAnswer>)> {
    let Some(wanted) = wanted else {
        return all_answers(image, committed, pace).await;
    };
    let mut by_partition: HashMap<(TopicId, i64), CommittedOffset> = HashMap::new();
    for committed in committed {
        pace.step().await;
        let partition = i64::from(committed.partition);
        by_partition.insert((committed.topic, partition), committed);
    }
    let mut topics = Vec::with_capacity(wanted.len());
    for (name, numbers) in wanted {
        pace.step().await;
        let id = image.topic_ids.get(name);
        let mut partitions = Vec::with_capacity(numbers.len());
        for number in numbers {
            pace.step().await;
            let committed = id.and_then(|id| by_partition.get(&(*id, i64::from(number))));
            partitions.push(match committed {
                Some(committed) => partition_answer(number, committed.clone()),
                None => nothing(number, ErrorCode::None),
            });
        }
        topics.push((name, partitions));
    }
    topics
}

/// Offsets of a topic that this broker does not know, because it is new or just deleted, are left out.
async fn all_answers<'a>(
    image: &'a MetadataImage,
    committed: Vec<CommittedOffset>,
    pace: &mut Pace,
) -> Vec<(&'a str, Vec<PartitionAnswer>)> {
    let mut topics: BTreeMap<&str, Vec<PartitionAnswer>> = BTreeMap::new();
    for committed in committed {
        pace.step().await;
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
async fn refused<'a>(
    wanted: Wanted<'a>,
    error: ErrorCode,
    version: i16,
    pace: &mut Pace,
) -> GroupAnswer<'a> {
    let told = match version < GROUP_ERROR_VERSION {
        true => wanted.topics.unwrap_or_default(),
        false => Vec::new(),
    };
    let mut topics = Vec::with_capacity(told.len());
    for (name, numbers) in told {
        pace.steps(1 + numbers.len()).await;
        let numbers = numbers.into_iter();
        topics.push((name, numbers.map(|number| nothing(number, error)).collect()));
    }
    GroupAnswer {
        group: wanted.group,
        error,
        topics,
    }
}

async fn encode_group(
    to: AnswerTo,
    group: &GroupAnswer<'_>,
    answer: &mut Gather,
    pace: &mut Pace,
) -> Result<(), RequestError> {
    let mut partitions: Vec<Vec<OffsetFetchResponsePartition<'_>>> =
        Vec::with_capacity(group.topics.len());
    for (_, answers) in &group.topics {
        let mut own = Vec::with_capacity(answers.len());
        for partition in answers {
            pace.step().await;
            own.push(OffsetFetchResponsePartition {
                partition_index: partition.number,
                committed_offset: partition.offset,
                committed_leader_epoch: partition.leader_epoch,
                metadata: Some(&partition.metadata),
                error_code: partition.error as i16,
            });
        }
        partitions.push(own);
    }
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
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await
}

async fn encode_groups(
    to: AnswerTo,
    groups: &[GroupAnswer<'_>],
    answer: &mut Gather,
    pace: &mut Pace,
) -> Result<(), RequestError> {
    let mut partitions: Vec<Vec<Vec<OffsetFetchResponsePartitions<'_>>>> =
        Vec::with_capacity(groups.len());
    for group in groups {
        let mut of_group = Vec::with_capacity(group.topics.len());
        for (_, answers) in &group.topics {
            let mut own = Vec::with_capacity(answers.len());
            for partition in answers {
                pace.step().await;
                own.push(partition_response(partition));
            }
            of_group.push(own);
        }
        partitions.push(of_group);
    }
    let mut topics: Vec<Vec<OffsetFetchResponseTopics<'_>>> = Vec::with_capacity(groups.len());
    for (group, partitions) in groups.iter().zip(&partitions) {
        pace.steps(1 + partitions.len()).await;
        let own = group.topics.iter().zip(partitions);
        let own = own.map(|((name, _), partitions)| OffsetFetchResponseTopics {
            name,
            partitions: Array::from(partitions),
        });
        topics.push(own.collect());
    }
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
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await
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
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    const TOPIC: TopicId = TopicId([1; 16]);

    /// What is short gives way to nobody.
    fn at_once<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("nothing is waited for here"),
        }
    }

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
        let answers = at_once(topic_answers(
            &image,
            Some(wanted),
            vec![committed(TOPIC, 0, 7)],
            &mut Pace::default(),
        ));
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
        let all = vec![committed(TOPIC, 3, 7), gone];
        let answers = at_once(topic_answers(&image, None, all, &mut Pace::default()));
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
        let mut pace = Pace::default();
        assert_eq!(at_once(selection(&image(), &wanted, &mut pace)), expected);
    }

    #[test]
    fn version_1_tells_an_error_of_the_group_by_its_partitions() {
        let wanted = || Wanted {
            group: "g",
            topics: Some(vec![("t", vec![0])]),
        };
        let error = ErrorCode::NotCoordinator;
        let told = |version| {
            let mut pace = Pace::default();
            at_once(refused(wanted(), error, version, &mut pace)).topics
        };
        assert_eq!(told(1)[0].1[0].error, error);
        assert!(told(2).is_empty());
    }
}
