//! The control plane as brokers see it: its pure state machine behind sessions, without tokio or Raft.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use control_api::ids::{BrokerEpoch, Incarnation, Position, TopicId};
use control_api::image::{MetadataEvent, MetadataImage};
use control_api::level::{Level, Levels};
use control_api::message::{
    BrokerHeartbeat, BrokerRegistration, ControlError, NewTopic, Request, Response,
};
use controlplane::command::{MetaCommand, RegisteredBroker};
use controlplane::history::{History, Next};
use controlplane::meta::MetaState;
use controlplane::proposal;
use controlplane::sessions::Sessions;
use dataplane::control::machine::Beaten;
use dataplane::event::Event;
use dataplane::io::Instant;

use super::broker::{BROKER, PORT};

pub(super) const SESSION_MS: u64 = 1_000;

pub(super) struct ControlPlane {
    meta: MetaState,
    /// Where the log ends.
    last: Position,
    /// Decides how a broker goes on.
    history: History,
    /// What each entry changed.
    changes: Vec<(Position, Vec<MetadataEvent>)>,
    /// What the image is at each place of the log.
    digests: BTreeMap<Position, u64>,
    /// How often the log was put back.
    pub(super) losses: u64,
    /// One change in so many loses its first event on the way to a broker; 0 for none.
    pub(super) garbles_one_in: u64,
    /// One did.
    pub(super) garbled: Cell<bool>,
    /// There is more of it.
    pub(super) changed: Rc<Event>,
    sessions: Sessions,
    /// Whether a majority answers.
    available: bool,
    /// Every registration, in order.
    pub(super) registrations: Vec<Incarnation>,
}

impl ControlPlane {
    pub(super) fn new() -> ControlPlane {
        let mut control = ControlPlane {
            meta: MetaState::default(),
            last: Position { term: 1, index: 0 },
            history: History::default(),
            changes: Vec::new(),
            digests: BTreeMap::new(),
            losses: 0,
            garbles_one_in: 0,
            garbled: Cell::new(false),
            changed: Rc::default(),
            sessions: Sessions::new(Duration::from_millis(SESSION_MS)),
            available: true,
            registrations: Vec::new(),
        };
        control.apply(&MetaCommand::Bootstrap {
            cluster_id: "simulated".to_owned(),
            feature_level: Level::NEWEST,
        });
        control
    }

    /// A topic of an earlier life of the broker, all of its partitions on it.
    pub(super) fn create_topic(&mut self, name: &str, partitions: i32) {
        let founder = BrokerRegistration {
            id: BROKER,
            incarnation: Incarnation([0xff; 16]),
            host: "127.0.0.1".to_owned(),
            port: PORT,
            rack: None,
            version: String::new(),
            cluster_id: String::new(),
            levels: Levels::supported(),
        };
        let Response::Registered { epoch, .. } = self.apply(&MetaCommand::RegisterBroker(founder))
        else {
            panic!("there is no other broker");
        };
        let founder = RegisteredBroker { id: BROKER, epoch };
        self.apply(&MetaCommand::UnfenceBroker(founder));
        let answer = self.apply(&MetaCommand::CreateTopics(vec![NewTopic {
            name: name.to_owned(),
            id: TopicId([7; 16]),
            partitions,
            replication_factor: 1,
            assignment: Vec::new(),
            configs: BTreeMap::new(),
        }]));
        assert!(matches!(&answer, Response::Topics(topics) if topics[0].is_ok()));
        self.apply(&MetaCommand::FenceBroker(founder));
    }

    /// A topic on the broker, whatever it knows of that.
    pub(super) fn add_topic(&mut self, name: &str) {
        let mut id = TopicId([9; 16]);
        let name_bytes = id.0.iter_mut().zip(name.bytes());
        name_bytes.for_each(|(slot, byte)| *slot = byte);
        self.apply(&MetaCommand::CreateTopics(vec![NewTopic {
            name: name.to_owned(),
            id,
            partitions: 2,
            replication_factor: -1,
            assignment: vec![vec![BROKER]; 2],
            configs: BTreeMap::new(),
        }]));
    }

    pub(super) fn image(&self) -> &MetadataImage {
        self.meta.image()
    }

    /// How a broker goes on from a place, and how far that leads it.
    pub(super) fn next_after(&self, from: Position) -> (Next, Position, u64) {
        let (at, digest) = self.history.applied();
        (self.history.after(from), at, digest)
    }

    /// The first change after a place.
    pub(super) fn change_after(&self, from: Position) -> Option<(Position, Vec<MetadataEvent>)> {
        let next = self.changes.partition_point(|(at, _)| *at <= from);
        self.changes.get(next).cloned()
    }

    /// Whether this is what the log comes to at its place.
    pub(super) fn has(&self, image: &MetadataImage) -> bool {
        let digest = self.digests.get(&image.position());
        image.index == 0 || digest == Some(&image.digest())
    }

    fn apply(&mut self, command: &MetaCommand) -> Response {
        let at = self.next_entry();
        let (response, events) = self.meta.apply(at, command);
        self.applied(events);
        response
    }

