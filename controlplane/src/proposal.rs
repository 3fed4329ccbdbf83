//! What the leader settles before it proposes a command.
//!
//! Applying a command must come to the same everywhere. So whatever versions of the program may differ in is settled here and
//! written into the command: what the tables of configs allow, and the defaults that are in them. What is refused here is not
//! proposed; its place in the answer stays.

use crate::limits::CONFIG_VALUE_BYTES_MAX;
use crate::meta::{check_topic_name, config_items as items, find_configs};
use control_api::config_key::{ConfigKey, ConfigType};
use control_api::image::MetadataImage;
use control_api::message::{ConfigChange, ConfigOperation, ConfigResource, ControlError, NewTopic};
use control_api::topic_config::{
    broker_configs, broker_key, broker_value, check_broker_config, check_topic_config, topic_key,
};
use std::collections::BTreeMap;
use std::str::FromStr;

/// What was refused, by its place in the request.
type Refused = BTreeMap<usize, ControlError>;

/// The topics that may be proposed, with no default left open.
pub fn topics(image: &MetadataImage, new: Vec<NewTopic>) -> (Vec<NewTopic>, Refused) {
    sort(new.into_iter().map(|new| settle_topic(image, new)))
}

/// The changes that may be proposed, and what the lists hold by default that they append to or subtract from.
pub fn config_changes(
    image: &MetadataImage,
    changes: Vec<ConfigChange>,
) -> (Vec<ConfigChange>, BTreeMap<String, String>, Refused) {
    let mut list_defaults = BTreeMap::new();
    let (changes, refused) = sort(changes.into_iter().map(|change| {
        find_configs(image, &change.resource)?;
        let table = Table::of(&change.resource);
        for operation in &change.operations {
            table.check_operation(operation, &mut list_defaults)?;
        }
        Ok(change)
    }));
    (changes, list_defaults, refused)
}

/// The answers to what was proposed, with what was refused in between.
pub fn weave<T>(
    answers: Vec<Result<T, ControlError>>,
    refused: Refused,
) -> Vec<Result<T, ControlError>> {
    let mut woven = answers;
    // In order, so that each place is right once those before it are filled.
    for (place, error) in refused {
        woven.insert(place.min(woven.len()), Err(error));
    }
    woven
}

fn sort<T>(settled: impl Iterator<Item = Result<T, ControlError>>) -> (Vec<T>, Refused) {
    let mut refused = Refused::new();
    let mut accepted = Vec::new();
    for (place, one) in settled.enumerate() {
        match one {
            Ok(one) => accepted.push(one),
            Err(error) => {
                refused.insert(place, error);
            }
        }
    }
    (accepted, refused)
}

fn settle_topic(image: &MetadataImage, mut new: NewTopic) -> Result<NewTopic, ControlError> {
    // Repeated, it is answered with what is there.
    if image.topics.contains_key(&new.id) {
        return Ok(new);
    }
    check_topic_name(image, &new.name)?;
    let mut overrides = new.configs.iter();
    overrides.try_for_each(|(name, value)| Table::Topic.check(name, value))?;
    if new.partitions == -1 {
        new.partitions = cluster_default(image, "num.partitions");
    }
    if new.replication_factor == -1 {
        new.replication_factor = cluster_default(image, "default.replication.factor");
    }
    Ok(new)
}

