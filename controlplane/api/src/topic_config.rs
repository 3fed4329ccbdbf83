//! The configuration keys that Millrace knows, of topics and of brokers: one table each.
//!
//! The control plane checks a change against them before it is proposed, the broker's DescribeConfigs prints them, and the
//! data plane reads the typed [`TopicConfig`]. A key that Kafka knows and that would do nothing here is refused, unless
//! clients commonly set it and leaving it aside is harmless ([`ConfigKey::acts`] is false).

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::config_key::{ConfigKey, boolean, int, long, string};

/// The largest record batch that a log takes, so that no topic can promise more.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

const WEEK_MS: &str = "604800000";
const FOREVER: &str = "9223372036854775807";

/// Ordered by name, as tools print them.
pub const TOPIC_KEYS: &[ConfigKey] = &[
    string("cleanup.policy", "delete", &["delete"], Some("log.cleanup.policy"))
        .of_several()
        .documented("What happens to old segments. Only deletion is known; compaction is not."),
    string("compression.type", "producer", &["producer"], Some("compression.type"))
        .documented("Batches keep the compression that the producer chose."),
    long("delete.retention.ms", "86400000", 0, Some("log.cleaner.delete.retention.ms"))
        .documented("For compacted topics only: accepted and without effect.")
        .without_effect(),
    long("flush.messages", FOREVER, 1, Some("log.flush.interval.messages"))
        .documented("With write.caching: how many records may be unflushed before a flush is forced."),
    long("flush.ms", "1000", 0, Some("log.flush.interval.ms"))
        .documented("How long a record that was acknowledged before its flush may stay unflushed."),
    int("index.interval.bytes", "4096", 0, Some("log.index.interval.bytes"))
        .documented("How many log bytes lie between two entries of the offset index."),
    int("max.message.bytes", "1048588", 0, Some("message.max.bytes"))
        .at_most(BATCH_BYTES_MAX as i64)
        .documented("The largest record batch accepted, after compression."),
    long("message.timestamp.after.max.ms", "3600000", 0, Some("log.message.timestamp.after.max.ms"))
        .documented("How far a record's timestamp may lie after the broker's clock."),
    long("message.timestamp.before.max.ms", FOREVER, 0, Some("log.message.timestamp.before.max.ms"))
        .documented("How far a record's timestamp may lie before the broker's clock."),
    string(
        "message.timestamp.type",
        "CreateTime",
        &["CreateTime", "LogAppendTime"],
        Some("log.message.timestamp.type"),
    )
    .documented("Whether a record keeps its producer's timestamp or gets the broker's."),
    int("min.insync.replicas", "1", 1, Some("min.insync.replicas"))
        .documented("With acks=all: how many replicas must be in sync for a write to be accepted."),
    boolean("preallocate", "false", Some("log.preallocate"))
        .documented("Segments are always written out before use: accepted and without effect.")
        .without_effect(),
    long("retention.bytes", "-1", i64::MIN, Some("log.retention.bytes"))
        .documented("How large a partition may grow before its oldest segments are deleted; below 0: no limit."),
    long("retention.ms", WEEK_MS, -1, Some("log.retention.ms"))
        .documented("How old a segment may grow before it is deleted; -1: no limit."),
    int("segment.bytes", "1073741824", 1 << 20, Some("log.segment.bytes"))
        .documented("How large a segment file grows before the next is begun."),
    long("segment.jitter.ms", "0", 0, Some("log.roll.jitter.ms"))
        .documented("At most how much sooner, chosen at random, a segment is rolled by age."),
    long("segment.ms", WEEK_MS, 1, Some("log.roll.ms"))
        .documented("How old a segment grows before the next is begun."),
    boolean("unclean.leader.election.enable", "false", Some("unclean.leader.election.enable"))
        .documented("Whether a replica that is not in sync may lead when no other is left, at the price of records."),
    boolean("write.caching", "false", None)
        .documented("With acks=all: answer once written and replicated, flush within flush.ms and flush.messages."),
];

