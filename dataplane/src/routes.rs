//! Where each partition is: the one place that decides routing.
//!
//! Each shard keeps its own table, built from the metadata image. A partition's shard is a pure function of its topic id, its
//! number and the number of shards, so a restart with another number of shards moves partitions without touching their files.

use crate::io::Io;
use crate::mesh::ShardId;
use crate::partition::Partition;
use control_api::ids::TopicId;
use control_api::image::TopicRecord;
use control_api::topic_config::TopicConfig;
use foldhash::HashMap;
use std::cell::RefCell;
use std::rc::Rc;
use wire::ErrorCode;

/// The shard that holds a partition. Neighbouring partitions of a topic go to different shards.
pub fn shard_of(topic: TopicId, partition: u32, shards: usize) -> ShardId {
    let id = &topic.0;
    // A version 4 UUID's last four bytes are random.
    let start = u32::from_be_bytes([id[12], id[13], id[14], id[15]]);
    ShardId(start.wrapping_add(partition) as usize % shards)
}

/// A partition as one shard sees it.
pub enum PartitionSlot<I: Io> {
    /// Led by another broker, or by none.
    Elsewhere,
    /// On this broker, on another shard.
    OnShard(ShardId),
    /// On this shard, its log being opened or closed.
    NotReady,
    /// On this shard; its log cannot be used.
    Failed,
    Open(Rc<Partition<I>>),
}

/// A topic as one shard sees it.
pub struct TopicRoute<I: Io> {
    pub id: TopicId,
    pub record: TopicRecord,
    pub config: TopicConfig,
    pub slots: RefCell<Vec<PartitionSlot<I>>>,
    pub metrics: Rc<crate::metrics::TopicMetrics>,
}

/// Where a request for a partition goes.
pub enum Place<I: Io> {
    Here(Rc<Partition<I>>),
    There(ShardId),
}

impl<I: Io> TopicRoute<I> {
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Whether a partition has the replicas in sync that `acks=all` wants (`min.insync.replicas`).
    pub fn has_enough_in_sync(&self, partition: i32) -> bool {
        let wanted = self.config.min_insync_replicas as usize;
        let record = usize::try_from(partition)
            .ok()
            .and_then(|number| self.record.partitions.get(number));
        record.is_some_and(|record| record.in_sync.len() >= wanted)
    }

    /// Where the leader of a partition is on this broker, or the error code that a client gets instead.
    pub fn leader(&self, partition: i32) -> Result<Place<I>, ErrorCode> {
        let slots = self.slots.borrow();
        let slot = usize::try_from(partition)
            .ok()
            .and_then(|number| slots.get(number));
        match slot {
            None => Err(ErrorCode::UnknownTopicOrPartition),
            Some(PartitionSlot::Elsewhere | PartitionSlot::NotReady) => {
                Err(ErrorCode::NotLeaderOrFollower)
            }
            Some(PartitionSlot::Failed) => Err(ErrorCode::KafkaStorageError),
            Some(PartitionSlot::OnShard(shard)) => Ok(Place::There(*shard)),
            Some(PartitionSlot::Open(partition)) => Ok(Place::Here(partition.clone())),
        }
    }
}

/// All topics of the cluster, by name and by id.
pub struct Routes<I: Io> {
    by_name: HashMap<String, Rc<TopicRoute<I>>>,
    by_id: HashMap<TopicId, Rc<TopicRoute<I>>>,
}

impl<I: Io> Default for Routes<I> {
    fn default() -> Self {
        Routes {
            by_name: HashMap::default(),
            by_id: HashMap::default(),
        }
    }
}

impl<I: Io> Routes<I> {
    pub fn named(&self, name: &str) -> Option<&Rc<TopicRoute<I>>> {
        self.by_name.get(name)
    }

    pub fn with_id(&self, id: TopicId) -> Option<&Rc<TopicRoute<I>>> {
        self.by_id.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Rc<TopicRoute<I>>> {
        self.by_id.values()
    }

    pub fn insert(&mut self, route: Rc<TopicRoute<I>>) {
        self.by_name
            .insert(route.record.name.clone(), route.clone());
        self.by_id.insert(route.id, route);
    }

    /// Removes the topics that `keep` does not want and returns them.
    pub fn remove_unless(&mut self, keep: impl Fn(TopicId) -> bool) -> Vec<Rc<TopicRoute<I>>> {
        let gone = self.by_id.keys().copied().filter(|id| !keep(*id));
        let mut gone: Vec<_> = gone.collect();
        gone.sort_unstable();
        gone.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    pub fn remove(&mut self, id: TopicId) -> Option<Rc<TopicRoute<I>>> {
        let gone = self.by_id.remove(&id)?;
        // A topic of the same name may have been created since.
        let named = self.by_name.get(gone.name());
        if named.is_some_and(|named| named.id == id) {
            self.by_name.remove(gone.name());
        }
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_partitions_spread_over_all_shards() {
        let topic = TopicId([7; 16]);
        let shards: Vec<usize> = (0..4)
            .map(|partition| shard_of(topic, partition, 4).0)
            .collect();
        let mut sorted = shards.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3], "{shards:?}");
    }
}
