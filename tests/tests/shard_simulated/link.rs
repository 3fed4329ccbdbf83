//! Drives the control link's machine in the simulated world, as the broker's own thread does with tokio.
//!
//! Nothing comes at once: answers, single changes of the metadata, the image on disk, and what each shard hears.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use control_api::client::KEEP_ALIVE;
use control_api::ids::Position;
use control_api::image::MetadataImage;
use control_api::message::{BrokerHeartbeat, BrokerRegistration, MetadataUpdate};
use controlplane::history::Next;
use dataplane::control::machine::{Effect, Event, Failure, Machine, TURN_MS};
use dataplane::control::{decode_image, encode_image};
use dataplane::event::Event as Signal;
use dataplane::io::Io;
use dataplane::lease::Lease;
use dataplane::mesh::{Receiver, Sender};
use dataplane::message::{ControlMessage, Message, Reply};
use dataplane::select;
use millrace_tests::sim::SimIo;

use super::control::ControlPlane;

const IMAGE: &str = "/data/metadata.image";
const IMAGE_BYTES_MAX: usize = 1 << 20;
/// How long a call takes to fail where there is no majority.
const UNAVAILABLE_MS: u64 = 600;

pub(super) struct Link {
    io: SimIo,
    control: Rc<RefCell<ControlPlane>>,
    machine: RefCell<Machine>,
    registration: BrokerRegistration,
    shards: Vec<Sender<Message<SimIo>>>,
    lease: Lease,
    /// Which of the streams is followed.
    stream: Cell<u64>,
    to_publish: Signal,
    seen: Seen,
}

/// What a test sees of the process.
pub(super) struct Seen {
    /// Shards that have closed their partitions.
    pub(super) stopped: Rc<Cell<usize>>,
    /// Why it ended by itself.
    pub(super) ended: Rc<RefCell<Option<Result<(), String>>>>,
    /// The metadata that its shards were given last.
    pub(super) image: Rc<RefCell<Arc<MetadataImage>>>,
}

/// What the last process of the broker stored.
pub(super) async fn load_image(io: &SimIo) -> MetadataImage {
    loop {
        match io.read_file(Path::new(IMAGE), IMAGE_BYTES_MAX).await {
            Ok(bytes) => return decode_image(&bytes).expect("it is replaced as one step"),
            Err(error) if error.kind() == ErrorKind::NotFound => return MetadataImage::default(),
            // The world is short of something: the process would be started again.
            Err(_) => {}
        }
    }
}

impl Link {
    pub(super) async fn run(
        io: SimIo,
        control: Rc<RefCell<ControlPlane>>,
        registration: BrokerRegistration,
        shards: Vec<Sender<Message<SimIo>>>,
        inbox: Receiver<ControlMessage>,
        lease: Lease,
        seen: Seen,
    ) {
        let stored = load_image(&io).await;
        let machine = Machine::new(
            registration.id,
            registration.incarnation,
            stored,
            shards.len(),
            io.now(),
        );
        let link = Rc::new(Link {
            control,
            machine: RefCell::new(machine),
            registration,
            shards,
            lease,
            stream: Cell::new(0),
            to_publish: Signal::default(),
            seen,
            io: io.clone(),
        });
        io.spawn(link.clone().publish());
        io.spawn(link.clone().serve_inbox(inbox));
        loop {
            link.step(Event::Turn);
            link.pause(TURN_MS).await;
        }
    }

    fn step(self: &Rc<Self>, event: Event) {
        let effects = self.machine.borrow_mut().step(self.io.now(), event);
        effects.into_iter().for_each(|effect| self.perform(effect));
    }

    fn perform(self: &Rc<Self>, effect: Effect) {
        let link = self.clone();
        match effect {
            Effect::Register => self.io.spawn(link.register()),
            Effect::Beat(beat) => self.io.spawn(link.beat(beat)),
            Effect::Watch(from) => {
                self.stream.set(self.stream.get() + 1);
                self.io.spawn(link.watch(from, self.stream.get()));
            }
            Effect::Publish => self.to_publish.notify(),
            Effect::Store(image) => self.io.spawn(link.store(image)),
            Effect::LeaseUntil(end) => self.lease.set_end(end),
            Effect::StopShards => self
                .shards
                .iter()
                .for_each(|shard| send(shard, Message::Stop)),
            Effect::End(result) => *self.seen.ended.borrow_mut() = Some(result),
        }
    }

    /// Mostly a few milliseconds, now and then a tenth of a second.
    async fn latency(&self) {
        let chance = self.io.random_u64();
        let ms_max = if chance.is_multiple_of(16) { 100 } else { 5 };
        self.pause(self.io.random_u64() % ms_max).await;
    }

    async fn pause(&self, ms: u64) {
        self.io.sleep_until(self.io.now().after_ms(ms)).await;
    }

    /// The way to the leader; false where there is none.
    async fn reach_leader(&self) -> bool {
        self.latency().await;
        let available = self.control.borrow().is_available();
        if !available {
            self.pause(UNAVAILABLE_MS).await;
        }
        available
    }

    async fn register(self: Rc<Self>) {
        let mut answer = Err(Failure::Unreachable);
        if self.reach_leader().await {
            let now = self.io.now();
            let registered = self.control.borrow_mut().register(&self.registration, now);
            answer = registered.map_err(Failure::Refused);
            self.latency().await;
        }
        self.step(Event::Registered(answer));
    }

