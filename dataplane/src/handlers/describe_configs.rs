//! DescribeConfigs: the configuration of topics and of this broker.

use super::admin::{Refusal, outcome};
use super::config_entries::{self, ConfigEntry};
use super::config_resources;
use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::limits::ADMIN_ITEMS_MAX;
use crate::pace::Pace;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::ids::BrokerId;
use control_api::image::MetadataImage;
use control_api::message::ConfigResource;
use std::collections::{BTreeMap, HashSet};
use wire::Array;
use wire::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
    DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};

/// A resource has some dozens of keys.
const STEPS_PER_RESOURCE: usize = 16;

/// A resource's entries, or why there are none.
type Described<'a> = Result<Vec<ConfigEntry<'a>>, Refusal>;

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &DescribeConfigsRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let image = shard.image();
    let idle_ms = shard.connections_idle_ms_max;
    let idle_ms = idle_ms.map_or_else(|| "-1".to_owned(), |ms| ms.to_string());
    let too_many = request.resources.len() > ADMIN_ITEMS_MAX;
    let mut pace = Pace::default();
    let mut described: Vec<Described<'_>> = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        pace.steps(STEPS_PER_RESOURCE).await;
        described.push(match too_many {
            true => Err(Refusal::too_many_items()),
            false => describe(&image, shard.broker, &idle_ms, &resource),
        });
    }
    let mut synonyms: Vec<Vec<Vec<DescribeConfigsSynonym<'_>>>> =
        Vec::with_capacity(described.len());
    for entries in &described {
        pace.steps(STEPS_PER_RESOURCE).await;
        let entries = entries.iter().flatten();
        let synonyms_of_entry = entries.map(|entry| match request.include_synonyms {
            true => synonyms_of(entry),
            false => Vec::new(),
        });
        synonyms.push(synonyms_of_entry.collect());
    }
    let mut entries: Vec<Vec<DescribeConfigsResourceResult<'_>>> =
        Vec::with_capacity(described.len());
    for (described, synonyms) in described.iter().zip(&synonyms) {
        pace.steps(STEPS_PER_RESOURCE).await;
        let answers = described.iter().flatten().zip(synonyms);
        let answers = answers
            .map(|(entry, synonyms)| entry_answer(entry, synonyms, request.include_documentation));
        entries.push(answers.collect());
    }
    let results: Vec<DescribeConfigsResult<'_>> = request
        .resources
        .iter()
        .zip(described.iter().zip(&entries))
        .map(|(resource, (described, entries))| {
            let (error_code, error_message) = outcome(described);
            DescribeConfigsResult {
                error_code,
                error_message,
                resource_type: resource.resource_type,
                resource_name: resource.resource_name,
                configs: Array::from(entries),
            }
        })
        .collect();
    let response = DescribeConfigsResponse {
        results: Array::from(&results),
        ..Default::default()
    };
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await?;
    drop(results);
    pace.let_go(entries, STEPS_PER_RESOURCE).await;
    pace.let_go(synonyms, STEPS_PER_RESOURCE).await;
    pace.let_go(described, STEPS_PER_RESOURCE).await;
    Ok(())
}

fn describe<'a>(
    image: &'a MetadataImage,
    broker: BrokerId,
    idle_ms: &'a str,
    resource: &DescribeConfigsResource<'_>,
) -> Described<'a> {
    static NO_OVERRIDES: BTreeMap<String, String> = BTreeMap::new();
    let (kind, name) = (resource.resource_type, resource.resource_name);
    let mut entries = match config_resources::resource(image, broker, kind, name)? {
        ConfigResource::Topic(id) => {
            let overrides = image.topics.get(&id).map(|topic| &topic.configs);
            config_entries::of_topic(image, broker, overrides.unwrap_or(&NO_OVERRIDES))
        }
        ConfigResource::Broker(Some(broker)) => config_entries::of_broker(image, broker, idle_ms),
        ConfigResource::Broker(None) => config_entries::of_all_brokers(image),
    };
    // To Kafka an empty list means the same as null.
    if let Some(keys) = &resource.configuration_keys
        && !keys.is_empty()
    {
        // A request may name very many keys, so each is looked at once.
        let known: HashSet<&str> = entries.iter().map(|entry| entry.key.name).collect();
        let wanted: HashSet<&str> = keys.iter().filter(|name| known.contains(name)).collect();
        entries.retain(|entry| wanted.contains(entry.key.name));
    }
    Ok(entries)
}

fn synonyms_of<'a>(entry: &'a ConfigEntry<'_>) -> Vec<DescribeConfigsSynonym<'a>> {
    let synonyms = entry.synonyms.iter().map(|synonym| DescribeConfigsSynonym {
        name: synonym.name,
        value: Some(synonym.value),
        source: synonym.source as i8,
    });
    synonyms.collect()
}

fn entry_answer<'a>(
    entry: &'a ConfigEntry<'_>,
    synonyms: &'a [DescribeConfigsSynonym<'a>],
    include_documentation: bool,
) -> DescribeConfigsResourceResult<'a> {
    let in_force = entry.in_force();
    DescribeConfigsResourceResult {
        name: entry.key.name,
        value: Some(in_force.value),
        read_only: entry.read_only,
        config_source: in_force.source as i8,
        is_sensitive: false,
        synonyms: Array::from(synonyms),
        config_type: entry.key.kind as i8,
        documentation: include_documentation.then_some(entry.key.documentation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::topic_config::BROKER_KEYS;
    use wire::ErrorCode;

    fn names(resource: &DescribeConfigsResource<'_>) -> Result<Vec<&'static str>, ErrorCode> {
        let image = MetadataImage::default();
        let described = describe(&image, BrokerId(1), "-1", resource);
        let names = described.map(|entries| entries.iter().map(|entry| entry.key.name).collect());
        names.map_err(|refusal| refusal.code)
    }

    #[test]
    fn only_the_keys_asked_for_are_described() {
        let keys = ["num.partitions", "no.such.key"];
        let resource = DescribeConfigsResource {
            resource_type: config_resources::BROKER,
            resource_name: "1",
            configuration_keys: Some(Array::from(&keys)),
        };
        assert_eq!(names(&resource), Ok(vec!["num.partitions"]));
    }

    #[test]
    fn null_and_an_empty_list_ask_for_every_key() {
        for configuration_keys in [None, Some(Array::default())] {
            let resource = DescribeConfigsResource {
                resource_type: config_resources::BROKER,
                resource_name: "1",
                configuration_keys,
            };
            let described = names(&resource).unwrap();
            // And that of the process.
            assert_eq!(described.len(), BROKER_KEYS.len() + 1);
        }
    }

    #[test]
    fn an_unknown_topic_is_refused() {
        let resource = DescribeConfigsResource {
            resource_type: config_resources::TOPIC,
            resource_name: "none",
            configuration_keys: None,
        };
        assert_eq!(names(&resource), Err(ErrorCode::UnknownTopicOrPartition));
    }
}
