//! Produce: checks each batch where it lies (`batch_checks.rs`), appends it, and answers once it is as safe as the client asked.
//!
//! [`begin`] runs in the connection's reader and appends; [`PendingProduce::settle`] runs in its writer and waits. A batch for a
//! partition of another shard is checked here and makes one hop there, by pointer, and its outcome one hop back.

mod foreign;
mod walk;

pub(crate) use foreign::{BlockedAppends, begin_for_other_shard};
pub(crate) use walk::Walk;

use super::batch_checks::{self, Unsettled, Verdict};
use crate::calls::Call;
use crate::dispatch::RequestError;
use crate::errors;
use crate::frame::Frame;
use crate::io::{Charge, Gather, Instant, Io};
use crate::limits::{PRODUCE_BATCH_BYTES_MIN, PRODUCE_BYTES_PER_TURN_MAX};
use crate::log::{AppendError, Appended, Level, WaitError};
use crate::mesh::ShardId;
use crate::message::{Reply, SharedRecords};
use crate::pace;
use crate::partition::Partition;
use crate::partition_request::{PartitionKey, PartitionReply, PartitionRequest};
use crate::request_memory::element_bytes;
use crate::respond::{self, AnswerTo};
use crate::routes::{Place, TopicRoute};
use crate::shard::Shard;
use control_api::ids::TopicId;
use smallvec::SmallVec;
use std::rc::Rc;
use wire::messages::produce::*;
use wire::{ApiKey, Array, Batch, BatchHeader, EncodeError, ErrorCode, RecordTimes, Records, Uuid};

/// A produce request whose batches are appended, or about to be, and not yet all as safe as asked.
pub struct PendingProduce<I: Io> {
    to: AnswerTo,
    /// The end of the request's `timeout_ms`. Only who waits for what the system lacks is told of it.
    deadline: Instant,
    topics: SmallVec<[PendingTopic<I>; 1]>,
    partitions: SmallVec<[PendingPartition<I>; 1]>,
    /// What is known of the records of the next partition's batch, so that they are looked at once.
    times: Option<Result<RecordTimes, ErrorCode>>,
    /// For its own memory, if it is of some size.
    charge: Option<Charge>,
}

/// Why a request cannot be begun to its end now. The socket is not read meanwhile.
pub(crate) enum Blocked<I: Io> {
    /// It has had its turn.
    Turn,
    /// No tail buffer is free for a batch of that many bytes.
    Tail(Rc<Partition<I>>, usize),
    /// The other shard or this one has too many calls open.
    Calls(ShardId),
    /// So many bytes would have to leave the receive buffers to wait on another shard.
    FrameMemory(usize),
    /// The compressed records of the batch with this header take long to look at.
    Inspection(Box<(BatchHeader, SharedRecords)>),
}

impl<I: Io> Blocked<I> {
    /// Waits until trying again may help.
    pub(crate) async fn passed(self, shard: &Shard<I>, pending: &mut PendingProduce<I>) {
        match self {
            Blocked::Turn => pace::give_way().await,
            Blocked::Tail(partition, bytes) => partition.room(bytes).await,
            Blocked::Calls(other) => shard.wait_to_append_on(other).await,
            Blocked::FrameMemory(bytes) => {
                let memory = &shard.frame_memory;
                let room = || memory.may_hop(bytes).then_some(());
                memory.line_of_moved.until(&shard.io, room).await;
            }
            Blocked::Inspection(batch) => {
                let (header, records) = &*batch;
                pending.times = Some(shard.inspector.at_length(header, records.slices()).await);
            }
        }
    }
}

struct PendingTopic<I: Io> {
    name: TopicName<I>,
    /// How many of the request's partitions are this topic's.
    partitions: usize,
}

enum TopicName<I: Io> {
    Known(Rc<TopicRoute<I>>),
    /// Boxed, because it is rare and a request is moved with its topics.
    Unknown(Box<(String, Uuid)>),
}

struct PendingPartition<I: Io> {
    index: i32,
    state: PendingState<I>,
}

