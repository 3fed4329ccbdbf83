//! Which broker coordinates the consumer groups of each coordinator shard.

use super::{Change, election};
use control_api::ids::BrokerId;
use control_api::image::{COORDINATOR_SHARDS, CoordinatorRecord, MetadataEvent};
use std::collections::BTreeMap;

/// Spreads the shards evenly over the available brokers and moves no more of them than that takes. With no broker left,
/// they have no owner.
pub(super) fn balance(change: &mut Change) {
    let brokers = change.image.brokers.keys().copied();
    let available: Vec<BrokerId> = brokers
        .filter(|id| election::is_available(change.image, *id))
        .collect();
    let shards = COORDINATOR_SHARDS as usize;
    let brokers = available.len().max(1);
    // Each broker has this many, and the first `larger` to claim it one more.
    let (share, mut larger) = (shards / brokers, shards % brokers);
    let mut owned: BTreeMap<BrokerId, usize> = available.iter().map(|id| (*id, 0)).collect();

    // First each broker keeps what it has up to its share, then the rest goes to whoever has least.
    let mut owners: Vec<Option<BrokerId>> = Vec::with_capacity(shards);
    for shard in 0..shards {
        let owner = change
            .image
            .coordinators
            .get(shard)
            .and_then(|record| record.owner);
        let kept = owner.filter(|id| {
            let Some(count) = owned.get_mut(id) else {
                return false;
            };
            let one_more = *count == share && larger > 0;
            let keeps = *count < share || one_more;
            *count += usize::from(keeps);
            larger -= usize::from(one_more);
            keeps
        });
        owners.push(kept);
    }
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        let least = owned.iter_mut().min_by_key(|(id, count)| (**count, **id));
        if let Some((id, count)) = least {
            *count += 1;
            *owner = Some(*id);
        }
    }
    for (shard, owner) in (0..).zip(owners) {
        assign(change, shard, owner);
    }
}

fn assign(change: &mut Change, shard: u32, owner: Option<BrokerId>) {
    let current = change.image.coordinators.get(shard as usize).copied();
    let current = current.unwrap_or(CoordinatorRecord {
        owner: None,
        epoch: 0,
    });
    if current.owner == owner {
        return;
    }
    let epoch = current.epoch + 1;
    let record = CoordinatorRecord { owner, epoch };
    change.push(MetadataEvent::CoordinatorChanged { shard, record });
}
