//! The cluster's metadata as one value, and the events that change it.
//!
//! The control plane's state machine turns commands into events; a broker applies the same events to its own copy, in log
//! order. A copy at index N is therefore the same everywhere.

use crate::codec::{CodecError, check_level};
use crate::ids::{
    BrokerEpoch, BrokerId, Incarnation, LeaderEpoch, PartitionEpoch, Position, TopicId,
};
use crate::level::{Level, Levels};
use crate::map::Map;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many coordinator shards consumer groups hash to. Part of the persisted state: never change it.
pub const COORDINATOR_SHARDS: u32 = 64;

/// The coordinator shard of a group: CRC-32C of its name, modulo the number of shards. Every process of every version must
/// find the same one, so this never changes.
pub fn coordinator_shard(group: &str) -> u32 {
    crc32c::crc32c(group.as_bytes()) % COORDINATOR_SHARDS
}

/// All metadata at one index of the `meta` Raft log.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataImage {
    /// The log index of the last event applied.
    pub index: u64,
    /// And its term.
    pub term: u64,
    /// A base64url version 4 UUID of 22 characters, as Kafka prints it; empty until the first command.
    pub cluster_id: String,
    pub brokers: BTreeMap<BrokerId, BrokerRecord>,
    pub topics: Map<TopicId, TopicRecord>,
    pub topic_ids: Map<String, TopicId>,
    /// Per broker; the key `None` holds the cluster-wide defaults (`""` in the Kafka protocol).
    pub broker_configs: BTreeMap<Option<BrokerId>, BTreeMap<String, String>>,
    /// One per coordinator shard, in order; empty until the first broker registers.
    pub coordinators: Vec<CoordinatorRecord>,
    pub next_producer_id: i64,
    /// At which everything is written that others read; none until the first command.
    pub feature_level: Level,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BrokerRecord {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
    pub incarnation: Incarnation,
    /// What clients are told to connect to.
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
    /// Of its program.
    pub version: String,
    pub fenced: bool,
    pub shutting_down: bool,
    /// What its program reads and writes.
    pub levels: Levels,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TopicRecord {
    pub id: TopicId,
    pub name: String,
    /// Indexed by partition number.
    pub partitions: Vec<PartitionRecord>,
    /// Only what was set for this topic; defaults are not stored.
    pub configs: BTreeMap<String, String>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PartitionRecord {
    /// In assignment order: the first is the preferred leader.
    pub replicas: Vec<BrokerId>,
    pub in_sync: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoordinatorRecord {
    pub owner: Option<BrokerId>,
    /// Raised each time the owner changes.
    pub epoch: i32,
}

crate::formats! { struct MetadataImage: 120 }

/// One change of the metadata. Events carry the whole new record, so applying one twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataEvent {
    ClusterIdSet(String),
    BrokerChanged(BrokerRecord),
    BrokerRemoved(BrokerId),
    TopicCreated(TopicRecord),
    TopicDeleted(TopicId),
    PartitionChanged {
        topic: TopicId,
        partition: u32,
        record: PartitionRecord,
    },
    /// Partitions appended after the existing ones, starting at number `first`.
    PartitionsAdded {
        topic: TopicId,
        first: u32,
        records: Vec<PartitionRecord>,
    },
    /// The topic's whole set of overrides after the change.
    TopicConfigsChanged {
        topic: TopicId,
        configs: BTreeMap<String, String>,
    },
    BrokerConfigsChanged {
        broker: Option<BrokerId>,
        configs: BTreeMap<String, String>,
    },
    CoordinatorChanged {
        shard: u32,
        record: CoordinatorRecord,
    },
    NextProducerId(i64),
    FeatureLevelSet(Level),
}

crate::formats! {
    enum MetadataEvent {
        88 ClusterIdSet(String),
        89 BrokerChanged(BrokerRecord),
        90 BrokerRemoved(BrokerId),
        91 TopicCreated(TopicRecord),
        92 TopicDeleted(TopicId),
        93 PartitionChanged { topic: TopicId, partition: u32, record: PartitionRecord },
        94 PartitionsAdded { topic: TopicId, first: u32, records: Vec<PartitionRecord> },
        95 TopicConfigsChanged { topic: TopicId, configs: BTreeMap<String, String> },
        96 BrokerConfigsChanged { broker: Option<BrokerId>, configs: BTreeMap<String, String> },
        97 CoordinatorChanged { shard: u32, record: CoordinatorRecord },
        98 NextProducerId(i64),
        99 FeatureLevelSet(Level),
    }
}

impl MetadataImage {
    /// Whether this program can go on from it.
    pub fn check_level(&self) -> Result<(), CodecError> {
        check_level(self.feature_level)
    }

    /// Which log this is the sum of, and up to where.
    pub fn position(&self) -> Position {
        Position {
            term: self.term,
            index: self.index,
        }
    }

    /// Applies the events of one log entry. Answers with what its digest grows by (modulo 2^64).
    pub fn apply(&mut self, at: Position, events: &[MetadataEvent]) -> u64 {
        let mut growth: u64 = 0;
        for event in events {
            let before = self.touched_by(event);
            self.apply_event(event);
            let after = self.touched_by(event);
            growth = growth.wrapping_add(after).wrapping_sub(before);
        }
        Position {
            term: self.term,
            index: self.index,
        } = at;
        growth
    }

    fn apply_event(&mut self, event: &MetadataEvent) {
        match event {
            MetadataEvent::ClusterIdSet(id) => self.cluster_id = id.clone(),
            MetadataEvent::BrokerChanged(broker) => {
                self.brokers.insert(broker.id, broker.clone());
            }
            MetadataEvent::BrokerRemoved(id) => {
                self.brokers.remove(id);
            }
            MetadataEvent::TopicCreated(topic) => {
                self.topic_ids.insert(topic.name.clone(), topic.id);
                self.topics.insert(topic.id, topic.clone());
            }
            MetadataEvent::TopicDeleted(id) => {
                if let Some(topic) = self.topics.get(id) {
                    self.topic_ids.remove(&topic.name);
                    self.topics.remove(id);
                }
            }
            MetadataEvent::PartitionChanged {
                topic,
                partition,
                record,
            } => {
                let slot = self
                    .topics
                    .get_mut(topic)
                    .and_then(|topic| topic.partitions.get_mut(*partition as usize));
                if let Some(slot) = slot {
                    *slot = record.clone();
                }
            }
            MetadataEvent::PartitionsAdded {
                topic,
                first,
                records,
            } => {
                if let Some(topic) = self.topics.get_mut(topic) {
                    topic.partitions.truncate(*first as usize);
                    topic.partitions.extend(records.iter().cloned());
                }
            }
            MetadataEvent::TopicConfigsChanged { topic, configs } => {
                if let Some(topic) = self.topics.get_mut(topic) {
                    topic.configs = configs.clone();
                }
            }
            MetadataEvent::BrokerConfigsChanged { broker, configs } => {
                self.broker_configs.insert(*broker, configs.clone());
            }
            MetadataEvent::CoordinatorChanged { shard, record } => {
                // A number from outside must not decide how much memory is taken.
                if *shard >= COORDINATOR_SHARDS {
                    return;
                }
                let shard = *shard as usize;
                let vacant = CoordinatorRecord {
                    owner: None,
                    epoch: 0,
                };
                if self.coordinators.len() <= shard {
                    self.coordinators.resize(shard + 1, vacant);
                }
                self.coordinators[shard] = *record;
            }
            MetadataEvent::NextProducerId(next) => self.next_producer_id = *next,
            MetadataEvent::FeatureLevelSet(level) => self.feature_level = *level,
        }
    }

    /// The topic of that name.
    pub fn topic(&self, name: &str) -> Option<&TopicRecord> {
        self.topic_ids.get(name).and_then(|id| self.topics.get(id))
    }

    /// Brokers that clients may be sent to, in id order.
    pub fn live_brokers(&self) -> impl Iterator<Item = &BrokerRecord> {
        self.brokers.values().filter(|broker| !broker.fenced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_shard_that_cannot_be_takes_no_memory() {
        let mut image = MetadataImage::default();
        let record = CoordinatorRecord {
            owner: Some(BrokerId(1)),
            epoch: 1,
        };
        for shard in [u32::MAX, COORDINATOR_SHARDS, 1] {
            image.apply_event(&MetadataEvent::CoordinatorChanged { shard, record });
        }
        assert_eq!(image.coordinators.len(), 2);
        assert_eq!(image.coordinators[1], record);
    }
}
