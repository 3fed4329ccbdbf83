//! A Raft group's log and vote on disk, kept by `raft-log`.
//!
//! openraft calls it. Appends return at once and report through a callback when they are on stable storage; the crate's
//! worker groups them into one flush.

use super::repair;
use super::wire::{WireLogId, WireMembership, WireVote};
use super::{Entry, EntryPayload, LogId, Proposal, TypeConfig, Vote};
use crate::command::COMMAND_BYTES_MAX;
use crate::limits::{BATCH_BYTES_SOFT_MAX, ENTRIES_PER_BATCH_MAX};
use bytes::Bytes;
use control_api::codec;
// Not tokio's, which has a task that has done much already wait for its next turn: some of ours wait on a thread.
use futures::channel::oneshot;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use prometheus::{Histogram, HistogramTimer};
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{DumpApi, RaftLogAction, RaftLogRecord};
use std::error::Error;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long the worker collects appends for one flush. Without it each append is flushed alone, at a tenth of the rate.
const FLUSH_WAIT: Duration = Duration::from_millis(1);
/// A file of the log. Whole files are deleted once a snapshot covers them.
const FILE_BYTES: usize = 8 << 20;
const READ_BUFFER_BYTES: usize = 1 << 20;
/// Recent entries kept in memory, which is where followers are served from.
const CACHE_BYTES: usize = 64 << 20;
const CACHE_ENTRIES: usize = 100_000;
/// A membership is far smaller than this, a command no longer.
const PAYLOAD_BYTES_MAX: usize = COMMAND_BYTES_MAX + 1024;

/// Cheap to clone; all clones are one log.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Arc<Mutex<raft_log::RaftLog<LogTypes>>>,
    /// From a write to its being on stable storage.
    flush_seconds: Option<Histogram>,
}

