//! One client's connection: a reader task that begins requests in order, a writer task that answers them in the same order.
//!
//! ```text
//! socket -> FrameReader -> begin -> outbox -> settle -> send -> socket
//!           reader task             |         writer task
//!                     Produce: appended, waiting to be written
//!                     others:  answered
//! ```
//! Produce is answered in two stages, so that a client may have many in flight and their writes are grouped. Every other request
//! is handled to its end before the next one is read, as in Kafka. Full means that the socket is not read.

use crate::dispatch;
use crate::event::Event;
use crate::frame::{Frame, FrameError, FrameReader};
use crate::handlers::produce::PendingProduce;
use crate::io::{Charge, Gather, Instant, Io};
use crate::limits::*;
use crate::metrics::{ShardMetrics, Stage};
use crate::pace;
use crate::respond;
use crate::shard::Shard;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use wire::{ApiKey, EncodeError};

/// What becomes an answer, in the order of the requests.
pub enum Pending<I: Io> {
    Answered(Gather),
    Produce(PendingProduce<I>),
}

/// A request that the writer task will answer.
pub struct PendingRequest<I: Io> {
    pub api: ApiKey,
    pub started: Started,
    /// When it was handled, as far as its reader could.
    pub begun: Instant,
    pub pending: Pending<I>,
}

impl<I: Io> PendingRequest<I> {
    fn is_ready(&self) -> bool {
        match &self.pending {
            Pending::Answered(_) => true,
            Pending::Produce(produce) => produce.is_ready(),
        }
    }

    /// Whether it waits for another shard.
    fn hops(&self) -> bool {
        match &self.pending {
            Pending::Answered(_) => false,
            Pending::Produce(produce) => produce.hops(),
        }
    }

    /// Counts where its time went until its answer could be sent.
    fn observe_ready(&self, metrics: &ShardMetrics, hopped: bool, ready: Instant) {
        let Started { received, at } = self.started;
        let waited = ready.nanos_since(self.begun);
        let mut queued = at.nanos_since(received);
        match &self.pending {
            Pending::Answered(_) => queued += waited,
            Pending::Produce(_) if hopped => metrics.observe(self.api, Stage::Hop, waited),
            Pending::Produce(_) => metrics.observe(self.api, Stage::Flush, waited),
        }
        metrics.observe(self.api, Stage::Queue, queued);
        metrics.observe(self.api, Stage::Append, self.begun.nanos_since(at));
    }

    async fn settle(&mut self) {
        match &mut self.pending {
            Pending::Answered(_) => {}
            Pending::Produce(produce) => produce.settle().await,
        }
    }

    /// What it and its answer keep of memory until that is sent.
    fn bytes(&self) -> usize {
        match &self.pending {
            Pending::Answered(gather) => gather.bytes(),
            Pending::Produce(produce) => produce.bytes(),
        }
    }

    /// Appends the answer to `message`, once ready.
    fn finish(&mut self, message: &mut Gather, may_acknowledge: bool) -> Result<(), EncodeError> {
        match &mut self.pending {
            Pending::Answered(gather) => {
                respond::append_gather(message, std::mem::take(gather));
                Ok(())
            }
            Pending::Produce(produce) => produce.finish(message, may_acknowledge),
        }
    }
}

/// When a request was here whole, and when its turn came.
#[derive(Clone, Copy)]
pub struct Started {
    pub received: Instant,
    pub at: Instant,
}

/// Begun requests on their way from the reader to the writer.
pub struct Outbox<I: Io> {
    queue: RefCell<VecDeque<PendingRequest<I>>>,
    bytes: Cell<usize>,
    finished: Cell<bool>,
    broken: Cell<bool>,
    changed: Event,
}

impl<I: Io> Outbox<I> {
    pub(crate) fn push(&self, request: PendingRequest<I>) {
        self.bytes.set(self.bytes.get() + request.bytes());
        self.queue.borrow_mut().push_back(request);
        self.changed.notify();
    }

    /// No more requests come; the writer answers what there is.
    fn finish(&self) {
        self.finished.set(true);
        self.changed.notify();
    }

