//! The end of a shard's partitions when the broker stops: several are closed side by side, and once a second the log says how far it is.

use crate::event::Event;
use crate::io::Io;
use crate::limits::CLOSES_AT_ONCE;
use crate::select;
use crate::shard::Shard;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const PROGRESS_MS: u64 = 1000;

/// Closes all that are open; one that cannot be closed in order is said and left to recovery.
pub(crate) async fn close_partitions<I: Io>(shard: &Rc<Shard<I>>) {
    let waiting = shard.open_partitions();
    let all = waiting.len();
    let (waiting, closed) = (Rc::new(RefCell::new(waiting)), Rc::new(Cell::new(0)));
    let ended = Rc::new(Event::default());
    for _ in 0..CLOSES_AT_ONCE.min(all) {
        let (waiting, closed, ended) = (waiting.clone(), closed.clone(), ended.clone());
        shard.io.spawn(async move {
            loop {
                let Some(partition) = waiting.borrow_mut().pop() else {
                    return;
                };
                if let Err(error) = partition.close().await {
                    tracing::error!(partition = %partition.identity(), %error, "cannot close the partition cleanly");
                }
                closed.set(closed.get() + 1);
                if closed.get() == all {
                    ended.notify();
                }
            }
        });
    }
    loop {
        let seen = ended.generation();
        if closed.get() == all {
            return;
        }
        let tick = shard.io.sleep_until(shard.io.now().after_ms(PROGRESS_MS));
        if !select::first(ended.changed_since(seen), tick).await {
            let shard = shard.id.0;
            tracing::info!(shard, "closing: {} of {all} partitions done", closed.get());
        }
    }
}