impl LogStore {
    /// Puts right what a loss of power may leave; any other damage is an error.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        LogStore::open_sized(directory, FILE_BYTES)
    }

    /// With files of about so many bytes.
    pub(crate) fn open_sized(directory: &Path, file_bytes: usize) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut config = config(directory);
        config.wal.chunk_max_size = Some(file_bytes);
        repair::mend(&config.wal)?;
        // It would also cut what no loss of power explains.
        config.wal.truncate_incomplete_record = Some(false);
        let log = raft_log::RaftLog::open(Arc::new(config))?;
        let state = log.log_state();
        let first = state.purged().map_or(0, |(_, index)| index + 1);
        if state.last() > state.purged() && log.read(first, first + 1).next().is_none() {
            return Err(damaged(format!(
                "the log in {} lacks entry {first}, which was not purged",
                directory.display()
            )));
        }
        Ok(LogStore {
            log: Arc::new(Mutex::new(log)),
            flush_seconds: None,
        })
    }

    /// Has every flush observed.
    pub(crate) fn timed(mut self, flush_seconds: Histogram) -> Self {
        self.flush_seconds = Some(flush_seconds);
        self
    }

    fn timer(&self) -> Option<HistogramTimer> {
        self.flush_seconds.as_ref().map(Histogram::start_timer)
    }

    /// Begins the log of a new disk, which is on stable storage when this returns. The directory must be empty or absent.
    pub(crate) fn format(directory: &Path, disk: &str) -> io::Result<()> {
        let log = LogStore::open(directory)?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut log = log.log();
            log.save_user_data(Some(disk.to_owned()))?;
            log.flush(true, Some(Flushed(Awaiter::Waiting(sender), None)))?;
        }
        futures::executor::block_on(receiver).map_err(io::Error::other)?
    }

    /// Whether the log was begun with this disk and has its files still.
    pub(crate) fn is_of(&self, disk: &str) -> bool {
        self.log().log_state().user_data.as_deref() == Some(disk)
    }

    pub(crate) fn is_blank(&self) -> bool {
        let log = self.log();
        let state = log.log_state();
        state.last().is_none() && state.purged().is_none()
    }

    /// Whether the log lacks what a leader of `term` has seen this node acknowledge.
    pub(crate) fn has_lost(&self, acknowledged: &WireLogId, term: u64) -> bool {
        let log = self.log();
        let state = log.log_state();
        let obeys = state.vote().is_none_or(|(own, _)| *own <= term);
        let ends = [state.last(), state.purged()].into_iter().flatten();
        let end = ends.map(|(_, index)| *index).max();
        obeys && end < Some(acknowledged.index)
    }

    fn log(&self) -> MutexGuard<'_, raft_log::RaftLog<LogTypes>> {
        // A panic inside the log leaves it in an unknown state: nothing may be acknowledged from it any more.
        self.log
            .lock()
            .expect("a log that panicked is not used again")
    }

    /// Makes one change and waits until it is on stable storage.
    async fn write<T>(
        &self,
        change: impl FnOnce(&mut raft_log::RaftLog<LogTypes>) -> io::Result<T>,
    ) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut log = self.log();
            change(&mut log)?;
            let waiting = Awaiter::Waiting(sender);
            log.flush(true, Some(Flushed(waiting, self.timer())))?;
        }
        receiver.await.map_err(io::Error::other)?
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let log = self.log();
        log.read(start, end).map(|read| read.map(entry)).collect()
    }

    /// For followers: as many entries as go into one frame, at least one.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let log = self.log();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for read in log.read(start, end).take(ENTRIES_PER_BATCH_MAX) {
            let (id, payload) = read?;
            bytes += payload.parts().1.len();
            entries.push(entry((id, payload)));
            if bytes >= BATCH_BYTES_SOFT_MAX {
                break;
            }
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log().log_state().vote().map(|vote| load_vote(*vote)))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.log();
        let state = log.log_state();
        Ok(LogState {
            last_purged_log_id: state.purged().map(|id| load_id(*id)),
            last_log_id: state.last().map(|id| load_id(*id)),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = store_vote(vote)?;
        self.write(|log| log.save_vote(vote)).await
    }

    /// Not waited for: a lost one is found again from the leader.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else {
            return Ok(());
        };
        let mut log = self.log();
        log.commit(store_id(&committed))?;
        log.flush(false, None)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log().log_state().committed().map(|id| load_id(*id)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut log = self.log();
        log.append(entries.into_iter().map(record))?;
        let waiting = Awaiter::Append(callback);
        log.flush(true, Some(Flushed(waiting, self.timer())))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let next = last.map_or(0, |last| last.index + 1);
        let (end, committed) = {
            let log = self.log();
            let after = |id: Option<&StoredId>| id.map_or(0, |(_, index)| index + 1);
            let state = log.log_state();
            (after(state.last()), after(state.committed()))
        };
        if next < committed {
            return Err(io::Error::other(format!(
                "the leader's log contradicts this one: it goes on after {next} entries, and {committed} were committed here"
            )));
        }
        // The crate refuses an index past the end, where there is nothing to do.
        if end <= next {
            return Ok(());
        }
        self.write(|log| log.truncate(next)).await
    }

    async fn purge(&mut self, up_to: LogId) -> io::Result<()> {
        self.write(|log| log.purge(store_id(&up_to))).await
    }
}

/// How `raft-log` sees our log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LogTypes;

/// (term, index)
pub(super) type StoredId = (u64, u64);
/// (term, node with [`COMMITTED`] or not)
type StoredVote = (u64, u64);

/// The bit beside the node id that marks a vote which a majority has granted.
const COMMITTED: u64 = 1 << 63;

impl raft_log::Types for LogTypes {
    type LogId = StoredId;
    type LogPayload = Payload;
    type Vote = StoredVote;
    type Callback = Flushed;
    type UserData = String;

    fn log_index(id: &StoredId) -> u64 {
        id.1
    }

    fn payload_size(payload: &Payload) -> u64 {
        payload.parts().1.len() as u64
    }
}

/// What an entry says, as openraft has it.
#[derive(Clone, Debug)]
pub(super) struct Payload(EntryPayload);

const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

impl Payload {
    /// Its kind and its bytes.
    fn parts(&self) -> (u8, Bytes) {
        match &self.0 {
            EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
            EntryPayload::Normal(command) => (KIND_COMMAND, command.0.clone()),
            EntryPayload::Membership(membership) => (
                KIND_MEMBERSHIP,
                codec::encode(&WireMembership::from(membership)).into(),
            ),
        }
    }
}