enum PendingState<I: Io> {
    Done(ProduceOutcome),
    Waiting {
        partition: Rc<Partition<I>>,
        appended: Appended,
        level: Level,
    },
    OnOtherShard(Call<Reply>),
}

/// What a producer is told of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceOutcome {
    pub error: ErrorCode,
    pub base_offset: i64,
    pub log_append_time_ms: i64,
    pub log_start_offset: i64,
}

impl ProduceOutcome {
    fn refused(error: ErrorCode) -> Self {
        ProduceOutcome {
            error,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
        }
    }

    fn unless_superseded(self, may_acknowledge: bool) -> Self {
        match self.error {
            ErrorCode::None if !may_acknowledge => {
                ProduceOutcome::refused(ErrorCode::NotLeaderOrFollower)
            }
            _ => self,
        }
    }

    fn of_partition(&self, index: i32) -> PartitionProduceResponse<'static> {
        PartitionProduceResponse {
            index,
            error_code: self.error as i16,
            base_offset: self.base_offset,
            log_append_time_ms: self.log_append_time_ms,
            log_start_offset: self.log_start_offset,
            ..Default::default()
        }
    }

    fn accepted<I: Io>(partition: &Partition<I>, appended: &Appended) -> Self {
        ProduceOutcome {
            error: ErrorCode::None,
            base_offset: appended.base_offset.0,
            log_append_time_ms: appended.log_append_time_ms,
            log_start_offset: partition.log_start().0,
        }
    }
}

/// Appends the batches of a request to the end of `pending`'s; called again after [`Blocked`], it goes on behind those.
#[inline]
pub(crate) fn begin<'a, I: Io>(
    shard: &Rc<Shard<I>>,
    frame: &Frame,
    request: &ProduceRequest<'a>,
    walk: &mut Walk<'a>,
    now: Instant,
    pending: &mut PendingProduce<I>,
) -> Result<(), Blocked<I>> {
    let version = pending.to.version;
    let refusal = refusal_of_request(request, shard.lease.holds(now));
    let mut turn = Turn::default();
    let mut route = (walk.topic.as_ref()).map(|topic| find_topic(shard, version, topic));
    loop {
        while let Some(route) = &route {
            // What is not begun now comes first the next time.
            let mut partitions = walk.partitions.clone();
            let Some(partition) = partitions.next() else {
                break;
            };
            turn.take(partition.records.as_ref().map_or(0, Records::len))?;
            let state = match (refusal, route) {
                (Some(error), _) => PendingState::Done(ProduceOutcome::refused(error)),
                (None, Err(error)) => PendingState::Done(ProduceOutcome::refused(*error)),
                (None, Ok(route)) => {
                    let begun = Begun {
                        version,
                        acks: request.acks,
                        deadline: pending.deadline,
                        times: &mut pending.times,
                    };
                    begin_partition(shard, frame, route, &partition, begun)?
                }
            };
            pending.times = None;
            pending.add(partition.index, state);
            walk.partitions = partitions;
        }
        let mut topics = walk.topics.clone();
        let Some(topic) = topics.next() else {
            return Ok(());
        };
        turn.take(topic.name.len())?;
        let found = find_topic(shard, version, &topic);
        pending.topics.push(PendingTopic::new(&topic, &found));
        walk.topics = topics;
        walk.partitions = topic.partition_data.iter();
        walk.topic = Some(topic);
        route = Some(found);
    }
}

/// What a request has taken of its shard's time, in bytes that it had looked at.
#[derive(Default)]
struct Turn {
    bytes: usize,
}

impl Turn {
    fn take<I: Io>(&mut self, bytes: usize) -> Result<(), Blocked<I>> {
        if self.bytes >= PRODUCE_BYTES_PER_TURN_MAX {
            return Err(Blocked::Turn);
        }
        self.bytes += PRODUCE_BATCH_BYTES_MIN + bytes;
        Ok(())
    }
}

