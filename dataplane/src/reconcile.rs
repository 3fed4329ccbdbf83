//! Makes a shard hold what the metadata says: opens, leads, hands back and deletes partitions, and rebuilds its routes.

use crate::handlers::configs_of_broker;
use crate::io::Io;
use crate::log::limits::SHORTAGE_RETRY_MS;
use crate::log::{LogConfig, LogError, is_shortage};
use crate::partition::{Partition, PartitionIdentity};
use crate::partition_request::PartitionKey;
use crate::routes::{PartitionSlot, TopicRoute, shard_of};
use crate::shard::Shard;
use control_api::ids::TopicId;
use control_api::image::{MetadataImage, PartitionRecord, TopicRecord};
use control_api::topic_config::{TimestampType, TopicConfig};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// A partition whose files are on this shard, whoever leads it.
pub enum Held<I: Io> {
    Opening,
    Open(Rc<Partition<I>>),
    /// The log could not be opened; said once in the broker's log.
    Failed,
}

/// Brings the shard to the image.
pub fn apply<I: Io>(shard: &Rc<Shard<I>>, image: &MetadataImage) {
    let broker_configs = configs_of_broker(image, shard.broker);
    for topic in image.topics.values() {
        let config = TopicConfig::resolve(&topic.configs, &broker_configs);
        let known = shard.topic_with_id(topic.id);
        if known.is_some_and(|known| known.record == *topic && known.config == config) {
            continue;
        }
        take_topic(shard, topic, config);
    }
    let gone = shard
        .routes
        .borrow_mut()
        .remove_unless(|id| image.topics.contains_key(&id));
    gone.into_iter()
        .for_each(|route| delete_topic(shard, &route));
}

/// The directory of a topic. Its id keeps it apart from an earlier topic of the same name, and a long name is cut to what a file
/// system takes.
pub fn topic_directory(data: &Path, name: &str, id: TopicId) -> PathBuf {
    const NAME_BYTES_MAX: usize = 200;
    // Topic names are ASCII, so a cut never splits a character; anything else is the control plane's mistake.
    let shown = name
        .get(..NAME_BYTES_MAX.min(name.len()))
        .unwrap_or("topic");
    data.join("topics").join(format!("{shown}-{id}"))
}

fn take_topic<I: Io>(shard: &Rc<Shard<I>>, topic: &TopicRecord, config: TopicConfig) {
    let log_config = log_config(&config);
    let metrics = match shard.topic_with_id(topic.id) {
        Some(known) => known.metrics.clone(),
        None => shard.metrics.topic(&topic.name),
    };
    for (number, record) in topic.partitions.iter().enumerate() {
        let key = PartitionKey {
            topic: topic.id,
            partition: number as i32,
        };
        let ours = record.replicas.contains(&shard.broker)
            && shard_of(topic.id, number as u32, shard.shards()) == shard.id;
        if !ours {
            continue;
        }
        match shard.held.borrow().get(&key) {
            Some(Held::Open(partition)) => partition.set_config(log_config),
            Some(Held::Opening | Held::Failed) => continue,
            None => {
                shard.opening.fetch_add(1, Ordering::Relaxed);
                shard
                    .io
                    .spawn(open(shard.clone(), key, topic.name.clone(), log_config));
            }
        }
        shard.held.borrow_mut().entry(key).or_insert(Held::Opening);
    }
    let slots = (0u32..)
        .zip(&topic.partitions)
        .map(|(number, record)| slot(shard, topic.id, number, record))
        .collect();
    shard.routes.borrow_mut().insert(Rc::new(TopicRoute {
        id: topic.id,
        record: topic.clone(),
        config,
        slots: RefCell::new(slots),
        metrics,
    }));
}

/// What clients of a partition find on this shard; tells the partition whether it leads.
fn slot<I: Io>(
    shard: &Shard<I>,
    topic: TopicId,
    number: u32,
    record: &PartitionRecord,
) -> PartitionSlot<I> {
    let place = shard_of(topic, number, shard.shards());
    let leads = record.leader == Some(shard.broker);
    if place != shard.id {
        return if leads {
            PartitionSlot::OnShard(place)
        } else {
            PartitionSlot::Elsewhere
        };
    }
    let key = PartitionKey {
        topic,
        partition: number as i32,
    };
    let held = shard.held.borrow();
    match (held.get(&key), leads) {
        (Some(Held::Open(partition)), true) => {
            partition.lead(record.leader_epoch);
            PartitionSlot::Open(partition.clone())
        }
        (Some(Held::Open(partition)), false) => {
            partition.resign(record.leader_epoch);
            PartitionSlot::Elsewhere
        }
        (Some(Held::Failed), true) => PartitionSlot::Failed,
        (Some(Held::Opening) | None, true) => PartitionSlot::NotReady,
        (Some(Held::Opening | Held::Failed) | None, false) => PartitionSlot::Elsewhere,
    }
}

