//! DeleteTopics: by name, or from version 6 on by id.

use super::admin::{self, Refusal, outcome};
use crate::dispatch::{RequestError, respond};
use crate::io::{Gather, Io};
use crate::limits::ADMIN_ITEMS_MAX;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::ids::TopicId;
use control_api::image::{MetadataImage, TopicRecord};
use control_api::message::Request;
use std::collections::HashMap;
use wire::messages::delete_topics::{
    DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};
use wire::{Array, ErrorCode, Uuid};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &DeleteTopicsRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let by_name = request.topic_names.iter().map(|name| DeleteTopicState {
        name: Some(name),
        topic_id: Uuid::ZERO,
    });
    let topics: Vec<DeleteTopicState<'_>> = request.topics.iter().chain(by_name).collect();
    let names: Vec<&str> = topics.iter().filter_map(|topic| topic.name).collect();
    if topics.len() <= ADMIN_ITEMS_MAX {
        admin::wait_for_topics(shard, &names).await;
    }

    let image = shard.image();
    let (ids, verdicts) = admin::split(plan(&image, &topics));
    let asked = ids.len();
    let answers = admin::ask_topics(shard, Request::DeleteTopics { topics: ids }, asked).await;
    let results = admin::merge(verdicts, answers);
    let deleted = || results.iter().flatten();
    let seen = |image: &MetadataImage| {
        deleted().all(|topic: &TopicRecord| !image.topics.contains_key(&topic.id))
    };
    admin::catch_up(shard, request.timeout_ms, seen).await;
    admin::wait_until_ready(shard, std::iter::empty()).await;

    let responses: Vec<DeletableTopicResult<'_>> = topics
        .iter()
        .zip(&results)
        .map(|(topic, result)| topic_answer(topic, result))
        .collect();
    let response = DeleteTopicsResponse {
        responses: Array::from(&responses),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

/// The id of each topic that may be deleted. One that is named twice, in whichever way, is not.
fn plan(image: &MetadataImage, topics: &[DeleteTopicState<'_>]) -> Vec<Result<TopicId, Refusal>> {
    if topics.len() > ADMIN_ITEMS_MAX {
        return vec![Err(Refusal::too_many_items()); topics.len()];
    }
    let found: Vec<Result<TopicId, Refusal>> =
        topics.iter().map(|topic| find(image, topic)).collect();
    let mut counts: HashMap<TopicId, usize> = HashMap::new();
    for id in found.iter().flatten() {
        *counts.entry(*id).or_default() += 1;
    }
    let once = found.into_iter().map(|found| match found {
        Ok(id) if counts[&id] > 1 => Err(Refusal::invalid_request("Duplicate topic name or id.")),
        found => found,
    });
    once.collect()
}

fn find(image: &MetadataImage, topic: &DeleteTopicState<'_>) -> Result<TopicId, Refusal> {
    let id = TopicId(topic.topic_id.0);
    match (topic.name, id == TopicId::ZERO) {
        (None, true) => Err(Refusal::invalid_request(
            "Neither topic name nor id were specified.",
        )),
        (Some(_), false) => Err(Refusal::invalid_request(
            "You may not specify both topic name and topic id.",
        )),
        (Some(name), true) => {
            let id = image.topic_ids.get(name).copied();
            id.ok_or_else(Refusal::unknown_topic)
        }
        (None, false) if image.topics.contains_key(&id) => Ok(id),
        (None, false) => Err(Refusal::new(
            ErrorCode::UnknownTopicId,
            "This server does not host this topic ID.",
        )),
    }
}

fn topic_answer<'a>(
    topic: &DeleteTopicState<'a>,
    result: &'a Result<TopicRecord, Refusal>,
) -> DeletableTopicResult<'a> {
    let (error_code, error_message) = outcome(result);
    let (name, topic_id) = match result {
        Ok(deleted) => (Some(&*deleted.name), Uuid(deleted.id.0)),
        Err(_) => (topic.name, topic.topic_id),
    };
    DeletableTopicResult {
        name,
        topic_id,
        error_code,
        error_message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        for (name, id) in [("a", TopicId([1; 16])), ("b", TopicId([2; 16]))] {
            let record = TopicRecord {
                id,
                name: name.to_owned(),
                partitions: Vec::new(),
                configs: Default::default(),
            };
            image.topic_ids.insert(name.to_owned(), id);
            image.topics.insert(id, record);
        }
        image
    }

    fn topic(name: Option<&str>, id: u8) -> DeleteTopicState<'_> {
        DeleteTopicState {
            name,
            topic_id: Uuid([id; 16]),
        }
    }

    fn codes(topics: &[DeleteTopicState<'_>]) -> Vec<Result<TopicId, ErrorCode>> {
        let planned = plan(&image(), topics).into_iter();
        planned
            .map(|found| found.map_err(|refusal| refusal.code))
            .collect()
    }

    #[test]
    fn topics_are_found_by_name_and_by_id() {
        let found = codes(&[topic(Some("a"), 0), topic(None, 2)]);
        assert_eq!(found, [Ok(TopicId([1; 16])), Ok(TopicId([2; 16]))]);
    }

    #[test]
    fn what_cannot_be_deleted_is_told_apart() {
        let found = codes(&[
            topic(Some("c"), 0),
            topic(None, 9),
            topic(None, 0),
            topic(Some("a"), 1),
        ]);
        let expected = [
            Err(ErrorCode::UnknownTopicOrPartition),
            Err(ErrorCode::UnknownTopicId),
            Err(ErrorCode::InvalidRequest),
            Err(ErrorCode::InvalidRequest),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_topic_named_by_name_and_by_id_is_not_deleted() {
        let found = codes(&[topic(Some("a"), 0), topic(None, 1), topic(Some("b"), 0)]);
        let duplicate = Err(ErrorCode::InvalidRequest);
        assert_eq!(found, [duplicate, duplicate, Ok(TopicId([2; 16]))]);
    }
}
