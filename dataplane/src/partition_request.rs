//! What one shard asks of a partition that another shard holds: one hop there, one back.
//!
//! The same functions serve a partition of one's own shard, so there is one way to do each thing.

use crate::abandon::Asked;
use crate::errors;
use crate::handlers::batch_checks::Verdict;
use crate::handlers::produce::{self, ProduceOutcome};
use crate::io::{Instant, Io};
use crate::log::Offset;
use crate::message::SharedRecords;
use crate::partition::{EpochEnd, ListedOffset, OffsetQuery, Partition};
use crate::read::{self, PartitionRead, ReadLimit, ReadOutcome};
use crate::ready;
use crate::routes::Place;
use crate::select;
use crate::shard::Shard;
use control_api::ids::TopicId;
use std::rc::Rc;
use std::sync::Arc;
use wire::ErrorCode;

/// A partition by topic id and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    pub topic: TopicId,
    pub partition: i32,
}

pub enum PartitionRequest {
    /// Appends one batch, which was checked, and waits for the level that `acks` asks for, no later than until the deadline for what the
    /// system is short of.
    Produce {
        key: PartitionKey,
        records: SharedRecords,
        verdict: Verdict,
        acks: i16,
        deadline: Instant,
    },
    /// Reads several partitions of one shard, within a common limit of bytes.
    Read {
        reads: Vec<PartitionRead>,
        limit: ReadLimit,
    },
    /// Answers once any of the partitions has something new, after `wait_ms_max`, or when nobody waits any more.
    WaitForData {
        positions: Vec<(PartitionKey, Offset)>,
        wait_ms_max: u64,
        asked: Asked,
    },
    ListOffset {
        key: PartitionKey,
        query: OffsetQuery,
    },
    EpochEnd {
        key: PartitionKey,
        current_leader_epoch: i32,
        epoch: i32,
    },
    /// Answers once the shard's metadata has come to `index` and it serves what it is to lead of the topics, or at the deadline.
    Ready {
        topics: Arc<[TopicId]>,
        index: u64,
        wait_ms_max: u64,
    },
}

pub enum PartitionReply {
    Produce(ProduceOutcome),
    Read(Vec<ReadOutcome>),
    DataArrived,
    ListOffset(Result<ListedOffset, ErrorCode>),
    EpochEnd(Result<EpochEnd, ErrorCode>),
    /// Those of the topics that the shard does not serve yet.
    NotReady(Vec<TopicId>),
}

/// Serves a request of another shard and hands the reply to `reply`.
pub fn serve<I: Io>(
    shard: &Rc<Shard<I>>,
    request: PartitionRequest,
    reply: impl FnOnce(&Rc<Shard<I>>, PartitionReply) + 'static,
) {
    // Appends of one connection must keep their order, so each is begun in the order of arrival, before any task runs.
    let request = match request {
        PartitionRequest::Produce {
            key,
            records,
            verdict,
            acks,
            deadline,
        } => {
            let reply = move |shard: &Rc<Shard<I>>, outcome| {
                reply(shard, PartitionReply::Produce(outcome));
            };
            produce::begin_for_other_shard(shard, key, records, verdict, acks, deadline, reply);
            return;
        }
        request => request,
    };
    let shard = shard.clone();
    let io = shard.io.clone();
    io.spawn(async move {
        let answer = match request {
            PartitionRequest::Read { reads, limit } => {
                PartitionReply::Read(read::read_partitions(&shard, &reads, limit).await)
            }
            PartitionRequest::WaitForData {
                positions,
                wait_ms_max,
                asked,
            } => {
                let arrival = read::wait_for_data(&shard, &positions, wait_ms_max);
                select::first(arrival, asked.abandoned()).await;
                PartitionReply::DataArrived
            }
            PartitionRequest::ListOffset { key, query } => {
                PartitionReply::ListOffset(list_offset(&shard, key, query).await)
            }
            PartitionRequest::EpochEnd {
                key,
                current_leader_epoch,
                epoch,
            } => PartitionReply::EpochEnd(epoch_end(&shard, key, current_leader_epoch, epoch)),
            PartitionRequest::Ready {
                topics,
                index,
                wait_ms_max,
            } => PartitionReply::NotReady(
                ready::on_this_shard(&shard, &topics, index, wait_ms_max).await,
            ),
            PartitionRequest::Produce { .. } => unreachable!("begun above"),
        };
        reply(&shard, answer);
    });
}

