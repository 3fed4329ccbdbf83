//! Dynamic configuration of topics and brokers.
//!
//! Which keys there are, and what they may hold, was settled before a change was proposed: versions of the program differ in it.

use super::Change;
use control_api::image::{MetadataEvent, MetadataImage, TopicRecord};
use control_api::message::{ConfigChange, ConfigOperation, ConfigResource, ControlError};
use std::collections::BTreeMap;

/// A change is applied whole or not at all.
pub(super) fn alter(
    change: &mut Change,
    wanted: &ConfigChange,
    list_defaults: &BTreeMap<String, String>,
) -> Result<(), ControlError> {
    let current = find(change.image, &wanted.resource)?;
    let mut configs = match wanted.replace_all {
        true => BTreeMap::new(),
        false => current.clone(),
    };
    for operation in &wanted.operations {
        run(&mut configs, operation, list_defaults)?;
    }
    if configs == current {
        return Ok(());
    }
    change.push(match wanted.resource {
        ConfigResource::Topic(topic) => MetadataEvent::TopicConfigsChanged { topic, configs },
        ConfigResource::Broker(broker) => MetadataEvent::BrokerConfigsChanged { broker, configs },
    });
    Ok(())
}

/// What was set for a resource.
pub fn find(
    image: &MetadataImage,
    resource: &ConfigResource,
) -> Result<BTreeMap<String, String>, ControlError> {
    match resource {
        ConfigResource::Topic(id) => {
            let topic = image.topics.get(id).ok_or(ControlError::UnknownTopic)?;
            Ok(topic.configs.clone())
        }
        ConfigResource::Broker(Some(id)) if !image.brokers.contains_key(id) => {
            Err(ControlError::UnknownBroker)
        }
        ConfigResource::Broker(broker) => {
            let configs = image.broker_configs.get(broker).cloned();
            Ok(configs.unwrap_or_default())
        }
    }
}

/// Whether a replica that is not in sync may lead: the topic says so, or the defaults of all brokers do.
pub(super) fn allows_unclean_election(image: &MetadataImage, topic: &TopicRecord) -> bool {
    const NAME: &str = "unclean.leader.election.enable";
    let of_all = || image.broker_configs.get(&None)?.get(NAME);
    let value = topic.configs.get(NAME).or_else(of_all);
    value.is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
}

fn run(
    configs: &mut BTreeMap<String, String>,
    operation: &ConfigOperation,
    list_defaults: &BTreeMap<String, String>,
) -> Result<(), ControlError> {
    let list = |name: &String| {
        let value = configs.get(name).or_else(|| list_defaults.get(name));
        value.map_or(Vec::new(), |value| items(value).collect())
    };
    match operation {
        ConfigOperation::Set(name, value) => {
            configs.insert(name.clone(), value.clone());
        }
        ConfigOperation::Delete(name) => {
            configs.remove(name);
        }
        ConfigOperation::Append(name, value) => {
            let mut list = list(name);
            let new: Vec<_> = items(value).filter(|item| !list.contains(item)).collect();
            list.extend(new);
            configs.insert(name.clone(), list.join(","));
        }
        ConfigOperation::Subtract(name, value) => {
            let mut list = list(name);
            list.retain(|item| !items(value).any(|other| other == *item));
            if list.is_empty() {
                return Err(ControlError::InvalidConfig(format!(
                    "Invalid value  for configuration {name}: nothing would be left of the list"
                )));
            }
            configs.insert(name.clone(), list.join(","));
        }
    }
    Ok(())
}

pub fn items(list: &str) -> impl Iterator<Item = String> {
    list.split(',')
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
}
