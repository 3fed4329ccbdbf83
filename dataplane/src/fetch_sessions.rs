//! Incremental fetch sessions (KIP-227): a client names its partitions once and then only what changes, and is answered only for
//! partitions that have something new.
//!
//! Sessions belong to the shard that the client's connection is on. A client that comes back on another shard is told that its
//! session is unknown and starts a new one, as after a broker's restart.

use crate::limits::{
    FETCH_SESSION_PARTITIONS_MAX, FETCH_SESSIONS_MAX, FETCH_SESSIONS_PARTITIONS_MAX,
};
use std::collections::{HashMap, HashSet, hash_map::Entry};
use std::rc::Rc;
use wire::{ErrorCode, Uuid};

/// A topic as a fetch request names it: by name up to version 12, by id from 13 on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FetchTopicName {
    Name(Rc<str>),
    Id(Uuid),
}

/// No topic has a longer name.
const TOPIC_NAME_BYTES_MAX: usize = 249;

impl FetchTopicName {
    /// Whether a topic may have this name.
    pub fn may_exist(&self) -> bool {
        match self {
            FetchTopicName::Name(name) => name.len() <= TOPIC_NAME_BYTES_MAX,
            FetchTopicName::Id(_) => true,
        }
    }
}

/// One partition that a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchTarget {
    pub topic: FetchTopicName,
    pub partition: i32,
    pub offset: i64,
    pub bytes_max: i32,
    pub current_leader_epoch: i32,
    pub last_fetched_epoch: i32,
}

/// What the client knows of a partition, so that only news is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    high_watermark: i64,
    log_start: i64,
}

const NOTHING_TOLD: Told = Told {
    high_watermark: -1,
    log_start: -1,
};

struct FetchSession {
    epoch: i32,
    by_id: bool,
    targets: Vec<(FetchTarget, Told)>,
    /// The place of each partition in `targets`.
    places: HashMap<(FetchTopicName, i32), usize>,
    /// Where the next answer starts, so that the partitions take turns at being first.
    first: usize,
    last_used: u64,
}

/// The sessions of one shard.
pub struct FetchSessions {
    sessions: HashMap<i32, FetchSession>,
    partitions: usize,
    uses: u64,
    random: u64,
}

/// Which session a request uses, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionUse {
    /// Every partition is answered, and nothing is remembered.
    None,
    /// Every partition is answered, and the session starts.
    Full(i32),
    /// Only news is answered.
    Incremental(i32),
}

impl SessionUse {
    /// The session id in the response.
    pub fn id(self) -> i32 {
        match self {
            SessionUse::None => 0,
            SessionUse::Full(id) | SessionUse::Incremental(id) => id,
        }
    }
}

/// The partitions of a request, each once: of one that is named again the last position counts, at the place of the first, as in
/// Kafka's map of them.
#[derive(Default)]
pub struct FetchTargets {
    targets: Vec<FetchTarget>,
    /// Where each partition stands, once there are too many to look for it.
    places: HashMap<(FetchTopicName, i32), usize, foldhash::fast::RandomState>,
}

/// So many targets are looked through faster than a table is made.
const TARGETS_LOOKED_THROUGH_MAX: usize = 16;

impl FetchTargets {
    pub fn want(&mut self, target: FetchTarget) {
        match self.place(&target) {
            Some(place) => self.targets[place] = target,
            None => self.targets.push(target),
        }
    }

    pub fn into_vec(self) -> Vec<FetchTarget> {
        self.targets
    }

    /// Where the target's partition stands already. A new one is about to be pushed.
    fn place(&mut self, target: &FetchTarget) -> Option<usize> {
        if !target.topic.may_exist() {
            return None;
        }
        let next = self.targets.len();
        if next < TARGETS_LOOKED_THROUGH_MAX {
            let same = |known: &FetchTarget| {
                known.partition == target.partition && known.topic == target.topic
            };
            return self.targets.iter().position(same);
        }
        if self.places.is_empty() {
            let known = self.targets.iter().enumerate();
            self.places = known
                .map(|(place, known)| ((known.topic.clone(), known.partition), place))
                .collect();
        }
        match self.places.entry((target.topic.clone(), target.partition)) {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(free) => {
                free.insert(next);
                None
            }
        }
    }
}

/// The session fields of a request and the partitions that it names.
pub struct SessionRequest {
    pub id: i32,
    pub epoch: i32,
    pub by_id: bool,
    pub named: Vec<FetchTarget>,
    pub forgotten: Vec<(FetchTopicName, i32)>,
}

const EPOCH_FINAL: i32 = -1;
const EPOCH_INITIAL: i32 = 0;

impl FetchSessions {
    pub fn new(seed: u64) -> Self {
        FetchSessions {
            sessions: HashMap::new(),
            partitions: 0,
            uses: 0,
            random: seed | 1,
        }
    }

    /// How many partitions a session has; none if there is no such session.
    pub fn partitions_of(&self, id: i32) -> usize {
        let session = self.sessions.get(&id);
        session.map_or(0, |session| session.targets.len())
    }

