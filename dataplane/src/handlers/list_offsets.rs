//! ListOffsets: the first and last offsets of partitions, and offsets by timestamp.

use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::pace::Pace;
use crate::partition::{ListedOffset, OffsetQuery};
use crate::partition_request::{PartitionKey, list_offset_anywhere};
use crate::respond::AnswerTo;
use crate::routes::TopicRoute;
use crate::shard::Shard;
use std::collections::{HashMap, HashSet};
use wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use wire::{Array, ErrorCode};

/// The first version whose responses carry a leader epoch.
const LEADER_EPOCH_VERSION: i16 = 4;

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &ListOffsetsRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let mut pace = Pace::default();
    let repeated = repeated_partitions(request, &mut pace).await;
    let mut listed = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        // Looked up once: the name may be as long as all of its partitions together.
        let topic_number = repeated.topics[topic.name];
        let route = shard.topic_named(topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            pace.step().await;
            let number = partition.partition_index;
            let result = if repeated.partitions.contains(&(topic_number, number)) {
                Err(ErrorCode::InvalidRequest)
            } else {
                list(shard, route.as_deref(), &partition, to.version).await
            };
            partitions.push(partition_response(number, result, to.version));
        }
        listed.push((topic.name, partitions));
    }
    let topics: Vec<ListOffsetsTopicResponse<'_>> = listed
        .iter()
        .map(|(name, partitions)| ListOffsetsTopicResponse {
            name,
            partitions: Array::from(partitions),
        })
        .collect();
    let response = ListOffsetsResponse {
        topics: Array::from(&topics),
        ..Default::default()
    };
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await
}

/// Without transactions the last stable offset is the high watermark, so the isolation level makes no difference.
async fn list<I: Io>(
    shard: &Shard<I>,
    route: Option<&TopicRoute<I>>,
    partition: &ListOffsetsPartition,
    version: i16,
) -> Result<ListedOffset, ErrorCode> {
    check_timestamp(partition.timestamp, version)?;
    let route = route.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let key = PartitionKey {
        topic: route.id,
        partition: partition.partition_index,
    };
    let query = OffsetQuery {
        timestamp: partition.timestamp,
        current_leader_epoch: partition.current_leader_epoch,
    };
    let listed = list_offset_anywhere(shard, key, query).await;
    listed.map_err(|error| match error {
        // A topic that was deleted meanwhile, which the client knows by name only.
        ErrorCode::UnknownTopicId => ErrorCode::UnknownTopicOrPartition,
        error => error,
    })
}

/// Each question below zero came with a version: the largest timestamp with KIP-734, the local log's start with KIP-405, the
/// end of what is tiered with KIP-1005.
fn check_timestamp(timestamp: i64, version: i16) -> Result<(), ErrorCode> {
    let version_min = match timestamp {
        0.. | OffsetQuery::LATEST | OffsetQuery::EARLIEST => 1,
        OffsetQuery::MAX_TIMESTAMP => 7,
        OffsetQuery::EARLIEST_LOCAL => 8,
        OffsetQuery::LATEST_TIERED => 9,
        _ => return Err(ErrorCode::UnsupportedVersion),
    };
    if version < version_min {
        return Err(ErrorCode::UnsupportedVersion);
    }
    Ok(())
}

/// The partitions that a request names more than once, by the number of their topic, so that each name is looked at once.
#[derive(Default)]
struct Repeated<'a> {
    topics: HashMap<&'a str, usize>,
    partitions: HashSet<(usize, i32)>,
}

async fn repeated_partitions<'a>(
    request: &ListOffsetsRequest<'a>,
    pace: &mut Pace,
) -> Repeated<'a> {
    let mut repeated = Repeated::default();
    let mut seen = HashSet::new();
    for topic in &request.topics {
        pace.step().await;
        let next = repeated.topics.len();
        let number = *repeated.topics.entry(topic.name).or_insert(next);
        for partition in &topic.partitions {
            pace.step().await;
            let partition = (number, partition.partition_index);
            if !seen.insert(partition) {
                repeated.partitions.insert(partition);
            }
        }
    }
    repeated
}

fn partition_response(
    partition_index: i32,
    result: Result<ListedOffset, ErrorCode>,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let (error, listed) = match result {
        Ok(listed) => (ErrorCode::None, listed),
        Err(error) => (error, ListedOffset::NONE),
    };
    ListOffsetsPartitionResponse {
        partition_index,
        error_code: error as i16,
        timestamp: listed.timestamp,
        offset: listed.offset,
        leader_epoch: match version >= LEADER_EPOCH_VERSION {
            true => listed.leader_epoch,
            false => -1,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use wire::messages::list_offsets::ListOffsetsTopic;

    #[test]
    fn each_question_has_its_first_version() {
        let unsupported = Err(ErrorCode::UnsupportedVersion);
        let first_versions = [
            (0, 1),
            (OffsetQuery::LATEST, 1),
            (OffsetQuery::EARLIEST, 1),
            (OffsetQuery::MAX_TIMESTAMP, 7),
            (OffsetQuery::EARLIEST_LOCAL, 8),
            (OffsetQuery::LATEST_TIERED, 9),
        ];
        for (timestamp, first) in first_versions {
            assert_eq!(check_timestamp(timestamp, first), Ok(()), "{timestamp}");
            let before = check_timestamp(timestamp, first - 1);
            assert_eq!(before, unsupported, "{timestamp}");
        }
        assert_eq!(check_timestamp(-6, 10), unsupported);
        assert_eq!(check_timestamp(i64::MIN, 10), unsupported);
    }

    #[test]
    fn a_partition_named_twice_is_found_across_topics_entries() {
        let partition = |partition_index| ListOffsetsPartition {
            partition_index,
            ..Default::default()
        };
        let (first, second) = ([partition(0), partition(1)], [partition(1)]);
        let topic = |partitions| ListOffsetsTopic {
            name: "t",
            partitions,
        };
        let topics = [topic(Array::from(&first)), topic(Array::from(&second))];
        let request = ListOffsetsRequest {
            topics: Array::from(&topics),
            ..Default::default()
        };
        let mut pace = Pace::default();
        let repeated = pin!(repeated_partitions(&request, &mut pace));
        let Poll::Ready(repeated) = repeated.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("nothing is waited for here");
        };
        assert_eq!(repeated.partitions, HashSet::from([(0, 1)]));
        assert_eq!(repeated.topics, HashMap::from([("t", 0)]));
    }

    #[test]
    fn versions_without_a_leader_epoch_are_answered_without_one() {
        let listed = ListedOffset {
            offset: 5,
            timestamp: 6,
            leader_epoch: 7,
        };
        assert_eq!(partition_response(0, Ok(listed), 3).leader_epoch, -1);
        assert_eq!(partition_response(0, Ok(listed), 4).leader_epoch, 7);
    }
}