    /// The socket takes nothing more; what waits is dropped.
    fn break_off(&self) {
        self.broken.set(true);
        self.queue.borrow_mut().clear();
        self.changed.notify();
    }

    /// Waits until another request may be begun; false once the connection is broken.
    async fn room(&self) -> bool {
        while !self.broken.get() {
            let seen = self.changed.generation();
            if self.has_room() {
                return true;
            }
            self.changed.changed_since(seen).await;
        }
        false
    }

    fn has_room(&self) -> bool {
        !self.broken.get()
            && self.queue.borrow().len() < PENDING_RESPONSES_MAX
            && self.bytes.get() < PENDING_RESPONSE_BYTES_MAX
    }

    /// The oldest request, or `None` at the end.
    async fn pop(&self) -> Option<PendingRequest<I>> {
        loop {
            let seen = self.changed.generation();
            let oldest = self.queue.borrow_mut().pop_front();
            if oldest.is_some() {
                return oldest;
            }
            if self.finished.get() || self.broken.get() {
                return None;
            }
            self.changed.changed_since(seen).await;
        }
    }

    /// Appends the answer to the oldest request where it lies, if it is ready; false if not.
    fn answer_ready(
        &self,
        message: &mut Gather,
        answered: &mut AnsweredRequests<'_>,
        may_acknowledge: bool,
    ) -> Result<bool, EncodeError> {
        let mut queue = self.queue.borrow_mut();
        let Some(request) = queue.front_mut().filter(|request| request.is_ready()) else {
            return Ok(false);
        };
        answered.add(request, request.hops());
        request.finish(message, may_acknowledge)?;
        queue.pop_front();
        Ok(true)
    }

    fn sent(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
        self.changed.notify();
    }
}

/// The connections of a shard.
pub struct Registry<I: Io> {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, OpenConnection<I>>>,
}

/// The memory that an answer keeps while it is being sent.
type Kept = Rc<RefCell<Vec<Charge>>>;

struct OpenConnection<I: Io> {
    socket: I::Socket,
    kept: Kept,
    shortage: ShortageWatch,
    /// What had moved in either direction when it was last looked at, and since when nothing more has.
    moved_bytes: Cell<u64>,
    still_since: Cell<Instant>,
    look_at: Cell<Instant>,
}

impl<I: Io> Default for Registry<I> {
    fn default() -> Self {
        Registry {
            next: Cell::new(0),
            open: RefCell::default(),
        }
    }
}

impl<I: Io> Registry<I> {
    pub fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Ends the connections on which nothing has moved for `idle_ms_max`, as Kafka's `connections.max.idle.ms`. A client that takes its
    /// answer slowly is not idle, whatever the time that one send takes; the kernel counts what it takes, so nobody else has to.
    pub fn end_idle(&self, io: &I, idle_ms_max: u64) {
        let now = io.now();
        for connection in self.open.borrow().values() {
            if now >= connection.look_at.get() && connection.is_idle(io, now, idle_ms_max) {
                tracing::debug!("a connection has been idle for too long");
                io.shutdown(&connection.socket);
            }
        }
    }
}

impl<I: Io> Registry<I> {
    /// To be called every second. Where fetches find no memory because answers keep all of it, of the connections whose clients have
    /// taken nothing for a while the one that keeps most is ended: it can ask again, and others need not wait for it.
    pub fn end_hoarder(&self, io: &I) {
        let open = self.open.borrow();
        let stalled = open.values().filter(|connection| {
            let kept = connection.kept.borrow();
            let shortages = kept.iter().map(Charge::shortages).sum();
            let watch = &connection.shortage;
            !kept.is_empty() && watch.is_stalled(shortages, || io.moved_bytes(&connection.socket))
        });
        let kept_bytes = |connection: &&OpenConnection<I>| -> usize {
            connection.kept.borrow().iter().map(Charge::bytes).sum()
        };
        if let Some(hoarder) = stalled.max_by_key(kept_bytes) {
            tracing::info!(
                bytes = kept_bytes(&hoarder),
                "ended a connection whose client takes nothing of an answer while others wait for its memory"
            );
            io.shutdown(&hoarder.socket);
        }
    }
}

