//! A shard: one thread, one ring, a fixed set of partitions, nothing shared.
//!
//! [`Shard::run`] serves the inbox until it is told to stop. Everything else that runs here is a task it spawned: one reader and
//! one writer per connection, one writer per partition with something to write, and the housekeeping of `upkeep.rs`.

use crate::answer_memory::AnswerMemory;
use crate::calls::{Call, Calls};
use crate::connection;
use crate::event::Event;
use crate::fetch_sessions::FetchSessions;
use crate::frame::FrameMemory;
use crate::handlers::init_producer_id::ProducerIdBlock;
use crate::handlers::produce::BlockedAppends;
use crate::inspection::Inspector;
use crate::io::{Instant, Io};
use crate::lease::Lease;
use crate::limits::{
    APPEND_CALLS_MAX, CALLS_MAX, CONNECTIONS_MAX, INBOX_APPENDS_MAX, INBOX_FULL_PAUSE_MS,
    INBOX_MESSAGES_MAX,
};
use crate::line::Line;
use crate::log::LogShared;
use crate::mesh::{Receiver, Sender, ShardId};
use crate::message::{ControlMessage, Message, Metadata, Reply};
use crate::metrics::{Metrics, ShardMetrics};
use crate::partition_request::{self, PartitionKey, PartitionReply, PartitionRequest};
use crate::reconcile::Held;
use crate::request_memory::RequestMemory;
use crate::routes::{Routes, TopicRoute};
use crate::{closing, reconcile, upkeep};
use control_api::ids::{BrokerId, TopicId};
use control_api::image::MetadataImage;
use control_api::message::{ControlError, Request, Response};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A warning that clients could cause at will is said again after this long.
const SAID_AGAIN_MS: u64 = 10_000;

/// What every shard of a broker is given at its start.
pub struct ShardParts<I: Io> {
    pub id: ShardId,
    pub broker: BrokerId,
    pub data: PathBuf,
    pub io: I,
    /// One sender per shard, this one's own included.
    pub peers: Vec<Sender<Message<I>>>,
    pub control: Sender<ControlMessage>,
    /// Open connections of each shard.
    pub loads: Arc<[AtomicUsize]>,
    /// The index of the metadata that each shard has come to.
    pub reached: Arc<[AtomicU64]>,
    /// Until when this process may append and acknowledge.
    pub lease: Lease,
    pub metrics: Metrics,
    /// Logs that are being opened, over all shards; the broker is ready once there are none.
    pub opening: Arc<AtomicUsize>,
    pub log_shared: Rc<LogShared>,
    /// Buffers that the tails of this shard's partitions may use.
    pub tail_buffers: usize,
    /// How long nothing may move on a connection; `None` for as long as it likes.
    pub connections_idle_ms_max: Option<u64>,
}

pub struct Shard<I: Io> {
    pub id: ShardId,
    pub broker: BrokerId,
    pub data: PathBuf,
    pub io: I,
    pub metrics: ShardMetrics,
    pub frame_memory: Rc<FrameMemory>,
    pub request_memory: RequestMemory,
    pub log_shared: Rc<LogShared>,
    pub sessions: RefCell<FetchSessions>,
    pub(crate) connections: connection::Registry<I>,
    pub(crate) connections_idle_ms_max: Option<u64>,
    pub(crate) lease: Lease,
    image: RefCell<Arc<MetadataImage>>,
    /// Whether the metadata shows this very process in service.
    pub(crate) registered: Cell<bool>,
    /// Whether the metadata has once known every topic that this broker had a part of.
    pub(crate) complete: Cell<bool>,
    /// The metadata, or which partitions are open.
    pub(crate) changed: Event,
    pub(crate) routes: RefCell<Routes<I>>,
    /// In an order, so that what goes through all of them does so in the same one in every run.
    pub(crate) held: RefCell<BTreeMap<PartitionKey, Held<I>>>,
    pub(crate) opening: Arc<AtomicUsize>,
    pub(crate) stopping: Cell<bool>,
    pub(crate) blocked_appends: BlockedAppends<I>,
    pub(crate) inspector: Inspector,
    pub(crate) producer_ids: RefCell<ProducerIdBlock>,
    pub answer_memory: AnswerMemory,
    calls: Rc<Calls<Reply>>,
    /// Who waits to append on which shard, and to ask any.
    hop_lines: Vec<Line>,
    ask_line: Line,
    peers: Vec<Sender<Message<I>>>,
    /// Replies to each shard that found its inbox full.
    unsent_replies: Vec<UnsentReplies<I>>,
    control: Sender<ControlMessage>,
    loads: Arc<[AtomicUsize]>,
    reached: Arc<[AtomicU64]>,
}

