//! Puts a pure state machine behind openraft: applies committed entries, takes and installs snapshots, and lets the rest of
//! the process read the state and follow its changes.

use super::digest::Digests;
use super::snapshot::SnapshotStore;
use super::{Applied, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::clock::wall_clock_ms;
use crate::history::History;
use bytes::Bytes;
use control_api::codec::CodecError;
use control_api::ids::Position;
use control_api::image::MetadataEvent;
use control_api::level::{ClusterLevel, Level};
use control_api::message::Response;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::error;

/// A pure state machine. A clone must be cheap enough to be taken while entries wait.
pub trait Machine: Default + Clone + Send + Sync + 'static {
    /// An error means that the entry is not readable by this version; the node stops rather than skip it.
    fn apply_entry(
        &mut self,
        at: Position,
        command: &[u8],
    ) -> Result<(Response, Vec<MetadataEvent>), CodecError>;
    /// The whole state, for a snapshot.
    fn to_bytes(&self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError>;
    /// The place of the last change that its followers are told of.
    fn changed_at(&self) -> Position;
    /// Of what its followers have when they were told of everything.
    fn digest(&self) -> u64;
    /// At which it is written, and commands to it are; none until the first command says so.
    fn feature_level(&self) -> Level;
}

/// A group's state as the rest of the process sees it.
pub struct Shared<M> {
    state: RwLock<State<M>>,
    history: Mutex<History>,
    applied: watch::Sender<u64>,
    /// Bytes of log applied since the last snapshot.
    unsaved_bytes: AtomicU64,
    /// How long the state of the last snapshot is.
    snapshot_bytes: AtomicU64,
    snapshot_time_ms: AtomicU64,
    snapshot_failures: AtomicU64,
    /// The process writes at this level; the state machines raise it.
    level: ClusterLevel,
}

#[derive(Default)]
struct State<M> {
    machine: M,
    last: Option<LogId>,
    membership: StoredMembership,
    digests: Digests,
}

/// A failed snapshot is tried again after this, and after twice as long each time that it fails again.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

impl<M: Machine> Shared<M> {
    /// Runs `read` on the state. It must be short: entries wait meanwhile.
    pub fn read<T>(&self, read: impl FnOnce(&M) -> T) -> T {
        read(&self.state().machine)
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index of the last entry applied; it can be waited for.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub fn unsaved_bytes(&self) -> u64 {
        self.unsaved_bytes.load(Ordering::Relaxed)
    }

    pub fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes.load(Ordering::Relaxed)
    }

    /// When the last snapshot was taken, milliseconds since 1970; 0 before the first.
    pub fn snapshot_time_ms(&self) -> u64 {
        self.snapshot_time_ms.load(Ordering::Relaxed)
    }

    /// How many snapshots could not be written, read or installed.
    pub fn snapshot_failures(&self) -> u64 {
        self.snapshot_failures.load(Ordering::Relaxed)
    }

    /// Checksums of the last states, by index.
    pub fn digests(&self) -> Vec<(u64, u32)> {
        self.state().digests.recent()
    }

    /// Nothing is lost with a snapshot that fails, as the log stays until there is one: it is said, counted, and tried again.
    fn snapshot_failed(&self, what: &str, error: &io::Error) {
        self.snapshot_failures.fetch_add(1, Ordering::Relaxed);
        error!(%error, "cannot {what} a snapshot");
    }

    fn snapshot_saved(&self, bytes: usize, time_ms: u64) {
        self.snapshot_bytes.store(bytes as u64, Ordering::Relaxed);
        self.snapshot_time_ms.store(time_ms, Ordering::Relaxed);
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State<M>> {
        self.state
            .read()
            .expect("a state whose apply panicked is not read again")
    }

    fn state_mut(&self) -> std::sync::RwLockWriteGuard<'_, State<M>> {
        self.state
            .write()
            .expect("a state whose apply panicked is not used again")
    }

    fn apply(&self, entry: &super::Entry) -> io::Result<Response> {
        let index = entry.log_id.index;
        let mut state = self.state_mut();
        if state.last.is_some_and(|last| entry.log_id <= last) {
            return Err(io::Error::other(format!(
                "the log contradicts itself: entry {index} comes after entry {:?} was applied",
                state.last
            )));
        }
        let term = entry.log_id.committed_leader_id().term;
        let at = Position { term, index };
        let mut response = Response::Done(Vec::new());
        let mut events = Vec::new();
        let mut applied: &[u8] = &[];
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                state.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
            EntryPayload::Normal(command) => {
                applied = &command.0;
                let done = state.machine.apply_entry(at, applied);
                (response, events) = done.map_err(|error| {
                    io::Error::other(format!("log entry {index} cannot be read: {error}"))
                })?;
                self.unsaved_bytes
                    .fetch_add(applied.len() as u64, Ordering::Relaxed);
            }
        }
        let (level, digest) = (state.machine.feature_level(), state.machine.digest());
        let answer = (level, &response);
        state.digests.push(at, applied, answer, digest);
        state.last = Some(entry.log_id);
        self.level.raise(level);
        self.history().push(at, level, events, digest);
        drop(state);
        self.applied.send_replace(index);
        Ok(response)
    }

    fn capture(&self) -> Captured<M> {
        let state = self.state();
        Captured {
            machine: state.machine.clone(),
            digests: state.digests.clone(),
            meta: SnapshotMeta {
                last_log_id: state.last,
                last_membership: state.membership.clone(),
            },
            unsaved_bytes: self.unsaved_bytes(),
        }
    }

    fn install(&self, installed: Decoded<M>, meta: &SnapshotMeta) {
        let Decoded { machine, digests } = installed;
        let mut state = self.state_mut();
        let applied = position_of(meta);
        let digest = machine.digest();
        self.history()
            .restart(machine.changed_at(), applied, digest);
        self.level.raise(machine.feature_level());
        state.machine = machine;
        state.digests = digests;
        state.last = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        drop(state);
        self.unsaved_bytes.store(0, Ordering::Relaxed);
        self.applied.send_replace(applied.index);
    }
}

