//! A checksum of the metadata that costs no more to keep than the change that is made: by it a broker finds out that its copy is not
//! the controllers'.
//!
//! It is the sum of one number for each entry of the image, so their order does not matter, and a change takes out what the
//! entries were that it touches and adds what they have become. All processes of a cluster must find the same: an entry that a
//! later version adds counts only where it is not what an earlier one takes it for.

use crate::ids::{BrokerId, TopicId};
use crate::image::{BrokerRecord, MetadataEvent, MetadataImage, PartitionRecord, TopicRecord};
use crate::level::Level;
use std::collections::BTreeMap;

/// One entry's number: FNV-1a over what it says, each part with its length, and mixed so that sums of them tell entries apart.
struct Entry(u64);

impl Entry {
    fn of(kind: &str) -> Entry {
        Entry(0xcbf2_9ce4_8422_2325).text(kind)
    }

    fn bytes(self, bytes: &[u8]) -> Entry {
        let next = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let length = bytes.len() as u64;
        let hash = length.to_le_bytes().iter().fold(self.0, next);
        Entry(bytes.iter().fold(hash, next))
    }

    fn text(self, text: &str) -> Entry {
        self.bytes(text.as_bytes())
    }

    fn number(self, number: impl Into<i64>) -> Entry {
        self.bytes(&number.into().to_le_bytes())
    }

    fn broker(self, broker: Option<BrokerId>) -> Entry {
        match broker {
            Some(BrokerId(id)) => self.number(1).number(id),
            None => self.number(0),
        }
    }

    fn brokers(self, brokers: &[BrokerId]) -> Entry {
        let count = self.bytes(&(brokers.len() as u64).to_le_bytes());
        brokers.iter().fold(count, |entry, id| entry.number(id.0))
    }

    fn configs(self, configs: &BTreeMap<String, String>) -> Entry {
        let entries = configs.iter();
        entries.fold(self, |entry, (key, value)| entry.text(key).text(value))
    }