/// What is wrong with a request as a whole.
fn refusal_of_request(request: &ProduceRequest<'_>, may_append: bool) -> Option<ErrorCode> {
    if !may_append {
        return Some(ErrorCode::NotLeaderOrFollower);
    }
    if !(-1..=1).contains(&request.acks) {
        return Some(ErrorCode::InvalidRequiredAcks);
    }
    // There are no transactions here, so none can be open.
    request
        .transactional_id
        .is_some()
        .then_some(ErrorCode::InvalidTxnState)
}

fn find_topic<I: Io>(
    shard: &Shard<I>,
    version: i16,
    topic: &TopicProduceData<'_>,
) -> Result<Rc<TopicRoute<I>>, ErrorCode> {
    if version >= 13 {
        return shard
            .topic_with_id(TopicId(topic.topic_id.0))
            .ok_or(ErrorCode::UnknownTopicId);
    }
    shard
        .topic_named(topic.name)
        .ok_or(ErrorCode::UnknownTopicOrPartition)
}

/// What a partition's part of a request takes from the whole.
struct Begun<'a> {
    version: i16,
    acks: i16,
    deadline: Instant,
    times: &'a mut Option<Result<RecordTimes, ErrorCode>>,
}

fn begin_partition<I: Io>(
    shard: &Rc<Shard<I>>,
    frame: &Frame,
    route: &Rc<TopicRoute<I>>,
    data: &PartitionProduceData<'_>,
    begun: Begun<'_>,
) -> Result<PendingState<I>, Blocked<I>> {
    let refused = |error| Ok(PendingState::Done(ProduceOutcome::refused(error)));
    let Begun {
        version,
        acks,
        deadline,
        times,
    } = begun;
    let place = match route.leader(data.index) {
        Ok(place) => place,
        Err(error) => return refused(error),
    };
    let Some(records) = data.records else {
        return refused(ErrorCode::InvalidRecord);
    };
    if version < ZSTD_VERSION_MIN && is_zstd(&records) {
        return refused(ErrorCode::UnsupportedCompressionType);
    }
    if acks == -1 && !route.has_enough_in_sync(data.index) {
        return refused(ErrorCode::NotEnoughReplicas);
    }
    let now_ms = shard.io.wall_clock_ms();
    let checked = batch_checks::check(&shard.inspector, &route.config, now_ms, &records, times);
    let (batch, verdict) = match checked {
        Ok(checked) => checked,
        Err(Unsettled::Refused(error)) => return refused(error),
        Err(Unsettled::TakesLong) => {
            return inspection(shard, frame, &records).map_or_else(refused, Err);
        }
    };
    match place {
        Place::Here(partition) => match append(route, &partition, &batch, verdict) {
            Ok(appended) => Ok(waiting(partition, appended, acks)),
            Err(Refused::Busy) => Err(Blocked::Tail(partition, records.len())),
            Err(Refused::Code(error)) => refused(error),
        },
        Place::There(other) => {
            if !shard.may_append_on(other) {
                return Err(Blocked::Calls(other));
            }
            let Some(records) = frame.share(&shard.frame_memory, records.pieces()) else {
                return Err(Blocked::FrameMemory(records.len()));
            };
            let key = PartitionKey {
                topic: route.id,
                partition: data.index,
            };
            let request = PartitionRequest::Produce {
                key,
                records,
                verdict,
                acks,
                deadline,
            };
            match shard.ask_shard(other, request) {
                Some(_) if acks == 0 => refused(ErrorCode::None),
                Some(call) => Ok(PendingState::OnOtherShard(call)),
                None => Err(Blocked::Calls(other)),
            }
        }
    }
}

/// Leaves a batch whose records take long to look at for later.
fn inspection<I: Io>(
    shard: &Shard<I>,
    frame: &Frame,
    records: &Records<'_>,
) -> Result<Blocked<I>, ErrorCode> {
    let batch = Batch::first(records).map_err(|error| error.code())?;
    let Some(shared) = frame.share(&shard.frame_memory, batch.records.pieces()) else {
        return Ok(Blocked::FrameMemory(records.len()));
    };
    Ok(Blocked::Inspection(Box::new((batch.header, shared))))
}

