//! Which broker coordinates a consumer group: a pure function of the group's name and the metadata.
//!
//! FindCoordinator tells clients, OffsetCommit and OffsetFetch check that it is this broker.

use control_api::image::{BrokerRecord, MetadataImage, coordinator_shard};

/// The broker that coordinates a group, and under which epoch it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coordinator<'a> {
    pub(crate) broker: &'a BrokerRecord,
    /// Goes with every commit, so that a broker that no longer coordinates the group is refused.
    pub(crate) epoch: i32,
}

/// `None` while no live broker owns the group's coordinator shard.
pub(crate) fn coordinator_of<'a>(image: &'a MetadataImage, group: &str) -> Option<Coordinator<'a>> {
    let record = image.coordinators.get(coordinator_shard(group) as usize)?;
    let broker = image.brokers.get(&record.owner?)?;
    let epoch = record.epoch;
    (!broker.fenced).then_some(Coordinator { broker, epoch })
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::image::COORDINATOR_SHARDS;

    #[test]
    fn a_groups_shard_never_changes() {
        // CRC-32C of "123456789" is the published check value 0xe3069283.
        assert_eq!(coordinator_shard("123456789"), 0xe306_9283 % 64);
        assert_eq!(coordinator_shard(""), 0);
    }

    #[test]
    fn similar_names_spread_over_most_shards() {
        let mut owned = [0; COORDINATOR_SHARDS as usize];
        (0..640)
            .for_each(|number| owned[coordinator_shard(&format!("group-{number}")) as usize] += 1);
        assert!(
            owned.iter().all(|groups| (1..40).contains(groups)),
            "{owned:?}"
        );
    }

    #[test]
    fn without_an_owner_there_is_no_coordinator() {
        assert!(coordinator_of(&MetadataImage::default(), "group").is_none());
    }
}