/// What was seen of a connection that keeps memory, from one second to the next.
#[derive(Default)]
struct ShortageWatch {
    shortages: Cell<usize>,
    moved_bytes: Cell<Option<u64>>,
    still_ticks: Cell<u32>,
}

impl ShortageWatch {
    /// Whether there was a shortage in each of the last seconds, in none of which the client took anything.
    fn is_stalled(&self, shortages: usize, moved_bytes: impl FnOnce() -> Option<u64>) -> bool {
        let before = self.shortages.replace(shortages);
        if shortages <= before {
            self.still_ticks.set(0);
            return false;
        }
        let moved = moved_bytes();
        let still = self.moved_bytes.replace(moved) == moved;
        self.still_ticks
            .set(if still { self.still_ticks.get() + 1 } else { 0 });
        self.still_ticks.get() >= SHORTAGE_STALL_TICKS_MAX
    }
}

impl<I: Io> OpenConnection<I> {
    fn is_idle(&self, io: &I, now: Instant, idle_ms_max: u64) -> bool {
        self.look_at.set(now.after_ms(idle_ms_max / IDLE_LOOKS_MIN));
        let moved = io.moved_bytes(&self.socket);
        if moved == Some(self.moved_bytes.get()) {
            return self.still_since.get().after_ms(idle_ms_max) <= now;
        }
        self.moved_bytes.set(moved.unwrap_or(0));
        self.still_since.set(now);
        false
    }
}

/// Starts the two tasks of an accepted connection.
pub fn start<I: Io>(shard: &Rc<Shard<I>>, socket: I::Socket) {
    let outbox = Rc::new(Outbox {
        queue: RefCell::default(),
        bytes: Cell::new(0),
        finished: Cell::new(false),
        broken: Cell::new(false),
        changed: Event::default(),
    });
    let kept = Kept::default();
    let id = shard
        .connections
        .next
        .replace(shard.connections.next.get() + 1);
    shard.connections.open.borrow_mut().insert(
        id,
        OpenConnection {
            socket: socket.clone(),
            kept: kept.clone(),
            shortage: ShortageWatch::default(),
            moved_bytes: Cell::new(0),
            still_since: Cell::new(shard.io.now()),
            look_at: Cell::default(),
        },
    );
    shard
        .io
        .spawn(read(shard.clone(), socket.clone(), outbox.clone()));
    shard
        .io
        .spawn(write(shard.clone(), socket, outbox, kept, id));
}

async fn read<I: Io>(shard: Rc<Shard<I>>, socket: I::Socket, outbox: Rc<Outbox<I>>) {
    let mut frames = FrameReader::new(shard.io.clone(), socket, shard.frame_memory.clone());
    if let Err(error) = read_requests(&shard, &mut frames, &outbox).await {
        // A client's mistake or a lost connection: nothing for an operator to act on.
        tracing::debug!(%error, "connection ended");
    }
    outbox.finish();
}

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Request(#[from] dispatch::RequestError),
}

async fn read_requests<I: Io>(
    shard: &Rc<Shard<I>>,
    frames: &mut FrameReader<I>,
    outbox: &Outbox<I>,
) -> Result<(), ConnectionError> {
    // A request begins when it is here and the one before it has been begun: the clock is read once for each.
    let mut free_since = Instant(0);
    let mut bytes_in_turn = 0;
    loop {
        let (frame, waited) = next_frame(frames).await?;
        let Some(frame) = frame else { break };
        if waited {
            bytes_in_turn = 0;
        } else if bytes_in_turn >= REQUEST_BYTES_PER_TURN_MAX {
            // A burst of small requests may fill all receive buffers, and there may be no answers that anything waits for.
            bytes_in_turn = 0;
            pace::give_way().await;
            free_since = shard.io.now();
        }
        bytes_in_turn += PRODUCE_BATCH_BYTES_MIN + frame.bytes();
        let received = frames.received();
        if !outbox.has_room() {
            if !outbox.room().await {
                break;
            }
            free_since = shard.io.now();
        }
        let started = Started {
            received,
            at: received.max(free_since),
        };
        free_since = dispatch::begin(shard, frames, frame, started, outbox).await?;
    }
    Ok(())
}

