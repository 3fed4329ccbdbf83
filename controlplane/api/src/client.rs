//! How a broker or an operator's command talks to the controllers.
//!
//! A call finds the leader of the right Raft group by itself and is tried again until its deadline, which is sound because
//! every request may be repeated. Each call in flight has a connection of its own, taken from a small pool, so a slow one
//! never delays a heartbeat.

use crate::frame::{self, ControlFrameReader, FrameError};
use crate::handshake::{Party, Role};
use crate::ids::Position;
use crate::level::ClusterLevel;
use crate::message::{ControlError, Request, Response};
use crate::metadata_stream::MetadataStream;
use crate::secured;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Calls that wait for an answer at a time; more wait for their turn.
const CALLS_IN_FLIGHT_MAX: usize = 64;
const IDLE_CONNECTIONS_MAX: usize = 8;
/// Controllers that one may tell of.
const LEARNT_MAX: usize = 16;
/// Longer than a controller takes to answer that it has no majority, so that this answer is not missed.
const ATTEMPT_TIME_MAX: Duration = Duration::from_millis(1_500);
const CONNECT_TIME_MAX: Duration = Duration::from_millis(500);
/// The pause before another controller is asked; a new leader takes some hundred milliseconds to be elected.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// A controller that has not answered for so long may be hung, so another one is asked beside it: two survivors have elected a
/// leader soon after, while the attempt itself would go on for much longer.
const SILENCE_MAX: Duration = Duration::from_millis(250);
/// For so long the others are preferred to a controller that was silent.
const SUSPICION: Duration = Duration::from_secs(5);
/// A metadata stream is silent for at most this when all is well.
pub const KEEP_ALIVE: Duration = Duration::from_millis(250);
pub(crate) const STREAM_SILENCE_MAX: Duration = Duration::from_millis(1_000);

const _: () = assert!(
    KEEP_ALIVE.as_millis() * 3 <= STREAM_SILENCE_MAX.as_millis(),
    "one late keep-alive does not end a stream"
);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The request may or may not have taken effect.
    #[error("no controller answered in time: {0}")]
    Unavailable(String),
    #[error(transparent)]
    Refused(#[from] ControlError),
    #[error("a request of {0} bytes is longer than a controller reads")]
    TooLarge(usize),
    /// Only from a metadata stream: watch again from the last index seen.
    #[error("the metadata stream ended: {0}")]
    StreamEnded(String),
}

pub struct ControlClient {
    /// Those that it was given at the start.
    given: Vec<String>,
    party: Party,
    role: Role,
    level: ClusterLevel,
    state: Mutex<State>,
    in_flight: Semaphore,
}

#[derive(Default)]
struct State {
    /// Those that are asked: the ones learnt, then the ones given.
    addresses: Vec<String>,
    idle: HashMap<String, Vec<Connection>>,
    /// By Raft group: who answered last, or was named as the leader.
    leaders: HashMap<u8, String>,
    /// Which address is tried next when no leader is known.
    next_address: usize,
    /// Who did not answer, and until when others are preferred.
    suspects: HashMap<String, Instant>,
    /// The cluster of the first controller that said one. From then on no other's is spoken to.
    cluster_id: String,
}

pub(crate) type Connection = ControlFrameReader<secured::Stream>;

impl ControlClient {
    /// `addresses`: each controller's `host:port`. At least one.
    pub fn new(addresses: Vec<String>, party: Party, role: Role) -> Self {
        assert!(!addresses.is_empty(), "a client needs an address to call");
        let state = State {
            addresses: addresses.clone(),
            cluster_id: party.cluster_id.clone(),
            ..State::default()
        };
        ControlClient {
            given: addresses,
            party,
            role,
            level: ClusterLevel::default(),
            state: Mutex::new(state),
            in_flight: Semaphore::new(CALLS_IN_FLIGHT_MAX),
        }
    }

    /// From now on these controllers are asked too. What was learnt before is forgotten, what was given at the start is not.
    pub fn learn(&self, addresses: impl IntoIterator<Item = String>) {
        let mut all: Vec<String> = addresses.into_iter().take(LEARNT_MAX).collect();
        let given = self.given.iter().filter(|given| !all.contains(given));
        let given: Vec<String> = given.cloned().collect();
        all.extend(given);
        self.state().addresses = all;
    }

    /// Speaks at the cluster's level, which somebody else keeps track of.
    pub fn at(mut self, level: ClusterLevel) -> Self {
        self.level = level;
        self
    }

    fn encode(&self, request: &Request) -> Vec<u8> {
        frame::encode(
            self.level.get(),
            frame::KIND_REQUEST,
            request.group(),
            request,
        )
    }