    async fn beat(self: Rc<Self>, beat: BrokerHeartbeat) {
        let sent = self.io.now();
        let mut answer = Err(Failure::Unreachable);
        if self.reach_leader().await {
            let beaten = self.control.borrow_mut().beat(&beat, self.io.now());
            answer = beaten.map_err(Failure::Refused);
            self.latency().await;
        }
        let goodbye = beat.goodbye;
        self.step(Event::Beat {
            sent,
            goodbye,
            answer,
        });
    }

    /// Single changes, each a while after it was made; at times the stream begins with a snapshot, or ends.
    async fn watch(self: Rc<Self>, from: Position, stream: u64) {
        self.latency().await;
        let losses = self.control.borrow().losses;
        let is_over = || self.stream.get() != stream || self.control.borrow().losses != losses;
        let mut position = from;
        let mut wants_image = (from.index == 0 || self.io.random_u64().is_multiple_of(8))
            .then_some(MetadataUpdate::Snapshot as fn(MetadataImage) -> MetadataUpdate);
        let changed = self.control.borrow().changed.clone();
        let mut keep_alive_at = self.io.now();
        while !is_over() {
            let seen = changed.generation();
            let (next, at, digest) = self.control.borrow().next_after(position);
            let update = match (wants_image.take(), next) {
                (Some(of), _) => of(self.control.borrow().image().clone()),
                (None, Next::Snapshot) => {
                    MetadataUpdate::Snapshot(self.control.borrow().image().clone())
                }
                // Nobody has more than the leader.
                (None, Next::Replacement | Next::Wait) => {
                    MetadataUpdate::Replacement(self.control.borrow().image().clone())
                }
                (None, Next::Changes(_)) => match self.control.borrow().change_after(position) {
                    Some((at, events)) => MetadataUpdate::Delta { at, events },
                    None => MetadataUpdate::KeepAlive { at, digest },
                },
            };
            if let MetadataUpdate::KeepAlive { at, .. } = &update {
                position = *at;
                if self.io.now() < keep_alive_at {
                    let sleep = self.io.sleep_until(keep_alive_at);
                    select::first(changed.changed_since(seen), sleep).await;
                    continue;
                }
                keep_alive_at = self.io.now().after_ms(KEEP_ALIVE.as_millis() as u64);
            }
            self.latency().await;
            if self.io.random_u64().is_multiple_of(64) || is_over() {
                break;
            }
            position = match &update {
                MetadataUpdate::Snapshot(image) | MetadataUpdate::Replacement(image) => {
                    image.position()
                }
                MetadataUpdate::Delta { at, .. } | MetadataUpdate::KeepAlive { at, .. } => *at,
            };
            self.step(Event::Update(self.on_the_way(update)));
        }
        if self.stream.get() == stream {
            self.step(Event::StreamEnded);
        }
    }

    /// What becomes of an update on its way: nothing, mostly.
    fn on_the_way(&self, update: MetadataUpdate) -> MetadataUpdate {
        let MetadataUpdate::Delta { at, mut events } = update else {
            return update;
        };
        let (control, machine) = (self.control.borrow(), self.machine.borrow());
        let one_in = control.garbles_one_in;
        if one_in > 0 && self.io.random_u64().is_multiple_of(one_in) {
            events.remove(0);
            control.garbled.set(true);
        }
        let base = machine.image();
        assert!(
            control.garbled.get() || base.position() >= at || control.has(base),
            "a change came on a false base: {:?}",
            base.position()
        );
        MetadataUpdate::Delta { at, events }
    }

    async fn publish(self: Rc<Self>) {
        // The first is due at once.
        let mut seen = self.to_publish.generation().wrapping_sub(1);
        loop {
            self.to_publish.changed_since(seen).await;
            seen = self.to_publish.generation();
            let metadata = Arc::new(self.machine.borrow_mut().publication());
            *self.seen.image.borrow_mut() = metadata.image.clone();
            for shard in &self.shards {
                // One shard hears later than another.
                self.pause(self.io.random_u64() % 3).await;
                send(shard, Message::Metadata(metadata.clone()));
            }
            self.step(Event::Published(metadata.image.index));
        }
    }

    async fn store(self: Rc<Self>, image: Arc<MetadataImage>) {
        let stored = self
            .io
            .replace_file(Path::new(IMAGE), encode_image(&image))
            .await;
        self.step(Event::Stored(stored.ok().map(|()| image.index)));
    }

    async fn serve_inbox(self: Rc<Self>, inbox: Receiver<ControlMessage>) {
        loop {
            match inbox.receive().await {
                ControlMessage::Call {
                    from,
                    call,
                    request,
                } => {
                    let link = self.clone();
                    self.io.spawn(async move {
                        link.latency().await;
                        let answer = link.control.borrow_mut().answer(request);
                        link.latency().await;
                        let reply = Reply::Control(answer);
                        send(&link.shards[from.0], Message::Reply { call, reply });
                    });
                }
                ControlMessage::Stopped(_) => {
                    self.seen.stopped.set(self.seen.stopped.get() + 1);
                    self.step(Event::ShardStopped);
                }
            }
        }
    }
}

fn send(shard: &Sender<Message<SimIo>>, message: Message<SimIo>) {
    assert!(
        shard.try_send(message).is_ok(),
        "an inbox is never full here"
    );
}