fn position_of(meta: &SnapshotMeta) -> Position {
    let last = meta.last_log_id.as_ref();
    last.map_or(Position::default(), |id| Position {
        term: id.committed_leader_id().term,
        index: id.index,
    })
}

/// What a snapshot holds.
struct Decoded<M> {
    machine: M,
    digests: Digests,
}

impl<M: Machine> Decoded<M> {
    fn new(meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<Self> {
        let (state, digests) = Digests::unseal(bytes, position_of(meta).index)?;
        let machine = M::from_bytes(state).map_err(io::Error::other)?;
        Ok(Decoded { machine, digests })
    }
}

/// The state in a snapshot, for those who only look at it.
pub(crate) fn read_state<M: Machine>(bytes: &[u8]) -> io::Result<M> {
    let (state, _) = Digests::unseal(bytes, 0)?;
    M::from_bytes(state).map_err(io::Error::other)
}

/// What openraft drives.
pub struct Applier<M> {
    shared: Arc<Shared<M>>,
    snapshots: SnapshotStore,
}

impl<M: Machine> Applier<M> {
    /// Starts from the last snapshot, if there is one; openraft then applies the log again from there.
    pub fn open(snapshots: SnapshotStore, level: ClusterLevel) -> io::Result<Self> {
        let shared = Shared {
            state: RwLock::new(State::<M>::default()),
            history: Mutex::default(),
            applied: watch::Sender::new(0),
            unsaved_bytes: AtomicU64::new(0),
            snapshot_bytes: AtomicU64::new(0),
            snapshot_time_ms: AtomicU64::new(0),
            snapshot_failures: AtomicU64::new(0),
            level,
        };
        if let Some((meta, bytes)) = snapshots.load()? {
            shared.install(Decoded::new(&meta, &bytes)?, &meta);
            shared.snapshot_saved(bytes.len(), snapshots.saved_ms()?);
        }
        Ok(Applier {
            shared: Arc::new(shared),
            snapshots,
        })
    }