    /// Asks the leader of the request's group. A `Response::Error` comes back as [`ClientError::Refused`].
    pub async fn call(
        &self,
        request: Request,
        deadline: Duration,
    ) -> Result<Response, ClientError> {
        let group = request.group();
        let bytes = self.encode(&request);
        if bytes.len() > frame::REQUEST_BYTES_MAX {
            return Err(ClientError::TooLarge(bytes.len()));
        }
        let deadline = Instant::now() + deadline;
        let mut why = "every connection is in use".to_owned();
        let mut is_first = true;
        let Ok(permit) = timeout_at(deadline, self.in_flight.acquire()).await else {
            return Err(ClientError::Unavailable(why));
        };
        let _permit = permit.expect("the semaphore is never closed");
        while Instant::now() < deadline {
            let address = self.leader_or_next(group);
            let until = deadline.min(Instant::now() + ATTEMPT_TIME_MAX);
            let attempt = timeout_at(until, self.ask_around(&address, &bytes)).await;
            // Whoever of them answered.
            let (address, attempt) = match attempt {
                Ok((answered, outcome)) => (answered, Ok(outcome)),
                Err(elapsed) => (address, Err(elapsed)),
            };
            let first = std::mem::replace(&mut is_first, false);
            let pause = match attempt {
                Ok(Ok(Response::Error(ControlError::NotLeader { leader }))) => {
                    why = format!("{address} is not the leader");
                    let hint = leader.filter(|leader| *leader != address);
                    let pause = if hint.is_some() {
                        RETRY_PAUSE / 10
                    } else {
                        RETRY_PAUSE
                    };
                    self.learn_leader(group, hint);
                    pause
                }
                Ok(Ok(Response::Error(ControlError::Unavailable))) => {
                    why = format!("{address} has no majority");
                    self.learn_leader(group, None);
                    RETRY_PAUSE
                }
                Ok(Ok(Response::Error(error))) => return Err(error.into()),
                Ok(Ok(response)) => {
                    self.learn_leader(group, Some(address));
                    return Ok(response);
                }
                Ok(Err(error)) => {
                    why = format!("{address}: {error}");
                    self.learn_leader(group, None);
                    RETRY_PAUSE
                }
                Err(_) => {
                    // What the last whole attempt came to says more than that the next was cut short.
                    if until < deadline || first {
                        why = format!("{address} did not answer in time");
                    }
                    self.learn_leader(group, None);
                    RETRY_PAUSE
                }
            };
            sleep(pause).await;
        }
        Err(ClientError::Unavailable(why))
    }

    /// Asks this one controller, leader or not. For `Request::Status`.
    pub async fn call_one(
        &self,
        address: &str,
        request: Request,
        deadline: Duration,
    ) -> Result<Response, ClientError> {
        let bytes = self.encode(&request);
        match timeout(deadline, self.attempt(address, &bytes)).await {
            Ok(Ok(Response::Error(error))) => Err(error.into()),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(ClientError::Unavailable(format!("{address}: {error}"))),
            Err(_) => Err(ClientError::Unavailable(format!(
                "{address} did not answer in time"
            ))),
        }
    }