impl codeq::Encode for Payload {
    /// `kind u8 | length u32 LE | bytes`; the crate adds a checksum around it.
    fn encode<W: io::Write>(&self, mut writer: W) -> io::Result<usize> {
        let (kind, bytes) = self.parts();
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        writer.write_all(&[kind])?;
        writer.write_all(&length.to_le_bytes())?;
        writer.write_all(&bytes)?;
        Ok(5 + bytes.len())
    }
}

impl codeq::Decode for Payload {
    fn decode<R: io::Read>(reader: R) -> io::Result<Self> {
        read_payload(reader).map(Payload)
    }
}

/// Reads what an entry in a log file says. Bytes that end too soon are `UnexpectedEof`, which is how the log knows a torn
/// tail; any other damage is another error. The log checks the checksum only afterwards, so anything may come in.
pub fn read_payload(mut reader: impl io::Read) -> io::Result<EntryPayload> {
    let mut header = [0; 5];
    reader.read_exact(&mut header)?;
    let [kind, length @ ..] = header;
    let length = u32::from_le_bytes(length) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(damaged(format!("a log entry of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    match kind {
        KIND_BLANK if bytes.is_empty() => Ok(EntryPayload::Blank),
        KIND_COMMAND => Ok(EntryPayload::Normal(Proposal(bytes.into()))),
        KIND_MEMBERSHIP => {
            let membership: WireMembership = codec::decode(&bytes).map_err(damaged)?;
            membership.into_payload().map_err(damaged)
        }
        kind => Err(damaged(format!("a log entry of kind {kind}"))),
    }
}

fn damaged(why: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Whom to tell that a write is on stable storage, and what times it.
pub(super) struct Flushed(Awaiter, Option<HistogramTimer>);

enum Awaiter {
    Append(IOFlushed<TypeConfig>),
    Waiting(oneshot::Sender<io::Result<()>>),
}

impl raft_log::Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        let Flushed(waiting, timer) = self;
        if let Some(timer) = timer {
            timer.observe_duration();
        }
        match waiting {
            Awaiter::Append(callback) => callback.io_completed(result),
            // Nobody waits any more when the node is being stopped.
            Awaiter::Waiting(sender) => drop(sender.send(result)),
        }
    }
}

/// One record of a log's files, for those who only look at them.
#[derive(Debug)]
pub(crate) enum Record {
    Vote {
        term: u64,
        node: u64,
        committed: bool,
    },
    Command {
        term: u64,
        index: u64,
        bytes: Bytes,
    },
    /// Whatever else; the place is (term, index).
    Other {
        what: &'static str,
        place: Option<StoredId>,
        text: String,
    },
}

/// Reads a log that no process uses, record by record, and changes nothing.
pub(crate) fn read_records(
    directory: &Path,
    mut each: impl FnMut(Record) -> io::Result<()>,
) -> io::Result<()> {
    let dump = raft_log::Dump::<LogTypes>::new(Arc::new(config(directory)))?;
    dump.write_with(|_, _, read| match read {
        Ok((_, record)) => each(readable(record)),
        // What a crash tore off at the end.
        Err(error) => each(Record::Other {
            what: "unreadable",
            place: None,
            text: error.to_string(),
        }),
    })
}

fn readable(record: RaftLogRecord<LogTypes>) -> Record {
    let other = |what, place| Record::Other {
        what,
        place,
        text: String::new(),
    };
    let action = match record {
        RaftLogRecord::Action(action) => action,
        RaftLogRecord::Checkpoint(state) => {
            return Record::Other {
                what: "checkpoint",
                place: state.last().copied(),
                text: format!("purged up to {:?}", state.purged()),
            };
        }
    };
    match action {
        RaftLogAction::SaveVote(vote) => {
            let WireVote {
                term,
                node,
                committed,
            } = WireVote::from(&load_vote(vote));
            Record::Vote {
                term,
                node,
                committed,
            }
        }
        RaftLogAction::Append((term, index), payload) => match payload.0 {
            EntryPayload::Normal(command) => Record::Command {
                term,
                index,
                bytes: command.0,
            },
            EntryPayload::Blank => other("blank", Some((term, index))),
            EntryPayload::Membership(membership) => Record::Other {
                what: "membership",
                place: Some((term, index)),
                text: membership.to_string(),
            },
        },
        RaftLogAction::Commit(id) => other("committed", Some(id)),
        RaftLogAction::TruncateAfter(id) => other("truncated", id),
        RaftLogAction::PurgeUpto(id) => other("purged", Some(id)),
    }
}

fn config(directory: &Path) -> raft_log::Config {
    let mut config = raft_log::Config::new(directory.display());
    config.wal.read_buffer_size = Some(READ_BUFFER_BYTES);
    config.wal.flush_batch_wait = Some(FLUSH_WAIT);
    config.log_cache_capacity = Some(CACHE_BYTES);
    config.log_cache_max_items = Some(CACHE_ENTRIES);
    config
}

fn record(entry: Entry) -> (StoredId, Payload) {
    (store_id(&entry.log_id), Payload(entry.payload))
}

fn entry((id, payload): (StoredId, Payload)) -> Entry {
    openraft::Entry {
        log_id: load_id(id),
        payload: payload.0,
    }
}

fn store_id(id: &LogId) -> StoredId {
    let wire = WireLogId::from(id);
    (wire.term, wire.index)
}

fn load_id((term, index): StoredId) -> LogId {
    WireLogId { term, index }.into()
}

fn store_vote(vote: &Vote) -> io::Result<StoredVote> {
    let wire = WireVote::from(vote);
    if wire.node >= COMMITTED {
        return Err(io::Error::other("a vote for an impossible node id"));
    }
    let committed = if wire.committed { COMMITTED } else { 0 };
    Ok((wire.term, wire.node | committed))
}

fn load_vote((term, node): StoredVote) -> Vote {
    let wire = WireVote {
        term,
        node: node & !COMMITTED,
        committed: node & COMMITTED != 0,
    };
    wire.into()
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use codeq::{Decode, Encode};
    use openraft::BasicNode;
    use std::collections::{BTreeMap, BTreeSet};

    fn written(payload: EntryPayload) -> Vec<u8> {
        let mut bytes = Vec::new();
        Payload(payload).encode(&mut bytes).unwrap();
        bytes
    }

    fn each_kind() -> [EntryPayload; 3] {
        let members = vec![BTreeSet::from([1, 2])];
        let nodes = [(1, BasicNode::new("a:1")), (2, BasicNode::new("b:2"))];
        let membership = openraft::Membership::new(members, BTreeMap::from(nodes)).unwrap();
        [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal(Bytes::from_static(b"command"))),
            EntryPayload::Membership(membership),
        ]
    }

    #[test]
    fn what_is_written_is_read_again() {
        for payload in each_kind() {
            let bytes = written(payload);
            let again = Payload::decode(&*bytes).unwrap();
            assert_eq!(written(again.0), bytes);
        }
    }

    /// The log cuts its tail at the one and refuses to open at the other.
    #[test]
    fn an_entry_that_is_cut_is_told_from_one_that_is_damaged() {
        let kind = |bytes: &[u8]| read_payload(bytes).unwrap_err().kind();
        for payload in each_kind() {
            let bytes = written(payload);
            for end in 0..bytes.len() {
                assert_eq!(kind(&bytes[..end]), io::ErrorKind::UnexpectedEof);
            }
            let unknown = [&[77], &bytes[1..]].concat();
            assert_eq!(kind(&unknown), io::ErrorKind::InvalidData);
        }
        for damaged in [
            [KIND_BLANK, 1, 0, 0, 0, 1].as_slice(),
            &[KIND_COMMAND, 0, 0, 0, 0xff],
            &[KIND_MEMBERSHIP, 1, 0, 0, 0, 1],
        ] {
            assert_eq!(kind(damaged), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_membership_without_voters_is_refused() {
        let nobody = EntryPayload::Membership(Default::default());
        let error = read_payload(&*written(nobody)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
