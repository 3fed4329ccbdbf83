//! Takes a frame apart as far as its API and version, and calls that API's handler.

use crate::connection::{Outbox, Pending, PendingRequest, Started};
use crate::frame::{Frame, FrameError, FrameReader};
use crate::handlers;
use crate::handlers::produce::{Blocked, PendingProduce, Walk};
use crate::io::{Charge, Gather, Instant, Io};
use crate::limits::*;
use crate::metrics::Stage;
use crate::pace;
use crate::request_memory::element_bytes;
use crate::respond::{self, AnswerTo};
use crate::shard::Shard;
use std::rc::Rc;
use wire::messages::*;
use wire::{ApiKey, DecodeError, EncodeError, Reader, RequestHeader, Scratch};

/// Why a request cannot be answered at all. Each ends the connection, as in Kafka.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("malformed request: {0}")]
    Malformed(#[from] DecodeError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("API key {0} is not known or not served")]
    UnknownApi(i16),
    #[error("version {version} of {api:?} is not supported")]
    UnsupportedVersion { api: ApiKey, version: i16 },
    #[error("a request of {0} bytes that carries no records")]
    TooLarge(usize),
    #[error("the answer could not be encoded: {0}")]
    Encode(#[from] EncodeError),
    #[error("a request with acks=0 failed, and only a closed connection can tell the producer")]
    UnacknowledgedFailed,
}

/// Begins a request and hands it to the outbox, unless it wants no answer. Says when it was begun to its end.
pub async fn begin<I: Io>(
    shard: &Rc<Shard<I>>,
    frames: &mut FrameReader<I>,
    mut frame: Frame,
    started: Started,
    outbox: &Outbox<I>,
) -> Result<Instant, RequestError> {
    if let Some(begun) = begin_produce(shard, frames, &mut frame, started, outbox).await? {
        frames.recycle(frame);
        return Ok(begun);
    }
    if frame.bytes() > PLAIN_REQUEST_BYTES_MAX {
        return Err(RequestError::TooLarge(frame.bytes()));
    }
    // Other requests are small and may wait long: copies let go of the receive buffers, of this frame and of what came behind it.
    // Their handlers live in a box of their own, so that an idle connection does not carry the largest of them.
    let copied = copy_charge(shard, &mut frame).await;
    let mut bytes = Vec::with_capacity(frame.bytes());
    frame.copy_to(&mut bytes);
    frames.recycle(frame);
    frames.release_buffers();
    let (api, mut answer) = Box::pin(handle(shard.clone(), bytes)).await?;
    drop(copied);
    let kept = shard.request_memory.charge(&shard.io, answer.inline.len());
    answer.charges.extend(kept.await);
    let begun = shard.io.now();
    outbox.push(PendingRequest {
        api,
        started,
        begun,
        pending: Pending::Answered(answer),
    });
    Ok(begun)
}

/// Waits for room for the copy of a frame, if it is of some length.
async fn copy_charge<I: Io>(shard: &Shard<I>, frame: &mut Frame) -> Option<Charge> {
    if frame.bytes() <= FRAME_BYTES_COPIED_MAX {
        return None;
    }
    let memory = &shard.frame_memory;
    let bytes = frame.bytes();
    if let Some(charge) = memory.charge_moved(bytes) {
        return Some(charge);
    }
    frame.settle(memory);
    let room = || memory.charge_moved(bytes);
    Some(memory.line_of_moved.until(&shard.io, room).await)
}

/// Counts a request that wants no answer: it is at its end once it was begun.
fn observe_unanswered<I: Io>(shard: &Shard<I>, api: ApiKey, started: Started, begun: Instant) {
    let Started { received, at } = started;
    let metrics = &shard.metrics;
    metrics.observe(api, Stage::Queue, at.nanos_since(received));
    metrics.observe(api, Stage::Append, begun.nanos_since(at));
    metrics.observe(api, Stage::Total, begun.nanos_since(received));
}

/// Begins a Produce request, waiting for memory where there is none; `None` if it is another API's.
async fn begin_produce<I: Io>(
    shard: &Rc<Shard<I>>,
    frames: &mut FrameReader<I>,
    frame: &mut Frame,
    started: Started,
    outbox: &Outbox<I>,
) -> Result<Option<Instant>, RequestError> {
    let mut produce = None;
    let mut now = started.at;
    let acks = loop {
        let mut appending = append_batches(shard, frame, now, &mut produce)?;
        if let (Appending::Blocked(Blocked::Turn), Some(produce)) = (&appending, &mut produce) {
            // Boxed, so that an idle connection does not carry it.
            appending = Box::pin(append_in_turns(shard, frame, produce)).await?;
        }
        match appending {
            Appending::OtherApi => return Ok(None),
            Appending::Begun { acks } => break acks,
            Appending::Blocked(blocked) => {
                // It may take long, and others have use for the receive buffers.
                frame.settle(&shard.frame_memory);
                frames.release_buffers();
                if let Some(produce) = &mut produce {
                    blocked.passed(shard, produce).await;
                }
            }
        }
        now = shard.io.now();
    };
    let begun = shard.io.now();
    let Some(mut produce) = produce else {
        return Ok(Some(begun));
    };
    if produce.is_answered(acks)? {
        let bytes = produce.bytes();
        if bytes > REQUEST_BYTES_NOT_COUNTED {
            frame.settle(&shard.frame_memory);
            frames.release_buffers();
            produce.keep(shard.request_memory.charge(&shard.io, bytes).await);
        }
        outbox.push(PendingRequest {
            api: ApiKey::Produce,
            started,
            begun,
            pending: Pending::Produce(produce),
        });
    } else {
        observe_unanswered(shard, ApiKey::Produce, started, begun);
    }
    Ok(Some(begun))
}

enum Appending<I: Io> {
    Begun { acks: i16 },
    Blocked(Blocked<I>),
    OtherApi,
}

impl<I: Io> Appending<I> {
    fn of(begun: Result<(), Blocked<I>>, acks: i16) -> Self {
        match begun {
            Ok(()) => Appending::Begun { acks },
            Err(blocked) => Appending::Blocked(blocked),
        }
    }
}

/// Decodes a Produce request where it lies and appends its batches, as far as they go in one turn. Not async, so that nothing of it outlives
/// the call.
fn append_batches<I: Io>(
    shard: &Rc<Shard<I>>,
    frame: &Frame,
    now: Instant,
    pending: &mut Option<PendingProduce<I>>,
) -> Result<Appending<I>, RequestError> {
    let scratch = Scratch::new();
    let parts = Parts::of(frame);
    let Some((to, request)) = decode_produce(parts.reader(&scratch))? else {
        return Ok(Appending::OtherApi);
    };
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0);
    let pending = pending.get_or_insert_with(|| PendingProduce::new(to, now.after_ms(timeout_ms)));
    let mut walk = Walk::new(&request, pending);
    let begun = handlers::produce::begin(shard, frame, &request, &mut walk, now, pending);
    Ok(Appending::of(begun, request.acks))
}