    /// Applies a request to its session and returns the partitions to read, in order.
    pub fn begin(
        &mut self,
        request: SessionRequest,
    ) -> Result<(SessionUse, Vec<FetchTarget>), ErrorCode> {
        if request.epoch == EPOCH_FINAL {
            self.remove(request.id);
            return Ok((SessionUse::None, request.named));
        }
        if request.epoch == EPOCH_INITIAL {
            self.remove(request.id);
            let targets = request.named.clone();
            return Ok((self.create(request.by_id, request.named), targets));
        }
        self.advance(request)
    }

    /// Whether an answer for a partition is news to the session's client; remembers what it is told.
    pub fn is_news(
        &mut self,
        id: i32,
        target: &FetchTarget,
        has_records: bool,
        error: bool,
        high_watermark: i64,
        log_start: i64,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else {
            return true;
        };
        let Some(place) = session.place(&target.topic, target.partition) else {
            return true;
        };
        let now = Told {
            high_watermark,
            log_start,
        };
        let told = &mut session.targets[place].1;
        if error {
            // Tell the client again once the error is over.
            *told = NOTHING_TOLD;
            return true;
        }
        let news = has_records || *told != now;
        *told = now;
        if has_records {
            session.first = place + 1;
        }
        news
    }

    fn create(&mut self, by_id: bool, named: Vec<FetchTarget>) -> SessionUse {
        let fits = named.len() <= FETCH_SESSION_PARTITIONS_MAX;
        if named.is_empty() || !fits || !named.iter().all(|target| target.topic.may_exist()) {
            return SessionUse::None;
        }
        while self.sessions.len() >= FETCH_SESSIONS_MAX
            || self.partitions + named.len() > FETCH_SESSIONS_PARTITIONS_MAX
        {
            let oldest = self
                .sessions
                .iter()
                .min_by_key(|(_, session)| session.last_used)
                .map(|(id, _)| *id);
            let Some(oldest) = oldest else {
                return SessionUse::None;
            };
            self.remove(oldest);
        }
        let id = self.draw_id();
        self.uses += 1;
        let mut session = FetchSession {
            epoch: 1,
            by_id,
            targets: Vec::new(),
            places: HashMap::new(),
            first: 0,
            last_used: self.uses,
        };
        named.into_iter().for_each(|target| session.want(target));
        self.partitions += session.targets.len();
        self.sessions.insert(id, session);
        SessionUse::Full(id)
    }

