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
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use wire::{Batch, ErrorCode, Reader, Scratch};

/// Appends from other shards that found no free tail buffer, of each partition in the order in which they came: a partition that is
/// flooded keeps no other one waiting. A partition is here while there is a task that goes through its queue.
pub(crate) struct BlockedAppends<I: Io>(RefCell<HashMap<PartitionKey, VecDeque<ForeignAppend<I>>>>);

impl<I: Io> Default for BlockedAppends<I> {
    fn default() -> Self {
        BlockedAppends(RefCell::default())
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
    if let Some(queue) = shard.blocked_appends.0.borrow_mut().get_mut(&key) {
        queue.push_back(append);
        return;
    }
    if let Err((blocked, partition)) = append_foreign(shard, append) {
        let queue = VecDeque::new();
        shard.blocked_appends.0.borrow_mut().insert(key, queue);
        shard
            .io
            .spawn(append_blocked(shard.clone(), blocked, partition));
    }
}

/// Appends what is blocked and whatever comes for its partition meanwhile.
async fn append_blocked<I: Io>(
    shard: Rc<Shard<I>>,
    mut blocked: ForeignAppend<I>,
    mut partition: Rc<Partition<I>>,
) {
    let key = blocked.key;
    loop {
        partition.room(blocked.records.bytes()).await;
        let mut next = Some(blocked);
        blocked = loop {
            let Some(append) = next else {
                shard.blocked_appends.0.borrow_mut().remove(&key);
                return;
            };
            if let Err((again, of)) = append_foreign(&shard, append) {
                partition = of;
                break again;
            }
            let mut all = shard.blocked_appends.0.borrow_mut();
            next = all.get_mut(&key).and_then(VecDeque::pop_front);
        };
    }
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