/// The partition, where this shard holds it.
pub fn local<I: Io>(shard: &Shard<I>, key: PartitionKey) -> Result<Rc<Partition<I>>, ErrorCode> {
    let route = shard
        .topic_with_id(key.topic)
        .ok_or(ErrorCode::UnknownTopicId)?;
    match route.leader(key.partition)? {
        Place::Here(partition) => Ok(partition),
        // Only while the number of shards is being taken up.
        Place::There(_) => Err(ErrorCode::NotLeaderOrFollower),
    }
}

/// Answers a ListOffsets query, on whichever shard the partition is.
pub async fn list_offset_anywhere<I: Io>(
    shard: &Shard<I>,
    key: PartitionKey,
    query: OffsetQuery,
) -> Result<ListedOffset, ErrorCode> {
    let route = shard
        .topic_with_id(key.topic)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    match route.leader(key.partition)? {
        Place::Here(_) => list_offset(shard, key, query).await,
        Place::There(other) => {
            match ask(shard, other, PartitionRequest::ListOffset { key, query }).await? {
                PartitionReply::ListOffset(result) => result,
                _ => unreachable!("a reply is of the kind of its request"),
            }
        }
    }
}

/// Answers an OffsetForLeaderEpoch query, on whichever shard the partition is.
pub async fn epoch_end_anywhere<I: Io>(
    shard: &Shard<I>,
    key: PartitionKey,
    current_leader_epoch: i32,
    epoch: i32,
) -> Result<EpochEnd, ErrorCode> {
    let route = shard
        .topic_with_id(key.topic)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    match route.leader(key.partition)? {
        Place::Here(_) => epoch_end(shard, key, current_leader_epoch, epoch),
        Place::There(other) => {
            let request = PartitionRequest::EpochEnd {
                key,
                current_leader_epoch,
                epoch,
            };
            match ask(shard, other, request).await? {
                PartitionReply::EpochEnd(result) => result,
                _ => unreachable!("a reply is of the kind of its request"),
            }
        }
    }
}

/// Asks another shard and waits for its reply.
pub async fn ask<I: Io>(
    shard: &Shard<I>,
    other: crate::mesh::ShardId,
    request: PartitionRequest,
) -> Result<PartitionReply, ErrorCode> {
    shard.wait_to_ask(other).await;
    let call = shard
        .ask_shard(other, request)
        .ok_or(ErrorCode::RequestTimedOut)?;
    match call.await {
        crate::message::Reply::Partition(reply) => Ok(reply),
        crate::message::Reply::Control(_) => unreachable!("a shard answers calls to it"),
    }
}

async fn list_offset<I: Io>(
    shard: &Shard<I>,
    key: PartitionKey,
    query: OffsetQuery,
) -> Result<ListedOffset, ErrorCode> {
    let partition = local(shard, key)?;
    errors::check_leader_epoch(query.current_leader_epoch, partition.leader_epoch())?;
    partition
        .list_offset(query)
        .await
        .map_err(|error| errors::read_error_code(&error))
}

fn epoch_end<I: Io>(
    shard: &Shard<I>,
    key: PartitionKey,
    current_leader_epoch: i32,
    epoch: i32,
) -> Result<EpochEnd, ErrorCode> {
    let partition = local(shard, key)?;
    errors::check_leader_epoch(current_leader_epoch, partition.leader_epoch())?;
    Ok(partition.epoch_end(epoch))
}