    fn sum(self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn sum(entries: impl Iterator<Item = u64>) -> u64 {
    entries.fold(0, u64::wrapping_add)
}

impl MetadataImage {
    /// The digest from nothing, as long as it takes to look at everything. That of an empty image is 0.
    pub fn digest(&self) -> u64 {
        let parts = [
            self.cluster_entry(),
            sum(self.brokers.values().map(broker_entry)),
            sum(self.topics.values().map(topic_entries)),
            sum(self.topic_ids.keys().map(|name| self.name_entry(name))),
            sum(self
                .broker_configs
                .keys()
                .map(|id| self.broker_configs_entry(*id))),
            self.coordinator_entries(),
            self.producer_id_entry(),
            self.level_entry(),
        ];
        sum(parts.into_iter())
    }

    /// The sum over those entries that an event may touch, as they are now.
    pub(crate) fn touched_by(&self, event: &MetadataEvent) -> u64 {
        match event {
            MetadataEvent::ClusterIdSet(_) => self.cluster_entry(),
            MetadataEvent::BrokerChanged(broker) => self.broker_entry(broker.id),
            MetadataEvent::BrokerRemoved(id) => self.broker_entry(*id),
            MetadataEvent::TopicCreated(topic) => {
                let topic_entries = self.topics.get(&topic.id).map_or(0, topic_entries);
                topic_entries.wrapping_add(self.name_entry(&topic.name))
            }
            MetadataEvent::TopicDeleted(id) => self.topics.get(id).map_or(0, |topic| {
                topic_entries(topic).wrapping_add(self.name_entry(&topic.name))
            }),
            MetadataEvent::PartitionChanged {
                topic, partition, ..
            } => {
                let topic = self.topics.get(topic);
                let record = topic.and_then(|topic| {
                    let record = topic.partitions.get(*partition as usize)?;
                    Some(partition_entry(topic.id, *partition as usize, record))
                });
                record.unwrap_or(0)
            }
            MetadataEvent::PartitionsAdded { topic, first, .. } => {
                let topic = self.topics.get(topic);
                topic.map_or(0, |topic| partition_entries(topic, *first as usize))
            }
            MetadataEvent::TopicConfigsChanged { topic, .. } => {
                self.topics.get(topic).map_or(0, topic_entry)
            }
            MetadataEvent::BrokerConfigsChanged { broker, .. } => {
                self.broker_configs_entry(*broker)
            }
            // There are only so many, and one that is new may make room for others.
            MetadataEvent::CoordinatorChanged { .. } => self.coordinator_entries(),
            MetadataEvent::NextProducerId(_) => self.producer_id_entry(),
            MetadataEvent::FeatureLevelSet(_) => self.level_entry(),
        }
    }

    fn cluster_entry(&self) -> u64 {
        match self.cluster_id.as_str() {
            "" => 0,
            id => Entry::of("cluster").text(id).sum(),
        }
    }

    fn broker_entry(&self, id: BrokerId) -> u64 {
        self.brokers.get(&id).map_or(0, broker_entry)
    }

    fn name_entry(&self, name: &str) -> u64 {
        let id = self.topic_ids.get(name);
        id.map_or(0, |id| Entry::of("name").text(name).bytes(&id.0).sum())
    }

    fn broker_configs_entry(&self, broker: Option<BrokerId>) -> u64 {
        let configs = self.broker_configs.get(&broker);
        configs.map_or(0, |configs| {
            let entry = Entry::of("broker configs").broker(broker);
            entry.configs(configs).sum()
        })
    }

    fn coordinator_entries(&self) -> u64 {
        let numbered = (0..).zip(&self.coordinators);
        sum(numbered.map(|(shard, record): (u32, _)| {
            let entry = Entry::of("coordinator").number(shard).broker(record.owner);
            entry.number(record.epoch).sum()
        }))
    }

    fn level_entry(&self) -> u64 {
        match self.feature_level {
            Level(0) => 0,
            Level(level) => Entry::of("feature level").number(level).sum(),
        }
    }

    fn producer_id_entry(&self) -> u64 {
        match self.next_producer_id {
            0 => 0,
            next => Entry::of("producer id").number(next).sum(),
        }
    }
}

fn broker_entry(broker: &BrokerRecord) -> u64 {
    let rack = broker.rack.as_deref();
    Entry::of("broker")
        .number(broker.id.0)
        .bytes(&broker.epoch.0.to_le_bytes())
        .bytes(&broker.incarnation.0)
        .text(&broker.host)
        .number(broker.port)
        .number(rack.is_some())
        .text(rack.unwrap_or_default())
        .text(&broker.version)
        .number(broker.fenced)
        .number(broker.shutting_down)
        .number(broker.levels.min.0)
        .number(broker.levels.max.0)
        .sum()
}

/// All that the image has of a topic but its name.
fn topic_entries(topic: &TopicRecord) -> u64 {
    topic_entry(topic).wrapping_add(partition_entries(topic, 0))
}

fn topic_entry(topic: &TopicRecord) -> u64 {
    let entry = Entry::of("topic").bytes(&topic.id.0).text(&topic.name);
    entry.configs(&topic.configs).sum()
}

fn partition_entries(topic: &TopicRecord, first: usize) -> u64 {
    let numbered = topic.partitions.iter().enumerate().skip(first);
    sum(numbered.map(|(number, record)| partition_entry(topic.id, number, record)))
}

fn partition_entry(topic: TopicId, number: usize, record: &PartitionRecord) -> u64 {
    Entry::of("partition")
        .bytes(&topic.0)
        .bytes(&(number as u64).to_le_bytes())
        .brokers(&record.replicas)
        .brokers(&record.in_sync)
        .broker(record.leader)
        .number(record.leader_epoch.0)
        .number(record.partition_epoch.0)
        .sum()
}