/// As [`append_batches`] for a request of which there is more than one turn takes: it is decoded once for all turns that follow.
async fn append_in_turns<I: Io>(
    shard: &Rc<Shard<I>>,
    frame: &Frame,
    pending: &mut PendingProduce<I>,
) -> Result<Appending<I>, RequestError> {
    pace::give_way().await;
    let scratch = Scratch::new();
    let parts = Parts::of(frame);
    let Some((_, request)) = decode_produce(parts.reader(&scratch))? else {
        return Ok(Appending::OtherApi);
    };
    let mut walk = Walk::new(&request, pending);
    loop {
        pace::give_way().await;
        let now = shard.io.now();
        match handlers::produce::begin(shard, frame, &request, &mut walk, now, pending) {
            Err(Blocked::Turn) => {}
            begun => return Ok(Appending::of(begun, request.acks)),
        }
    }
}

/// The pieces that a frame lies in.
struct Parts<'a> {
    parts: [&'a [u8]; FRAME_PIECES_MAX + 2],
    count: usize,
}

impl<'a> Parts<'a> {
    #[inline]
    fn of(frame: &'a Frame) -> Parts<'a> {
        let mut parts = [&[][..]; FRAME_PIECES_MAX + 2];
        let slots = parts.iter_mut().zip(frame.parts());
        let count = slots.map(|(slot, part)| *slot = part).count();
        Parts { parts, count }
    }

    fn reader(&'a self, scratch: &'a Scratch) -> Reader<'a> {
        Reader::fragments(&self.parts[..self.count], scratch)
            .with_elements_max(PRODUCE_ELEMENTS_MAX)
    }
}

/// `None` if it is another API's.
#[inline]
fn decode_produce(
    mut reader: Reader<'_>,
) -> Result<Option<(AnswerTo, produce::ProduceRequest<'_>)>, RequestError> {
    let header = RequestHeader::decode(&mut reader)?;
    let api = served(&header)?;
    if api != ApiKey::Produce {
        return Ok(None);
    }
    let to = answer_to(api, &header)?;
    let request = produce::ProduceRequest::decode(&mut reader, to.version)?;
    Ok(Some((to, request)))
}

/// The API of a request, if the broker serves it.
fn served(header: &RequestHeader<'_>) -> Result<ApiKey, RequestError> {
    ApiKey::from_i16(header.api_key)
        .filter(|api| api.api().advertised)
        .ok_or(RequestError::UnknownApi(header.api_key))
}

fn answer_to(api: ApiKey, header: &RequestHeader<'_>) -> Result<AnswerTo, RequestError> {
    let version = header.api_version;
    if !api.supports(version) {
        return Err(RequestError::UnsupportedVersion { api, version });
    }
    Ok(AnswerTo {
        api,
        version,
        correlation_id: header.correlation_id,
    })
}