    /// The metadata after `from`; index 0 asks for a snapshot first. Each call starts with another controller, so watching
    /// again after an error leaves a bad one behind. A controller that lost touch with the others goes on streaming what it
    /// has: a follower that stays behind the `metadata_index` of its heartbeats' answers should watch again.
    pub async fn watch(&self, from: Position) -> Result<MetadataStream, ClientError> {
        let request = Request::WatchMetadata { from };
        let bytes = self.encode(&request);
        let mut why = String::new();
        for _ in 0..self.addresses().len() {
            let address = self.next_address();
            match self.open_stream(&address, &bytes).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    self.suspect(&address);
                    why = format!("{address}: {error}");
                }
            }
        }
        Err(ClientError::Unavailable(why))
    }

    /// Asks a controller and, once it has been silent for too long, the others beside it, one after the other: a request may be
    /// repeated, so the first answer counts that says more than to ask the silent one.
    async fn ask_around(
        &self,
        address: &str,
        request: &[u8],
    ) -> (String, Result<Response, FrameError>) {
        let mut first = pin!(self.attempt(address, request));
        let patience = match self.is_suspect(address) {
            true => Duration::ZERO,
            false => SILENCE_MAX,
        };
        if let Ok(outcome) = timeout(patience, &mut first).await {
            self.trust(address);
            return (address.to_owned(), outcome);
        }
        self.suspect(address);
        loop {
            let others = self.addresses();
            for other in others.iter().filter(|other| *other != address) {
                let beside = timeout(SILENCE_MAX, self.attempt(other, request));
                let outcome = tokio::select! {
                    outcome = &mut first => {
                        self.trust(address);
                        return (address.to_owned(), outcome);
                    }
                    outcome = beside => outcome,
                };
                match outcome {
                    Ok(Ok(Response::Error(ControlError::NotLeader { leader }))) => {
                        if leader.as_ref().is_some_and(|leader| leader != address) {
                            let elsewhere = Response::Error(ControlError::NotLeader { leader });
                            return (other.clone(), Ok(elsewhere));
                        }
                    }
                    Ok(Ok(Response::Error(ControlError::Unavailable)) | Err(_)) => {}
                    Ok(Ok(response)) => return (other.clone(), Ok(response)),
                    Err(_) => self.suspect(other),
                }
            }
            tokio::select! {
                outcome = &mut first => {
                    self.trust(address);
                    return (address.to_owned(), outcome);
                }
                () = sleep(RETRY_PAUSE) => {}
            }
        }
    }

    async fn attempt(&self, address: &str, request: &[u8]) -> Result<Response, FrameError> {
        if let Some(connection) = self.take_idle(address) {
            // The controller may have been restarted since: then a new connection is worth trying.
            if let Ok(response) = self.exchange(address, connection, request).await {
                return Ok(response);
            }
            self.state().idle.remove(address);
        }
        let connection = self.connect(address).await?;
        self.exchange(address, connection, request).await
    }

    async fn exchange(
        &self,
        address: &str,
        mut connection: Connection,
        request: &[u8],
    ) -> Result<Response, FrameError> {
        frame::send(connection.get_mut(), request).await?;
        let response = connection.next().await?.body(frame::KIND_RESPONSE)?;
        let mut state = self.state();
        let idle = state.idle.entry(address.to_owned()).or_default();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(connection);
        }
        Ok(response)
    }

    async fn open_stream(
        &self,
        address: &str,
        request: &[u8],
    ) -> Result<MetadataStream, FrameError> {
        let mut connection = self.connect(address).await?;
        frame::send(connection.get_mut(), request).await?;
        let first = timeout(STREAM_SILENCE_MAX, connection.next()).await;
        let first = first.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        Ok(MetadataStream::new(connection, first))
    }

    async fn connect(&self, address: &str) -> Result<Connection, FrameError> {
        let mut party = self.party.clone();
        party.cluster_id.clone_from(&self.state().cluster_id);
        let (stream, server) =
            secured::connect(address, &party, self.role, 0, CONNECT_TIME_MAX).await?;
        if party.cluster_id.is_empty() {
            self.state().cluster_id = server.cluster_id;
        }
        Ok(ControlFrameReader::new(stream, frame::FRAME_BYTES_MAX))
    }

    fn take_idle(&self, address: &str) -> Option<Connection> {
        self.state().idle.get_mut(address)?.pop()
    }

    fn leader_or_next(&self, group: u8) -> String {
        let leader = self.state().leaders.get(&group).cloned();
        leader.unwrap_or_else(|| self.next_address())
    }

    fn learn_leader(&self, group: u8, leader: Option<String>) {
        let mut state = self.state();
        match leader {
            Some(leader) => state.leaders.insert(group, leader),
            None => state.leaders.remove(&group),
        };
    }

    /// In turn, but one that was silent of late only if all were.
    fn next_address(&self) -> String {
        let mut state = self.state();
        let (count, now) = (state.addresses.len(), Instant::now());
        let start = state.next_address;
        let mut turns = (start..start + count).map(|turn| turn % count);
        let suspected = |position: &usize| {
            let until = state.suspects.get(&state.addresses[*position]);
            until.is_some_and(|until| now < *until)
        };
        let position = turns.find(|position| !suspected(position));
        let position = position.unwrap_or(start % count);
        state.next_address = position + 1;
        state.addresses[position].clone()
    }

    fn addresses(&self) -> Vec<String> {
        self.state().addresses.clone()
    }

    fn is_suspect(&self, address: &str) -> bool {
        let until = self.state().suspects.get(address).copied();
        until.is_some_and(|until| Instant::now() < until)
    }

    fn suspect(&self, address: &str) {
        let until = Instant::now() + SUSPICION;
        self.state().suspects.insert(address.to_owned(), until);
    }

    fn trust(&self, address: &str) {
        self.state().suspects.remove(address);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole, so one that a panic interrupted elsewhere is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
