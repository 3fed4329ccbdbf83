//! Creating, deleting and extending topics.

use super::{Change, placement};
use control_api::ids::TopicId;
use control_api::image::{MetadataEvent, MetadataImage, PartitionRecord, TopicRecord};
use control_api::message::{ControlError, NewPartitions, NewTopic};

/// Kafka's longest topic name.
const NAME_BYTES_MAX: usize = 249;

/// Repeated with the same id, it answers with the topic that is there.
pub(super) fn create(change: &mut Change, new: &NewTopic) -> Result<TopicRecord, ControlError> {
    if let Some(known) = change.image.topics.get(&new.id) {
        return match known.name == new.name {
            true => Ok(known.clone()),
            false => Err(ControlError::InvalidRequest(
                "the topic's id is taken".to_owned(),
            )),
        };
    }
    check_name(change.image, &new.name)?;
    if new.id == TopicId::ZERO {
        return Err(ControlError::InvalidRequest(
            "a topic needs an id".to_owned(),
        ));
    }
    let topics_max = change.rules.topics_max;
    if change.image.topics.len() >= topics_max {
        return Err(ControlError::InvalidRequest(format!(
            "There are {topics_max} topics already."
        )));
    }
    let partitions = match new.assignment.is_empty() {
        true => {
            let count = check_count(change, 0, new.partitions)?;
            placement::place(change, count, new.replication_factor)?
        }
        false => {
            let count = i32::try_from(new.assignment.len()).unwrap_or(i32::MAX);
            check_count(change, 0, count)?;
            placement::assigned(change, &new.assignment)?
        }
    };
    let record = TopicRecord {
        id: new.id,
        name: new.name.clone(),
        partitions,
        configs: new.configs.clone(),
    };
    change.push(MetadataEvent::TopicCreated(record.clone()));
    Ok(record)
}

/// Answers with the record that was deleted.
pub(super) fn delete(change: &mut Change, id: TopicId) -> Result<TopicRecord, ControlError> {
    let known = change.image.topics.get(&id).cloned();
    let record = known.ok_or(ControlError::UnknownTopic)?;
    change.push(MetadataEvent::TopicDeleted(id));
    Ok(record)
}

/// Answers with the record after the change.
pub(super) fn extend(
    change: &mut Change,
    new: &NewPartitions,
) -> Result<TopicRecord, ControlError> {
    let invalid = |text: String| Err(ControlError::InvalidPartitions(text));
    let topic = change
        .image
        .topics
        .get(&new.topic)
        .ok_or(ControlError::UnknownTopic)?;
    let existing = topic.partitions.len();
    if new.count < 1 || new.count as usize <= existing {
        let count = new.count;
        return match count as usize == existing {
            true => invalid(format!("Topic already has {existing} partition(s).")),
            false => invalid(format!(
                "The topic {} currently has {existing} partition(s); {count} would not be an increase.",
                topic.name
            )),
        };
    }
    let added = check_count(change, existing, new.count)?;
    let records: Vec<PartitionRecord> = match new.assignment.is_empty() {
        true => placement::place(change, added, replication_factor(topic))?,
        false if new.assignment.len() == added => placement::assigned(change, &new.assignment)?,
        false => {
            return Err(ControlError::InvalidAssignment(format!(
                "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
                new.assignment.len()
            )));
        }
    };
    let first = u32::try_from(existing).expect("bounded by the partitions a topic may have");
    change.push(MetadataEvent::PartitionsAdded {
        topic: new.topic,
        first,
        records,
    });
    let extended = change.image.topics.get(&new.topic).cloned();
    extended.ok_or(ControlError::UnknownTopic)
}

fn replication_factor(topic: &TopicRecord) -> i16 {
    let replicas = topic
        .partitions
        .first()
        .map_or(1, |first| first.replicas.len());
    i16::try_from(replicas).unwrap_or(i16::MAX)
}

/// How many partitions are to be added to `existing` for a total of `count`.
fn check_count(change: &Change, existing: usize, count: i32) -> Result<usize, ControlError> {
    let invalid = |text: String| Err(ControlError::InvalidPartitions(text));
    let Some(count) = usize::try_from(count).ok().filter(|count| *count > 0) else {
        return invalid(
            "Number of partitions was set to an invalid non-positive value.".to_owned(),
        );
    };
    let rules = change.rules;
    if count > rules.partitions_per_topic_max {
        return invalid(format!(
            "A topic can have at most {} partitions.",
            rules.partitions_per_topic_max
        ));
    }
    let added = count - existing;
    if *change.partition_count + added > rules.partitions_max {
        return invalid(format!(
            "The cluster can have at most {} partitions.",
            rules.partitions_max
        ));
    }
    Ok(added)
}

/// Whether a new topic may have the name.
pub fn check_name(image: &MetadataImage, name: &str) -> Result<(), ControlError> {
    let invalid = |text: String| {
        Err(ControlError::InvalidTopic(format!(
            "Topic name is invalid: {text}"
        )))
    };
    if name.is_empty() {
        return invalid("the empty string is not allowed".to_owned());
    }
    if name == "." || name == ".." {
        return invalid(format!("'{name}' is not allowed"));
    }
    if name.len() > NAME_BYTES_MAX {
        return invalid(format!(
            "the length of '{name}' is longer than the max allowed length {NAME_BYTES_MAX}"
        ));
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !name.bytes().all(legal) {
        return invalid(format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ));
    }
    if image.topic_ids.contains_key(name) {
        return Err(ControlError::TopicExists);
    }
    // Kafka's metric names turn '.' into '_', so two topics that differ in nothing else would share theirs.
    let same =
        |other: &&String| other.len() == name.len() && metric_bytes(other).eq(metric_bytes(name));
    let others = image.topic_ids.keys();
    match others.filter(|_| name.contains(['.', '_'])).find(same) {
        Some(other) => Err(ControlError::InvalidTopic(format!(
            "Topic '{name}' collides with existing topic: {other}"
        ))),
        None => Ok(()),
    }
}

fn metric_bytes(name: &str) -> impl Iterator<Item = u8> {
    name.bytes()
        .map(|byte| if byte == b'.' { b'_' } else { byte })
}