/// As many as the other shard has calls open, which are bounded.
struct UnsentReplies<I: Io> {
    replies: RefCell<VecDeque<Message<I>>>,
    being_sent: Cell<bool>,
}

impl<I: Io> Default for UnsentReplies<I> {
    fn default() -> Self {
        UnsentReplies {
            replies: RefCell::default(),
            being_sent: Cell::default(),
        }
    }
}

impl<I: Io> Shard<I> {
    pub fn new(parts: ShardParts<I>) -> Rc<Self> {
        Rc::new(Shard {
            id: parts.id,
            broker: parts.broker,
            data: parts.data,
            metrics: ShardMetrics::new(parts.metrics),
            frame_memory: Rc::default(),
            request_memory: RequestMemory::default(),
            log_shared: parts.log_shared,
            sessions: RefCell::new(FetchSessions::new(parts.io.random_u64())),
            connections: connection::Registry::default(),
            connections_idle_ms_max: parts.connections_idle_ms_max,
            lease: parts.lease,
            image: RefCell::default(),
            registered: Cell::new(false),
            complete: Cell::new(false),
            changed: Event::default(),
            routes: RefCell::default(),
            held: RefCell::default(),
            opening: parts.opening,
            stopping: Cell::new(false),
            blocked_appends: BlockedAppends::default(),
            inspector: Inspector::default(),
            producer_ids: RefCell::default(),
            answer_memory: AnswerMemory::new(parts.tail_buffers * parts.io.buffer_bytes() / 2),
            calls: Rc::default(),
            ask_line: Line::default(),
            hop_lines: parts.peers.iter().map(|_| Line::default()).collect(),
            unsent_replies: parts
                .peers
                .iter()
                .map(|_| UnsentReplies::default())
                .collect(),
            peers: parts.peers,
            control: parts.control,
            loads: parts.loads,
            reached: parts.reached,
            io: parts.io,
        })
    }

    /// Serves the inbox until `Stop`, then closes every partition.
    pub async fn run(self: &Rc<Self>, inbox: Receiver<Message<I>>) {
        self.io.spawn(upkeep::run(self.clone()));
        loop {
            match inbox.receive().await {
                Message::Metadata(metadata) => self.take_metadata(&metadata),
                Message::Connection(handoff) => self.take_connection(self.io.take_over(handoff)),
                Message::Request {
                    from,
                    call,
                    request,
                } => {
                    partition_request::serve(self, request, move |shard, reply| {
                        shard.reply(from, call, reply)
                    });
                }
                Message::Reply { call, reply } => self.calls.complete(call, reply),
                Message::Stop => break,
            }
        }
        self.stop().await;
    }

    /// Accepts clients and gives each to the shard with the fewest. With `connections_max` of them on all shards the next is closed.
    pub async fn accept(self: Rc<Self>, listener: I::Listener, connections_max: usize) {
        let mut said = Instant::default();
        loop {
            match self.io.accept(&listener).await {
                Ok((socket, _)) if self.connections() < connections_max => {
                    self.place_connection(socket);
                }
                Ok(_) => {
                    let now = self.io.now();
                    if now >= said.after_ms(SAID_AGAIN_MS) {
                        said = now;
                        tracing::warn!(
                            limit = connections_max,
                            "closed new connections: there are as many as the limit of open files leaves beside the logs"
                        );
                    }
                }
                Err(error) => {
                    // Out of descriptors or memory: those connected go on; try again when some may have left.
                    tracing::warn!(%error, "cannot accept a connection");
                    self.io.sleep_until(self.io.now().after_ms(100)).await;
                }
            }
        }
    }

