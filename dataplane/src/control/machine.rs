//! What the control link decides: events and the time go in, effects come out.
//!
//! Pure: no clock, no task, no socket, no file. `link.rs` drives it with tokio against real controllers; the simulator drives it
//! against the control plane's state machine, with crashes in between.
//!
//! ```text
//!   Joining ──registered──> Joined ──may stop──> Stopping ──shards stopped──> Leaving ──goodbye──> End
//!      ^                      │ │
//!      └────unknown there─────┘ └──superseded, refused──> Stopping ──────────────────────────────> End with a reason
//! ```
//! The lease. A broker leads by the metadata, which names the process that it is for; but metadata says nothing to a process that
//! does not run. So every turn of this machine extends the lease by half a session from now, and a machine that finds that it has not
//! run for that long extends nothing until a heartbeat which it sent afterwards was answered, and the shards have the metadata that
//! the leader had at that answer. Heartbeats that nobody answers end nothing: without a majority nobody can take a partition over.

use super::image_copy::{ImageCopy, Taken};
use crate::io::Instant;
use crate::message::Metadata;
use control_api::ids::{BrokerEpoch, BrokerId, Incarnation, Position};
use control_api::image::MetadataImage;
use control_api::message::{BROKER_HEARTBEAT, BrokerHeartbeat, ControlError, MetadataUpdate};
use std::sync::Arc;

/// How often [`Event::Turn`] is to come.
pub const TURN_MS: u64 = 50;
const HEARTBEAT_PAUSE_MS: u64 = BROKER_HEARTBEAT.as_millis() as u64;
/// Until the first heartbeat's answer says how long a lease is.
const LEASE_MS_UNTOLD: u64 = 500;
const REGISTER_PAUSE_MS: u64 = 200;
const WATCH_PAUSE_MS: u64 = 100;
/// Metadata that is older than the leader's for longer than this comes from a controller that is cut off.
const BEHIND_MS_MAX: u64 = 3_000;
/// The image on disk may be this much older than the one in memory; what is missing comes again from the control plane.
const STORE_PAUSE_MS: u64 = 500;
/// Another process that lives this long under our id is there to stay; a predecessor's session ends much sooner.
const REFUSED_MS_MAX: u64 = 10_000;
/// How long a broker that wants to stop waits for its leaderships to be moved.
const SHUTDOWN_MS_MAX: u64 = 5_000;

/// What the machine is told.
#[derive(Debug)]
pub enum Event {
    /// Time passes.
    Turn,
    Registered(Result<BrokerEpoch, Failure>),
    /// The fate of the heartbeat that was sent at `sent`.
    Beat {
        sent: Instant,
        goodbye: bool,
        answer: Result<Beaten, Failure>,
    },
    Update(MetadataUpdate),
    /// The metadata stream ended or could not be opened.
    StreamEnded,
    /// Every shard has been sent the image of this index.
    Published(u64),
    /// Storing has ended, well if an index is given.
    Stored(Option<u64>),
    WantsShutdown,
    ShardStopped,
}

/// What a heartbeat is answered with.
#[derive(Clone, Copy, Debug)]
pub struct Beaten {
    pub fenced: bool,
    pub may_shut_down: bool,
    pub metadata_index: u64,
    pub lease_ms: u32,
}

#[derive(Debug)]
pub enum Failure {
    Refused(ControlError),
    /// No controller answered.
    Unreachable,
}

/// What is to be done. The answer to each comes back as an event.
#[derive(Clone, Debug)]
pub enum Effect {
    Register,
    Beat(BrokerHeartbeat),
    /// Follow the metadata after this place, on another stream than before.
    Watch(Position),
    /// Give the shards [`Machine::publication`], once they have what was published before.
    Publish,
    Store(Arc<MetadataImage>),
    LeaseUntil(Instant),
    StopShards,
    /// The process ends; for a reason that is an error, or in order.
    End(Result<(), String>),
}

/// What the process is to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Joining,
    Joined(BrokerEpoch),
    /// The shards are closing their partitions.
    Stopping(Option<BrokerEpoch>),
    Leaving(BrokerEpoch),
    Ended,
}

/// Whether the lease is extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirmation {
    /// Not before a heartbeat sent from then on is answered.
    Wanted {
        since: Instant,
    },
    /// Answered: not before the shards have this index.
    Answered {
        index: u64,
    },
    Held,
}

/// How it stands, for those who look on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub registered: bool,
    /// Not shown in service by the metadata.
    pub fenced: bool,
    /// A controller answers.
    pub reachable: bool,
    /// What the shards have.
    pub metadata_index: u64,
    /// How far that is behind what the leader had when it was last heard from.
    pub metadata_lag: u64,
    /// How often the image was found not to be the controllers'.
    pub divergences: u64,
}

