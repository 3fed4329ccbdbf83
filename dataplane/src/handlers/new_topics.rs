//! What CreateTopics and the automatic creation of topics share: ids, and the number of partitions where none is asked for.

use super::configs_of_broker;
use control_api::ids::{BrokerId, TopicId};
use control_api::image::MetadataImage;
use control_api::topic_config::broker_value;

/// Kafka's longest topic name.
const NAME_BYTES_MAX: usize = 249;

/// A version 4 UUID of random bits. Its highest bit is cleared, so that its printed form never starts with a dash, which
/// command lines would take for a flag.
pub(super) fn topic_id(mut random: impl FnMut() -> u64) -> TopicId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random().to_be_bytes());
    bytes[8..].copy_from_slice(&random().to_be_bytes());
    bytes[0] &= 0x7f;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    TopicId(bytes)
}

/// `num.partitions`.
pub(super) fn default_partitions(image: &MetadataImage, broker: BrokerId) -> i32 {
    let configs = configs_of_broker(image, broker);
    let value = broker_value(&configs, "num.partitions").parse();
    value.expect("a value that checks is a number")
}

/// Whether a topic could have this name.
pub(super) fn is_topic_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let reserved = matches!(name, "" | "." | "..");
    !reserved && name.len() <= NAME_BYTES_MAX && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_id_is_a_version_4_uuid_that_never_prints_with_a_dash_first() {
        for random in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
            let TopicId(bytes) = topic_id(|| random);
            assert_eq!(bytes[6] >> 4, 4);
            assert_eq!(bytes[8] >> 6, 0b10);
            assert!(!wire::Uuid(bytes).to_string().starts_with('-'));
        }
    }

    #[test]
    fn names_are_checked_as_in_kafka() {
        let longest = "a".repeat(NAME_BYTES_MAX);
        for good in ["a", "a.b", "__x", "A-1", "...", &longest] {
            assert!(is_topic_name(good), "{good}");
        }
        let longer = "a".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", ".", "..", "a b", "a/b", "ü", &longer] {
            assert!(!is_topic_name(bad), "{bad}");
        }
    }

    #[test]
    fn topics_have_one_partition_unless_the_configuration_says_otherwise() {
        let mut image = MetadataImage::default();
        assert_eq!(default_partitions(&image, BrokerId(1)), 1);
        let configs = [("num.partitions".to_owned(), "6".to_owned())].into();
        image.broker_configs.insert(None, configs);
        assert_eq!(default_partitions(&image, BrokerId(1)), 6);
    }
}
