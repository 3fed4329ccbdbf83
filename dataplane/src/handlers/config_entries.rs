//! What a configuration comes to, key by key: its value, where that comes from, and what it goes before. DescribeConfigs and
//! CreateTopics show it, so both say the same.

use control_api::config_key::ConfigKey;
use control_api::ids::BrokerId;
use control_api::image::MetadataImage;
use control_api::topic_config::{BROKER_KEYS, CONNECTIONS_MAX_IDLE_MS, TOPIC_KEYS, broker_key};
use std::collections::BTreeMap;

/// The numbers that DescribeConfigs uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub(super) enum ConfigSource {
    Topic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
}

/// A value that is set for a key, or for the key behind it, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigSynonym<'a> {
    pub(super) name: &'static str,
    pub(super) value: &'a str,
    pub(super) source: ConfigSource,
}

/// One key of a resource. The first synonym is the value in force; each goes before those after it.
#[derive(Clone, Debug)]
pub(super) struct ConfigEntry<'a> {
    pub(super) key: &'static ConfigKey,
    pub(super) synonyms: Vec<ConfigSynonym<'a>>,
    /// It takes a restart to change it.
    pub(super) read_only: bool,
}

impl ConfigEntry<'_> {
    pub(super) fn in_force(&self) -> &ConfigSynonym<'_> {
        self.synonyms.first().expect("every key has a default")
    }
}

/// Every key of a topic that has `overrides`, as `broker` applies them.
pub(super) fn of_topic<'a>(
    image: &'a MetadataImage,
    broker: BrokerId,
    overrides: &'a BTreeMap<String, String>,
) -> Vec<ConfigEntry<'a>> {
    let entries = TOPIC_KEYS.iter().map(|key| {
        let own = sound_value(key, Some(overrides));
        let own = own.map(|value| ConfigSynonym {
            name: key.name,
            value,
            source: ConfigSource::Topic,
        });
        let dynamic = key.broker_key.and_then(broker_key);
        let dynamic = dynamic
            .into_iter()
            .flat_map(|behind| of_brokers(image, Some(broker), behind));
        let default = ConfigSynonym {
            name: key.broker_key.unwrap_or(key.name),
            value: key.default,
            source: ConfigSource::Default,
        };
        ConfigEntry {
            key,
            synonyms: own.into_iter().chain(dynamic).chain([default]).collect(),
            read_only: false,
        }
    });
    entries.collect()
}

/// Every key of a broker, whose process was started with so long an idle time.
pub(super) fn of_broker<'a>(
    image: &'a MetadataImage,
    broker: BrokerId,
    connections_idle_ms: &'a str,
) -> Vec<ConfigEntry<'a>> {
    let entries = BROKER_KEYS.iter().map(|key| {
        let default = ConfigSynonym {
            name: key.name,
            value: key.default,
            source: ConfigSource::Default,
        };
        let set = of_brokers(image, Some(broker), key);
        ConfigEntry {
            key,
            synonyms: set.chain([default]).collect(),
            read_only: false,
        }
    });
    let idle = of_process(&CONNECTIONS_MAX_IDLE_MS, connections_idle_ms);
    entries.chain([idle]).collect()
}

/// A setting of the process.
fn of_process<'a>(key: &'static ConfigKey, value: &'a str) -> ConfigEntry<'a> {
    let synonym = |value, source| ConfigSynonym {
        name: key.name,
        value,
        source,
    };
    let set = (value != key.default).then(|| synonym(value, ConfigSource::StaticBroker));
    let default = synonym(key.default, ConfigSource::Default);
    ConfigEntry {
        key,
        synonyms: set.into_iter().chain([default]).collect(),
        read_only: true,
    }
}

/// The keys that are set for all brokers, and only those, as in Kafka.
pub(super) fn of_all_brokers(image: &MetadataImage) -> Vec<ConfigEntry<'_>> {
    let entries = BROKER_KEYS.iter().map(|key| ConfigEntry {
        key,
        synonyms: of_brokers(image, None, key).collect(),
        read_only: false,
    });
    entries.filter(|entry| !entry.synonyms.is_empty()).collect()
}

