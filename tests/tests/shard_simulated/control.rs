//! The control plane as brokers see it: its pure state machine behind sessions, without tokio or Raft.

use std::collections::BTreeMap;
use std::rc::Rc;

use control_api::ids::{BrokerEpoch, BrokerId, Incarnation, TopicId};
use control_api::image::{MetadataEvent, MetadataImage};
use control_api::level::{Level, Levels};
use control_api::message::{
    BrokerHeartbeat, BrokerRegistration, ControlError, NewTopic, Request, Response,
};
use controlplane::command::{MetaCommand, RegisteredBroker};
use controlplane::meta::MetaState;
use dataplane::control::machine::Beaten;
use dataplane::event::Event;
use dataplane::io::Instant;

use super::broker::{BROKER, PORT};

pub(super) const SESSION_MS: u64 = 1_000;

pub(super) struct ControlPlane {
    meta: MetaState,
    index: u64,
    /// What each index changed.
    history: Vec<(u64, Vec<MetadataEvent>)>,
    /// There is more of it.
    pub(super) changed: Rc<Event>,
    sessions: BTreeMap<BrokerId, Session>,
    /// Whether a majority answers.
    available: bool,
    /// Every registration, in order.
    pub(super) registrations: Vec<Incarnation>,
}

struct Session {
    epoch: BrokerEpoch,
    incarnation: Incarnation,
    last: Instant,
}

impl ControlPlane {
    pub(super) fn new() -> ControlPlane {
        let mut control = ControlPlane {
            meta: MetaState::default(),
            index: 0,
            history: Vec::new(),
            changed: Rc::default(),
            sessions: BTreeMap::new(),
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

    pub(super) fn image(&self) -> &MetadataImage {
        self.meta.image()
    }

    /// The first change after an index.
    pub(super) fn change_after(&self, index: u64) -> Option<(u64, Vec<MetadataEvent>)> {
        let next = self.history.partition_point(|(at, _)| *at <= index);
        self.history.get(next).cloned()
    }

    fn apply(&mut self, command: &MetaCommand) -> Response {
        self.index += 1;
        let (response, events) = self.meta.apply(self.index, command);
        if !events.is_empty() {
            self.history.push((self.index, events));
            self.changed.notify();
        }
        response
    }

    pub(super) fn register(
        &mut self,
        new: &BrokerRegistration,
        now: Instant,
    ) -> Result<BrokerEpoch, ControlError> {
        let other = self.sessions.get(&new.id).filter(|session| {
            session.incarnation != new.incarnation && now < session.last.after_ms(SESSION_MS)
        });
        if other.is_some() {
            return Err(ControlError::DuplicateBroker);
        }
        match self.apply(&MetaCommand::RegisterBroker(new.clone())) {
            Response::Registered { epoch, .. } => {
                self.renew(new.id, epoch, new.incarnation, now);
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
        let known = self.image().brokers.get(&beat.id);
        let known = known.ok_or(ControlError::UnknownBroker)?.clone();
        if known.epoch != beat.epoch {
            return Err(ControlError::StaleBrokerEpoch);
        }
        self.renew(beat.id, beat.epoch, known.incarnation, now);
        let broker = RegisteredBroker {
            id: beat.id,
            epoch: beat.epoch,
        };
        if beat.goodbye {
            self.apply(&MetaCommand::FenceBroker(broker));
            self.sessions.remove(&beat.id);
        } else if beat.wants_shutdown && !known.shutting_down {
            self.apply(&MetaCommand::ShutDownBroker(broker));
        } else if known.fenced && !known.shutting_down && beat.metadata_index >= beat.epoch.0 {
            self.apply(&MetaCommand::UnfenceBroker(broker));
        }
        let record = &self.image().brokers[&beat.id];
        Ok(Beaten {
            fenced: record.fenced,
            may_shut_down: record.shutting_down || record.fenced,
            metadata_index: self.image().index,
            lease_ms: (SESSION_MS / 2) as u32,
        })
    }

    fn renew(&mut self, id: BrokerId, epoch: BrokerEpoch, incarnation: Incarnation, now: Instant) {
        let session = Session {
            epoch,
            incarnation,
            last: now,
        };
        self.sessions.insert(id, session);
    }

    pub(super) fn is_available(&self) -> bool {
        self.available
    }

    /// Loses or finds its majority; a new leader grants everyone a fresh session.
    pub(super) fn set_available(&mut self, available: bool, now: Instant) {
        self.available = available;
        for session in self.sessions.values_mut() {
            session.last = now;
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
        let silent = |session: &Session| session.last.after_ms(SESSION_MS) <= now;
        let dead: Vec<RegisteredBroker> = self
            .sessions
            .iter()
            .filter(|(_, session)| silent(session))
            .map(|(&id, session)| RegisteredBroker {
                id,
                epoch: session.epoch,
            })
            .collect();
        for broker in dead {
            self.sessions.remove(&broker.id);
            self.apply(&MetaCommand::FenceBroker(broker));
        }
    }

    pub(super) fn answer(&mut self, request: Request) -> Result<Response, ControlError> {
        if !self.available {
            return Err(ControlError::Unavailable);
        }
        let command = match request {
            Request::CreateTopics { topics, .. } => MetaCommand::CreateTopics(topics),
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