    /// Open connections of all shards.
    fn connections(&self) -> usize {
        let loads = self.loads.iter();
        loads.map(|load| load.load(Ordering::Relaxed)).sum()
    }

    pub fn image(&self) -> Arc<MetadataImage> {
        self.image.borrow().clone()
    }

    pub fn shards(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn topic_named(&self, name: &str) -> Option<Rc<TopicRoute<I>>> {
        self.routes.borrow().named(name).cloned()
    }

    pub(crate) fn topic_with_id(&self, id: TopicId) -> Option<Rc<TopicRoute<I>>> {
        self.routes.borrow().with_id(id).cloned()
    }

    /// Waits until this shard's metadata fulfils `condition`, at most `wait_ms_max`; false if it did not by then.
    pub(crate) async fn wait_for_image(
        &self,
        wait_ms_max: u64,
        condition: impl Fn(&MetadataImage) -> bool,
    ) -> bool {
        let deadline = self.io.now().after_ms(wait_ms_max);
        self.wait_until(deadline, || condition(&self.image.borrow()))
            .await
    }

    /// Waits until the metadata, or which partitions are open, fulfils `condition`; false if it did not by the deadline.
    pub(crate) async fn wait_until(&self, deadline: Instant, condition: impl Fn() -> bool) -> bool {
        loop {
            let seen = self.changed.generation();
            if condition() {
                return true;
            }
            let timeout = self.io.sleep_until(deadline);
            if !crate::select::first(self.changed.changed_since(seen), timeout).await {
                return false;
            }
        }
    }

    /// Whether every shard's metadata has come to `index`, and no log is being opened.
    pub(crate) fn all_have_reached(&self, index: u64) -> bool {
        let mut reached = self.reached.iter();
        reached.all(|reached| reached.load(Ordering::Acquire) >= index)
            && self.opening.load(Ordering::Acquire) == 0
    }

    /// Asks the control plane.
    pub(crate) async fn ask_control(&self, request: Request) -> Result<Response, ControlError> {
        let Some(call) = self.calls.open() else {
            return Err(ControlError::Unavailable);
        };
        let message = ControlMessage::Call {
            from: self.id,
            call: call.id(),
            request,
        };
        self.control.send(message, || self.pause()).await;
        match call.await {
            Reply::Control(Ok(Response::Error(error))) => Err(error),
            Reply::Control(result) => result,
            Reply::Partition(_) => unreachable!("the control link answers calls to it"),
        }
    }

    /// Whether a batch may be sent to that shard now: producers leave room for everybody else's calls.
    pub(crate) fn may_append_on(&self, shard: ShardId) -> bool {
        self.calls.count() < APPEND_CALLS_MAX && self.peers[shard.0].waiting() < INBOX_APPENDS_MAX
    }

    /// Waits in line until a batch may be sent to that shard.
    pub(crate) async fn wait_to_append_on(&self, shard: ShardId) {
        let room = || self.may_append_on(shard).then_some(());
        self.hop_lines[shard.0].until(&self.io, room).await;
    }

    /// Waits until a call to that shard can be opened.
    pub(crate) async fn wait_to_ask(&self, shard: ShardId) {
        let room = || {
            let inbox = self.peers[shard.0].waiting() < INBOX_MESSAGES_MAX;
            (inbox && self.calls.count() < CALLS_MAX).then_some(())
        };
        self.ask_line.until(&self.io, room).await;
    }

    /// Opens a call to the shard that holds a partition. `None` when that shard or this one has too much to do.
    pub(crate) fn ask_shard(
        &self,
        shard: ShardId,
        request: PartitionRequest,
    ) -> Option<Call<Reply>> {
        let call = self.calls.open()?;
        let message = Message::Request {
            from: self.id,
            call: call.id(),
            request,
        };
        self.peers[shard.0].try_send(message).ok()?;
        Some(call)
    }

    /// Answers a call of another shard.
    fn reply(self: &Rc<Self>, to: ShardId, call: crate::calls::CallId, reply: PartitionReply) {
        let message = Message::Reply {
            call,
            reply: Reply::Partition(reply),
        };
        if let Err(message) = self.peers[to.0].try_send(message) {
            let unsent = &self.unsent_replies[to.0];
            unsent.replies.borrow_mut().push_back(message);
            if !unsent.being_sent.replace(true) {
                self.io.spawn(self.clone().send_unsent(to));
            }
        }
    }

    /// Sends the replies that found a shard's inbox full, one after the other.
    async fn send_unsent(self: Rc<Self>, to: ShardId) {
        let unsent = &self.unsent_replies[to.0];
        loop {
            let oldest = unsent.replies.borrow_mut().pop_front();
            let Some(reply) = oldest else { break };
            self.peers[to.0].send(reply, || self.pause()).await;
        }
        unsent.being_sent.set(false);
    }

    /// Until a full inbox is tried again.
    async fn pause(&self) {
        let end = self.io.now().after_ms(INBOX_FULL_PAUSE_MS);
        self.io.sleep_until(end).await;
    }

    fn take_metadata(self: &Rc<Self>, metadata: &Metadata) {
        *self.image.borrow_mut() = metadata.image.clone();
        reconcile::apply(self, metadata);
        self.reached[self.id.0].store(metadata.image.index, Ordering::Release);
        self.changed.notify();
    }

    fn place_connection(self: &Rc<Self>, socket: I::Socket) {
        let least =
            (0..self.loads.len()).min_by_key(|shard| self.loads[*shard].load(Ordering::Relaxed));
        let least = least.unwrap_or(self.id.0);
        if least == self.id.0 {
            self.take_connection(socket);
            return;
        }
        self.loads[least].fetch_add(1, Ordering::Relaxed);
        let message = Message::Connection(self.io.hand_off(socket));
        if let Err(back) = self.peers[least].try_send(message) {
            // It has very much to do, so the client stays here.
            self.loads[least].fetch_sub(1, Ordering::Relaxed);
            if let Message::Connection(handoff) = back {
                self.take_connection(self.io.take_over(handoff));
            }
        }
    }

    fn take_connection(self: &Rc<Self>, socket: I::Socket) {
        if self.connections.count() >= CONNECTIONS_MAX {
            tracing::warn!(
                limit = CONNECTIONS_MAX,
                "closed a new connection because this shard has as many as it takes"
            );
            return;
        }
        connection::start(self, socket);
        self.count_connections();
    }

    /// Makes the number of open connections visible to the accepting shard and the metrics.
    pub(crate) fn count_connections(&self) {
        self.loads[self.id.0].store(self.connections.count(), Ordering::Relaxed);
        self.metrics
            .connections_open
            .set(self.connections.count() as i64);
    }

    /// Fetches that wait for what comes next in partitions of this shard, each as often as it names one.
    pub fn parked_fetches(&self) -> usize {
        let partitions = self.open_partitions();
        let parked = partitions.iter();
        parked.map(|partition| partition.parked_fetches()).sum()
    }

    /// The partitions whose logs are open here.
    pub(crate) fn open_partitions(&self) -> Vec<Rc<crate::partition::Partition<I>>> {
        let held = self.held.borrow();
        let open = held.values().filter_map(|held| match held {
            Held::Open(partition) => Some(partition.clone()),
            Held::Opening(_) | Held::Failed | Held::Leaving => None,
        });
        open.collect()
    }

    async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        closing::close_partitions(self).await;
        self.metrics.flush();
        let stopped = ControlMessage::Stopped(self.id);
        self.control.send(stopped, || self.pause()).await;
    }
}
