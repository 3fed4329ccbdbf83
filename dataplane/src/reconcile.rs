//! Makes a shard hold what the metadata says: opens, leads, hands back and deletes partitions, and rebuilds its routes.

use crate::handlers::configs_of_broker;
use crate::io::Io;
use crate::log::limits::SHORTAGE_RETRY_MS;
use crate::log::{LogConfig, LogError, is_shortage};
use crate::message::{Changed, Metadata};
use crate::partition::{Partition, PartitionIdentity};
use crate::partition_request::PartitionKey;
use crate::routes::{PartitionSlot, TopicRoute, shard_of};
use crate::shard::Shard;
use crate::strays;
use control_api::ids::TopicId;
use control_api::image::{PartitionRecord, TopicRecord};
use control_api::topic_config::{TimestampType, TopicConfig};
use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// A partition whose files are on this shard, whoever leads it.
pub enum Held<I: Io> {
    /// With what is to become of it then, if its topic went away meanwhile.
    Opening(Option<Fate>),
    Open(Rc<Partition<I>>),
    /// The log could not be opened; said once in the broker's log.
    Failed,
    /// Its topic is gone, and its files are on their way.
    Leaving,
}

/// What becomes of the files of a partition whose topic is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The deletion of the topic was committed.
    Delete,
    /// The metadata does not have it, and nobody knows why.
    SetAside,
}

/// Brings the shard to the metadata. Costs what has changed, however many topics there are.
pub fn apply<I: Io>(shard: &Rc<Shard<I>>, metadata: &Metadata) {
    let image = &metadata.image;
    let same_standing = shard.registered.replace(metadata.registered) == metadata.registered;
    let broker_configs = configs_of_broker(image, shard.broker);
    let take = |topic: &TopicRecord| {
        let config = TopicConfig::resolve(&topic.configs, &broker_configs);
        let known = shard.topic_with_id(topic.id);
        let same = |known: Rc<TopicRoute<I>>| known.record == *topic && known.config == config;
        if !same_standing || !known.is_some_and(same) {
            take_topic(shard, topic, config);
        }
    };
    let gone = match &metadata.changed {
        Changed::Topics(topics) if same_standing => {
            topics
                .iter()
                .filter_map(|id| image.topics.get(id))
                .for_each(take);
            let mut routes = shard.routes.borrow_mut();
            let gone = topics.iter().filter(|id| !image.topics.contains_key(*id));
            gone.filter_map(|id| routes.remove(*id)).collect()
        }
        Changed::Topics(_) | Changed::Everything => {
            image.topics.values().for_each(take);
            let mut routes = shard.routes.borrow_mut();
            routes.remove_unless(|id| image.topics.contains_key(&id))
        }
    };
    for route in gone {
        let fate = match metadata.deleted.contains(&route.id) {
            true => Fate::Delete,
            false => Fate::SetAside,
        };
        leave_topic(shard, &route, fate);
    }
    if metadata.complete && !shard.complete.replace(true) {
        shard.io.spawn(set_strays_aside(shard.clone()));
    }
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
        if ours {
            hold(shard, key, &topic.name, log_config);
        }
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

/// Sees to it that a partition of this shard is open, or will be.
fn hold<I: Io>(shard: &Rc<Shard<I>>, key: PartitionKey, name: &str, config: LogConfig) {
    match shard.held.borrow_mut().entry(key) {
        Entry::Occupied(mut known) => match known.get_mut() {
            Held::Open(partition) => partition.set_config(config),
            Held::Opening(fate) => *fate = None,
            // It is opened again once its files are where they go.
            Held::Leaving | Held::Failed => {}
        },
        Entry::Vacant(new) => {
            new.insert(Held::Opening(None));
            shard.opening.fetch_add(1, Ordering::Release);
            let opening = open(shard.clone(), key, name.to_owned(), config);
            shard.io.spawn(opening);
        }
    }
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
        (Some(Held::Open(partition)), true) if shard.registered.get() => {
            partition.lead(record.leader_epoch);
            PartitionSlot::Open(partition.clone())
        }
        // An earlier process of this broker led it. What was committed may be read; nothing is appended.
        (Some(Held::Open(partition)), true) => {
            partition.resign(record.leader_epoch);
            PartitionSlot::Open(partition.clone())
        }
        (Some(Held::Open(partition)), false) => {
            partition.resign(record.leader_epoch);
            PartitionSlot::Elsewhere
        }
        (Some(Held::Failed), true) => PartitionSlot::Failed,
        (Some(Held::Opening(_) | Held::Leaving) | None, true) => PartitionSlot::NotReady,
        (Some(Held::Opening(_) | Held::Failed | Held::Leaving) | None, false) => {
            PartitionSlot::Elsewhere
        }
    }
}

async fn open<I: Io>(shard: Rc<Shard<I>>, key: PartitionKey, name: String, config: LogConfig) {
    let topic = strays::topic_directory(&shard.data, &name, key.topic);
    let directory = topic.join(key.partition.to_string());
    let identity = PartitionIdentity {
        topic: name,
        partition: key.partition,
    };
    let held = match open_in_time(&shard, &directory, &identity, config).await {
        Ok(partition) => Held::Open(partition),
        Err(error) => {
            tracing::error!(partition = %identity, %error, "cannot open the partition's log");
            Held::Failed
        }
    };
    let before = shard.held.borrow_mut().insert(key, held);
    // The metadata may have moved on while the log was opened.
    if let Some(Held::Opening(Some(fate))) = before {
        let held = shard.held.borrow_mut().insert(key, Held::Leaving);
        shard.opening.fetch_sub(1, Ordering::Release);
        leave(shard, key, held, directory, fate).await;
        return;
    }
    if let Some(route) = shard.topic_with_id(key.topic) {
        let config = log_config(&route.config);
        if let Some(Held::Open(partition)) = shard.held.borrow().get(&key) {
            partition.set_config(config);
        }
        renew_slot(&shard, &route, key);
    }
    shard.opening.fetch_sub(1, Ordering::Release);
}

