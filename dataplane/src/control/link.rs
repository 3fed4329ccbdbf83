//! The control link's thread: drives the [`Machine`] with tokio, against real controllers. It decides nothing.

use super::controllers_file::{load_controllers, store_controllers};
use super::image_file::store_image;
use super::machine::{Beaten, Effect, Event, Failure, Machine, TURN_MS};
use super::metrics::LinkMetrics;
use crate::io::{Instant, Io};
use crate::lease::Lease;
use crate::limits::INBOX_FULL_PAUSE_MS;
use crate::mesh::{Receiver, Sender};
use crate::message::{ControlMessage, Message, Reply};
use control_api::client::{ClientError, ControlClient};
use control_api::frame::META_GROUP;
use control_api::handshake::{Party, Role};
use control_api::ids::Position;
use control_api::image::MetadataImage;
use control_api::level::ClusterLevel;
use control_api::message::{BrokerHeartbeat, BrokerRegistration, ControlError, Request, Response};
use control_api::secured::Credentials;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::sleep;

const CALL_DEADLINE: Duration = Duration::from_secs(15);
const REGISTER_DEADLINE: Duration = Duration::from_secs(5);
const HEARTBEAT_DEADLINE: Duration = Duration::from_millis(600);
/// How often the broker asks who the controllers are, and how long one may take to say so.
const CONTROLLERS_LOOK: Duration = Duration::from_secs(5);
const CONTROLLERS_DEADLINE: Duration = Duration::from_secs(2);

pub struct LinkParts<I: Io> {
    pub controllers: Vec<String>,
    pub credentials: Credentials,
    pub registration: BrokerRegistration,
    pub data: PathBuf,
    /// The image that was on disk at the start.
    pub stored: MetadataImage,
    pub shards: Vec<Sender<Message<I>>>,
    pub inbox: Receiver<ControlMessage>,
    /// The clock of the shards.
    pub now: fn() -> Instant,
    pub lease: Lease,
    /// Set while the metadata shows this broker registered and not fenced.
    pub in_service: Arc<AtomicBool>,
    pub metrics: LinkMetrics,
    /// Turns true when the process was told to end.
    pub wants_shutdown: watch::Receiver<bool>,
}

/// Runs on a current-thread tokio runtime of its own.
pub struct Link<I: Io> {
    client: Rc<ControlClient>,
    /// For heartbeats alone, which no other call may delay.
    beats: ControlClient,
    /// At which both speak.
    level: ClusterLevel,
    registration: BrokerRegistration,
    data: PathBuf,
    machine: RefCell<Machine>,
    shards: Vec<Sender<Message<I>>>,
    now: fn() -> Instant,
    lease: Lease,
    in_service: Arc<AtomicBool>,
    metrics: LinkMetrics,
    stream: RefCell<Option<JoinHandle<()>>>,
    to_publish: Notify,
    /// Held while an image is being stored.
    storing: Mutex<()>,
    ended: watch::Sender<Option<Result<(), String>>>,
}

impl<I: Io> Link<I> {
    /// Serves until the process was told to end and every shard has closed its partitions, or until it must end: then says why.
    pub async fn run(parts: LinkParts<I>) -> Result<(), String> {
        let machine = Machine::new(
            parts.registration.id,
            parts.registration.incarnation,
            parts.stored,
            parts.shards.len(),
            (parts.now)(),
        );
        let party = Party::client(parts.credentials, parts.registration.cluster_id.clone());
        let learnt = load_controllers(&parts.data);
        let level = ClusterLevel::default();
        level.raise(machine.image().feature_level);
        let client = || {
            let addresses = parts.controllers.clone();
            let client = ControlClient::new(addresses, party.clone(), Role::Broker);
            client.learn(learnt.clone());
            client.at(level.clone())
        };
        let ended = watch::Sender::new(None);
        let mut end = ended.subscribe();
        let link = Rc::new(Link {
            client: Rc::new(client()),
            beats: client(),
            level: level.clone(),
            registration: parts.registration,
            data: parts.data,
            machine: RefCell::new(machine),
            shards: parts.shards,
            now: parts.now,
            lease: parts.lease,
            in_service: parts.in_service,
            metrics: parts.metrics,
            stream: RefCell::default(),
            to_publish: Notify::new(),
            storing: Mutex::default(),
            ended,
        });
        spawn_local(link.clone().take_turns());
        spawn_local(link.clone().publish());
        spawn_local(link.clone().learn_controllers(learnt));
        spawn_local(link.clone().serve_inbox(parts.inbox));
        spawn_local(link.clone().hear_of_shutdown(parts.wants_shutdown));
        // The sender is the link's own, so it cannot be gone.
        let ended = end.wait_for(Option::is_some).await;
        let result = ended.ok().and_then(|ended| ended.clone());
        let _alone = link.storing.lock().await;
        let image = link.machine.borrow().image().clone();
        if let Err(error) = store_image(&link.data, &image) {
            tracing::error!(%error, "cannot store the metadata");
        }
        result.unwrap_or(Ok(()))
    }

