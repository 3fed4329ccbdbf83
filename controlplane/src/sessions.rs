//! Which brokers are alive, as far as the leader of `meta` can tell, and what it makes of their heartbeats.
//!
//! Pure: moments come in, as the time since any one that is always the same. And soft: only that a session ended is proposed to
//! the log. A new leader knows nothing of the heartbeats that the last one got, so it grants every broker a fresh session. A
//! leader that was itself held up has heard from nobody meanwhile, and that time does not count against the brokers.

use crate::command::{MetaCommand, RegisteredBroker};
use control_api::ids::{BrokerEpoch, BrokerId, Incarnation};
use control_api::image::MetadataImage;
use control_api::message::{BrokerHeartbeat, BrokerRegistration, ControlError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Looks for silent brokers that lie further apart than this mean that the leader was held up.
const LOOKS_APART_MAX: Duration = Duration::from_millis(250);

#[derive(Clone)]
pub struct Sessions {
    limit: Duration,
    /// When silent brokers were last looked for.
    looked: Option<Duration>,
    /// The term in which the sessions below were granted.
    term: u64,
    sessions: BTreeMap<BrokerId, BrokerSession>,
}

#[derive(Clone, Copy)]
struct BrokerSession {
    epoch: BrokerEpoch,
    incarnation: Incarnation,
    last: Duration,
}

impl Sessions {
    pub fn new(limit: Duration) -> Self {
        Sessions {
            limit,
            looked: None,
            term: 0,
            sessions: BTreeMap::new(),
        }
    }

    /// This node leads `term`. When that is news, all brokers get a fresh session.
    pub fn lead(&mut self, term: u64, image: &MetadataImage, now: Duration) {
        if self.term == term {
            return;
        }
        self.term = term;
        self.sessions.clear();
        for broker in image.brokers.values().filter(|broker| !broker.fenced) {
            self.renew(broker.id, broker.epoch, broker.incarnation, now);
        }
    }

    /// Takes a registration, unless another process holds the id. What is to be proposed.
    pub fn register(
        &self,
        new: &BrokerRegistration,
        now: Duration,
    ) -> Result<MetaCommand, ControlError> {
        match self.held_by_other(new.id, new.incarnation, now) {
            true => Err(ControlError::DuplicateBroker),
            false => Ok(MetaCommand::RegisterBroker(new.clone())),
        }
    }

    /// Takes a heartbeat, if it is that of the process that is registered. What it asks to be proposed: that the broker is
    /// unfenced, that it shuts down, that it is gone.
    pub fn beat(
        &mut self,
        beat: &BrokerHeartbeat,
        image: &MetadataImage,
        now: Duration,
    ) -> Result<Option<MetaCommand>, ControlError> {
        let record = image.brokers.get(&beat.id);
        let record = record.ok_or(ControlError::UnknownBroker)?;
        if record.epoch != beat.epoch {
            return Err(ControlError::StaleBrokerEpoch);
        }
        self.renew(beat.id, beat.epoch, record.incarnation, now);
        let broker = RegisteredBroker {
            id: beat.id,
            epoch: beat.epoch,
        };
        let wanted = if beat.goodbye {
            (!record.fenced).then_some(MetaCommand::FenceBroker(broker))
        } else if beat.wants_shutdown && !record.shutting_down {
            Some(MetaCommand::ShutDownBroker(broker))
        } else if record.fenced && !record.shutting_down && beat.metadata_index >= beat.epoch.0 {
            Some(MetaCommand::UnfenceBroker(broker))
        } else {
            None
        };
        Ok(wanted)
    }

    /// Has a broker forgotten that is gone: it is fenced, and no process under its id was heard of late. What is to be proposed.
    pub fn unregister(
        &self,
        id: BrokerId,
        image: &MetadataImage,
        now: Duration,
    ) -> Result<MetaCommand, ControlError> {
        let record = image.brokers.get(&id);
        let record = record.ok_or(ControlError::UnknownBroker)?;
        let session = self.sessions.get(&id);
        let lives = session.is_some_and(|one| now.saturating_sub(one.last) < self.limit);
        if lives || !record.fenced {
            return Err(ControlError::InvalidRequest(format!(
                "broker {id} is alive: stop it first"
            )));
        }
        let epoch = record.epoch;
        Ok(MetaCommand::UnregisterBroker(RegisteredBroker {
            id,
            epoch,
        }))
    }

    pub fn renew(
        &mut self,
        id: BrokerId,
        epoch: BrokerEpoch,
        incarnation: Incarnation,
        now: Duration,
    ) {
        let session = BrokerSession {
            epoch,
            incarnation,
            last: now,
        };
        self.sessions.insert(id, session);
    }

    pub fn end(&mut self, id: BrokerId) {
        self.sessions.remove(&id);
    }

    /// Whether another process than this one holds a live session under the id.
    pub fn held_by_other(&self, id: BrokerId, incarnation: Incarnation, now: Duration) -> bool {
        self.sessions.get(&id).is_some_and(|session| {
            session.incarnation != incarnation && now.saturating_sub(session.last) < self.limit
        })
    }

    /// Brokers that the image takes for alive and that have been silent for too long.
    /// To be called often.
    pub fn dead(&mut self, image: &MetadataImage, now: Duration) -> Vec<RegisteredBroker> {
        let looked = self.looked.replace(now).unwrap_or(now);
        let held_up = now.saturating_sub(looked);
        if held_up > LOOKS_APART_MAX {
            for session in self.sessions.values_mut() {
                session.last = now.min(session.last + held_up);
            }
        }
        let dead = image.live_brokers().filter(|broker| {
            let session = self.sessions.get(&broker.id);
            let current = session.filter(|session| session.epoch == broker.epoch);
            current.is_none_or(|session| now.saturating_sub(session.last) >= self.limit)
        });
        dead.map(|broker| RegisteredBroker {
            id: broker.id,
            epoch: broker.epoch,
        })
        .collect()
    }

    /// How long ago each broker was heard from, or granted its session.
    pub fn silences_ms(&self, now: Duration) -> Vec<(BrokerId, u64)> {
        let sessions = self.sessions.iter();
        let silences = sessions.map(|(id, session)| (*id, now.saturating_sub(session.last)));
        silences
            .map(|(id, silence)| (id, u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)))
            .collect()
    }

    pub fn live_count(&self, now: Duration) -> usize {
        let sessions = self.sessions.values();
        sessions
            .filter(|session| now.saturating_sub(session.last) < self.limit)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::image::BrokerRecord;
    use control_api::level::Levels;

    const LIMIT: Duration = Duration::from_secs(1);
    const ID: BrokerId = BrokerId(4);
    const EPOCH: BrokerEpoch = BrokerEpoch(9);
    const PROCESS: Incarnation = Incarnation([1; 16]);

    fn image() -> MetadataImage {
        let record = BrokerRecord {
            id: ID,
            epoch: EPOCH,
            incarnation: PROCESS,
            host: "localhost".into(),
            port: 9092,
            rack: None,
            version: String::new(),
            fenced: false,
            shutting_down: false,
            levels: Levels::supported(),
        };
        MetadataImage {
            brokers: BTreeMap::from([(ID, record)]),
            ..MetadataImage::default()
        }
    }

    #[test]
    fn a_broker_is_forgotten_only_when_it_is_gone() {
        let gone = |image: &MetadataImage| {
            let mut image = image.clone();
            image.brokers.get_mut(&ID).unwrap().fenced = true;
            image
        };
        let refused = |result| matches!(result, Err(ControlError::InvalidRequest(_)));
        let (live, fenced) = (image(), gone(&image()));
        let mut sessions = Sessions::new(LIMIT);
        let unknown = sessions.unregister(BrokerId(7), &live, LIMIT);
        assert_eq!(unknown, Err(ControlError::UnknownBroker));
        assert!(refused(sessions.unregister(ID, &live, LIMIT)));
        // One that has just registered is fenced, and there.
        sessions.renew(ID, EPOCH, PROCESS, LIMIT);
        assert!(refused(sessions.unregister(ID, &fenced, LIMIT * 3 / 2)));
        let broker = RegisteredBroker {
            id: ID,
            epoch: EPOCH,
        };
        let command = Ok(MetaCommand::UnregisterBroker(broker));
        assert_eq!(sessions.unregister(ID, &fenced, LIMIT * 2), command);
    }

    /// Looks for dead brokers as often as the leader does; answers with the last look's.
    fn look(sessions: &mut Sessions, from: Duration, to: Duration) -> Vec<RegisteredBroker> {
        let mut now = from;
        while now < to {
            sessions.dead(&image(), now);
            now += LOOKS_APART_MAX / 5;
        }
        sessions.dead(&image(), to)
    }

    #[test]
    fn a_silent_broker_is_dead_after_the_limit_and_not_before() {
        let start = Duration::ZERO;
        let mut sessions = Sessions::new(LIMIT);
        sessions.lead(1, &image(), start);
        assert!(look(&mut sessions, start, start + LIMIT / 2).is_empty());
        sessions.renew(ID, EPOCH, PROCESS, start + LIMIT / 2);
        assert!(look(&mut sessions, start + LIMIT / 2, start + LIMIT).is_empty());
        let dead = look(&mut sessions, start + LIMIT, start + LIMIT * 2);
        assert_eq!(
            dead,
            [RegisteredBroker {
                id: ID,
                epoch: EPOCH
            }]
        );
    }

    #[test]
    fn a_new_leader_grants_fresh_sessions_once() {
        let start = Duration::ZERO;
        let mut sessions = Sessions::new(LIMIT);
        sessions.lead(1, &image(), start);
        assert_eq!(look(&mut sessions, start, start + LIMIT * 3).len(), 1);
        sessions.lead(2, &image(), start + LIMIT * 3);
        assert!(sessions.dead(&image(), start + LIMIT * 3).is_empty());
        sessions.lead(2, &image(), start + LIMIT * 5);
        assert_eq!(
            look(&mut sessions, start + LIMIT * 3, start + LIMIT * 5).len(),
            1
        );
    }

    #[test]
    fn a_leader_that_was_held_up_does_not_blame_the_brokers() {
        let start = Duration::ZERO;
        let mut sessions = Sessions::new(LIMIT);
        sessions.lead(1, &image(), start);
        assert!(look(&mut sessions, start, start + LIMIT / 2).is_empty());
        let awake = start + LIMIT * 9;
        assert!(sessions.dead(&image(), awake).is_empty());
        assert_eq!(look(&mut sessions, awake, awake + LIMIT).len(), 1);
    }

    #[test]
    fn an_id_is_held_until_its_session_ends() {
        let start = Duration::ZERO;
        let mut sessions = Sessions::new(LIMIT);
        sessions.renew(ID, EPOCH, PROCESS, start);
        let other = Incarnation([2; 16]);
        assert!(sessions.held_by_other(ID, other, start));
        assert!(!sessions.held_by_other(ID, PROCESS, start));
        assert!(!sessions.held_by_other(ID, other, start + LIMIT));
        sessions.end(ID);
        assert!(!sessions.held_by_other(ID, other, start));
    }
}