/// Dynamic keys of brokers. Each takes effect without a restart, for one broker or as the default of all.
pub const BROKER_KEYS: &[ConfigKey] = &[
    boolean("auto.create.topics.enable", "true", None)
        .documented("Whether a topic that a client asks for by name is created."),
    string("compression.type", "producer", &["producer"], None)
        .documented("Default of the topic key of the same name."),
    int("default.replication.factor", "1", 1, None)
        .documented("The replication factor of topics that are created without one."),
    string("log.cleanup.policy", "delete", &["delete"], None)
        .of_several()
        .documented("Default of the topic key cleanup.policy."),
    long("log.flush.interval.messages", FOREVER, 1, None)
        .documented("Default of the topic key flush.messages."),
    long("log.flush.interval.ms", "1000", 0, None).documented("Default of the topic key flush.ms."),
    int("log.index.interval.bytes", "4096", 0, None)
        .documented("Default of the topic key index.interval.bytes."),
    long("log.message.timestamp.after.max.ms", "3600000", 0, None)
        .documented("Default of the topic key message.timestamp.after.max.ms."),
    long("log.message.timestamp.before.max.ms", FOREVER, 0, None)
        .documented("Default of the topic key message.timestamp.before.max.ms."),
    string(
        "log.message.timestamp.type",
        "CreateTime",
        &["CreateTime", "LogAppendTime"],
        None,
    )
    .documented("Default of the topic key message.timestamp.type."),
    long("log.retention.bytes", "-1", i64::MIN, None)
        .documented("Default of the topic key retention.bytes."),
    long("log.retention.ms", WEEK_MS, -1, None)
        .documented("Default of the topic key retention.ms."),
    long("log.roll.jitter.ms", "0", 0, None)
        .documented("Default of the topic key segment.jitter.ms."),
    long("log.roll.ms", WEEK_MS, 1, None).documented("Default of the topic key segment.ms."),
    int("log.segment.bytes", "1073741824", 1 << 20, None)
        .documented("Default of the topic key segment.bytes."),
    int("message.max.bytes", "1048588", 0, None)
        .at_most(BATCH_BYTES_MAX as i64)
        .documented("Default of the topic key max.message.bytes."),
    int("min.insync.replicas", "1", 1, None)
        .documented("Default of the topic key of the same name."),
    int("num.partitions", "1", 1, None)
        .documented("How many partitions a topic gets that is created without a number."),
    boolean("unclean.leader.election.enable", "false", None)
        .documented("Default of the topic key of the same name."),
];

/// A setting of each broker's process: shown among its keys, and changed by a restart only.
pub static CONNECTIONS_MAX_IDLE_MS: ConfigKey =
    long("connections.max.idle.ms", "600000", i64::MIN, None).documented(
        "How long nothing may move on a connection before it is closed; below 0: for ever.",
    );

/// The table's entry for a topic's key.
pub fn topic_key(name: &str) -> Option<&'static ConfigKey> {
    TOPIC_KEYS.iter().find(|key| key.name == name)
}

/// The table's entry for a broker's key.
pub fn broker_key(name: &str) -> Option<&'static ConfigKey> {
    BROKER_KEYS.iter().find(|key| key.name == name)
}

/// `Err` is the text for the client, worded as Kafka words it.
pub fn check_topic_config(name: &str, value: &str) -> Result<(), String> {
    let key = topic_key(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
    key.read(value).map(drop)
}

/// As [`check_topic_config`], for a broker's dynamic configuration.
pub fn check_broker_config(name: &str, value: &str) -> Result<(), String> {
    let unknown = || format!("Cannot update these configs dynamically: Set({name})");
    let key = broker_key(name).ok_or_else(unknown)?;
    key.read(value).map(drop)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// What a topic's configuration comes to, typed for the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    pub flush_messages: u64,
    pub flush_ms: u64,
    pub index_interval_bytes: u32,
    pub max_message_bytes: u32,
    pub message_timestamp_after_max_ms: u64,
    pub message_timestamp_before_max_ms: u64,
    pub message_timestamp_type: TimestampType,
    pub min_insync_replicas: u32,
    /// `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// `None`: no limit.
    pub retention_ms: Option<u64>,
    pub segment_bytes: u32,
    pub segment_jitter_ms: u64,
    pub segment_ms: u64,
    pub unclean_leader_election_enable: bool,
    pub write_caching: bool,
}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicConfig::resolve(&BTreeMap::new(), &BTreeMap::new())
    }
}