/// Produce carries zstd from this version on (KIP-110), so that a consumer which cannot read it is not given it.
const ZSTD_VERSION_MIN: i16 = 7;

fn is_zstd(records: &Records<'_>) -> bool {
    Batch::first(records)
        .is_ok_and(|batch| batch.header.attributes.compression() == Ok(wire::Compression::Zstd))
}

fn waiting<I: Io>(partition: Rc<Partition<I>>, appended: Appended, acks: i16) -> PendingState<I> {
    match partition.level_for(acks) {
        Some(level) => PendingState::Waiting {
            partition,
            appended,
            level,
        },
        None => PendingState::Done(ProduceOutcome::accepted(&partition, &appended)),
    }
}

/// Why a batch was not appended.
enum Refused {
    /// No tail buffer is free; nothing was changed.
    Busy,
    Code(ErrorCode),
}

/// Appends a batch that was checked, unless it is refused and was never appended.
fn append<I: Io>(
    route: &TopicRoute<I>,
    partition: &Partition<I>,
    batch: &Batch<'_>,
    verdict: Verdict,
) -> Result<Appended, Refused> {
    if let Some(refusal) = verdict.refusal {
        let known = partition.appended_before(batch);
        return known.ok_or(Refused::Code(refusal));
    }
    let appended = partition.append(batch).map_err(|error| match error {
        AppendError::Busy => Refused::Busy,
        other => Refused::Code(errors::append_error_code(&other)),
    })?;
    if !appended.duplicate {
        route.metrics.bytes_in.inc_by(batch.bytes.len() as u64);
        route
            .metrics
            .messages_in
            .inc_by(batch.header.records_count.max(0) as u64);
    }
    Ok(appended)
}

impl<I: Io> PendingTopic<I> {
    fn new(topic: &TopicProduceData<'_>, route: &Result<Rc<TopicRoute<I>>, ErrorCode>) -> Self {
        let name = match route {
            Ok(route) => TopicName::Known(route.clone()),
            Err(_) => TopicName::Unknown(Box::new((topic.name.to_owned(), topic.topic_id))),
        };
        PendingTopic {
            name,
            partitions: 0,
        }
    }
}

impl<I: Io> PendingProduce<I> {
    pub(crate) fn new(to: AnswerTo, deadline: Instant) -> Self {
        PendingProduce {
            to,
            deadline,
            topics: SmallVec::new(),
            partitions: SmallVec::new(),
            times: None,
            charge: None,
        }
    }

    /// Another partition of the last topic.
    fn add(&mut self, index: i32, state: PendingState<I>) {
        self.partitions.push(PendingPartition { index, state });
        if let Some(topic) = self.topics.last_mut() {
            topic.partitions += 1;
        }
    }

    /// What it and its answer may come to.
    pub(crate) fn bytes(&self) -> usize {
        let named = |topic: &PendingTopic<I>| match &topic.name {
            TopicName::Known(_) => 0,
            TopicName::Unknown(unknown) => 2 * unknown.0.len(),
        };
        let names: usize = self.topics.iter().map(named).sum();
        names + (self.topics.len() + self.partitions.len()) * element_bytes(ApiKey::Produce)
    }

    /// Keeps the charge for [`PendingProduce::bytes`] until the answer is sent.
    pub(crate) fn keep(&mut self, charge: Option<Charge>) {
        self.charge = charge;
    }

    /// Whether a request that was begun to its end is answered; `acks=0` wants no answer.
    pub(crate) fn is_answered(&self, acks: i16) -> Result<bool, RequestError> {
        if acks != 0 {
            return Ok(true);
        }
        let failed = |partition: &PendingPartition<I>| matches!(&partition.state, PendingState::Done(outcome) if outcome.error != ErrorCode::None);
        if self.partitions.iter().any(failed) {
            return Err(RequestError::UnacknowledgedFailed);
        }
        Ok(false)
    }

