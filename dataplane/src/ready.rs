//! Whether a client that hears of a topic may go to any shard and be served.
//!
//! A client is told of a topic, and of this broker as the leader, by one shard; its next request may come in at another, which may not
//! have heard of it, for a partition whose log is still being made on a third.

use crate::io::Io;
use crate::mesh::ShardId;
use crate::message::Reply;
use crate::partition_request::{PartitionReply, PartitionRequest};
use crate::routes::PartitionSlot;
use crate::select;
use crate::shard::Shard;
use control_api::ids::TopicId;
use std::collections::HashSet;
use std::sync::Arc;

/// What another shard takes to answer beyond the time that it may wait.
const ANSWER_MS_MAX: u64 = 500;

/// How often is looked whether this process may append.
const LEASE_LOOK_MS: u64 = 5;

/// Waits until every shard knows what this one knows and serves what it is to lead of the topics, at most about `wait_ms_max`.
/// Returns the topics that are not served everywhere by then.
pub(crate) async fn on_every_shard<I: Io>(
    shard: &Shard<I>,
    topics: impl Iterator<Item = TopicId>,
    wait_ms_max: u64,
) -> HashSet<TopicId> {
    let index = shard.image().index;
    wait_for_lease(shard, wait_ms_max).await;
    if shard.all_have_reached(index) {
        return HashSet::new();
    }
    let topics: Arc<[TopicId]> = topics.collect();
    let ask = |other| {
        let request = PartitionRequest::Ready {
            topics: topics.clone(),
            index,
            wait_ms_max,
        };
        shard.ask_shard(other, request)
    };
    let others = (0..shard.shards())
        .map(ShardId)
        .filter(|other| *other != shard.id);
    let calls: Vec<_> = others.map(ask).collect();
    let own = on_this_shard(shard, &topics, index, wait_ms_max).await;
    let mut not_ready: HashSet<TopicId> = own.into_iter().collect();
    let deadline = shard.io.now().after_ms(ANSWER_MS_MAX);
    for call in calls {
        let answer = match call {
            Some(call) => select::until(&shard.io, deadline, call).await,
            None => None,
        };
        match answer {
            Some(Reply::Partition(PartitionReply::NotReady(topics))) => not_ready.extend(topics),
            // It has too much to do to say so.
            _ => not_ready.extend(topics.iter()),
        }
    }
    not_ready
}

/// A process that has just come into service may be told so by the metadata before its heartbeat is answered.
async fn wait_for_lease<I: Io>(shard: &Shard<I>, wait_ms_max: u64) {
    let deadline = shard.io.now().after_ms(wait_ms_max);
    loop {
        let now = shard.io.now();
        if !shard.registered.get() || shard.lease.holds(now) || now >= deadline {
            return;
        }
        shard.io.sleep_until(now.after_ms(LEASE_LOOK_MS)).await;
    }
}

/// The same for this shard alone, once its metadata has come to `index`.
pub(crate) async fn on_this_shard<I: Io>(
    shard: &Shard<I>,
    topics: &[TopicId],
    index: u64,
    wait_ms_max: u64,
) -> Vec<TopicId> {
    let deadline = shard.io.now().after_ms(wait_ms_max);
    let not_ready = |topic: &&TopicId| shard.image().index < index || is_opening(shard, **topic);
    let is_ready =
        || shard.image().index >= index && !topics.iter().any(|topic| is_opening(shard, *topic));
    if shard.wait_until(deadline, is_ready).await {
        return Vec::new();
    }
    topics.iter().filter(not_ready).copied().collect()
}

fn is_opening<I: Io>(shard: &Shard<I>, topic: TopicId) -> bool {
    shard.topic_with_id(topic).is_some_and(|route| {
        let slots = route.slots.borrow();
        slots
            .iter()
            .any(|slot| matches!(slot, PartitionSlot::NotReady))
    })
}
