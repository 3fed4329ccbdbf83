//! Changing configurations: the common part of AlterConfigs and IncrementalAlterConfigs.

use super::admin::{self, Refusal};
use super::config_resources;
use crate::io::Io;
use crate::limits::ADMIN_ITEMS_MAX;
use crate::shard::Shard;
use control_api::image::MetadataImage;
use control_api::message::{ConfigChange, ConfigOperation, ConfigResource, Request};
use std::collections::{BTreeMap, HashMap, HashSet};
use wire::ErrorCode;

/// How long the answer waits for this broker to see the change; these requests carry no timeout of their own.
const CATCH_UP_MS: i32 = 1_000;

/// The numbers of Kafka's `AlterConfigOp.OpType` (KIP-339).
pub(super) const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// What a request wants of one key.
pub(super) struct Setting<'a> {
    pub(super) name: &'a str,
    pub(super) operation: i8,
    pub(super) value: Option<&'a str>,
}

/// What a request wants of one resource.
pub(super) struct Wanted<'a> {
    pub(super) resource_type: i8,
    pub(super) resource_name: &'a str,
    pub(super) settings: Vec<Setting<'a>>,
    /// Whether keys that are not named go back to their defaults.
    pub(super) replace_all: bool,
}

/// One result per resource, in order.
pub(super) async fn alter<I: Io>(
    shard: &Shard<I>,
    wanted: &[Wanted<'_>],
    validate_only: bool,
) -> Vec<Result<(), Refusal>> {
    if wanted.len() > ADMIN_ITEMS_MAX {
        return vec![Err(Refusal::too_many_items()); wanted.len()];
    }
    let is_topic = |wanted: &&Wanted<'_>| wanted.resource_type == config_resources::TOPIC;
    let topics = wanted.iter().filter(is_topic);
    let topics: Vec<&str> = topics.map(|wanted| wanted.resource_name).collect();
    admin::wait_for_topics(shard, &topics).await;

    let image = shard.image();
    let repeated = repeated_resources(wanted);
    let planned = wanted.iter().map(|wanted| {
        if repeated.contains(&(wanted.resource_type, wanted.resource_name)) {
            let text = "Each resource must appear at most once.";
            return Err(Refusal::invalid_request(text));
        }
        let operations = operations(&wanted.settings)?;
        let (kind, name) = (wanted.resource_type, wanted.resource_name);
        Ok(ConfigChange {
            resource: config_resources::resource(&image, shard.broker, kind, name)?,
            operations,
            replace_all: wanted.replace_all,
        })
    });
    let (changes, verdicts) = admin::split(planned);
    let request = Request::AlterConfigs {
        changes: changes.clone(),
        validate_only,
    };
    let answers = admin::ask_done(shard, request, changes.len()).await;
    if !validate_only {
        let made = changes.iter().zip(&answers);
        let made: Vec<_> = made
            .filter(|(_, answer)| answer.is_ok())
            .map(|(change, _)| change)
            .collect();
        let seen = |image: &MetadataImage| made.iter().all(|change| shows(image, change));
        admin::catch_up(shard, CATCH_UP_MS, seen).await;
        admin::wait_until_ready(shard, std::iter::empty()).await;
    }
    let results = admin::merge(verdicts, answers).into_iter().zip(wanted);
    results
        .map(|(result, wanted)| result.map_err(|refusal| reworded(refusal, wanted.resource_type)))
        .collect()
}

/// The resources that a request names more than once.
fn repeated_resources<'a>(wanted: &[Wanted<'a>]) -> HashSet<(i8, &'a str)> {
    let mut counts: HashMap<(i8, &str), usize> = HashMap::new();
    for wanted in wanted {
        *counts
            .entry((wanted.resource_type, wanted.resource_name))
            .or_default() += 1;
    }
    counts.retain(|_, count| *count > 1);
    counts.into_keys().collect()
}

