//! CreateTopics: checks what only the request can tell, leaves the rest to the control plane, and answers once this broker
//! knows the new topics.

use super::admin::{self, Refusal, outcome};
use super::config_entries::{self, ConfigEntry};
use super::new_topics;
use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::limits::ADMIN_ITEMS_MAX;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::ids::BrokerId;
use control_api::image::{MetadataImage, TopicRecord};
use control_api::message::{NewTopic, Request};
use std::collections::{BTreeMap, HashSet};
use wire::messages::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfigs, CreatableTopicResult,
    CreateTopicsRequest, CreateTopicsResponse,
};
use wire::{Array, ErrorCode, Uuid};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &CreateTopicsRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let (names, planned) = plan(shard, request);
    let (topics, verdicts) = admin::split(planned);
    let asked = topics.len();
    let question = Request::CreateTopics {
        topics,
        validate_only: request.validate_only,
    };
    let answers = admin::ask_topics(shard, question, asked).await;
    let results = admin::merge(verdicts, answers);
    if !request.validate_only {
        let created = || results.iter().flatten();
        let seen = |image: &MetadataImage| {
            created().all(|topic: &TopicRecord| image.topics.contains_key(&topic.id))
        };
        admin::catch_up(shard, request.timeout_ms, seen).await;
        admin::wait_until_ready(shard, created().map(|topic| topic.id)).await;
    }
    encode(shard, to, &names, &name_existing(&names, results), answer).await
}

/// The distinct names of the request, and what is to become of each.
fn plan<'a, I: Io>(
    shard: &Shard<I>,
    request: &CreateTopicsRequest<'a>,
) -> (Vec<&'a str>, Vec<Result<NewTopic, Refusal>>) {
    let image = shard.image();
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
            new_topic(&topic).map(|new| NewTopic {
                id: new_topics::topic_id(|| shard.io.random_u64()),
                partitions: match new.partitions {
                    -1 => new_topics::default_partitions(&image, shard.broker),
                    partitions => partitions,
                },
                ..new
            })
        };
        (topic.name, plan)
    });
    plans.unzip()
}

/// Everything that the request says of a topic, whose id is still to be drawn.
fn new_topic(topic: &CreatableTopic<'_>) -> Result<NewTopic, Refusal> {
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let Some(value) = config.value else {
            let name = config.name;
            return Err(Refusal::new(
                ErrorCode::InvalidConfig,
                format!("Null value not supported for topic configs: {name}"),
            ));
        };
        configs.insert(config.name.to_owned(), value.to_owned());
    }
    let assigned = !topic.assignments.is_empty();
    if assigned && topic.replication_factor != -1 {
        return Err(Refusal::invalid_request(
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ));
    }
    if assigned && topic.num_partitions != -1 {
        return Err(Refusal::invalid_request(
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ));
    }
    Ok(NewTopic {
        name: topic.name.to_owned(),
        id: control_api::ids::TopicId::ZERO,
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignment: assignment(&topic.assignments)?,
        configs,
    })
}

/// The replicas by partition number; the request may name the partitions in any order.
fn assignment(
    assignments: &Array<'_, CreatableReplicaAssignment<'_>>,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    if assignments.len() > ADMIN_ITEMS_MAX {
        return Err(Refusal::too_many_items());
    }
    let invalid = |text: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, text));
    let mut by_number = BTreeMap::new();
    for partition in assignments {
        let replicas: Vec<BrokerId> = partition.broker_ids.iter().map(BrokerId).collect();
        let number = partition.partition_index;
        if by_number.insert(number, replicas).is_some() {
            return invalid(format!(
                "Found multiple manual partition assignments for partition {number}"
            ));
        }
    }
    if !by_number.keys().copied().eq((0..).take(by_number.len())) {
        return invalid("partitions should be a consecutive 0-based integer sequence".to_owned());
    }
    Ok(by_number.into_values().collect())
}

/// Kafka's text names the topic that is there already.
fn name_existing(
    names: &[&str],
    results: Vec<Result<TopicRecord, Refusal>>,
) -> Vec<Result<TopicRecord, Refusal>> {
    let results = names.iter().zip(results);
    let named = results.map(|(name, result)| {
        result.map_err(|refusal| match refusal.code {
            ErrorCode::TopicAlreadyExists => {
                Refusal::new(refusal.code, format!("Topic '{name}' already exists."))
            }
            _ => refusal,
        })
    });
    named.collect()
}