/// The next frame, and whether others had their turn before it was here.
async fn next_frame<I: Io>(
    frames: &mut FrameReader<I>,
) -> Result<(Option<Frame>, bool), FrameError> {
    let mut waited = false;
    let mut next = pin!(frames.next());
    let next = poll_fn(|context| {
        let next = next.as_mut().poll(context);
        waited |= next.is_pending();
        next
    });
    let frame = next.await?;
    Ok((frame, waited))
}

async fn write<I: Io>(
    shard: Rc<Shard<I>>,
    socket: I::Socket,
    outbox: Rc<Outbox<I>>,
    kept: Kept,
    id: u64,
) {
    let mut message = Gather::default();
    while let Some(first) = outbox.pop().await {
        let sent = send_answers(&shard, &socket, &outbox, &kept, first, &mut message);
        if let Err(error) = sent.await {
            tracing::debug!(%error, "an answer could not be sent");
            break;
        }
    }
    outbox.break_off();
    // The reader may still wait for the client's next request.
    shard.io.shutdown(&socket);
    shard.connections.open.borrow_mut().remove(&id);
    shard.count_connections();
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sends the first answer and those behind it that are ready, in one go.
async fn send_answers<I: Io>(
    shard: &Rc<Shard<I>>,
    socket: &I::Socket,
    outbox: &Outbox<I>,
    kept: &Kept,
    mut first: PendingRequest<I>,
    message: &mut Gather,
) -> Result<(), SendError> {
    let hopped = first.hops();
    first.settle().await;
    let ready = shard.io.now();
    let mut answered = AnsweredRequests::new(&shard.metrics, ready);
    answered.add(&first, hopped);
    let may_acknowledge = shard.lease.holds(ready);
    first.finish(message, may_acknowledge)?;
    while message.bytes() < SEND_BYTES_MAX
        && answered.count < ANSWERS_PER_SEND_MAX
        && outbox.answer_ready(message, &mut answered, may_acknowledge)?
    {}
    kept.borrow_mut().append(&mut message.charges);
    let (result, returned) = shard.io.send(socket, std::mem::take(message)).await;
    *message = returned;
    // An idle connection keeps nothing of its last answer's memory.
    message.clear();
    kept.borrow_mut().clear();
    outbox.sent(answered.bytes);
    answered.observe_sent(shard.io.now());
    Ok(result?)
}

/// Answers that one send carries.
const ANSWERS_PER_SEND_MAX: usize = 64;

/// What went into one send, for the metrics and the budgets.
struct AnsweredRequests<'a> {
    metrics: &'a ShardMetrics,
    /// When they could be sent.
    ready: Instant,
    /// The API of each, and when it was received.
    requests: [Option<(ApiKey, Instant)>; ANSWERS_PER_SEND_MAX],
    count: usize,
    bytes: usize,
}

impl<'a> AnsweredRequests<'a> {
    fn new(metrics: &'a ShardMetrics, ready: Instant) -> Self {
        AnsweredRequests {
            metrics,
            ready,
            requests: [None; ANSWERS_PER_SEND_MAX],
            count: 0,
            bytes: 0,
        }
    }

    /// One that is ready and was not finished yet.
    fn add<I: Io>(&mut self, request: &PendingRequest<I>, hopped: bool) {
        self.bytes += request.bytes();
        request.observe_ready(self.metrics, hopped, self.ready);
        self.requests[self.count] = Some((request.api, request.started.received));
        self.count += 1;
    }

    fn observe_sent(&self, now: Instant) {
        for (api, received) in self.requests[..self.count].iter().flatten() {
            self.metrics.count_request(*api);
            self.metrics
                .observe(*api, Stage::Send, now.nanos_since(self.ready));
            self.metrics
                .observe(*api, Stage::Total, now.nanos_since(*received));
        }
    }
}