/// Opens a log as soon as the system has what that takes: other logs or clients may let go of what is missing.
async fn open_in_time<I: Io>(
    shard: &Shard<I>,
    directory: &Path,
    identity: &PartitionIdentity,
    config: LogConfig,
) -> Result<Rc<Partition<I>>, LogError> {
    let mut refused = false;
    loop {
        match open_log(shard, directory, identity.clone(), config).await {
            Err(LogError::Io(error)) if is_shortage(&error) && !shard.stopping.get() => {
                if !std::mem::replace(&mut refused, true) {
                    tracing::error!(partition = %identity, %error, "cannot open the partition's log yet");
                }
            }
            opened => return opened,
        }
        let again = shard.io.now().after_ms(SHORTAGE_RETRY_MS);
        shard.io.sleep_until(again).await;
    }
}

async fn open_log<I: Io>(
    shard: &Shard<I>,
    directory: &Path,
    identity: PartitionIdentity,
    config: LogConfig,
) -> Result<Rc<Partition<I>>, LogError> {
    strays::take_back(&shard.io, &shard.data, directory).await?;
    Partition::open(
        shard.io.clone(),
        directory.to_owned(),
        identity,
        config,
        shard.log_shared.clone(),
        &shard.metrics.families.partitions,
    )
    .await
}

/// Shows clients what has become of a partition, and tells those who wait for it.
fn renew_slot<I: Io>(shard: &Shard<I>, route: &TopicRoute<I>, key: PartitionKey) {
    let number = key.partition as usize;
    if let Some(record) = route.record.partitions.get(number) {
        let slot = slot(shard, key.topic, key.partition as u32, record);
        route.slots.borrow_mut()[number] = slot;
    }
    shard.changed.notify();
}

fn leave_topic<I: Io>(shard: &Rc<Shard<I>>, route: &TopicRoute<I>, fate: Fate) {
    shard.metrics.forget_topic(route.name());
    let topic = strays::topic_directory(&shard.data, route.name(), route.id);
    let mut held = shard.held.borrow_mut();
    for partition in 0..route.record.partitions.len() as i32 {
        let key = PartitionKey {
            topic: route.id,
            partition,
        };
        match held.get_mut(&key) {
            Some(Held::Opening(known)) => *known = Some(fate),
            Some(Held::Leaving) | None => {}
            Some(held @ (Held::Open(_) | Held::Failed)) => {
                let directory = topic.join(partition.to_string());
                let held = Some(std::mem::replace(held, Held::Leaving));
                let leaving = leave(shard.clone(), key, held, directory, fate);
                shard.io.spawn(leaving);
            }
        }
    }
}

/// Sends the files of a partition that is [`Held::Leaving`] where they go. It is opened again if its topic came back meanwhile.
async fn leave<I: Io>(
    shard: Rc<Shard<I>>,
    key: PartitionKey,
    held: Option<Held<I>>,
    directory: PathBuf,
    fate: Fate,
) {
    let left = match (held, fate) {
        (Some(Held::Open(partition)), Fate::Delete) => delete(&shard, &partition).await,
        (Some(Held::Open(partition)), Fate::SetAside) => {
            // An error on the way to a clean end costs a recovery, nothing else.
            let _ = partition.close().await;
            let moved = strays::set_aside(&shard.io, &shard.data, &directory).await;
            moved.map_err(LogError::from)
        }
        // Nobody looked into it, so nobody can take it apart.
        (_, Fate::Delete | Fate::SetAside) => {
            let moved = strays::set_aside(&shard.io, &shard.data, &directory).await;
            moved.map_err(LogError::from)
        }
    };
    if let Err(error) = left {
        tracing::error!(directory = %directory.display(), ?fate, %error, "cannot send away the partition's files");
    }
    shard.held.borrow_mut().remove(&key);
    let back = shard.topic_with_id(key.topic);
    if let Some(route) =
        back.filter(|route| (key.partition as usize) < route.record.partitions.len())
    {
        hold(&shard, key, route.name(), log_config(&route.config));
        renew_slot(&shard, &route, key);
    }
}

async fn delete<I: Io>(shard: &Shard<I>, partition: &Partition<I>) -> Result<(), LogError> {
    partition.delete().await?;
    if let Some(topic) = partition.directory().parent() {
        // Fails while other partitions of the topic are still there; the last one succeeds.
        let _ = shard.io.remove_directory(topic).await;
    }
    Ok(())
}

/// Sets aside what is on disk of topics that are gone, once it is sure that they are: what an earlier process left of them.
async fn set_strays_aside<I: Io>(shard: Rc<Shard<I>>) {
    let is_stray = |key: PartitionKey| {
        shard_of(key.topic, key.partition as u32, shard.shards()) == shard.id
            && shard.topic_with_id(key.topic).is_none()
            && !shard.held.borrow().contains_key(&key)
    };
    for (key, directory) in strays::find(&shard.io, &shard.data, is_stray).await {
        // The metadata may have moved on since.
        if is_stray(key) {
            shard.held.borrow_mut().insert(key, Held::Leaving);
            leave(shard.clone(), key, None, directory, Fate::SetAside).await;
        }
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
