//! Fetch: reads whole batches below the high watermark and sends them from where they lie.
//!
//! ```text
//! request -> session -> targets -> read -> enough, or an error, or time is over? -> answer
//!                                   ^                    | no
//!                                   +--- wait for data --+
//! ```

use crate::abandon;
use crate::dispatch::RequestError;
use crate::fetch_sessions::{
    FetchTarget, FetchTargets, FetchTopicName, SessionRequest, SessionUse,
};
use crate::io::{Gather, Io, Slice};
use crate::limits::{FETCH_BYTES_MAX, FETCH_WAIT_MS_MAX, MEMORY_WAIT_MS};
use crate::log::Offset;
use crate::log::limits::READ_BYTES_MAX;
use crate::mesh::ShardId;
use crate::message::Reply;
use crate::pace::Pace;
use crate::partition_request::{self, PartitionKey, PartitionReply, PartitionRequest};
use crate::read::{self, PartitionRead, ReadLimit, ReadOutcome};
use crate::respond::{self, AnswerTo};
use crate::routes::{Place, TopicRoute};
use crate::shard::Shard;
use control_api::ids::TopicId;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use wire::messages::fetch::*;
use wire::{Array, ErrorCode, Records, Uuid};

/// Answers a fetch.
pub(crate) async fn handle<I: Io>(
    shard: &Rc<Shard<I>>,
    to: AnswerTo,
    request: &FetchRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let asked = session_request(to.version, request).await;
    let begun = shard.sessions.borrow_mut().begin(asked);
    let (session, targets) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let response = FetchResponse {
                error_code: error as i16,
                ..Default::default()
            };
            respond::append(answer, to, [], |writer, version| {
                response.encode(writer, version)
            })?;
            return Ok(());
        }
    };
    let outcomes = fetch(shard, request, &targets).await;
    encode(
        shard,
        to,
        request.isolation_level,
        session,
        &targets,
        outcomes,
        answer,
    )
    .await
}

async fn session_request(version: i16, request: &FetchRequest<'_>) -> SessionRequest {
    let by_id = version >= 13;
    let name = |topic: &str, id: Uuid| match by_id {
        true => FetchTopicName::Id(id),
        false => FetchTopicName::Name(topic.into()),
    };
    let mut pace = Pace::default();
    let mut named = FetchTargets::default();
    for topic in request.topics.iter() {
        let topic_name = name(topic.topic, topic.topic_id);
        pace.step().await;
        for partition in topic.partitions.iter() {
            named.want(FetchTarget {
                topic: topic_name.clone(),
                partition: partition.partition,
                offset: partition.fetch_offset,
                bytes_max: partition.partition_max_bytes,
                current_leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
            });
            pace.step().await;
        }
    }
    let mut forgotten = Vec::new();
    for topic in request.forgotten_topics_data.iter() {
        let topic_name = name(topic.topic, topic.topic_id);
        pace.step().await;
        for partition in topic.partitions.iter() {
            forgotten.push((topic_name.clone(), partition));
            pace.step().await;
        }
    }
    SessionRequest {
        id: request.session_id,
        epoch: request.session_epoch,
        by_id,
        named: named.into_vec(),
        forgotten,
    }
}

/// Reads until there is enough or the client's time is over.
async fn fetch<I: Io>(
    shard: &Rc<Shard<I>>,
    request: &FetchRequest<'_>,
    targets: &[FetchTarget],
) -> Vec<ReadOutcome> {
    let wait_ms = u64::try_from(request.max_wait_ms)
        .unwrap_or(0)
        .min(FETCH_WAIT_MS_MAX);
    let deadline = shard.io.now().after_ms(wait_ms);
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0);
    let bytes_max = usize::try_from(request.max_bytes)
        .unwrap_or(0)
        .min(FETCH_BYTES_MAX);
    loop {
        let outcomes = read_targets(shard, targets, bytes_max).await;
        let bytes: usize = outcomes.iter().map(ReadOutcome::bytes).sum();
        let now = shard.io.now();
        if bytes >= bytes_min.min(carried_max(targets, &outcomes, bytes_max))
            || outcomes.iter().any(ReadOutcome::failed)
            || targets.is_empty()
            || now >= deadline
            || shard.stopping.get()
        {
            return outcomes;
        }
        let left_ms = (deadline.nanos_since(now) / 1_000_000).max(1);
        if outcomes.iter().any(|outcome| outcome.starved) {
            let pause_ms = left_ms.min(MEMORY_WAIT_MS);
            shard.io.sleep_until(now.after_ms(pause_ms)).await;
        } else {
            wait_for_data(shard, targets, &outcomes, left_ms).await;
        }
    }
}

