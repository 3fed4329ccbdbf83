//! Who leads a partition: the current leader if it may stay, else the first live in-sync replica in assignment order, else,
//! where the topic allows an unclean election, the first live replica.

use super::{Change, configs};
use control_api::ids::{BrokerId, LeaderEpoch, PartitionEpoch};
use control_api::image::{MetadataEvent, MetadataImage, PartitionRecord};

/// After a broker was fenced or wants to stop.
pub(super) fn elect_where_led_by(change: &mut Change, broker: BrokerId) {
    elect_where(change, |record| record.leader == Some(broker));
}

/// After a broker came to life.
pub(super) fn elect_where_leaderless(change: &mut Change) {
    elect_where(change, |record| record.leader.is_none());
}

fn elect_where(change: &mut Change, concerned: impl Fn(&PartitionRecord) -> bool) {
    let mut events = Vec::new();
    for topic in change.image.topics.values() {
        let unclean = configs::allows_unclean_election(change.image, topic);
        for (partition, record) in (0..).zip(&topic.partitions) {
            if !concerned(record) {
                continue;
            }
            if let Some(record) = elect(change.image, record, unclean) {
                events.push(MetadataEvent::PartitionChanged {
                    topic: topic.id,
                    partition,
                    record,
                });
            }
        }
    }
    events.into_iter().for_each(|event| change.push(event));
}

/// The partition after the election, or `None` where nothing changes.
fn elect(
    image: &MetadataImage,
    record: &PartitionRecord,
    unclean: bool,
) -> Option<PartitionRecord> {
    let available = |id: &BrokerId| is_available(image, *id);
    let in_sync = |id: &BrokerId| record.in_sync.contains(id);
    let replicas = || record.replicas.iter().copied();
    let current = record.leader.filter(|id| is_live(image, *id));
    let leader = current
        .filter(available)
        .or_else(|| replicas().filter(available).find(in_sync))
        // A leader that wants to stop stays where there is no other.
        .or(current)
        .or_else(|| replicas().find(|id| unclean && available(id)));
    if leader == record.leader {
        return None;
    }
    let mut changed = PartitionRecord {
        leader,
        leader_epoch: LeaderEpoch(record.leader_epoch.0 + 1),
        partition_epoch: PartitionEpoch(record.partition_epoch.0 + 1),
        ..record.clone()
    };
    if let Some(leader) = changed.leader
        && !changed.in_sync.contains(&leader)
    {
        // After an unclean election only the new leader's log counts.
        changed.in_sync = vec![leader];
    }
    Some(changed)
}

fn is_live(image: &MetadataImage, id: BrokerId) -> bool {
    image.brokers.get(&id).is_some_and(|broker| !broker.fenced)
}

/// Live, and to stay.
pub(super) fn is_available(image: &MetadataImage, id: BrokerId) -> bool {
    is_live(image, id)
        && image
            .brokers
            .get(&id)
            .is_some_and(|broker| !broker.shutting_down)
}
