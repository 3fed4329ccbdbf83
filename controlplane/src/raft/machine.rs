//! Puts a pure state machine behind openraft: applies committed entries, takes and installs snapshots, and lets the rest of
//! the process read the state and follow its changes.

use super::snapshot::SnapshotStore;
use super::{Applied, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::history::History;
use bytes::Bytes;
use control_api::codec::CodecError;
use control_api::image::MetadataEvent;
use control_api::message::Response;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// A pure state machine. A clone must be cheap enough to be taken while entries wait.
pub trait Machine: Default + Clone + Send + Sync + 'static {
    /// An error means that the entry is not readable by this version; the node stops rather than skip it.
    fn apply_entry(
        &mut self,
        index: u64,
        command: &[u8],
    ) -> Result<(Response, Vec<MetadataEvent>), CodecError>;
    /// The whole state, for a snapshot.
    fn to_bytes(&self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError>;
    /// The index of the last change that its followers are told of.
    fn changed_index(&self) -> u64;
}

/// A group's state as the rest of the process sees it.
pub struct Shared<M> {
    state: RwLock<State<M>>,
    history: Mutex<History>,
    applied: watch::Sender<u64>,
    /// Bytes of log applied since the last snapshot.
    unsaved_bytes: AtomicU64,
}

#[derive(Default)]
struct State<M> {
    machine: M,
    last: Option<LogId>,
    membership: StoredMembership,
}

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
        let mut response = Response::Done(Vec::new());
        let mut events = Vec::new();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                state.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
            EntryPayload::Normal(command) => {
                let applied = state.machine.apply_entry(index, &command.0);
                (response, events) = applied.map_err(|error| {
                    io::Error::other(format!("log entry {index} cannot be read: {error}"))
                })?;
                let bytes = command.0.len() as u64;
                self.unsaved_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
        }
        state.last = Some(entry.log_id);
        self.history().push(index, events);
        drop(state);
        self.applied.send_replace(index);
        Ok(response)
    }

    fn install(&self, machine: M, meta: &SnapshotMeta) {
        let mut state = self.state_mut();
        let index = meta.last_log_id.as_ref().map_or(0, |id| id.index);
        self.history().restart(machine.changed_index(), index);
        state.machine = machine;
        state.last = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        drop(state);
        self.unsaved_bytes.store(0, Ordering::Relaxed);
        self.applied.send_replace(index);
    }
}

/// What openraft drives.
pub struct Applier<M> {
    shared: Arc<Shared<M>>,
    snapshots: SnapshotStore,
}

impl<M: Machine> Applier<M> {
    /// Starts from the last snapshot, if there is one; openraft then applies the log again from there.
    pub fn open(snapshots: SnapshotStore) -> io::Result<Self> {
        let shared = Shared {
            state: RwLock::new(State::<M>::default()),
            history: Mutex::default(),
            applied: watch::Sender::new(0),
            unsaved_bytes: AtomicU64::new(0),
        };
        if let Some((meta, bytes)) = snapshots.load()? {
            shared.install(M::from_bytes(&bytes).map_err(io::Error::other)?, &meta);
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
        let decode_and_save = move || {
            let machine = M::from_bytes(&bytes).map_err(io::Error::other)?;
            snapshots.save(&saved, &bytes)?;
            Ok::<M, io::Error>(machine)
        };
        let machine = spawn_blocking(decode_and_save)
            .await
            .map_err(io::Error::other)??;
        self.shared.install(machine, meta);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let snapshots = self.snapshots.clone();
        let loaded = spawn_blocking(move || snapshots.load())
            .await
            .map_err(io::Error::other)??;
        Ok(loaded.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Takes one snapshot, beside the entries that go on being applied.
pub struct Builder<M> {
    shared: Arc<Shared<M>>,
    snapshots: SnapshotStore,
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for Builder<M> {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (machine, meta) = {
            let state = self.shared.state();
            let meta = SnapshotMeta {
                last_log_id: state.last,
                last_membership: state.membership.clone(),
            };
            self.shared.unsaved_bytes.store(0, Ordering::Relaxed);
            (state.machine.clone(), meta)
        };
        let snapshots = self.snapshots.clone();
        let encode_and_save = move || {
            let bytes = machine.to_bytes();
            snapshots.save(&meta, &bytes)?;
            let snapshot = bytes.into();
            Ok::<Snapshot, io::Error>(Snapshot { meta, snapshot })
        };
        spawn_blocking(encode_and_save)
            .await
            .map_err(io::Error::other)?
    }
}