async fn encode<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    names: &[&str],
    results: &[Result<TopicRecord, Refusal>],
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let image = shard.image();
    let configs: Vec<Vec<ConfigEntry<'_>>> = results
        .iter()
        .map(|result| match result {
            Ok(topic) => config_entries::of_topic(&image, shard.broker, &topic.configs),
            Err(_) => Vec::new(),
        })
        .collect();
    let configs: Vec<Vec<CreatableTopicConfigs<'_>>> = configs
        .iter()
        .map(|entries| entries.iter().map(config_answer).collect())
        .collect();
    let topics: Vec<CreatableTopicResult<'_>> = names
        .iter()
        .zip(results.iter().zip(&configs))
        .map(|(name, (result, configs))| topic_answer(name, result, configs))
        .collect();
    let response = CreateTopicsResponse {
        topics: Array::from(&topics),
        ..Default::default()
    };
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await
}

fn topic_answer<'a>(
    name: &'a str,
    result: &'a Result<TopicRecord, Refusal>,
    configs: &'a [CreatableTopicConfigs<'a>],
) -> CreatableTopicResult<'a> {
    let (error_code, error_message) = outcome(result);
    let refused = CreatableTopicResult {
        name,
        error_code,
        error_message,
        ..Default::default()
    };
    let Ok(topic) = result else {
        return refused;
    };
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let replicas = topic
        .partitions
        .first()
        .map_or(0, |first| first.replicas.len());
    CreatableTopicResult {
        topic_id: Uuid(topic.id.0),
        num_partitions: count(topic.partitions.len()),
        replication_factor: i16::try_from(replicas).unwrap_or(i16::MAX),
        configs: Some(Array::from(configs)),
        ..refused
    }
}

fn config_answer<'a>(entry: &'a ConfigEntry<'_>) -> CreatableTopicConfigs<'a> {
    let in_force = entry.in_force();
    CreatableTopicConfigs {
        name: entry.key.name,
        value: Some(in_force.value),
        read_only: false,
        config_source: in_force.source as i8,
        is_sensitive: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::messages::create_topics::CreatableTopicConfig;

    fn code(topic: &CreatableTopic<'_>) -> Result<Vec<Vec<BrokerId>>, ErrorCode> {
        let new = new_topic(topic).map_err(|refusal| refusal.code)?;
        Ok(new.assignment)
    }

    #[test]
    fn an_assignment_excludes_counts() {
        let assignments = [CreatableReplicaAssignment::default()];
        let topic = |num_partitions, replication_factor| CreatableTopic {
            name: "t",
            num_partitions,
            replication_factor,
            assignments: Array::from(&assignments),
            configs: Array::default(),
        };
        assert_eq!(code(&topic(1, -1)), Err(ErrorCode::InvalidRequest));
        assert_eq!(code(&topic(-1, 1)), Err(ErrorCode::InvalidRequest));
        assert!(code(&topic(-1, -1)).is_ok());
    }

    #[test]
    fn an_assignment_names_every_partition_from_0_on_once() {
        let (one, two) = ([1], [2]);
        let partition = |partition_index, brokers| CreatableReplicaAssignment {
            partition_index,
            broker_ids: Array::from(brokers),
        };
        let assigned = |assignments: &[CreatableReplicaAssignment<'_>]| {
            assignment(&Array::from(assignments)).map_err(|refusal| refusal.code)
        };
        let invalid = Err(ErrorCode::InvalidReplicaAssignment);
        let sorted = Ok(vec![vec![BrokerId(1)], vec![BrokerId(2)]]);
        assert_eq!(assigned(&[partition(1, &two), partition(0, &one)]), sorted);
        assert_eq!(assigned(&[partition(1, &one)]), invalid);
        assert_eq!(assigned(&[partition(-1, &one)]), invalid);
        assert_eq!(assigned(&[partition(0, &one), partition(0, &two)]), invalid);
        assert_eq!(assigned(&[]), Ok(Vec::new()));
    }

    #[test]
    fn a_config_without_a_value_is_refused() {
        let configs = [CreatableTopicConfig {
            name: "retention.ms",
            value: None,
        }];
        let topic = CreatableTopic {
            name: "t",
            num_partitions: 1,
            replication_factor: 1,
            assignments: Array::default(),
            configs: Array::from(&configs),
        };
        assert_eq!(code(&topic), Err(ErrorCode::InvalidConfig));
    }
}
