//! The control link's thread: see `mod.rs`.

use super::image_file::store_image;
use super::registration::Session;
use super::strays;
use crate::io::Io;
use crate::mesh::{Receiver, Sender};
use crate::message::{ControlMessage, Message, Reply};
use control_api::client::{ClientError, ControlClient};
use control_api::handshake::{Party, Role};
use control_api::ids::{BrokerId, Incarnation};
use control_api::image::MetadataImage;
use control_api::message::{BrokerRegistration, ControlError, MetadataUpdate, Request};
use control_api::secret::Secret;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const CALL_DEADLINE: Duration = Duration::from_secs(15);
const WATCH_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Metadata that is older than the leader's for longer than this comes from a controller that is cut off.
const BEHIND_MAX: Duration = Duration::from_secs(3);
/// The image on disk may be this much older than the one in memory; what is missing comes again from the control plane.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// A broker that wants to stop waits this long for its leaderships to be moved.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

pub struct LinkParts<I: Io> {
    pub controllers: Vec<String>,
    pub secret: Secret,
    pub registration: BrokerRegistration,
    pub data: PathBuf,
    /// The image that was on disk at the start.
    pub stored: MetadataImage,
    pub shards: Vec<Sender<Message<I>>>,
    pub inbox: Receiver<ControlMessage>,
    /// Set while the metadata shows this broker registered and not fenced.
    pub in_service: Arc<AtomicBool>,
    /// Turns true when the process was told to end.
    pub wants_shutdown: watch::Receiver<bool>,
}

/// Runs on a current-thread tokio runtime of its own.
pub struct Link<I: Io> {
    client: Rc<ControlClient>,
    broker: BrokerId,
    incarnation: Incarnation,
    data: PathBuf,
    stored: MetadataImage,
    image: RefCell<Arc<MetadataImage>>,
    metadata_index: watch::Sender<u64>,
    /// The index that the shards were last given; 0 before the first.
    published: Cell<u64>,
    /// Whether the image has come from the control plane since the start.
    is_live: Cell<bool>,
    shards: Vec<Sender<Message<I>>>,
    shards_running: Cell<usize>,
    shards_stopped: tokio::sync::Notify,
    in_service: Arc<AtomicBool>,
}

impl<I: Io> Link<I> {
    /// Serves until the process was told to end and every shard has closed its partitions.
    pub async fn run(parts: LinkParts<I>) {
        let link = Rc::new(Link {
            client: Rc::new(ControlClient::new(
                parts.controllers,
                Party::client(parts.secret, parts.registration.cluster_id.clone()),
                Role::Broker,
            )),
            broker: parts.registration.id,
            incarnation: parts.registration.incarnation,
            data: parts.data,
            image: RefCell::new(Arc::new(parts.stored.clone())),
            metadata_index: watch::Sender::new(parts.stored.index),
            published: Cell::new(0),
            is_live: Cell::new(false),
            stored: parts.stored,
            shards_running: Cell::new(parts.shards.len()),
            shards: parts.shards,
            shards_stopped: tokio::sync::Notify::new(),
            in_service: parts.in_service,
        });
        let session = Session {
            client: &link.client,
            registration: parts.registration,
            metadata_index: link.metadata_index.subscribe(),
            wants_shutdown: parts.wants_shutdown.clone(),
            epoch: watch::Sender::new(None),
            leader_index: watch::Sender::new(0),
        };
        link.publish().await;
        let serving = async {
            tokio::join!(
                link.follow_metadata(&session),
                link.keep_image_stored(),
                link.serve_inbox(parts.inbox)
            );
        };
        let ending = async {
            let mut wants_shutdown = parts.wants_shutdown;
            // The sender lives as long as the process; without it there is nothing to wait for.
            let _ = wants_shutdown.wait_for(|wanted| *wanted).await;
            sleep(SHUTDOWN_DEADLINE).await;
        };
        let leaving = async {
            tokio::select! {
                () = session.run() => {}
                () = ending => {}
            }
            link.stop_shards().await;
            let _ = timeout(SHUTDOWN_DEADLINE, session.leave()).await;
        };
        tokio::select! {
            () = serving => {}
            () = leaving => {}
        }
        if let Err(error) = store_image(&link.data, &link.image.borrow().clone()) {
            tracing::error!(%error, "cannot store the metadata");
        }
    }