impl TopicConfig {
    /// `overrides` are the topic's own (its keys), `broker_defaults` the broker's (its keys, as [`broker_configs`] merges
    /// them). A value that does not check, which only a newer version can have stored, gives way to the next default.
    pub fn resolve(
        overrides: &BTreeMap<String, String>,
        broker_defaults: &BTreeMap<String, String>,
    ) -> TopicConfig {
        let values = Values {
            overrides,
            broker_defaults,
        };
        TopicConfig {
            flush_messages: values.number("flush.messages"),
            flush_ms: values.number("flush.ms"),
            index_interval_bytes: values.number("index.interval.bytes"),
            max_message_bytes: values.number("max.message.bytes"),
            message_timestamp_after_max_ms: values.number("message.timestamp.after.max.ms"),
            message_timestamp_before_max_ms: values.number("message.timestamp.before.max.ms"),
            message_timestamp_type: match values.text("message.timestamp.type") {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            min_insync_replicas: values.number("min.insync.replicas"),
            retention_bytes: values.limit("retention.bytes"),
            retention_ms: values.limit("retention.ms"),
            segment_bytes: values.number("segment.bytes"),
            segment_jitter_ms: values.number("segment.jitter.ms"),
            segment_ms: values.number("segment.ms"),
            unclean_leader_election_enable: values.number("unclean.leader.election.enable"),
            write_caching: values.number("write.caching"),
        }
    }
}

/// A broker's dynamic configuration: its own values over the defaults of all brokers.
pub fn broker_configs(
    own: Option<&BTreeMap<String, String>>,
    of_all: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let both = of_all.into_iter().chain(own).flatten();
    both.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The value in force for a broker's key, or the table's default. The key must be in [`BROKER_KEYS`].
pub fn broker_value<'a>(configs: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    let key = broker_key(name).expect("asked for by a name that is in the table");
    let own = configs.get(name).and_then(|value| key.read(value).ok());
    own.unwrap_or(key.default)
}

struct Values<'a> {
    overrides: &'a BTreeMap<String, String>,
    broker_defaults: &'a BTreeMap<String, String>,
}