/// Handles any request but Produce; returns its API and the answer.
async fn handle<I: Io>(
    shard: Rc<Shard<I>>,
    frame: Vec<u8>,
) -> Result<(ApiKey, Gather), RequestError> {
    let mut reader = Reader::new(&frame).with_elements_max(REQUEST_ELEMENTS_MAX);
    let header = RequestHeader::decode(&mut reader)?;
    let api = served(&header)?;
    let mut answer = Gather::default();
    if api == ApiKey::ApiVersions && !api.supports(header.api_version) {
        handlers::api_versions::unsupported(header.correlation_id, &mut answer)?;
        return Ok((api, answer));
    }
    let to = answer_to(api, &header)?;
    let version = to.version;
    /// Decodes the request, waits for the memory that it may come to, awaits its handler and encodes the response. What a request
    /// means without naming it is counted too.
    macro_rules! answer {
        ($message:ident :: $request:ident) => {
            answer!($message::$request, |_| 0)
        };
        ($message:ident :: $request:ident, $unnamed:expr) => {{
            let request = $message::$request::decode_in_turns(&mut reader, version).await?;
            let unnamed: usize = unnamed_elements(&request, $unnamed);
            let elements = REQUEST_ELEMENTS_MAX - reader.elements_left() + unnamed;
            let bytes = elements.saturating_mul(element_bytes(api));
            let _charge = shard.request_memory.charge(&shard.io, bytes).await;
            handlers::$message::handle(&shard, to, &request, &mut answer).await?;
        }};
    }
    match api {
        ApiKey::Fetch => answer!(fetch::FetchRequest, |request| {
            shard.sessions.borrow().partitions_of(request.session_id)
        }),
        ApiKey::ApiVersions => answer!(api_versions::ApiVersionsRequest),
        ApiKey::Metadata => answer!(metadata::MetadataRequest, |request| {
            match request.topics {
                None => shard.image().topics.len(),
                Some(_) => 0,
            }
        }),
        ApiKey::ListOffsets => answer!(list_offsets::ListOffsetsRequest),
        ApiKey::OffsetForLeaderEpoch => {
            answer!(offset_for_leader_epoch::OffsetForLeaderEpochRequest)
        }
        ApiKey::FindCoordinator => answer!(find_coordinator::FindCoordinatorRequest),
        ApiKey::OffsetCommit => answer!(offset_commit::OffsetCommitRequest),
        ApiKey::OffsetFetch => answer!(offset_fetch::OffsetFetchRequest),
        ApiKey::InitProducerId => answer!(init_producer_id::InitProducerIdRequest),
        ApiKey::CreateTopics => answer!(create_topics::CreateTopicsRequest),
        ApiKey::DeleteTopics => answer!(delete_topics::DeleteTopicsRequest),
        ApiKey::CreatePartitions => answer!(create_partitions::CreatePartitionsRequest),
        ApiKey::DescribeConfigs => answer!(describe_configs::DescribeConfigsRequest),
        ApiKey::AlterConfigs => answer!(alter_configs::AlterConfigsRequest),
        ApiKey::IncrementalAlterConfigs => {
            answer!(incremental_alter_configs::IncrementalAlterConfigsRequest)
        }
        ApiKey::DeleteGroups => answer!(delete_groups::DeleteGroupsRequest),
        ApiKey::OffsetDelete => answer!(offset_delete::OffsetDeleteRequest),
        ApiKey::ListGroups => answer!(list_groups::ListGroupsRequest),
        ApiKey::DescribeGroups => answer!(describe_groups::DescribeGroupsRequest),
        ApiKey::DescribeCluster => answer!(describe_cluster::DescribeClusterRequest),
        ApiKey::DescribeQuorum => answer!(describe_quorum::DescribeQuorumRequest),
        ApiKey::UnregisterBroker => answer!(unregister_broker::UnregisterBrokerRequest),
        ApiKey::UpdateFeatures => answer!(update_features::UpdateFeaturesRequest),
        ApiKey::AddRaftVoter => answer!(add_raft_voter::AddRaftVoterRequest),
        ApiKey::RemoveRaftVoter => answer!(remove_raft_voter::RemoveRaftVoterRequest),
        ApiKey::Produce
        | ApiKey::JoinGroup
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup
        | ApiKey::SyncGroup
        | ApiKey::DeleteRecords => return Err(RequestError::UnknownApi(header.api_key)),
    }
    Ok((api, answer))
}

fn unnamed_elements<R>(request: &R, count: impl FnOnce(&R) -> usize) -> usize {
    count(request)
}

/// Appends a response to `answer`; the form that handlers of short ones use.
pub fn respond(
    answer: &mut Gather,
    to: AnswerTo,
    encode: impl FnOnce(&mut wire::Writer<'_>, i16) -> Result<(), EncodeError>,
) -> Result<(), RequestError> {
    Ok(respond::append(answer, to, [], encode)?)
}

/// As [`respond`], for answers that may be long.
pub async fn respond_in_turns(
    answer: &mut Gather,
    to: AnswerTo,
    encode: impl AsyncFnOnce(&mut wire::Writer<'_>, i16) -> Result<(), EncodeError>,
) -> Result<(), RequestError> {
    Ok(respond::append_in_turns(answer, to, [], encode).await?)
}
