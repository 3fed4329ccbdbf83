//! Appends batches that another shard received and checked, and sends it their outcomes.

use super::{PendingState, ProduceOutcome, Refused, wait, waiting};
use crate::handlers::batch_checks::Verdict;
use crate::io::{Instant, Io};
use crate::limits::FRAME_PIECES_MAX;
use crate::message::SharedRecords;
use crate::partition::Partition;
use crate::partition_request::PartitionKey;
use crate::routes::Place;
use crate::shard::Shard;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use wire::{Batch, ErrorCode, Reader, Scratch};

/// Appends from other shards that found no free tail buffer, in the order in which they came.
pub(crate) struct BlockedAppends<I: Io> {
    queue: RefCell<VecDeque<ForeignAppend<I>>>,
    draining: Cell<bool>,
}

impl<I: Io> Default for BlockedAppends<I> {
    fn default() -> Self {
        BlockedAppends {
            queue: RefCell::default(),
            draining: Cell::new(false),
        }
    }
}

type ReplyTo<I> = Box<dyn FnOnce(&Rc<Shard<I>>, ProduceOutcome)>;

struct ForeignAppend<I: Io> {
    key: PartitionKey,
    records: SharedRecords,
    verdict: Verdict,
    acks: i16,
    deadline: Instant,
    reply: ReplyTo<I>,
}

/// Appends a batch that another shard checked, or queues it behind those that wait for memory.
pub(crate) fn begin_for_other_shard<I: Io>(
    shard: &Rc<Shard<I>>,
    key: PartitionKey,
    records: SharedRecords,
    verdict: Verdict,
    acks: i16,
    deadline: Instant,
    reply: impl FnOnce(&Rc<Shard<I>>, ProduceOutcome) + 'static,
) {
    let append = ForeignAppend {
        key,
        records,
        verdict,
        acks,
        deadline,
        reply: Box::new(reply),
    };
    if shard.blocked_appends.draining.get() {
        shard.blocked_appends.queue.borrow_mut().push_back(append);
        return;
    }
    if let Err((blocked, _)) = append_foreign(shard, append) {
        shard.blocked_appends.queue.borrow_mut().push_back(blocked);
        shard.blocked_appends.draining.set(true);
        shard.io.spawn(drain_blocked(shard.clone()));
    }
}

async fn drain_blocked<I: Io>(shard: Rc<Shard<I>>) {
    loop {
        let Some(append) = shard.blocked_appends.queue.borrow_mut().pop_front() else {
            break;
        };
        if let Err((blocked, partition)) = append_foreign(&shard, append) {
            shard.blocked_appends.queue.borrow_mut().push_front(blocked);
            let bytes = bytes_of(&shard.blocked_appends);
            partition.room(bytes).await;
        }
    }
    shard.blocked_appends.draining.set(false);
}

/// Bytes of the append that comes next.
fn bytes_of<I: Io>(blocked: &BlockedAppends<I>) -> usize {
    let queue = blocked.queue.borrow();
    queue.front().map_or(0, |append| append.records.bytes())
}

/// Appends and arranges for the reply; gives the append back when memory is missing.
fn append_foreign<I: Io>(
    shard: &Rc<Shard<I>>,
    append: ForeignAppend<I>,
) -> Result<(), (ForeignAppend<I>, Rc<Partition<I>>)> {
    let found = shard
        .topic_with_id(append.key.topic)
        .ok_or(ErrorCode::UnknownTopicOrPartition);
    let leased = shard.lease.holds(shard.io.now());
    let found = found.and_then(|route| match route.leader(append.key.partition)? {
        Place::Here(partition) if leased => Ok((route, partition)),
        Place::Here(_) | Place::There(_) => Err(ErrorCode::NotLeaderOrFollower),
    });
    let (route, partition) = match found {
        Ok(found) => found,
        Err(error) => {
            (append.reply)(shard, ProduceOutcome::refused(error));
            return Ok(());
        }
    };
    let mut parts = [&[][..]; FRAME_PIECES_MAX + 2];
    let count = parts
        .iter_mut()
        .zip(append.records.slices())
        .map(|(slot, slice)| *slot = slice)
        .count();
    let bytes = append.records.bytes();
    let scratch = Scratch::new();
    let records = Reader::fragments(&parts[..count], &scratch).read_records(bytes);
    let batch = records.ok().and_then(|records| Batch::first(&records).ok());
    let result = match batch {
        Some(mut batch) => {
            batch.max_timestamp = append.verdict.max_timestamp;
            super::append(&route, &partition, &batch, append.verdict)
        }
        None => Err(Refused::Code(ErrorCode::CorruptMessage)),
    };
    match result {
        Err(Refused::Busy) => return Err((append, partition)),
        Err(Refused::Code(error)) => (append.reply)(shard, ProduceOutcome::refused(error)),
        Ok(appended) => match waiting(partition, appended, append.acks) {
            PendingState::Waiting {
                partition,
                appended,
                level,
            } => {
                let shard_then = shard.clone();
                let (reply, deadline) = (append.reply, append.deadline);
                shard.io.spawn(async move {
                    let outcome = wait(&partition, &appended, level, deadline).await;
                    reply(&shard_then, outcome);
                });
            }
            PendingState::Done(outcome) => (append.reply)(shard, outcome),
            PendingState::OnOtherShard(_) => unreachable!("it was appended here"),
        },
    }
    Ok(())
}