impl<'a> Values<'a> {
    fn text(&self, name: &str) -> &'a str {
        let key = topic_key(name).expect("asked for by a name that is in the table");
        let of_broker = key
            .broker_key
            .and_then(|name| self.broker_defaults.get(name));
        let candidates = [self.overrides.get(name), of_broker];
        let mut sound = candidates
            .into_iter()
            .flatten()
            .filter_map(|value| key.read(value).ok());
        sound.next().unwrap_or(key.default)
    }

    fn number<N: FromStr>(&self, name: &str) -> N {
        let Ok(number) = self.text(name).parse() else {
            panic!("{name} passed its check, so it fits its field");
        };
        number
    }

    /// A number of which one below 0 means no limit.
    fn limit(&self, name: &str) -> Option<u64> {
        u64::try_from(self.number::<i64>(name)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        owned.collect()
    }

    #[test]
    fn the_tables_are_sorted_documented_and_their_defaults_pass() {
        for table in [TOPIC_KEYS, BROKER_KEYS] {
            assert!(table.is_sorted_by(|a, b| a.name < b.name));
            for key in table {
                assert_eq!(key.read(key.default), Ok(key.default), "{}", key.name);
                assert!(!key.documentation.is_empty(), "{}", key.name);
            }
        }
    }

    #[test]
    fn a_topic_key_and_the_broker_key_behind_it_agree() {
        for key in TOPIC_KEYS.iter().filter(|key| key.acts) {
            let Some(name) = key.broker_key else { continue };
            let behind = broker_key(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(
                (key.kind, key.default),
                (behind.kind, behind.default),
                "{name}"
            );
        }
    }

    #[test]
    fn bad_values_are_refused_in_kafkas_words() {
        let cases = [
            ("no.such.key", "1", "Unknown topic config name: no.such.key"),
            (
                "retention.ms",
                "abc",
                "Invalid value abc for configuration retention.ms: Not a number of type LONG",
            ),
            (
                "retention.ms",
                "-2",
                "Invalid value -2 for configuration retention.ms: Value must be at least -1",
            ),
            (
                "segment.bytes",
                "1",
                "Invalid value 1 for configuration segment.bytes: Value must be at least 1048576",
            ),
            (
                "segment.bytes",
                "2147483648",
                "Invalid value 2147483648 for configuration segment.bytes: Not a number of type INT",
            ),
            (
                "write.caching",
                "yes",
                "Invalid value yes for configuration write.caching: Expected value to be either true or false",
            ),
            (
                "cleanup.policy",
                "compact",
                "Invalid value compact for configuration cleanup.policy: String must be one of: delete",
            ),
        ];
        for (name, value, text) in cases {
            assert_eq!(check_topic_config(name, value), Err(text.to_owned()));
        }
    }

    #[test]
    fn values_are_read_as_kafka_reads_them() {
        let cases = [
            ("preallocate", " TRUE\t", "true"),
            ("write.caching", "False", "false"),
            ("retention.ms", " 5 ", "5"),
            ("retention.ms", "+5", "5"),
            ("retention.bytes", "-2", "-2"),
            ("cleanup.policy", " delete ", "delete"),
            ("cleanup.policy", "delete,delete", "delete,delete"),
            ("message.timestamp.type", "LogAppendTime ", "LogAppendTime"),
            ("max.message.bytes", "16777216", "16777216"),
        ];
        for (name, value, read) in cases {
            assert_eq!(
                topic_key(name).unwrap().read(value),
                Ok(read),
                "{name}={value}"
            );
        }
        let given = cases.map(|(name, value, _)| (name, value));
        let config = TopicConfig::resolve(&configs(&given), &configs(&[]));
        assert_eq!(
            (config.write_caching, config.retention_ms),
            (false, Some(5))
        );
        assert_eq!(
            (config.retention_bytes, config.max_message_bytes),
            (None, 16 << 20)
        );
        assert_eq!(config.message_timestamp_type, TimestampType::LogAppendTime);
        for (name, value) in [
            ("write.caching", "t rue"),
            ("write.caching", ""),
            ("retention.ms", ""),
            ("retention.ms", " "),
            ("retention.ms", "5 5"),
            ("retention.ms", "1e3"),
            ("retention.ms", "0x10"),
            ("retention.ms", "5L"),
            ("retention.ms", "\u{a0}5"),
            ("retention.ms", "9223372036854775808"),
            ("segment.bytes", "-9223372036854775808"),
            ("compression.type", "PRODUCER"),
            ("cleanup.policy", "delete, "),
            ("cleanup.policy", ""),
            ("max.message.bytes", "16777217"),
        ] {
            assert!(check_topic_config(name, value).is_err(), "{name}={value}");
        }
        assert_eq!(
            check_broker_config("message.max.bytes", "41943040"),
            Err("Invalid value 41943040 for configuration message.max.bytes: Value must be no more than 16777216".to_owned())
        );
    }

    #[test]
    fn an_override_goes_before_the_broker_and_the_broker_before_the_default() {
        let of_broker = configs(&[("log.retention.ms", "5"), ("log.segment.bytes", "2097152")]);
        let own = configs(&[("retention.ms", "-1"), ("write.caching", "true")]);
        let config = TopicConfig::resolve(&own, &of_broker);
        assert_eq!(config.retention_ms, None);
        assert_eq!(config.segment_bytes, 2 << 20);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert!(config.write_caching);
    }

    #[test]
    fn a_stored_value_that_does_not_check_gives_way_to_the_default() {
        let config = TopicConfig::resolve(&configs(&[("segment.bytes", "soon")]), &configs(&[]));
        assert_eq!(config, TopicConfig::default());
    }

    #[test]
    fn one_brokers_value_goes_before_that_of_all() {
        let merged = broker_configs(
            Some(&configs(&[("num.partitions", "3")])),
            Some(&configs(&[
                ("num.partitions", "2"),
                ("log.retention.ms", "9"),
            ])),
        );
        assert_eq!(broker_value(&merged, "num.partitions"), "3");
        assert_eq!(broker_value(&merged, "log.retention.ms"), "9");
        assert_eq!(broker_value(&merged, "log.segment.bytes"), "1073741824");
    }
}