    /// Whether every batch has its outcome.
    pub(crate) fn is_ready(&self) -> bool {
        self.partitions
            .iter()
            .all(|partition| partition.state.is_ready())
    }

    /// Whether some of its batches are another shard's.
    pub(crate) fn hops(&self) -> bool {
        self.partitions
            .iter()
            .any(|partition| matches!(partition.state, PendingState::OnOtherShard(_)))
    }

    /// Waits until [`PendingProduce::is_ready`].
    pub(crate) async fn settle(&mut self) {
        for partition in &mut self.partitions {
            partition.state.settle(self.deadline).await;
        }
    }

    /// Appends the answer to `message`, once ready. A process that may no longer acknowledge says that it does not lead.
    pub(crate) fn finish(
        &mut self,
        message: &mut Gather,
        may_acknowledge: bool,
    ) -> Result<(), EncodeError> {
        let outcomes: SmallVec<[PartitionProduceResponse<'static>; 1]> = self
            .partitions
            .iter()
            .map(|partition| {
                let outcome = partition.state.outcome().unless_superseded(may_acknowledge);
                outcome.of_partition(partition.index)
            })
            .collect();
        let mut rest = &outcomes[..];
        let topics: SmallVec<[TopicProduceResponse<'_>; 1]> = self
            .topics
            .iter()
            .map(|topic| {
                let (own, others) = rest.split_at(topic.partitions);
                rest = others;
                let (name, topic_id) = match &topic.name {
                    TopicName::Known(route) => (route.name(), Uuid(route.id.0)),
                    TopicName::Unknown(unknown) => (unknown.0.as_str(), unknown.1),
                };
                TopicProduceResponse {
                    name,
                    topic_id,
                    partition_responses: Array::from(own),
                }
            })
            .collect();
        let response = ProduceResponse {
            responses: Array::from(&topics[..]),
            ..Default::default()
        };
        message.charges.extend(self.charge.take());
        respond::append(message, self.to, [], |writer, version| {
            response.encode(writer, version)
        })
    }
}

impl<I: Io> PendingState<I> {
    fn is_ready(&self) -> bool {
        match self {
            PendingState::Done(_) => true,
            PendingState::Waiting {
                partition,
                appended,
                level,
            } => partition.has_reached(appended, *level),
            PendingState::OnOtherShard(call) => call.is_ready(),
        }
    }

    async fn settle(&mut self, deadline: Instant) {
        let outcome = match self {
            PendingState::Done(_) => return,
            PendingState::Waiting {
                partition,
                appended,
                level,
            } => wait(partition, appended, *level, deadline).await,
            PendingState::OnOtherShard(call) => outcome_of_reply(call.await),
        };
        *self = PendingState::Done(outcome);
    }

    /// Once ready.
    fn outcome(&self) -> ProduceOutcome {
        match self {
            PendingState::Done(outcome) => *outcome,
            PendingState::Waiting {
                partition,
                appended,
                ..
            } => ProduceOutcome::accepted(partition, appended),
            PendingState::OnOtherShard(call) => {
                outcome_of_reply(call.take().expect("a request is answered once it is ready"))
            }
        }
    }
}

fn outcome_of_reply(reply: Reply) -> ProduceOutcome {
    match reply {
        Reply::Partition(PartitionReply::Produce(outcome)) => outcome,
        _ => unreachable!("a reply is of the kind of its request"),
    }
}

async fn wait<I: Io>(
    partition: &Partition<I>,
    appended: &Appended,
    level: Level,
    deadline: Instant,
) -> ProduceOutcome {
    match partition.wait_until(appended, level, deadline).await {
        Ok(()) => ProduceOutcome::accepted(partition, appended),
        Err(WaitError::Poisoned) => ProduceOutcome::refused(ErrorCode::KafkaStorageError),
        // It may yet be written: nobody can say.
        Err(WaitError::Stalled) => ProduceOutcome::refused(ErrorCode::RequestTimedOut),
        Err(WaitError::LeaderEpochChanged) => {
            ProduceOutcome::refused(ErrorCode::NotLeaderOrFollower)
        }
    }
}