    fn next_entry(&mut self) -> Position {
        self.last.index += 1;
        self.last
    }

    fn applied(&mut self, events: Vec<MetadataEvent>) {
        let digest = self.meta.digest();
        self.digests.insert(self.last, digest);
        self.history
            .push(self.last, Level::FIRST, events.clone(), digest);
        if !events.is_empty() {
            self.changes.push((self.last, events));
            self.changed.notify();
        }
    }

    /// A new leader begins its term with an entry of its own.
    fn elect(&mut self) {
        self.last.term += 1;
        self.next_entry();
        self.applied(Vec::new());
    }

    /// What a backup would hold.
    pub(super) fn save(&self) -> (MetaState, Position) {
        (self.meta.clone(), self.last)
    }

    /// Everything since the backup is lost, on every controller: what their own disks are there to make impossible.
    pub(super) fn restore(&mut self, (meta, last): (MetaState, Position)) {
        let term = self.last.term;
        self.digests.retain(|at, _| *at <= last);
        self.changes.retain(|(at, _)| *at <= last);
        let changed = meta.image().position();
        self.history.restart(changed, last, meta.digest());
        self.meta = meta;
        self.last = Position { term, ..last };
        self.losses += 1;
        self.elect();
        self.changed.notify();
    }

    pub(super) fn register(
        &mut self,
        new: &BrokerRegistration,
        now: Instant,
    ) -> Result<BrokerEpoch, ControlError> {
        self.lead(now);
        let wanted = self.sessions.register(new, moment(now))?;
        match self.apply(&wanted) {
            Response::Registered { epoch, .. } => {
                self.sessions
                    .renew(new.id, epoch, new.incarnation, moment(now));
                self.registrations.push(new.incarnation);
                Ok(epoch)
            }
            Response::Error(error) => Err(error),
            other => panic!("a registration is taken or refused: {other:?}"),
        }
    }

    pub(super) fn beat(
        &mut self,
        beat: &BrokerHeartbeat,
        now: Instant,
    ) -> Result<Beaten, ControlError> {
        self.lead(now);
        let wanted = self.sessions.beat(beat, self.meta.image(), moment(now))?;
        if let Some(command) = wanted {
            self.apply(&command);
        }
        if beat.goodbye {
            self.sessions.end(beat.id);
        }
        let record = &self.image().brokers[&beat.id];
        Ok(Beaten {
            fenced: record.fenced,
            may_shut_down: record.shutting_down || record.fenced,
            metadata_index: self.image().index,
            lease_ms: (SESSION_MS / 2) as u32,
        })
    }

    /// Each term grants everyone a fresh session.
    fn lead(&mut self, now: Instant) {
        let term = self.last.term;
        self.sessions.lead(term, self.meta.image(), moment(now));
    }

    pub(super) fn is_available(&self) -> bool {
        self.available
    }

    /// Loses or finds its majority; then there is a new leader.
    pub(super) fn set_available(&mut self, available: bool) {
        self.available = available;
        if available {
            self.elect();
        }
    }

    /// The broker is taken for dead, so that it leads nothing; it hears of it with the next metadata.
    pub(super) fn fence_broker(&mut self) {
        if let Some(broker) = self.image().brokers.get(&BROKER) {
            let epoch = broker.epoch;
            self.apply(&MetaCommand::FenceBroker(RegisteredBroker {
                id: BROKER,
                epoch,
            }));
        }
    }

    /// Fences who was silent for a session.
    pub(super) fn look_for_dead(&mut self, now: Instant) {
        if !self.available {
            return;
        }
        self.lead(now);
        for broker in self.sessions.dead(self.meta.image(), moment(now)) {
            self.apply(&MetaCommand::FenceBroker(broker));
        }
    }

    pub(super) fn answer(&mut self, request: Request) -> Result<Response, ControlError> {
        if !self.available {
            return Err(ControlError::Unavailable);
        }
        let command = match request {
            Request::CreateTopics { topics, .. } => {
                let (topics, refused) = proposal::topics(self.meta.image(), topics);
                return Ok(match self.apply(&MetaCommand::CreateTopics(topics)) {
                    Response::Topics(answers) => {
                        Response::Topics(proposal::weave(answers, refused))
                    }
                    other => other,
                });
            }
            Request::DeleteTopics { topics } => MetaCommand::DeleteTopics(topics),
            Request::CreatePartitions { topics, .. } => MetaCommand::CreatePartitions(topics),
            Request::AlterConfigs { changes, .. } => MetaCommand::AlterConfigs {
                changes,
                list_defaults: BTreeMap::new(),
            },
            Request::AllocateProducerIds { broker, epoch } => {
                MetaCommand::AllocateProducerIds(RegisteredBroker { id: broker, epoch })
            }
            _ => return Err(ControlError::Unavailable),
        };
        Ok(self.apply(&command))
    }
}

fn moment(now: Instant) -> Duration {
    Duration::from_nanos(now.0)
}
