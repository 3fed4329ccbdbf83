//! OffsetForLeaderEpoch: where a leader epoch ends in this broker's log, so that a reader finds out whether what it has read
//! was cut off since (KIP-320).

use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::pace::Pace;
use crate::partition::EpochEnd;
use crate::partition_request::{PartitionKey, epoch_end_anywhere};
use crate::respond::AnswerTo;
use crate::routes::TopicRoute;
use crate::shard::Shard;
use wire::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition, OffsetForLeaderTopicResult,
};
use wire::{Array, ErrorCode};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &OffsetForLeaderEpochRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let mut found = Vec::with_capacity(request.topics.len());
    let mut pace = Pace::default();
    for topic in &request.topics {
        // Looked up once: the name may be as long as all of its partitions together.
        let route = shard.topic_named(topic.topic);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        pace.step().await;
        for partition in &topic.partitions {
            pace.step().await;
            let result = epoch_end(shard, route.as_deref(), &partition).await;
            partitions.push(partition_response(partition.partition, result));
        }
        found.push((topic.topic, partitions));
    }
    let topics: Vec<OffsetForLeaderTopicResult<'_>> = found
        .iter()
        .map(|(topic, partitions)| OffsetForLeaderTopicResult {
            topic,
            partitions: Array::from(partitions),
        })
        .collect();
    let response = OffsetForLeaderEpochResponse {
        topics: Array::from(&topics),
        ..Default::default()
    };
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await
}

async fn epoch_end<I: Io>(
    shard: &Shard<I>,
    route: Option<&TopicRoute<I>>,
    partition: &OffsetForLeaderPartition,
) -> Result<EpochEnd, ErrorCode> {
    let route = route.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let key = PartitionKey {
        topic: route.id,
        partition: partition.partition,
    };
    let (current, asked) = (partition.current_leader_epoch, partition.leader_epoch);
    let end = epoch_end_anywhere(shard, key, current, asked).await;
    end.map_err(|error| match error {
        // A topic that was deleted meanwhile, which the client knows by name only.
        ErrorCode::UnknownTopicId => ErrorCode::UnknownTopicOrPartition,
        error => error,
    })
}

fn partition_response(partition: i32, result: Result<EpochEnd, ErrorCode>) -> EpochEndOffset {
    match result {
        Ok(end) => EpochEndOffset {
            error_code: ErrorCode::None as i16,
            partition,
            leader_epoch: end.leader_epoch,
            end_offset: end.end_offset,
        },
        Err(error) => EpochEndOffset {
            error_code: error as i16,
            partition,
            ..Default::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_without_an_epoch_or_offset() {
        let failed = partition_response(3, Err(ErrorCode::FencedLeaderEpoch));
        assert_eq!((failed.leader_epoch, failed.end_offset), (-1, -1));
        assert_eq!((failed.partition, failed.error_code), (3, 74));
    }
}
