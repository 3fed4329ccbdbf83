//! CreatePartitions: adds partitions to topics.

use super::admin::{self, Refusal, outcome};
use crate::dispatch::{RequestError, respond};
use crate::io::{Gather, Io};
use crate::limits::ADMIN_ITEMS_MAX;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::ids::BrokerId;
use control_api::image::{MetadataImage, TopicRecord};
use control_api::message::{NewPartitions, Request};
use std::collections::HashSet;
use wire::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
    CreatePartitionsTopicResult,
};
use wire::{Array, ErrorCode};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &CreatePartitionsRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let names: Vec<&str> = request.topics.iter().map(|topic| topic.name).collect();
    admin::wait_for_topics(shard, &names).await;

    let image = shard.image();
    let (names, planned): (Vec<&str>, Vec<_>) = plan(&image, request).into_iter().unzip();
    let (topics, verdicts) = admin::split(planned);
    let asked = topics.len();
    let question = Request::CreatePartitions {
        topics,
        validate_only: request.validate_only,
    };
    let answers = admin::ask_topics(shard, question, asked).await;
    let results = admin::merge(verdicts, answers);
    if !request.validate_only {
        let extended = || results.iter().flatten();
        let seen =
            |image: &MetadataImage| extended().all(|topic| knows_partitions_of(image, topic));
        admin::catch_up(shard, request.timeout_ms, seen).await;
        admin::wait_until_ready(shard, extended().map(|topic| topic.id)).await;
    }

    let results: Vec<CreatePartitionsTopicResult<'_>> = names
        .iter()
        .zip(&results)
        .map(|(name, result)| {
            let (error_code, error_message) = outcome(result);
            CreatePartitionsTopicResult {
                name,
                error_code,
                error_message,
            }
        })
        .collect();
    let response = CreatePartitionsResponse {
        results: Array::from(&results),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

/// Whether an image has all partitions of a topic, or the topic is gone again.
fn knows_partitions_of(image: &MetadataImage, topic: &TopicRecord) -> bool {
    let known = image.topics.get(&topic.id);
    known.is_none_or(|known| known.partitions.len() >= topic.partitions.len())
}

/// The distinct names of the request, and what is to become of each.
fn plan<'a>(
    image: &MetadataImage,
    request: &CreatePartitionsRequest<'a>,
) -> Vec<(&'a str, Result<NewPartitions, Refusal>)> {
    let too_many = request.topics.len() > ADMIN_ITEMS_MAX;
    let mut seen = HashSet::new();
    let names = request.topics.iter().map(|topic| topic.name);
    let repeated: HashSet<&str> = names.filter(|name| !seen.insert(*name)).collect();
    let mut answered = HashSet::new();
    let topics = request.topics.iter();
    let topics = topics.filter(|topic| answered.insert(topic.name));
    let plans = topics.map(|topic| {
        let plan = if too_many {
            Err(Refusal::too_many_items())
        } else if repeated.contains(topic.name) {
            Err(Refusal::invalid_request("Duplicate topic name."))
        } else {
            new_partitions(image, &topic)
        };
        (topic.name, plan)
    });
    plans.collect()
}

fn new_partitions(
    image: &MetadataImage,
    topic: &CreatePartitionsTopic<'_>,
) -> Result<NewPartitions, Refusal> {
    let known = image.topic(topic.name).ok_or_else(Refusal::unknown_topic)?;
    let existing = i32::try_from(known.partitions.len()).unwrap_or(i32::MAX);
    let added = topic.count.saturating_sub(existing);
    // Null leaves the placement to the controller. An assignment of nothing is wrong as soon as something is added.
    if let Some(assignments) = &topic.assignments
        && assignments.is_empty()
        && added > 0
    {
        return Err(Refusal::new(
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "Attempted to add {added} additional partition(s), but only 0 assignment(s) were specified."
            ),
        ));
    }
    let assignments = topic.assignments.iter().flatten();
    if assignments.clone().count() > ADMIN_ITEMS_MAX {
        return Err(Refusal::too_many_items());
    }
    let assignment =
        assignments.map(|assignment| assignment.broker_ids.iter().map(BrokerId).collect());
    Ok(NewPartitions {
        topic: known.id,
        count: topic.count,
        assignment: assignment.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::ids::TopicId;

    fn image() -> MetadataImage {
        let id = TopicId([1; 16]);
        let record = TopicRecord {
            id,
            name: "a".to_owned(),
            partitions: Vec::new(),
            configs: Default::default(),
        };
        let mut image = MetadataImage::default();
        image.topic_ids.insert("a".to_owned(), id);
        image.topics.insert(id, record);
        image
    }

    fn topic<'a>(name: &'a str) -> CreatePartitionsTopic<'a> {
        CreatePartitionsTopic {
            name,
            count: 2,
            assignments: None,
        }
    }

    fn codes(topics: &[CreatePartitionsTopic<'_>]) -> Vec<(String, Option<ErrorCode>)> {
        let request = CreatePartitionsRequest {
            topics: Array::from(topics),
            ..Default::default()
        };
        let planned = plan(&image(), &request).into_iter();
        planned
            .map(|(name, plan)| (name.to_owned(), plan.err().map(|refusal| refusal.code)))
            .collect()
    }

    #[test]
    fn a_topic_named_twice_is_refused_once() {
        let codes = codes(&[topic("a"), topic("a")]);
        assert_eq!(codes, [("a".to_owned(), Some(ErrorCode::InvalidRequest))]);
    }

    #[test]
    fn an_unknown_topic_is_refused_and_its_neighbour_is_not() {
        let codes = codes(&[topic("b"), topic("a")]);
        let unknown = Some(ErrorCode::UnknownTopicOrPartition);
        assert_eq!(codes, [("b".to_owned(), unknown), ("a".to_owned(), None)]);
    }

    #[test]
    fn null_leaves_the_placement_open_and_an_empty_assignment_does_not() {
        let empty = CreatePartitionsTopic {
            assignments: Some(Array::default()),
            ..topic("a")
        };
        let code = new_partitions(&image(), &empty).unwrap_err().code;
        assert_eq!(code, ErrorCode::InvalidReplicaAssignment);
        assert!(new_partitions(&image(), &topic("a")).is_ok());
    }
}