fn operations(settings: &[Setting<'_>]) -> Result<Vec<ConfigOperation>, Refusal> {
    let names: HashSet<&str> = settings.iter().map(|setting| setting.name).collect();
    if names.len() < settings.len() {
        let text = "Error due to duplicate config keys";
        return Err(Refusal::invalid_request(text));
    }
    settings.iter().map(operation).collect()
}

fn operation(setting: &Setting<'_>) -> Result<ConfigOperation, Refusal> {
    let name = setting.name.to_owned();
    let Some(value) = setting.value.map(str::to_owned) else {
        return match setting.operation {
            DELETE => Ok(ConfigOperation::Delete(name)),
            _ => Err(Refusal::invalid_request(format!(
                "Null value not supported for : {name}"
            ))),
        };
    };
    match setting.operation {
        SET => Ok(ConfigOperation::Set(name, value)),
        DELETE => Ok(ConfigOperation::Delete(name)),
        APPEND => Ok(ConfigOperation::Append(name, value)),
        SUBTRACT => Ok(ConfigOperation::Subtract(name, value)),
        other => Err(Refusal::invalid_request(format!(
            "Unknown operations type {other}"
        ))),
    }
}

/// Whether an image has a change. Of lists only the controller knows what they come to, so those are taken as seen.
fn shows(image: &MetadataImage, change: &ConfigChange) -> bool {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let configs = match &change.resource {
        ConfigResource::Topic(id) => image.topics.get(id).map(|topic| &topic.configs),
        ConfigResource::Broker(broker) => image.broker_configs.get(broker),
    };
    let configs = configs.unwrap_or(&NONE);
    let replaced = !change.replace_all || configs.len() == change.operations.len();
    replaced
        && change.operations.iter().all(|operation| match operation {
            ConfigOperation::Set(name, value) => configs.get(name) == Some(value),
            ConfigOperation::Delete(name) => !configs.contains_key(name),
            ConfigOperation::Append(..) | ConfigOperation::Subtract(..) => true,
        })
}

/// Kafka tells a bad value of a broker's key from one of a topic's by the code (KAFKA-13609).
fn reworded(refusal: Refusal, resource_type: i8) -> Refusal {
    match (resource_type, refusal.code) {
        (config_resources::BROKER, ErrorCode::InvalidConfig) => {
            Refusal::invalid_request(refusal.message)
        }
        _ => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::ids::BrokerId;

    fn setting<'a>(name: &'a str, operation: i8, value: Option<&'a str>) -> Setting<'a> {
        Setting {
            name,
            operation,
            value,
        }
    }

    #[test]
    fn each_operation_number_becomes_its_operation() {
        let settings = [
            setting("a", SET, Some("1")),
            setting("b", DELETE, None),
            setting("c", APPEND, Some("2")),
            setting("d", SUBTRACT, Some("3")),
        ];
        let expected = vec![
            ConfigOperation::Set("a".into(), "1".into()),
            ConfigOperation::Delete("b".into()),
            ConfigOperation::Append("c".into(), "2".into()),
            ConfigOperation::Subtract("d".into(), "3".into()),
        ];
        assert_eq!(operations(&settings), Ok(expected));
    }

    #[test]
    fn duplicate_keys_null_values_and_unknown_operations_are_invalid() {
        let cases = [
            vec![setting("a", SET, Some("1")), setting("a", DELETE, None)],
            vec![setting("a", SET, None)],
            vec![setting("a", 4, Some("1"))],
        ];
        for case in cases {
            let refusal = operations(&case).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::InvalidRequest, "{refusal:?}");
        }
    }

    #[test]
    fn a_resource_named_twice_is_found_and_its_neighbour_is_not() {
        let wanted = |name| Wanted {
            resource_type: config_resources::TOPIC,
            resource_name: name,
            settings: Vec::new(),
            replace_all: false,
        };
        let repeated = repeated_resources(&[wanted("a"), wanted("b"), wanted("a")]);
        assert_eq!(repeated, HashSet::from([(config_resources::TOPIC, "a")]));
    }

    #[test]
    fn a_change_is_seen_once_its_values_are_there() {
        let mut image = MetadataImage::default();
        let broker = Some(BrokerId(1));
        let change = ConfigChange {
            resource: ConfigResource::Broker(broker),
            operations: vec![ConfigOperation::Set("a".into(), "1".into())],
            replace_all: true,
        };
        assert!(!shows(&image, &change));
        let configs = BTreeMap::from([("a".into(), "1".into())]);
        image.broker_configs.insert(broker, configs.clone());
        assert!(shows(&image, &change));
        let more = [("b".into(), "2".into())].into_iter().chain(configs);
        image.broker_configs.insert(broker, more.collect());
        assert!(!shows(&image, &change), "the other key is not gone yet");
    }
}
