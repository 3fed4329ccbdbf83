//! What a shard does by the clock: metrics, idle connections, checkpoints and retention.

use crate::io::Io;
use crate::shard::Shard;
use std::rc::Rc;

const TICK_MS: u64 = 1000;
/// Together they bound what recovery has to read after a crash: a partition that has grown much is checkpointed soon, any other
/// after a minute, because every checkpoint costs the disk several flushes.
const GROWN_TICKS: u64 = 5;
const CHECKPOINT_TICKS: u64 = 60;
const RETENTION_TICKS: u64 = 10;

/// Runs until the shard stops.
pub async fn run<I: Io>(shard: Rc<Shard<I>>) {
    let mut tick = 0u64;
    while !shard.stopping.get() {
        shard.io.sleep_until(shard.io.now().after_ms(TICK_MS)).await;
        tick += 1;
        publish_metrics(&shard);
        shard.connections.end_hoarder(&shard.io);
        if let Some(idle_ms_max) = shard.connections_idle_ms_max {
            shard.connections.end_idle(&shard.io, idle_ms_max);
        }
        if tick.is_multiple_of(GROWN_TICKS) {
            checkpoint(&shard, tick.is_multiple_of(CHECKPOINT_TICKS)).await;
        }
        // Before the metadata is complete, `retention.ms` may have been raised since it was stored.
        if tick.is_multiple_of(RETENTION_TICKS) && shard.complete.get() {
            enforce_retention(&shard).await;
        }
    }
}

fn publish_metrics<I: Io>(shard: &Shard<I>) {
    let metrics = &shard.metrics;
    let families = &metrics.families;
    let label = shard.id.0.to_string();
    families
        .connections
        .with_label_values(&[&label])
        .set(shard.connections.count() as i64);
    families
        .spare_segments
        .with_label_values(&[&label])
        .set(shard.log_shared.spares.ready() as i64);
    let (mut poisoned, mut stalled) = (0, 0);
    for partition in shard.open_partitions() {
        partition.publish_metrics();
        poisoned += i64::from(partition.is_poisoned());
        stalled += i64::from(partition.is_stalled());
    }
    families
        .poisoned_partitions
        .with_label_values(&[&label])
        .set(poisoned);
    families
        .stalled_partitions
        .with_label_values(&[&label])
        .set(stalled);
    shard
        .routes
        .borrow()
        .iter()
        .for_each(|route| route.metrics.flush());
    metrics.flush();
}

async fn checkpoint<I: Io>(shard: &Shard<I>, all: bool) {
    for partition in shard.open_partitions() {
        // The stop closes them.
        if shard.stopping.get() {
            return;
        }
        let stored = match all {
            true => partition.checkpoint().await,
            false => partition.checkpoint_if_grown().await,
        };
        if let Err(error) = stored {
            tracing::error!(partition = %partition.identity(), %error, "cannot write the checkpoint");
        }
    }
}

async fn enforce_retention<I: Io>(shard: &Shard<I>) {
    let now_ms = shard.io.wall_clock_ms();
    for partition in shard.open_partitions() {
        if shard.stopping.get() {
            return;
        }
        if let Err(error) = partition.enforce_retention(now_ms).await {
            tracing::error!(partition = %partition.identity(), %error, "cannot delete old segments");
        }
    }
}