    /// Starts once the control plane has taken the registration, and with it agreed that it is this broker's cluster: the metadata
    /// of another one would delete every partition.
    async fn follow_metadata(&self, session: &Session<'_>) {
        session.registered().await;
        loop {
            tokio::select! {
                reason = self.follow_one_stream() => tracing::debug!(%reason, "following the metadata again"),
                () = self.left_behind(session) => tracing::warn!("left a controller that lags behind; following another one"),
            }
            sleep(WATCH_RETRY_PAUSE).await;
        }
    }

    /// Follows one controller's stream until it ends; says why it did.
    async fn follow_one_stream(&self) -> String {
        let from = self.image.borrow().index;
        let mut stream = match self.client.watch(from).await {
            Ok(stream) => stream,
            Err(error) => return error.to_string(),
        };
        loop {
            let update = match stream.next().await {
                Ok(update) => update,
                Err(error) => return error.to_string(),
            };
            if !self.take(update) {
                return "the controller knows less than this broker".to_owned();
            }
            if !self.is_live.replace(true) {
                self.set_strays_aside();
            }
            self.publish().await;
        }
    }

    /// Resolves once this broker's metadata has stayed behind the leader's for [`BEHIND_MAX`]: a controller that lost touch with the
    /// others goes on streaming what it has.
    async fn left_behind(&self, session: &Session<'_>) {
        let mut leader_index = session.leader_index.subscribe();
        loop {
            let wanted = *leader_index.borrow_and_update();
            let mut own_index = self.metadata_index.subscribe();
            let caught_up = own_index.wait_for(|own| *own >= wanted);
            if timeout(BEHIND_MAX, caught_up).await.is_err() {
                return;
            }
            // The session lives as long as this.
            let _ = leader_index.changed().await;
        }
    }

    /// Applies an update; false if it is older than what this broker has.
    fn take(&self, update: MetadataUpdate) -> bool {
        let mut image = self.image.borrow_mut();
        match update {
            MetadataUpdate::Snapshot(snapshot) => {
                if snapshot.index < image.index {
                    return false;
                }
                *image = Arc::new(snapshot);
            }
            MetadataUpdate::Delta { index, events } => {
                if index > image.index || !events.is_empty() {
                    Arc::make_mut(&mut image).apply(index, &events);
                }
            }
        }
        true
    }

    /// Hands the image to every shard, unless they have it already.
    async fn publish(&self) {
        let image = self.image.borrow().clone();
        if self.published.replace(image.index) == image.index {
            return;
        }
        // A stored image may show this broker in service as its last process was, which says nothing about this one.
        let own = image.brokers.get(&self.broker);
        let in_service = own.is_some_and(|own| !own.fenced && own.incarnation == self.incarnation);
        self.in_service.store(in_service, Ordering::Release);
        for shard in &self.shards {
            send(shard, Message::Metadata(image.clone())).await;
        }
        self.metadata_index.send_replace(image.index);
    }

    fn set_strays_aside(&self) {
        if let Err(error) = strays::set_aside(&self.data, &self.stored, &self.image.borrow()) {
            tracing::error!(%error, "cannot set aside the files of deleted topics");
        }
    }

    async fn keep_image_stored(&self) {
        let mut stored_index = self.stored.index;
        loop {
            sleep(STORE_PAUSE).await;
            let image = self.image.borrow().clone();
            if image.index == stored_index {
                continue;
            }
            match store_image(&self.data, &image) {
                Ok(()) => stored_index = image.index,
                Err(error) => tracing::error!(%error, "cannot store the metadata"),
            }
        }
    }

    async fn serve_inbox(&self, inbox: Receiver<ControlMessage>) {
        loop {
            match inbox.receive().await {
                ControlMessage::Call {
                    from,
                    call,
                    request,
                } => {
                    let client = self.client.clone();
                    let shard = self.shards[from.0].clone();
                    tokio::task::spawn_local(async move {
                        let result = ask(&client, request).await;
                        let reply = Reply::Control(result);
                        send(&shard, Message::Reply { call, reply }).await;
                    });
                }
                ControlMessage::Stopped(_) => {
                    self.shards_running.set(self.shards_running.get() - 1);
                    self.shards_stopped.notify_waiters();
                }
            }
        }
    }

    /// Tells every shard to close its partitions and waits until all have.
    async fn stop_shards(&self) {
        for shard in &self.shards {
            send(shard, Message::Stop).await;
        }
        while self.shards_running.get() > 0 {
            self.shards_stopped.notified().await;
        }
    }
}

async fn ask(
    client: &ControlClient,
    request: Request,
) -> Result<control_api::message::Response, ControlError> {
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
    let mut message = message;
    while let Err(back) = shard.try_send(message) {
        message = back;
        sleep(Duration::from_millis(1)).await;
    }
}