/// A number among the defaults of all brokers.
fn cluster_default<N: FromStr + TryFrom<i32>>(image: &MetadataImage, name: &str) -> N {
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
    fn of(resource: &ConfigResource) -> Self {
        match resource {
            ConfigResource::Topic(_) => Table::Topic,
            ConfigResource::Broker(_) => Table::Broker,
        }
    }

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

    fn check_operation(
        self,
        operation: &ConfigOperation,
        list_defaults: &mut BTreeMap<String, String>,
    ) -> Result<(), ControlError> {
        let (name, value, verb) = match operation {
            ConfigOperation::Set(name, value) => return self.check(name, value),
            ConfigOperation::Delete(_) => return Ok(()),
            ConfigOperation::Append(name, value) => (name, Some(value), "append"),
            ConfigOperation::Subtract(name, _) => (name, None, "subtract"),
        };
        let invalid = |text| Err(ControlError::InvalidConfig(text));
        match self.key(name) {
            Some(key) if key.kind == ConfigType::List => {
                list_defaults.insert(name.clone(), key.default.to_owned());
                // A list is good if each of its items is.
                let mut new = value.into_iter().flat_map(|value| items(value));
                new.try_for_each(|item| self.check(name, &item))
            }
            Some(_) => invalid(format!(
                "Can't {verb} to key {name} because its type is not LIST."
            )),
            None => invalid(format!("Unknown config name: {name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{MetaCommand, RegisteredBroker};
    use crate::meta::MetaState;
    use control_api::ids::{BrokerId, Incarnation, Position, TopicId};
    use control_api::level::{Level, Levels};
    use control_api::message::{BrokerRegistration, Response};

    const TOPIC: TopicId = TopicId([9; 16]);

    /// A cluster of one broker and one topic, at the index that the next command gets.
    struct Cluster {
        state: MetaState,
        index: u64,
    }

    impl Cluster {
        fn new() -> Self {
            let mut cluster = Cluster {
                state: MetaState::default(),
                index: 1,
            };
            cluster.run(MetaCommand::Bootstrap {
                cluster_id: "cluster".into(),
                feature_level: Level::FIRST,
            });
            let registered = cluster.run(MetaCommand::RegisterBroker(BrokerRegistration {
                id: BrokerId(1),
                incarnation: Incarnation([1; 16]),
                host: "localhost".into(),
                port: 9092,
                rack: None,
                version: String::new(),
                cluster_id: String::new(),
                levels: Levels::supported(),
            }));
            let Response::Registered { epoch, .. } = registered else {
                panic!("{registered:?}")
            };
            let id = BrokerId(1);
            cluster.run(MetaCommand::UnfenceBroker(RegisteredBroker { id, epoch }));
            cluster.run(MetaCommand::CreateTopics(vec![topic("t", 1)]));
            cluster
        }

        fn run(&mut self, command: MetaCommand) -> Response {
            let at = Position {
                term: 1,
                index: self.index,
            };
            let (response, _) = self.state.apply(at, &command);
            self.index += 1;
            response
        }

        fn alter(&mut self, change: ConfigChange) -> Result<(), ControlError> {
            let (changes, list_defaults, refused) =
                config_changes(self.state.image(), vec![change]);
            let answers = match changes.is_empty() {
                true => Vec::new(),
                false => match self.run(MetaCommand::AlterConfigs {
                    changes,
                    list_defaults,
                }) {
                    Response::Done(answers) => answers,
                    other => panic!("{other:?}"),
                },
            };
            weave(answers, refused).remove(0)
        }

        fn configs(&self) -> BTreeMap<String, String> {
            self.state.image().topics[&TOPIC].configs.clone()
        }
    }

    /// Whoever leaves the number of partitions open leaves both open.
    fn topic(name: &str, partitions: i32) -> NewTopic {
        NewTopic {
            name: name.into(),
            id: match name {
                "t" => TOPIC,
                _ => TopicId([name.as_bytes()[0]; 16]),
            },
            partitions,
            replication_factor: if partitions == -1 { -1 } else { 1 },
            assignment: Vec::new(),
            configs: BTreeMap::new(),
        }
    }

    fn set(name: &str, value: &str) -> ConfigOperation {
        ConfigOperation::Set(name.into(), value.into())
    }

    fn of_topic(operations: Vec<ConfigOperation>) -> ConfigChange {
        ConfigChange {
            resource: ConfigResource::Topic(TOPIC),
            operations,
            replace_all: false,
        }
    }

    #[test]
    fn defaults_come_from_the_cluster_wide_configs() {
        let mut cluster = Cluster::new();
        let changed = cluster.alter(ConfigChange {
            resource: ConfigResource::Broker(None),
            operations: vec![set("num.partitions", "5")],
            replace_all: false,
        });
        assert_eq!(changed, Ok(()));
        let (new, refused) = topics(cluster.state.image(), vec![topic("u", -1)]);
        assert!(refused.is_empty());
        assert_eq!((new[0].partitions, new[0].replication_factor), (5, 1));
    }

    #[test]
    fn configs_are_checked_and_changed_whole_or_not_at_all() {
        let mut cluster = Cluster::new();
        let both = vec![set("retention.ms", "5"), set("segment.ms", "7")];
        assert_eq!(cluster.alter(of_topic(both)), Ok(()));
        assert_eq!(cluster.configs().len(), 2);
        let refused = |result| matches!(result, Err(ControlError::InvalidConfig(_)));
        let one_bad = vec![set("retention.ms", "6"), set("nonsense", "1")];
        assert!(refused(cluster.alter(of_topic(one_bad))));
        assert_eq!(cluster.configs()["retention.ms"], "5");
        let delete = vec![ConfigOperation::Delete("retention.ms".into())];
        assert_eq!(cluster.alter(of_topic(delete)), Ok(()));
        assert_eq!(cluster.configs().keys().collect::<Vec<_>>(), ["segment.ms"]);
        for (name, value) in [("cleanup.policy", "compact"), ("retention.ms", "1")] {
            let append = ConfigOperation::Append(name.into(), value.into());
            assert!(refused(cluster.alter(of_topic(vec![append]))), "{name}");
        }
        let all = ConfigOperation::Subtract("cleanup.policy".into(), "delete".into());
        assert!(refused(cluster.alter(of_topic(vec![all]))));
        let append = ConfigOperation::Append("cleanup.policy".into(), "delete".into());
        assert_eq!(cluster.alter(of_topic(vec![append])), Ok(()));
        assert_eq!(cluster.configs()["cleanup.policy"], "delete");
        let replaced = cluster.alter(ConfigChange {
            replace_all: true,
            ..of_topic(vec![set("flush.ms", "9")])
        });
        assert_eq!(replaced, Ok(()));
        assert_eq!(cluster.configs().keys().collect::<Vec<_>>(), ["flush.ms"]);
        let unknown = ConfigResource::Topic(TopicId([1; 16]));
        let answer = cluster.alter(ConfigChange {
            resource: unknown,
            ..of_topic(vec![set("nonsense", "1")])
        });
        assert_eq!(answer, Err(ControlError::UnknownTopic));
    }

    #[test]
    fn what_is_refused_keeps_its_place() {
        let cluster = Cluster::new();
        let with = |name: &str, config: &str| NewTopic {
            configs: [(config.to_owned(), "1000".to_owned())].into(),
            ..topic(name, 1)
        };
        let asked = vec![
            with("a", "nonsense"),
            with("b", "retention.ms"),
            with("c", "nonsense"),
        ];
        let (new, refused) = topics(cluster.state.image(), asked);
        assert_eq!(new.len(), 1);
        let answers = weave(vec![Ok(new[0].name.as_str())], refused);
        let taken: Vec<_> = answers.iter().map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(taken, [None, Some(&"b"), None]);
    }

    /// A controller applies what a leader of another version proposed: that its own tables do not have the key, or have another
    /// default, must not show.
    #[test]
    fn applying_asks_no_table() {
        let mut cluster = Cluster::new();
        let append = ConfigOperation::Append("cleanup.policy".into(), "of.tomorrow".into());
        let answer = cluster.run(MetaCommand::AlterConfigs {
            changes: vec![of_topic(vec![set("key.of.tomorrow", "1"), append])],
            list_defaults: [("cleanup.policy".to_owned(), "other".to_owned())].into(),
        });
        assert_eq!(answer, Response::Done(vec![Ok(())]));
        assert_eq!(cluster.configs()["key.of.tomorrow"], "1");
        assert_eq!(cluster.configs()["cleanup.policy"], "other,of.tomorrow");
        let created = cluster.run(MetaCommand::CreateTopics(vec![NewTopic {
            configs: cluster.configs(),
            ..topic("u", 1)
        }]));
        assert!(matches!(created, Response::Topics(answers) if answers[0].is_ok()));
    }
}