    fn step(self: &Rc<Self>, event: Event) {
        let effects = self.machine.borrow_mut().step((self.now)(), event);
        effects.into_iter().for_each(|effect| self.perform(effect));
        self.metrics.show(self.machine.borrow().view());
    }

    fn perform(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Register => drop(spawn_local(self.clone().register())),
            Effect::Beat(beat) => drop(spawn_local(self.clone().beat(beat))),
            Effect::Watch(from) => {
                let stream = spawn_local(self.clone().watch(from));
                if let Some(left) = self.stream.replace(Some(stream)) {
                    left.abort();
                }
            }
            Effect::Publish => self.to_publish.notify_one(),
            Effect::Store(image) => drop(spawn_local(self.clone().store(image))),
            Effect::LeaseUntil(end) => self.lease.set_end(end),
            Effect::StopShards => {
                let link = self.clone();
                spawn_local(async move {
                    for shard in &link.shards {
                        send(shard, Message::Stop).await;
                    }
                });
            }
            Effect::End(result) => drop(self.ended.send_replace(Some(result))),
        }
    }

    async fn take_turns(self: Rc<Self>) {
        loop {
            self.step(Event::Turn);
            sleep(Duration::from_millis(TURN_MS)).await;
        }
    }

    /// Keeps up with who the controllers are, and remembers them for the next start.
    async fn learn_controllers(self: Rc<Self>, mut known: Vec<String>) {
        let mut newest = (0, 0);
        loop {
            let request = Request::DescribeQuorum {
                group: META_GROUP,
                by_leader: false,
            };
            let asked = self.client.call(request, CONTROLLERS_DEADLINE).await;
            // Whoever answers may be behind what another has said.
            if let Ok(Response::Quorum(quorum)) = asked
                && quorum.changed_at >= newest
            {
                newest = quorum.changed_at;
                let members = quorum.members.into_iter();
                let controllers: Vec<String> = members.map(|member| member.address).collect();
                if controllers != known && !controllers.is_empty() {
                    self.client.learn(controllers.clone());
                    self.beats.learn(controllers.clone());
                    let (data, to_store) = (self.data.clone(), controllers.clone());
                    known = controllers;
                    let stored = spawn_blocking(move || store_controllers(&data, &to_store)).await;
                    let stored = stored.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
                    if let Err(error) = stored {
                        tracing::warn!(%error, "cannot remember the controllers");
                    }
                }
            }
            sleep(CONTROLLERS_LOOK).await;
        }
    }

    async fn hear_of_shutdown(self: Rc<Self>, mut wants_shutdown: watch::Receiver<bool>) {
        // The sender lives as long as the process; without it there is nothing to wait for.
        if wants_shutdown.wait_for(|wanted| *wanted).await.is_ok() {
            self.step(Event::WantsShutdown);
        }
    }

    async fn register(self: Rc<Self>) {
        let request = Request::RegisterBroker(self.registration.clone());
        let answer = match self.client.call(request, REGISTER_DEADLINE).await {
            Ok(Response::Registered { epoch, .. }) => Ok(epoch),
            other => Err(failure(other)),
        };
        self.step(Event::Registered(answer));
    }

    async fn beat(self: Rc<Self>, beat: BrokerHeartbeat) {
        let sent = (self.now)();
        let request = Request::Heartbeat(beat);
        let answer = match self.beats.call(request, HEARTBEAT_DEADLINE).await {
            Ok(Response::Heartbeat {
                fenced,
                may_shut_down,
                metadata_index,
                lease_ms,
            }) => Ok(Beaten {
                fenced,
                may_shut_down,
                metadata_index,
                lease_ms,
            }),
            other => Err(failure(other)),
        };
        if !matches!(answer, Err(Failure::Unreachable)) {
            self.metrics.beaten((self.now)().0.saturating_sub(sent.0));
        }
        self.step(Event::Beat {
            sent,
            goodbye: beat.goodbye,
            answer,
        });
    }

    /// Follows one controller's stream until it ends.
    async fn watch(self: Rc<Self>, from: Position) {
        let reason = match self.client.watch(from).await {
            Err(error) => error,
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(update) => {
                        self.step(Event::Update(update));
                        let level = self.machine.borrow().image().feature_level;
                        self.level.raise(level);
                    }
                    Err(error) => break error,
                }
            },
        };
        tracing::debug!(%reason, "following the metadata again");
        self.step(Event::StreamEnded);
    }

    /// Hands the newest metadata to every shard, again and again. While a shard's inbox is full, what comes meanwhile is put together.
    async fn publish(self: Rc<Self>) {
        loop {
            self.to_publish.notified().await;
            let metadata = Arc::new(self.machine.borrow_mut().publication());
            let registered = metadata.registered;
            self.in_service.store(registered, Ordering::Release);
            for shard in &self.shards {
                send(shard, Message::Metadata(metadata.clone())).await;
            }
            self.step(Event::Published(metadata.image.index));
        }
    }

    /// On a thread of its own, because a slow disk must not delay a heartbeat.
    async fn store(self: Rc<Self>, image: Arc<MetadataImage>) {
        let _alone = self.storing.lock().await;
        let data = self.data.clone();
        let index = image.index;
        let stored = spawn_blocking(move || store_image(&data, &image)).await;
        let stored = stored.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        if let Err(error) = &stored {
            tracing::error!(%error, "cannot store the metadata");
        }
        self.step(Event::Stored(stored.ok().map(|()| index)));
    }

    async fn serve_inbox(self: Rc<Self>, inbox: Receiver<ControlMessage>) {
        loop {
            match inbox.receive().await {
                ControlMessage::Call {
                    from,
                    call,
                    request,
                } => {
                    let client = self.client.clone();
                    let shard = self.shards[from.0].clone();
                    spawn_local(async move {
                        let result = ask(&client, request).await;
                        let reply = Reply::Control(result);
                        send(&shard, Message::Reply { call, reply }).await;
                    });
                }
                ControlMessage::Stopped(_) => self.step(Event::ShardStopped),
            }
        }
    }
}

