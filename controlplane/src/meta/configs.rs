//! Dynamic configuration of topics and brokers.

use super::Change;
use crate::limits::CONFIG_VALUE_BYTES_MAX;
use control_api::config_key::{ConfigKey, ConfigType};
use control_api::image::{MetadataEvent, MetadataImage, TopicRecord};
use control_api::message::{ConfigChange, ConfigOperation, ConfigResource, ControlError};
use control_api::topic_config::{
    TopicConfig, broker_configs, broker_key, broker_value, check_broker_config, check_topic_config,
    topic_key,
};
use std::collections::BTreeMap;
use std::str::FromStr;

/// A change is applied whole or not at all.
pub(super) fn alter(change: &mut Change, wanted: &ConfigChange) -> Result<(), ControlError> {
    let (table, current) = current(change.image, &wanted.resource)?;
    let mut configs = match wanted.replace_all {
        true => BTreeMap::new(),
        false => current.clone(),
    };
    for operation in &wanted.operations {
        table.run(&mut configs, operation)?;
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

/// What a new topic may be created with.
pub(super) fn check_overrides(configs: &BTreeMap<String, String>) -> Result<(), ControlError> {
    configs
        .iter()
        .try_for_each(|(name, value)| Table::Topic.check(name, value))
}

/// A topic's configuration as the control plane sees it: the defaults are those of all brokers.
pub(super) fn of_topic(image: &MetadataImage, topic: &TopicRecord) -> TopicConfig {
    TopicConfig::resolve(
        &topic.configs,
        &broker_configs(None, image.broker_configs.get(&None)),
    )
}

/// A number among the defaults of all brokers.
pub(super) fn cluster_default<N: FromStr + TryFrom<i32>>(image: &MetadataImage, name: &str) -> N {
    let configs = broker_configs(None, image.broker_configs.get(&None));
    let value = broker_value(&configs, name);
    let Ok(number) = value.parse().or_else(|_| N::try_from(i32::from(i16::MAX))) else {
        panic!("{name} passed its check, so it is a number");
    };
    number
}

#[derive(Clone, Copy)]
enum Table {
    Topic,
    Broker,
}

impl Table {
    fn key(self, name: &str) -> Option<&'static ConfigKey> {
        match self {
            Table::Topic => topic_key(name),
            Table::Broker => broker_key(name),
        }
    }

    fn check(self, name: &str, value: &str) -> Result<(), ControlError> {
        let checked = match self {
            _ if value.len() > CONFIG_VALUE_BYTES_MAX => {
                Err(format!("The value for configuration {name} is too long."))
            }
            Table::Topic => check_topic_config(name, value),
            Table::Broker => check_broker_config(name, value),
        };
        checked.map_err(ControlError::InvalidConfig)
    }

    fn run(
        self,
        configs: &mut BTreeMap<String, String>,
        operation: &ConfigOperation,
    ) -> Result<(), ControlError> {
        match operation {
            ConfigOperation::Set(name, value) => self.set(configs, name, value.clone()),
            ConfigOperation::Delete(name) => {
                configs.remove(name);
                Ok(())
            }
            ConfigOperation::Append(name, value) => {
                let mut items = self.list(configs, name, "append")?;
                items.extend(
                    split(value)
                        .filter(|item| !items.contains(item))
                        .collect::<Vec<_>>(),
                );
                self.set(configs, name, items.join(","))
            }
            ConfigOperation::Subtract(name, value) => {
                let mut items = self.list(configs, name, "subtract")?;
                items.retain(|item| !split(value).any(|other| other == *item));
                self.set(configs, name, items.join(","))
            }
        }
    }

    fn set(
        self,
        configs: &mut BTreeMap<String, String>,
        name: &str,
        value: String,
    ) -> Result<(), ControlError> {
        self.check(name, &value)?;
        configs.insert(name.to_owned(), value);
        Ok(())
    }

    /// The items that a list-valued key holds now.
    fn list(
        self,
        configs: &BTreeMap<String, String>,
        name: &str,
        operation: &str,
    ) -> Result<Vec<String>, ControlError> {
        let invalid = |text| Err(ControlError::InvalidConfig(text));
        match self.key(name) {
            Some(key) if key.kind == ConfigType::List => {
                let value = configs.get(name).map_or(key.default, String::as_str);
                Ok(split(value).collect())
            }
            Some(_) => invalid(format!(
                "Can't {operation} to key {name} because its type is not LIST."
            )),
            None => invalid(format!("Unknown config name: {name}")),
        }
    }
}

fn split(list: &str) -> impl Iterator<Item = String> {
    list.split(',')
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
}

fn current(
    image: &MetadataImage,
    resource: &ConfigResource,
) -> Result<(Table, BTreeMap<String, String>), ControlError> {
    match resource {
        ConfigResource::Topic(id) => {
            let topic = image.topics.get(id).ok_or(ControlError::UnknownTopic)?;
            Ok((Table::Topic, topic.configs.clone()))
        }
        ConfigResource::Broker(Some(id)) if !image.brokers.contains_key(id) => {
            Err(ControlError::UnknownBroker)
        }
        ConfigResource::Broker(broker) => {
            let configs = image.broker_configs.get(broker).cloned();
            Ok((Table::Broker, configs.unwrap_or_default()))
        }
    }
}