/// What an answer can come to carry however long it waits: of a partition that has more than it gave nothing beyond that, of any other
/// as much as the client takes.
fn carried_max(targets: &[FetchTarget], outcomes: &[ReadOutcome], bytes_max: usize) -> usize {
    let each = targets.iter().zip(outcomes).map(|(target, outcome)| {
        let most = match outcome.cut && !outcome.starved {
            true => 0,
            false => usize::try_from(target.bytes_max).unwrap_or(0),
        };
        most.min(READ_BYTES_MAX).max(outcome.bytes())
    });
    // Whoever asks for nothing is still given a batch.
    each.sum::<usize>().clamp(1, bytes_max.max(1))
}

/// Where a target's partition is on this broker.
fn locate<I: Io>(
    shard: &Shard<I>,
    target: &FetchTarget,
) -> Result<(PartitionKey, ShardId), ErrorCode> {
    let route: Rc<TopicRoute<I>> = match &target.topic {
        // To look for a long one for each of its partitions would take as long as all of them together.
        FetchTopicName::Name(name) if target.topic.may_exist() => shard
            .topic_named(name)
            .ok_or(ErrorCode::UnknownTopicOrPartition)?,
        FetchTopicName::Name(_) => return Err(ErrorCode::UnknownTopicOrPartition),
        FetchTopicName::Id(id) => shard
            .topic_with_id(TopicId(id.0))
            .ok_or(ErrorCode::UnknownTopicId)?,
    };
    let key = PartitionKey {
        topic: route.id,
        partition: target.partition,
    };
    match route.leader(target.partition)? {
        Place::Here(_) => Ok((key, shard.id)),
        Place::There(other) => Ok((key, other)),
    }
}

/// Reads all targets, those of one shard together, and returns their outcomes in the order of the targets.
async fn read_targets<I: Io>(
    shard: &Rc<Shard<I>>,
    targets: &[FetchTarget],
    bytes_max: usize,
) -> Vec<ReadOutcome> {
    let mut outcomes: Vec<Option<ReadOutcome>> = Vec::with_capacity(targets.len());
    let mut by_shard: Vec<(ShardId, Vec<usize>, Vec<PartitionRead>)> = Vec::new();
    let mut pace = Pace::default();
    for (index, target) in targets.iter().enumerate() {
        pace.step().await;
        let (key, place) = match locate(shard, target) {
            Ok(located) => located,
            Err(error) => {
                outcomes.push(Some(ReadOutcome::refused(error)));
                continue;
            }
        };
        outcomes.push(None);
        let read = PartitionRead {
            key,
            offset: target.offset,
            bytes_max: usize::try_from(target.bytes_max).unwrap_or(0),
            current_leader_epoch: target.current_leader_epoch,
            last_fetched_epoch: target.last_fetched_epoch,
        };
        match by_shard.iter_mut().find(|(id, _, _)| *id == place) {
            Some((_, indices, reads)) => {
                indices.push(index);
                reads.push(read);
            }
            None => by_shard.push((place, vec![index], vec![read])),
        }
    }
    let mut limit = ReadLimit {
        bytes_max,
        at_least_one: true,
    };
    for (place, indices, reads) in by_shard {
        let read = read_on(shard, place, reads, limit).await;
        for (index, outcome) in indices.into_iter().zip(read) {
            limit = limit.after(outcome.bytes());
            outcomes[index] = Some(outcome);
        }
    }
    outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|| ReadOutcome::refused(ErrorCode::RequestTimedOut)))
        .collect()
}

async fn read_on<I: Io>(
    shard: &Rc<Shard<I>>,
    place: ShardId,
    reads: Vec<PartitionRead>,
    limit: ReadLimit,
) -> Vec<ReadOutcome> {
    if place == shard.id {
        return read::read_partitions(shard, &reads, limit).await;
    }
    let count = reads.len();
    match partition_request::ask(shard, place, PartitionRequest::Read { reads, limit }).await {
        Ok(PartitionReply::Read(outcomes)) => outcomes,
        Ok(_) => unreachable!("a reply is of the kind of its request"),
        Err(error) => (0..count).map(|_| ReadOutcome::refused(error)).collect(),
    }
}