#[derive(Clone)]
pub struct Machine {
    broker: BrokerId,
    incarnation: Incarnation,
    copy: ImageCopy,
    standing: Standing,
    confirmation: Confirmation,
    lease_ms: u64,
    /// The first registration of this process: metadata that has reached it knows every topic of its earlier lives.
    registered_at: Option<BrokerEpoch>,
    refused_since: Option<Instant>,
    /// Why the process stops, if not because it was asked to.
    reason: Option<String>,
    last_turn: Instant,
    published: u64,
    /// What the leader had at its last answer.
    leader_index: u64,
    stored: u64,
    /// What the leader had, and when it should be here too.
    behind: Option<(u64, Instant)>,
    shards_running: usize,
    wants_shutdown: bool,
    reachable: bool,
    register_at: Due,
    beat_at: Due,
    watch_at: Due,
    store_at: Due,
    shutdown_at: Due,
    effects: Vec<Effect>,
}

/// When to do something next; nothing while it is under way or not wanted.
type Due = Option<Instant>;

impl Machine {
    /// `stored` is the image that was on disk at the start.
    pub fn new(
        broker: BrokerId,
        incarnation: Incarnation,
        stored: MetadataImage,
        shards: usize,
        now: Instant,
    ) -> Machine {
        Machine {
            broker,
            incarnation,
            stored: stored.index,
            copy: ImageCopy::new(stored, now),
            standing: Standing::Joining,
            confirmation: Confirmation::Wanted { since: now },
            lease_ms: LEASE_MS_UNTOLD,
            registered_at: None,
            refused_since: None,
            reason: None,
            last_turn: now,
            published: 0,
            leader_index: 0,
            behind: None,
            shards_running: shards,
            wants_shutdown: false,
            reachable: true,
            register_at: Some(now),
            beat_at: None,
            watch_at: None,
            store_at: Some(now.after_ms(STORE_PAUSE_MS)),
            shutdown_at: None,
            effects: vec![Effect::Publish],
        }
    }

    pub fn image(&self) -> &Arc<MetadataImage> {
        self.copy.image()
    }

    pub fn view(&self) -> View {
        View {
            registered: matches!(
                self.standing,
                Standing::Joined(_) | Standing::Stopping(Some(_))
            ),
            fenced: !self.is_registered(),
            reachable: self.reachable && self.registered_at.is_some(),
            metadata_index: self.published,
            metadata_lag: self.leader_index.saturating_sub(self.published),
            divergences: self.copy.divergences(),
        }
    }

    /// What the shards are to know now.
    pub fn publication(&mut self) -> Metadata {
        let (changed, deleted) = self.copy.take_changes();
        let index = self.image().index;
        Metadata {
            image: self.image().clone(),
            changed,
            deleted,
            complete: self
                .registered_at
                .is_some_and(|registered| self.copy.is_followed() && index >= registered.0),
            registered: self.is_registered(),
        }
    }

