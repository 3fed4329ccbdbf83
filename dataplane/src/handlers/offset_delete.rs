//! OffsetDelete: removes what a group has committed for some partitions (KIP-496).

use super::groups;
use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::ids::TopicId;
use control_api::image::MetadataImage;
use control_api::message::Request;
use wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestTopic, OffsetDeleteResponse,
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use wire::{Array, ErrorCode};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &OffsetDeleteRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let image = shard.image();
    let topics = request.topics.iter();
    let topics: Vec<_> = topics.map(|topic| checked(&image, &topic)).collect();
    let known = topics.iter().flat_map(|topic| topic.known.iter().copied());
    let known: Vec<(TopicId, u32)> = known.collect();
    let error = match known.is_empty() {
        // As in Kafka, the group is not looked for when nothing is left to delete.
        true => Ok(()),
        false => delete(shard, &image, request.group_id, known).await,
    };
    let named: Vec<OffsetDeleteResponseTopic<'_>> = topics
        .iter()
        .map(|topic| OffsetDeleteResponseTopic {
            name: topic.name,
            partitions: Array::from(&topic.partitions),
        })
        .collect();
    // An error of the whole group stands alone.
    let response = match error {
        Ok(()) => OffsetDeleteResponse {
            topics: Array::from(&named),
            ..Default::default()
        },
        Err(error) => OffsetDeleteResponse {
            error_code: error as i16,
            ..Default::default()
        },
    };
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await
}

/// One topic's answer, unless the group is refused, and those of its partitions that exist.
struct Checked<'a> {
    name: &'a str,
    partitions: Vec<OffsetDeleteResponsePartition>,
    known: Vec<(TopicId, u32)>,
}

fn checked<'a>(image: &MetadataImage, topic: &OffsetDeleteRequestTopic<'a>) -> Checked<'a> {
    let record = image.topic(topic.name);
    let mut checked = Checked {
        name: topic.name,
        partitions: Vec::with_capacity(topic.partitions.len()),
        known: Vec::new(),
    };
    for partition in topic.partitions.iter() {
        let index = partition.partition_index;
        let exists = record.and_then(|record| {
            let number = u32::try_from(index).ok()?;
            ((number as usize) < record.partitions.len()).then_some((record.id, number))
        });
        checked.known.extend(exists);
        // A partition that nothing is committed for is deleted as well as one that something is.
        let error = match exists {
            Some(_) => ErrorCode::None,
            None => ErrorCode::UnknownTopicOrPartition,
        };
        checked.partitions.push(OffsetDeleteResponsePartition {
            partition_index: index,
            error_code: error as i16,
        });
    }
    checked
}

/// No group has members yet that could be subscribed to one of the topics, so none is refused with GROUP_SUBSCRIBED_TO_TOPIC.
async fn delete<I: Io>(
    shard: &Shard<I>,
    image: &MetadataImage,
    group: &str,
    partitions: Vec<(TopicId, u32)>,
) -> Result<(), ErrorCode> {
    // The one request that Kafka refuses for the empty name, which it keeps for clients of old elsewhere.
    if group.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    let coordinator_epoch = groups::check_coordinator(image, shard.broker, group)?;
    for partitions in groups::portions(partitions, |_| 0) {
        let request = Request::DeleteOffsets {
            group: group.to_owned(),
            coordinator_epoch,
            partitions,
        };
        let results = groups::ask_each(shard, request, 1).await;
        results.into_iter().collect::<Result<(), ErrorCode>>()?;
    }
    Ok(())
}