/// What is set for a broker's key: the broker's own value, then that of all brokers.
fn of_brokers<'a>(
    image: &'a MetadataImage,
    broker: Option<BrokerId>,
    key: &'static ConfigKey,
) -> impl Iterator<Item = ConfigSynonym<'a>> {
    let own = broker.and_then(|broker| image.broker_configs.get(&Some(broker)));
    let layers = [
        (own, ConfigSource::DynamicBroker),
        (
            image.broker_configs.get(&None),
            ConfigSource::DynamicDefaultBroker,
        ),
    ];
    layers.into_iter().filter_map(|(configs, source)| {
        let value = sound_value(key, configs)?;
        let name = key.name;
        Some(ConfigSynonym {
            name,
            value,
            source,
        })
    })
}

/// A value that does not check, which only a newer version can have stored, is not in force and so not shown.
fn sound_value<'a>(
    key: &ConfigKey,
    configs: Option<&'a BTreeMap<String, String>>,
) -> Option<&'a str> {
    let value = configs?.get(key.name)?;
    key.read(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        let of = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        image
            .broker_configs
            .insert(None, of("log.retention.ms", "3"));
        image
            .broker_configs
            .insert(Some(BrokerId(1)), of("log.retention.ms", "2"));
        image
    }

    fn chain(entry: &ConfigEntry<'_>) -> Vec<(&'static str, String, ConfigSource)> {
        let synonyms = entry.synonyms.iter();
        synonyms
            .map(|synonym| (synonym.name, synonym.value.to_owned(), synonym.source))
            .collect()
    }

    #[test]
    fn a_topics_value_goes_before_the_brokers_and_that_before_the_one_of_all() {
        let overrides = BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]);
        let image = image();
        let entries = of_topic(&image, BrokerId(1), &overrides);
        let entry = entries
            .iter()
            .find(|entry| entry.key.name == "retention.ms")
            .unwrap();
        assert_eq!(
            chain(entry),
            [
                ("retention.ms", "1".to_owned(), ConfigSource::Topic),
                (
                    "log.retention.ms",
                    "2".to_owned(),
                    ConfigSource::DynamicBroker
                ),
                (
                    "log.retention.ms",
                    "3".to_owned(),
                    ConfigSource::DynamicDefaultBroker
                ),
                (
                    "log.retention.ms",
                    "604800000".to_owned(),
                    ConfigSource::Default
                ),
            ]
        );
    }

    #[test]
    fn another_brokers_value_does_not_count() {
        let image = image();
        let entries = of_broker(&image, BrokerId(2), "600000");
        let entry = entries
            .iter()
            .find(|entry| entry.key.name == "log.retention.ms")
            .unwrap();
        assert_eq!(entry.in_force().value, "3");
        assert_eq!(entry.in_force().source, ConfigSource::DynamicDefaultBroker);
    }

    #[test]
    fn a_setting_of_the_process_goes_before_its_default_and_is_read_only() {
        let image = image();
        for (value, source) in [
            ("600000", ConfigSource::Default),
            ("5000", ConfigSource::StaticBroker),
        ] {
            let entries = of_broker(&image, BrokerId(1), value);
            let name = "connections.max.idle.ms";
            let entry = entries.iter().find(|entry| entry.key.name == name).unwrap();
            assert!(entry.read_only);
            let in_force = entry.in_force();
            assert_eq!((in_force.value, in_force.source), (value, source));
            let last = entry.synonyms.last().unwrap();
            assert_eq!((last.value, last.source), ("600000", ConfigSource::Default));
            assert!(entries.iter().filter(|entry| entry.read_only).count() == 1);
        }
    }

    #[test]
    fn the_defaults_of_all_brokers_are_only_what_is_set() {
        let image = image();
        let names: Vec<_> = of_all_brokers(&image)
            .iter()
            .map(|entry| entry.key.name)
            .collect();
        assert_eq!(names, ["log.retention.ms"]);
    }

    #[test]
    fn every_key_has_a_value() {
        let image = MetadataImage::default();
        let none = BTreeMap::new();
        for entry in of_topic(&image, BrokerId(1), &none) {
            assert_eq!(entry.in_force().value, entry.key.default);
        }
    }
}