    fn advance(
        &mut self,
        request: SessionRequest,
    ) -> Result<(SessionUse, Vec<FetchTarget>), ErrorCode> {
        let session = self
            .sessions
            .get_mut(&request.id)
            .ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != request.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != request.by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let named = request.named.len();
        if session.targets.len() + named > FETCH_SESSION_PARTITIONS_MAX
            || self.partitions + named > FETCH_SESSIONS_PARTITIONS_MAX
            || !request.named.iter().all(|target| target.topic.may_exist())
        {
            self.remove(request.id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        let before = session.targets.len();
        request
            .named
            .into_iter()
            .for_each(|target| session.want(target));
        session.forget(request.forgotten);
        session.epoch = if session.epoch == i32::MAX {
            1
        } else {
            session.epoch + 1
        };
        self.uses += 1;
        session.last_used = self.uses;
        self.partitions = self.partitions + session.targets.len() - before;
        let count = session.targets.len();
        let start = if count == 0 { 0 } else { session.first % count };
        let (earlier, later) = session.targets.split_at(start);
        let targets = later
            .iter()
            .chain(earlier)
            .map(|(target, _)| target.clone())
            .collect();
        Ok((SessionUse::Incremental(request.id), targets))
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions -= session.targets.len();
        }
    }

    /// A random positive id that is not in use.
    fn draw_id(&mut self) -> i32 {
        loop {
            // xorshift64: only has to be hard to hit by chance.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let id = (self.random >> 33) as i32 & i32::MAX;
            if id != 0 && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }
}

impl FetchSession {
    fn place(&self, topic: &FetchTopicName, partition: i32) -> Option<usize> {
        self.places.get(&(topic.clone(), partition)).copied()
    }

    /// Adds a partition, or takes its new position.
    fn want(&mut self, target: FetchTarget) {
        let next = self.targets.len();
        let place = *self
            .places
            .entry((target.topic.clone(), target.partition))
            .or_insert(next);
        if place == next {
            self.targets.push((target, NOTHING_TOLD));
        } else {
            self.targets[place].0 = target;
        }
    }

    fn forget(&mut self, forgotten: Vec<(FetchTopicName, i32)>) {
        if forgotten.is_empty() {
            return;
        }
        let forgotten: HashSet<_> = forgotten.into_iter().collect();
        self.targets
            .retain(|(target, _)| !forgotten.contains(&(target.topic.clone(), target.partition)));
        let places = self.targets.iter().enumerate();
        self.places = places
            .map(|(place, (target, _))| ((target.topic.clone(), target.partition), place))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(partition: i32, offset: i64) -> FetchTarget {
        FetchTarget {
            topic: FetchTopicName::Name("t".into()),
            partition,
            offset,
            bytes_max: 1,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
        }
    }

    fn request(id: i32, epoch: i32, named: Vec<FetchTarget>) -> SessionRequest {
        SessionRequest {
            id,
            epoch,
            by_id: false,
            named,
            forgotten: Vec::new(),
        }
    }

    #[test]
    fn an_incremental_fetch_keeps_what_it_does_not_name() {
        let mut sessions = FetchSessions::new(1);
        let (session, _) = sessions
            .begin(request(0, 0, vec![target(0, 5), target(1, 6)]))
            .unwrap();
        let (next, targets) = sessions
            .begin(request(session.id(), 1, vec![target(1, 7)]))
            .unwrap();
        assert_eq!(next, SessionUse::Incremental(session.id()));
        assert_eq!(targets, [target(0, 5), target(1, 7)]);
    }

    #[test]
    fn a_partition_that_is_named_again_is_wanted_once_at_its_last_position() {
        for count in [3, TARGETS_LOOKED_THROUGH_MAX as i32, 200] {
            let mut targets = FetchTargets::default();
            for round in 0..3 {
                for partition in 0..count {
                    targets.want(target(partition, round));
                }
            }
            let expected: Vec<_> = (0..count).map(|partition| target(partition, 2)).collect();
            assert_eq!(targets.into_vec(), expected);
        }
    }

    #[test]
    fn a_topic_whose_name_cannot_be_is_served_without_a_session() {
        let mut sessions = FetchSessions::new(1);
        let long = |bytes: usize| FetchTarget {
            topic: FetchTopicName::Name("x".repeat(bytes).into()),
            ..target(0, 0)
        };
        let (refused, _) = sessions
            .begin(request(0, 0, vec![long(TOPIC_NAME_BYTES_MAX + 1)]))
            .unwrap();
        assert_eq!(refused, SessionUse::None);
        let (session, _) = sessions
            .begin(request(0, 0, vec![long(TOPIC_NAME_BYTES_MAX)]))
            .unwrap();
        assert_eq!(
            sessions
                .begin(request(session.id(), 1, vec![long(30_000)]))
                .unwrap_err(),
            ErrorCode::FetchSessionIdNotFound
        );
        assert_eq!(sessions.partitions, 0);
    }

    #[test]
    fn a_session_does_not_outgrow_its_limit() {
        let mut sessions = FetchSessions::new(1);
        let targets = |range: std::ops::Range<i32>| range.map(|partition| target(partition, 0));
        let most = FETCH_SESSION_PARTITIONS_MAX as i32;
        let (none, _) = sessions
            .begin(request(0, 0, targets(0..most + 1).collect()))
            .unwrap();
        assert_eq!(none, SessionUse::None);
        let (session, _) = sessions
            .begin(request(0, 0, targets(0..most).collect()))
            .unwrap();
        assert_eq!(
            sessions
                .begin(request(session.id(), 1, vec![target(most, 0)]))
                .unwrap_err(),
            ErrorCode::FetchSessionIdNotFound
        );
        assert_eq!(sessions.partitions, 0);
    }

    #[test]
    fn a_partition_is_news_once() {
        let mut sessions = FetchSessions::new(1);
        let (session, _) = sessions.begin(request(0, 0, vec![target(0, 5)])).unwrap();
        assert!(sessions.is_news(session.id(), &target(0, 5), false, false, 10, 0));
        assert!(!sessions.is_news(session.id(), &target(0, 5), false, false, 10, 0));
        assert!(sessions.is_news(session.id(), &target(0, 5), false, false, 11, 0));
        assert!(sessions.is_news(session.id(), &target(0, 5), false, true, -1, -1));
        assert!(sessions.is_news(session.id(), &target(0, 5), false, false, 11, 0));
    }

    #[test]
    fn wrong_ids_and_epochs_are_refused() {
        let mut sessions = FetchSessions::new(1);
        assert_eq!(
            sessions.begin(request(9, 1, vec![])).unwrap_err(),
            ErrorCode::FetchSessionIdNotFound
        );
        let (session, _) = sessions.begin(request(0, 0, vec![target(0, 5)])).unwrap();
        assert_eq!(
            sessions
                .begin(request(session.id(), 2, vec![]))
                .unwrap_err(),
            ErrorCode::InvalidFetchSessionEpoch
        );
    }

    #[test]
    fn the_oldest_session_makes_room_and_counts_stay_right() {
        let mut sessions = FetchSessions::new(1);
        let (first, _) = sessions.begin(request(0, 0, vec![target(0, 0)])).unwrap();
        for _ in 0..FETCH_SESSIONS_MAX {
            sessions.begin(request(0, 0, vec![target(0, 0)])).unwrap();
        }
        assert_eq!(
            sessions.begin(request(first.id(), 1, vec![])).unwrap_err(),
            ErrorCode::FetchSessionIdNotFound
        );
        assert_eq!(sessions.partitions, FETCH_SESSIONS_MAX);
    }
}