    pub fn shared(&self) -> Arc<Shared<M>> {
        self.shared.clone()
    }
}

impl<M: Machine> RaftStateMachine<TypeConfig> for Applier<M> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.shared.state();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let response = self.shared.apply(&entry)?;
            if let Some(responder) = responder {
                responder.send(Applied(response));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        Builder {
            shared: self.shared.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, bytes: Bytes) -> io::Result<()> {
        let (snapshots, saved) = (self.snapshots.clone(), meta.clone());
        let snapshot = bytes.clone();
        let installed = blocking(move || Decoded::<M>::new(&saved, &snapshot)).await?;
        let level = installed.machine.feature_level();
        // What is not on disk must not be in force, and nothing else can be applied before it is: so this waits.
        let mut pauses = pauses();
        loop {
            let (snapshots, saved, bytes) = (snapshots.clone(), meta.clone(), bytes.clone());
            match blocking(move || snapshots.save(level, &saved, &bytes)).await {
                Ok(()) => break,
                Err(error) => self.shared.snapshot_failed("install", &error),
            }
            sleep(pauses.next().unwrap_or(RETRY_PAUSE_MAX)).await;
        }
        self.shared.install(installed, meta);
        self.shared.snapshot_saved(bytes.len(), wall_clock_ms());
        Ok(())
    }

    /// Where the file cannot be read, the state in memory does as well, or better.
    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let snapshots = self.snapshots.clone();
        match blocking(move || snapshots.load()).await {
            Ok(loaded) => Ok(loaded.map(|(meta, snapshot)| Snapshot { meta, snapshot })),
            Err(error) => {
                self.shared.snapshot_failed("read", &error);
                let state = self.shared.capture();
                blocking(move || Ok(Some(state.encode()))).await
            }
        }
    }
}

/// The state at one index, which is written while entries go on being applied.
struct Captured<M> {
    machine: M,
    digests: Digests,
    meta: SnapshotMeta,
    /// Bytes of log that it covers and the snapshot before it does not.
    unsaved_bytes: u64,
}

impl<M: Machine> Captured<M> {
    fn encode(&self) -> Snapshot {
        Snapshot {
            meta: self.meta.clone(),
            snapshot: self.digests.seal(self.machine.to_bytes()).into(),
        }
    }
}

/// Takes one snapshot, beside the entries that go on being applied.
pub struct Builder<M> {
    shared: Arc<Shared<M>>,
    snapshots: SnapshotStore,
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for Builder<M> {
    type SnapshotData = Bytes;

    /// An error would end the process for what a full disk or a lack of descriptors does in passing.
    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let mut pauses = pauses();
        loop {
            match self.attempt().await {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => self.shared.snapshot_failed("take", &error),
            }
            sleep(pauses.next().unwrap_or(RETRY_PAUSE_MAX)).await;
        }
    }
}

impl<M: Machine> Builder<M> {
    async fn attempt(&self) -> io::Result<Snapshot> {
        let state = self.shared.capture();
        let covered = state.unsaved_bytes;
        let snapshots = self.snapshots.clone();
        let encode_and_save = move || {
            let level = state.machine.feature_level();
            let snapshot = state.encode();
            snapshots.save(level, &snapshot.meta, &snapshot.snapshot)?;
            Ok(snapshot)
        };
        let snapshot = blocking(encode_and_save).await?;
        let bytes = snapshot.snapshot.len();
        self.shared.snapshot_saved(bytes, wall_clock_ms());
        let rest = |unsaved: u64| Some(unsaved.saturating_sub(covered));
        let unsaved = &self.shared.unsaved_bytes;
        // It is always changed: `rest` never says no.
        let _ = unsaved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        Ok(snapshot)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

fn pauses() -> impl Iterator<Item = Duration> {
    let doubled = |pause: &Duration| Some((*pause * 2).min(RETRY_PAUSE_MAX));
    std::iter::successors(Some(RETRY_PAUSE_MIN), doubled)
}