async fn open<I: Io>(shard: Rc<Shard<I>>, key: PartitionKey, name: String, config: LogConfig) {
    let directory = topic_directory(&shard.data, &name, key.topic).join(key.partition.to_string());
    let identity = PartitionIdentity {
        topic: name,
        partition: key.partition,
    };
    let mut refused = false;
    let opened = loop {
        let opened = Partition::open(
            shard.io.clone(),
            directory.clone(),
            identity.clone(),
            config,
            shard.log_shared.clone(),
            &shard.metrics.families.partitions,
        )
        .await;
        match opened {
            // Other logs or clients may let go of what is missing.
            Err(LogError::Io(error)) if is_shortage(&error) && !shard.stopping.get() => {
                if !std::mem::replace(&mut refused, true) {
                    tracing::error!(partition = %identity, %error, "cannot open the partition's log yet");
                }
            }
            opened => break opened,
        }
        let again = shard.io.now().after_ms(SHORTAGE_RETRY_MS);
        shard.io.sleep_until(again).await;
    };
    let held = match opened {
        Ok(partition) => Held::Open(partition),
        Err(error) => {
            tracing::error!(topic = %key.topic, partition = key.partition, %error, "cannot open the partition's log");
            Held::Failed
        }
    };
    shard.opening.fetch_sub(1, Ordering::Relaxed);
    shard.held.borrow_mut().insert(key, held);
    // The metadata may have moved on while the log was opened.
    let Some(route) = shard.topic_with_id(key.topic) else {
        delete_partition(shard, key).await;
        return;
    };
    let config = log_config(&route.config);
    if let Some(Held::Open(partition)) = shard.held.borrow().get(&key) {
        partition.set_config(config);
    }
    let number = key.partition as usize;
    if let Some(record) = route.record.partitions.get(number) {
        let slot = slot(&shard, key.topic, key.partition as u32, record);
        route.slots.borrow_mut()[number] = slot;
    }
}

fn delete_topic<I: Io>(shard: &Rc<Shard<I>>, route: &TopicRoute<I>) {
    shard.metrics.forget_topic(route.name());
    let keys: Vec<PartitionKey> = shard
        .held
        .borrow()
        .keys()
        .filter(|key| key.topic == route.id)
        .copied()
        .collect();
    for key in keys {
        // One that is being opened deletes itself when it finds its topic gone.
        if matches!(shard.held.borrow().get(&key), Some(Held::Opening)) {
            continue;
        }
        shard.io.spawn(delete_partition(shard.clone(), key));
    }
}

async fn delete_partition<I: Io>(shard: Rc<Shard<I>>, key: PartitionKey) {
    let held = shard.held.borrow_mut().remove(&key);
    let Some(Held::Open(partition)) = held else {
        return;
    };
    if let Err(error) = partition.delete().await {
        tracing::error!(partition = %partition.identity(), %error, "cannot delete the partition's files");
        return;
    }
    if let Some(topic) = partition.directory().parent() {
        // Fails while other partitions of the topic are still there; the last one succeeds.
        let _ = shard.io.remove_directory(topic).await;
    }
}

/// The topic's configuration as far as its logs act on it.
fn log_config(config: &TopicConfig) -> LogConfig {
    let limit =
        |limit: Option<u64>| limit.map_or(-1, |value| i64::try_from(value).unwrap_or(i64::MAX));
    LogConfig {
        segment_bytes: u64::from(config.segment_bytes),
        segment_ms: i64::try_from(config.segment_ms).unwrap_or(i64::MAX),
        segment_jitter_ms: i64::try_from(config.segment_jitter_ms).unwrap_or(i64::MAX),
        retention_ms: limit(config.retention_ms),
        retention_bytes: limit(config.retention_bytes),
        index_interval_bytes: config.index_interval_bytes,
        write_caching: config.write_caching,
        flush_ms: config.flush_ms,
        flush_messages: config.flush_messages,
        max_message_bytes: config.max_message_bytes as usize,
        log_append_time: config.message_timestamp_type == TimestampType::LogAppendTime,
        ..LogConfig::default()
    }
}