/// Waits until any target has more than what was just seen, on whichever shard, or the time is over.
async fn wait_for_data<I: Io>(
    shard: &Rc<Shard<I>>,
    targets: &[FetchTarget],
    seen: &[ReadOutcome],
    wait_ms: u64,
) {
    let mut here = Vec::new();
    let mut elsewhere: Vec<(ShardId, Vec<(PartitionKey, Offset)>)> = Vec::new();
    let mut pace = Pace::default();
    for (target, outcome) in targets.iter().zip(seen) {
        pace.step().await;
        // What left since it was read is told by the next read.
        let Ok((key, place)) = locate(shard, target) else {
            return;
        };
        let position = (key, Offset(outcome.high_watermark));
        if place == shard.id {
            here.push(position);
        } else if let Some((_, positions)) = elsewhere.iter_mut().find(|(id, _)| *id == place) {
            positions.push(position);
        } else {
            elsewhere.push((place, vec![position]));
        }
    }
    let mut calls: Vec<_> = elsewhere
        .into_iter()
        .filter_map(|(place, positions)| {
            let (asking, asked) = abandon::question();
            let request = PartitionRequest::WaitForData {
                positions,
                wait_ms_max: wait_ms,
                asked,
            };
            let call = shard.ask_shard(place, request)?;
            Some((call, asking))
        })
        .collect();
    let mut local = pin!(read::wait_for_data(shard, &here, wait_ms));
    poll_fn(|context| {
        let arrived = calls.iter_mut().any(|(call, _)| {
            matches!(
                std::pin::Pin::new(call).poll(context),
                Poll::Ready(Reply::Partition(_) | Reply::Control(_))
            )
        });
        if arrived {
            return Poll::Ready(());
        }
        local.as_mut().poll(context)
    })
    .await;
}

/// Encodes the outcomes, leaving out what is no news to an incremental session.
async fn encode<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    isolation_level: i8,
    session: SessionUse,
    targets: &[FetchTarget],
    outcomes: Vec<ReadOutcome>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let mut records: Vec<Slice> = Vec::new();
    let mut partitions = Vec::with_capacity(targets.len());
    let mut topics: Vec<(&FetchTopicName, usize)> = Vec::new();
    let mut pace = Pace::default();
    for (target, mut outcome) in targets.iter().zip(outcomes) {
        pace.step().await;
        if !is_answered(shard, session, target, &outcome) {
            continue;
        }
        count_bytes_out(shard, target, outcome.bytes());
        records.append(&mut outcome.records.slices);
        answer.charges.extend(outcome.records.charge.take());
        partitions.push(partition_data(isolation_level, target.partition, &outcome));
        match topics.last_mut() {
            Some((topic, count)) if *topic == &target.topic => *count += 1,
            _ => topics.push((&target.topic, 1)),
        }
    }
    let mut rest = &partitions[..];
    let mut responses: Vec<FetchableTopicResponse<'_>> = Vec::with_capacity(topics.len());
    for (topic, count) in topics {
        pace.step().await;
        let (own, others) = rest.split_at(count);
        rest = others;
        let (topic, topic_id) = match topic {
            FetchTopicName::Name(name) => (&**name, Uuid::ZERO),
            FetchTopicName::Id(id) => ("", *id),
        };
        responses.push(FetchableTopicResponse {
            topic,
            topic_id,
            partitions: Array::from(own),
        });
    }
    let response = FetchResponse {
        session_id: session.id(),
        responses: Array::from(&responses[..]),
        ..Default::default()
    };
    let appended = respond::append_in_turns(answer, to, records, async |writer, version| {
        response.encode_in_turns(writer, version).await
    });
    Ok(appended.await?)
}

fn is_answered<I: Io>(
    shard: &Shard<I>,
    session: SessionUse,
    target: &FetchTarget,
    outcome: &ReadOutcome,
) -> bool {
    let mut sessions = shard.sessions.borrow_mut();
    let news = sessions.is_news(
        session.id(),
        target,
        outcome.bytes() > 0,
        outcome.failed(),
        outcome.high_watermark,
        outcome.log_start,
    );
    match session {
        SessionUse::None | SessionUse::Full(_) => true,
        SessionUse::Incremental(_) => news,
    }
}

fn count_bytes_out<I: Io>(shard: &Shard<I>, target: &FetchTarget, bytes: usize) {
    if bytes == 0 {
        return;
    }
    let route = match &target.topic {
        FetchTopicName::Name(name) => shard.topic_named(name),
        FetchTopicName::Id(id) => shard.topic_with_id(TopicId(id.0)),
    };
    if let Some(route) = route {
        route.metrics.bytes_out.inc_by(bytes as u64);
    }
}

fn partition_data(
    isolation_level: i8,
    partition_index: i32,
    outcome: &ReadOutcome,
) -> PartitionData<'static> {
    let diverging_epoch = outcome
        .diverging
        .map_or_else(EpochEndOffset::default, |end| EpochEndOffset {
            epoch: end.leader_epoch,
            end_offset: end.end_offset,
        });
    PartitionData {
        partition_index,
        error_code: outcome.error as i16,
        high_watermark: outcome.high_watermark,
        // There are no transactions, so nothing below the high watermark is open.
        last_stable_offset: outcome.high_watermark,
        log_start_offset: outcome.log_start,
        diverging_epoch,
        aborted_transactions: (isolation_level == 1).then(Array::default),
        records: Some(Records::external(outcome.bytes())),
        ..Default::default()
    }
}