    /// Takes one event and returns what is to be done.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        if self.standing == Standing::Ended {
            return Vec::new();
        }
        self.look_at_clock(now);
        match event {
            Event::Turn => {}
            Event::Registered(answer) => self.registered(now, answer),
            Event::Beat { goodbye: true, .. } => self.end(),
            Event::Beat { sent, answer, .. } => self.beaten(now, sent, answer),
            Event::Update(update) => self.take(now, update),
            Event::StreamEnded => self.watch_at = Some(now.after_ms(WATCH_PAUSE_MS)),
            Event::Published(index) => self.published = self.published.max(index),
            Event::Stored(index) => {
                self.stored = index.unwrap_or(self.stored);
                self.store_at = Some(now.after_ms(STORE_PAUSE_MS));
            }
            Event::WantsShutdown => self.want_shutdown(now),
            Event::ShardStopped => self.shard_stopped(),
        }
        self.extend_lease(now);
        self.do_what_is_due(now);
        std::mem::take(&mut self.effects)
    }

    /// Notices that this process did not run while its lease ended.
    fn look_at_clock(&mut self, now: Instant) {
        if now > self.last_turn.after_ms(self.lease_ms) {
            if self.confirmation == Confirmation::Held {
                tracing::warn!(
                    "this process was held up for longer than its lease: asking the control plane before it appends again"
                );
            }
            self.want_confirmation(now);
        }
        self.last_turn = now;
    }

    fn extend_lease(&mut self, now: Instant) {
        if let Confirmation::Answered { index } = self.confirmation
            && self.published >= index
        {
            self.confirmation = Confirmation::Held;
        }
        if self.confirmation == Confirmation::Held {
            let end = now.after_ms(self.lease_ms);
            self.effects.push(Effect::LeaseUntil(end));
        }
    }

    fn want_confirmation(&mut self, now: Instant) {
        self.confirmation = Confirmation::Wanted { since: now };
        self.effects.push(Effect::LeaseUntil(Instant(0)));
    }

    fn do_what_is_due(&mut self, now: Instant) {
        let is_due = |due: &mut Due| due.take_if(|at| *at <= now).is_some();
        if is_due(&mut self.register_at) {
            self.effects.push(Effect::Register);
        }
        if is_due(&mut self.beat_at)
            && let Some(beat) = self.heartbeat(false)
        {
            self.effects.push(Effect::Beat(beat));
        }
        if self.behind.is_some_and(|(_, until)| until <= now) {
            tracing::warn!("left a controller that lags behind; following another one");
            self.behind = None;
            self.watch_at = Some(now);
        }
        if is_due(&mut self.watch_at) {
            self.effects.push(Effect::Watch(self.copy.watched_from()));
        }
        if self.image().index != self.stored && is_due(&mut self.store_at) {
            self.effects.push(Effect::Store(self.image().clone()));
        }
        if is_due(&mut self.shutdown_at) {
            self.stop();
        }
    }

    fn registered(&mut self, now: Instant, answer: Result<BrokerEpoch, Failure>) {
        if self.standing != Standing::Joining {
            return;
        }
        let error = match answer {
            Ok(epoch) => return self.join(now, epoch),
            Err(Failure::Refused(error)) => error,
            Err(Failure::Unreachable) => ControlError::Unavailable,
        };
        self.register_at = Some(now.after_ms(REGISTER_PAUSE_MS));
        match &error {
            ControlError::DuplicateBroker => {
                let since = *self.refused_since.get_or_insert(now);
                if since == now {
                    tracing::warn!(
                        "another process is registered under this broker's id; waiting for its session to end"
                    );
                } else if now >= since.after_ms(REFUSED_MS_MAX) {
                    self.give_up(
                        now,
                        "another process that lives is registered under this broker's id",
                    );
                }
                return;
            }
            ControlError::WrongCluster(own) => {
                let reason = format!(
                    "this broker's data belongs to cluster {own}, and the controllers to another"
                );
                self.give_up(now, &reason);
            }
            // Its metadata would be in a form that this program does not know.
            ControlError::UnsupportedLevel(reason) => self.give_up(now, reason),
            other => {
                if std::mem::replace(&mut self.reachable, false) {
                    tracing::warn!(reason = %other, "cannot register with the control plane; trying again");
                }
            }
        }
        self.refused_since = None;
    }

    fn join(&mut self, now: Instant, epoch: BrokerEpoch) {
        tracing::info!(epoch = epoch.0, "registered with the control plane");
        self.reachable = true;
        self.refused_since = None;
        self.standing = Standing::Joined(epoch);
        self.beat_at = Some(now);
        // From then on it is sure that these controllers are of this broker's cluster: another one's metadata would lack every topic.
        if self.registered_at.replace(epoch).is_none() {
            self.watch_at = Some(now);
        }
    }

    fn beaten(&mut self, now: Instant, sent: Instant, answer: Result<Beaten, Failure>) {
        if !matches!(self.standing, Standing::Leaving(_)) {
            self.beat_at = Some(now.after_ms(HEARTBEAT_PAUSE_MS));
        }
        match answer {
            Ok(beaten) => self.confirm(now, sent, beaten),
            Err(Failure::Refused(ControlError::StaleBrokerEpoch)) => self.superseded(now),
            Err(Failure::Refused(ControlError::UnknownBroker)) => self.join_again(now),
            Err(Failure::Refused(_) | Failure::Unreachable) => {
                if std::mem::replace(&mut self.reachable, false) {
                    tracing::warn!(
                        "no controller answers heartbeats; partitions led here are served on"
                    );
                }
            }
        }
    }

    fn confirm(&mut self, now: Instant, sent: Instant, beaten: Beaten) {
        if !std::mem::replace(&mut self.reachable, true) {
            tracing::info!("the control plane answers again");
        }
        self.lease_ms = u64::from(beaten.lease_ms);
        self.leader_index = beaten.metadata_index;
        if self.image().index < beaten.metadata_index {
            self.behind
                .get_or_insert((beaten.metadata_index, now.after_ms(BEHIND_MS_MAX)));
        }
        match self.confirmation {
            Confirmation::Wanted { since }
                if sent >= since && !beaten.fenced && self.reason.is_none() =>
            {
                let index = beaten.metadata_index;
                self.confirmation = Confirmation::Answered { index };
            }
            Confirmation::Wanted { .. } | Confirmation::Answered { .. } | Confirmation::Held => {}
        }
        if beaten.may_shut_down && self.wants_shutdown {
            self.stop();
        }
    }

    fn join_again(&mut self, now: Instant) {
        if let Standing::Joined(_) = self.standing {
            tracing::warn!("the control plane does not know this broker; registering again");
            self.standing = Standing::Joining;
            self.want_confirmation(now);
            self.beat_at = None;
            self.register_at = Some(now);
        }
    }

    fn take(&mut self, now: Instant, update: MetadataUpdate) {
        let told = if let MetadataUpdate::KeepAlive { at, digest } = &update {
            Some((*at, *digest))
        } else {
            None
        };
        let taken = self.copy.take(update);
        if told.is_some_and(|(at, digest)| self.copy.comes_to_differ(now, at, digest)) {
            self.watch_at = Some(now);
        }
        match taken {
            Taken::New => {}
            Taken::Known => return,
            Taken::Older => {
                tracing::debug!("the controller knows less than this broker");
                self.watch_at = Some(now.after_ms(WATCH_PAUSE_MS));
                return;
            }
        }
        let here = self.image().index;
        self.behind = self.behind.take_if(|(index, _)| here < *index);
        self.effects.push(Effect::Publish);
        let own = self.image().brokers.get(&self.broker);
        let ours = self.standing_epoch();
        if own.is_some_and(|own| {
            own.incarnation != self.incarnation && ours.is_some_and(|ours| own.epoch > ours)
        }) {
            self.superseded(now);
        }
    }

    /// Whether the image shows this very process in service.
    fn is_registered(&self) -> bool {
        let own = self.image().brokers.get(&self.broker);
        own.is_some_and(|own| own.incarnation == self.incarnation && !own.fenced)
    }

    fn superseded(&mut self, now: Instant) {
        self.give_up(now, "another process has taken this broker's id over");
    }

    /// Stops for good, because this process has no right to its partitions.
    fn give_up(&mut self, now: Instant, reason: &str) {
        if self.reason.is_none() {
            let reason = format!("{reason}: this one (id {}) stops", self.broker);
            tracing::error!("{reason}");
            self.reason = Some(reason);
        }
        self.want_confirmation(now);
        self.stop();
    }

    fn want_shutdown(&mut self, now: Instant) {
        self.wants_shutdown = true;
        self.shutdown_at = Some(now.after_ms(SHUTDOWN_MS_MAX));
        self.beat_at = self.beat_at.map(|_| now);
        if self.standing == Standing::Joining {
            self.stop();
        }
    }

    fn stop(&mut self) {
        let epoch = match self.standing {
            Standing::Joining => None,
            Standing::Joined(epoch) => Some(epoch),
            Standing::Stopping(_) | Standing::Leaving(_) | Standing::Ended => return,
        };
        self.standing = Standing::Stopping(epoch);
        self.register_at = None;
        self.shutdown_at = None;
        self.effects.push(Effect::StopShards);
    }

    fn shard_stopped(&mut self) {
        self.shards_running -= 1;
        let Standing::Stopping(epoch) = self.standing else {
            return;
        };
        if self.shards_running > 0 {
            return;
        }
        self.beat_at = None;
        match epoch.filter(|_| self.reason.is_none()) {
            // Says goodbye, so that no one waits for the session to end; which it does by itself if no controller hears this.
            Some(epoch) => {
                let goodbye = self.heartbeat(true);
                self.standing = Standing::Leaving(epoch);
                self.effects.extend(goodbye.map(Effect::Beat));
            }
            None => self.end(),
        }
    }

    fn end(&mut self) {
        self.standing = Standing::Ended;
        let result = self.reason.take().map_or(Ok(()), Err);
        self.effects.push(Effect::End(result));
    }

    fn standing_epoch(&self) -> Option<BrokerEpoch> {
        match self.standing {
            Standing::Joined(epoch) | Standing::Leaving(epoch) => Some(epoch),
            Standing::Stopping(epoch) => epoch,
            Standing::Joining | Standing::Ended => None,
        }
    }

    fn heartbeat(&self, goodbye: bool) -> Option<BrokerHeartbeat> {
        let epoch = self.standing_epoch()?;
        Some(BrokerHeartbeat {
            id: self.broker,
            epoch,
            metadata_index: self.published,
            wants_shutdown: self.wants_shutdown,
            goodbye,
        })
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