/// Why a call did not have the answer that belongs to it.
fn failure(answer: Result<Response, ClientError>) -> Failure {
    match answer {
        Err(ClientError::Refused(refusal)) => Failure::Refused(refusal),
        Err(
            ClientError::TooLarge(_) | ClientError::Unavailable(_) | ClientError::StreamEnded(_),
        ) => Failure::Unreachable,
        // Only a controller of another version answers with anything else.
        Ok(_) => Failure::Refused(ControlError::UnsupportedVersion),
    }
}

async fn ask(client: &ControlClient, request: Request) -> Result<Response, ControlError> {
    client
        .call(request, CALL_DEADLINE)
        .await
        .map_err(|error| match error {
            ClientError::Refused(refusal) => refusal,
            ClientError::TooLarge(bytes) => {
                ControlError::InvalidRequest(format!("a request of {bytes} bytes is too large"))
            }
            ClientError::Unavailable(_) | ClientError::StreamEnded(_) => ControlError::Unavailable,
        })
}

/// Sends to a shard, waiting while its inbox is full.
async fn send<I: Io>(shard: &Sender<Message<I>>, message: Message<I>) {
    let pause = || sleep(Duration::from_millis(INBOX_FULL_PAUSE_MS));
    shard.send(message, pause).await;
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
