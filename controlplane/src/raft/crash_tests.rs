//! What a loss of power may leave of a controller's files, at every point of a history of theirs.
//!
//! A process of this test does what a node does with its disk, and says on its standard output what it has promised so far. It runs
//! under `strace`, so what is recorded is what reaches the kernel, the log crate's own calls included: names and bytes, which flushes
//! cover them, and between which of them each promise stands. From that record come the images. Up to some point everything that was
//! flushed is there; of what was not, some is, in each file and each directory as much as it happens, and a write may be torn. A
//! controller must open every image, and find in it all that was promised by then.

use super::log::LogStore;
use super::machine::Applier;
use super::snapshot::SnapshotStore;
use super::wire::{WireLogId, WireVote};
use super::{Entry, LogId, Proposal, SnapshotMeta, TypeConfig};
use crate::data::DataDirectory;
use crate::member::disk_text;
use crate::meta::MetaState;
use crate::raft::machine::Machine;
use crate::testing::TestDirectory;
use control_api::image::MetadataImage;
use control_api::level::{ClusterLevel, Level};
use disk::{Change, Loss, Record, record};
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use std::io::Write;
use std::path::Path;

mod disk;

const DRIVEN: &str = "MILLRACE_CRASH_DIRECTORY";
const PEERS: &str = "1=127.0.0.1:1";
/// Small, so that the history has many files.
const FILE_BYTES: usize = 2_000;
const ENTRY_BYTES: usize = 300;
const TERM: u64 = 3;

/// What has been promised: nothing of it may be lost.
#[derive(Clone, Debug, Default, PartialEq)]
struct Promises {
    disk: Option<u64>,
    vote: Option<(u64, u64)>,
    /// The last entry that was acknowledged.
    last: Option<u64>,
    snapshot: Option<u64>,
}

impl Promises {
    fn hear(&mut self, said: &str) {
        let words: Vec<&str> = said.split(' ').collect();
        let number = |place: usize| words[place].parse::<u64>().expect("a number was said");
        match words[0] {
            "formatted" => self.disk = Some(number(1)),
            "voted" => self.vote = Some((number(1), number(2))),
            "appended" | "truncating" => self.last = Some(number(1)),
            "snapshot" => self.snapshot = Some(number(1)),
            other => panic!("nobody says {other}"),
        }
    }
}

fn say(words: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("@{words}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("somebody listens");
}

fn log_id(index: u64) -> LogId {
    WireLogId { term: TERM, index }.into()
}

fn entry(index: u64) -> Entry {
    openraft::Entry {
        log_id: log_id(index),
        payload: EntryPayload::Normal(Proposal(vec![index as u8; ENTRY_BYTES].into())),
    }
}

fn state(index: u64) -> MetaState {
    MetaState::of(MetadataImage {
        index,
        cluster_id: "x".repeat(1_000),
        ..MetadataImage::default()
    })
}

fn sealed(index: u64) -> Vec<u8> {
    [state(index).to_bytes(), vec![0; 4]].concat()
}

fn open_log(directory: &Path) -> std::io::Result<LogStore> {
    LogStore::open_sized(&directory.join("meta/log"), FILE_BYTES)
}

async fn append(log: &mut LogStore, indexes: std::ops::RangeInclusive<u64>) {
    let last = *indexes.end();
    let (sender, receiver) = TypeConfig::oneshot();
    let entries: Vec<Entry> = indexes.map(entry).collect();
    let appended = log.append(entries, IOFlushed::signal(sender)).await;
    appended.expect("the disk works");
    receiver
        .await
        .expect("it is answered")
        .expect("the disk works");
    say(&format!("appended {last}"));
}

async fn vote(log: &mut LogStore, term: u64, node: u64) {
    let vote = WireVote {
        term,
        node,
        committed: false,
    };
    log.save_vote(&vote.into()).await.expect("the disk works");
    say(&format!("voted {term} {node}"));
}

fn take_snapshot(snapshots: &SnapshotStore, index: u64) {
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(index)),
        last_membership: Default::default(),
    };
    let saved = snapshots.save(Level::FIRST, &meta, &sealed(index));
    saved.expect("the disk works");
    say(&format!("snapshot {index}"));
}

/// The history, in a process of its own.
#[tokio::test]
#[ignore = "it is run by the test below"]
async fn history() {
    let directory = std::env::var_os(DRIVEN).expect("it is run by the test below");
    let directory = Path::new(&directory);
    let data = DataDirectory::open(directory, 1, &PEERS.parse().unwrap()).unwrap();
    say(&format!("formatted {}", data.disk));
    let snapshots = SnapshotStore::open(&data.group("meta")).unwrap();
    let mut log = open_log(directory).unwrap();
    vote(&mut log, 2, 1).await;
    append(&mut log, 0..=3).await;
    vote(&mut log, TERM, 2).await;
    append(&mut log, 4..=9).await;
    log.save_committed(Some(log_id(6))).await.unwrap();
    say("truncating 7");
    log.truncate_after(Some(log_id(7))).await.unwrap();
    append(&mut log, 8..=13).await;
    log.save_committed(Some(log_id(12))).await.unwrap();
    take_snapshot(&snapshots, 10);
    log.purge(log_id(10)).await.unwrap();
    append(&mut log, 14..=17).await;
    take_snapshot(&snapshots, 16);
    log.purge(log_id(15)).await.unwrap();
    vote(&mut log, TERM + 1, 3).await;
    append(&mut log, 18..=20).await;
    // As by a leader that is far ahead: what is here goes, and the log begins behind the snapshot.
    take_snapshot(&snapshots, 40);
    log.purge(log_id(40)).await.unwrap();
    say("appended 40");
}

/// Opens an image as a node does, and says what is wrong with it.
async fn fault(image: &Path, promised: &Promises) -> Result<(), String> {
    let text = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let peers = PEERS.parse().expect("the peers are right");
    let data = DataDirectory::open(image, 1, &peers);
    let data = data.map_err(|error| text("the directory is refused", &error))?;
    if promised.disk.is_some_and(|disk| disk != data.disk) {
        return Err("the disk forgot who it is".to_owned());
    }
    let mut log = open_log(image).map_err(|error| text("the log is refused", &error))?;
    if !log.is_of(&disk_text(data.disk)) {
        return Err("the log is not the disk's".to_owned());
    }
    let vote = log
        .read_vote()
        .await
        .map_err(|error| text("vote", &error))?;
    let vote = vote.map(|vote| (vote.leader_id.term, vote.leader_id.voted_for));
    if vote < promised.vote {
        return Err(format!("the vote {:?} is {vote:?}", promised.vote));
    }

    let snapshots = SnapshotStore::open(&data.group("meta"));
    let snapshots = snapshots.map_err(|error| text("the snapshot's directory", &error))?;
    let loaded = snapshots.load();
    let loaded = loaded.map_err(|error| text("the snapshot is refused", &error))?;
    let covered = loaded.map(|(meta, bytes)| (meta.last_log_id.map_or(0, |id| id.index), bytes));
    if let Some((index, bytes)) = &covered
        && **bytes != sealed(*index)
    {
        return Err(format!("the snapshot of {index} is not what was saved"));
    }
    let covered = covered.map(|(index, _)| index);
    if covered < promised.snapshot {
        return Err(format!(
            "the snapshot {:?} is {covered:?}",
            promised.snapshot
        ));
    }
    Applier::<MetaState>::open(snapshots, ClusterLevel::default())
        .map_err(|error| text("the state", &error))?;

    let found = log.get_log_state().await;
    let found = found.map_err(|error| text("the log's state", &error))?;
    let purged = found.last_purged_log_id.map(|id| id.index);
    let last = found.last_log_id.map(|id| id.index);
    if purged > covered {
        return Err(format!(
            "purged up to {purged:?}, and the snapshot has {covered:?}"
        ));
    }
    let entries = log.try_get_log_entries(..).await;
    let entries = entries.map_err(|error| text("the log is not read", &error))?;
    let first = purged.map_or(0, |purged| purged + 1);
    for (index, found) in (first..).zip(&entries) {
        if found.log_id.index != index {
            return Err(format!("in place of entry {index} is {:?}", found.log_id));
        }
        if let EntryPayload::Normal(command) = &found.payload
            && *command.0 != [index as u8; ENTRY_BYTES]
        {
            return Err(format!("entry {index} is not what was appended"));
        }
    }
    let end = entries
        .last()
        .map_or(purged, |entry| Some(entry.log_id.index));
    if end != last {
        return Err(format!("the log ends at {end:?} and says {last:?}"));
    }
    // An append that goes on behind a truncation is not answered before both are kept.
    if last.max(covered) < promised.last {
        return Err(format!(
            "the log up to {:?} ends at {last:?}",
            promised.last
        ));
    }
    let committed = log.read_committed().await;
    let committed = committed.map_err(|error| text("committed", &error))?;
    let committed = committed.map(|id| id.index);
    if committed > last.max(covered) {
        return Err(format!(
            "{committed:?} is committed of a log that ends at {last:?}"
        ));
    }
    Ok(())
}

/// The first image that is not as promised.
async fn search(record: &Record) -> Option<String> {
    let mut promised = Promises::default();
    for end in 0..=record.changes.len() {
        if let Some(Change::Said(said)) = end.checked_sub(1).map(|last| &record.changes[last]) {
            promised.hear(said);
        }
        for loss in Loss::every_kind(end as u64) {
            let image = TestDirectory::in_memory();
            record.lay_out(end, loss, image.path());
            if let Err(fault) = fault(image.path(), &promised).await {
                return Some(format!("after change {end}, {loss:?}: {fault}"));
            }
        }
    }
    None
}

#[tokio::test]
async fn whatever_a_loss_of_power_leaves_has_all_that_was_promised() {
    let directory = TestDirectory::in_memory();
    let record = record("raft::crash_tests::history", (DRIVEN, directory.path()));
    let said = |change: &&Change| matches!(change, Change::Said(_));
    assert_eq!(record.changes.iter().filter(said).count(), 14);
    assert!(
        record.is_what_is_in(directory.path()),
        "the record is whole"
    );
    assert_eq!(search(&record).await, None);

    // Faults that this must find, each as the record that a faulty program would have left.
    let file = |name: &'static str| move |path: &Path| path.ends_with(name);
    let in_log = |path: &Path| {
        path.parent()
            .is_some_and(|parent| parent.ends_with("meta/log"))
    };
    let planted = [
        (
            "the snapshot renamed without a flush",
            record.without_flush(file("snapshot.new")),
        ),
        (
            "its directory not flushed",
            record.without_directory_flush(file("meta")),
        ),
        (
            "the log's directory not flushed",
            record.without_directory_flush(file("meta/log")),
        ),
        (
            "the identity renamed without a flush",
            record.without_flush(file("identity.new")),
        ),
        (
            "entries and votes not flushed",
            record.without_flush(in_log),
        ),
        (
            "votes answered before they are flushed",
            record.said_early("voted"),
        ),
        (
            "appends answered before they are flushed",
            record.said_early("appended"),
        ),
        (
            "the log purged before the snapshot is kept",
            record.renamed_late(),
        ),
    ];
    for (fault, faulty) in planted {
        let found = search(&faulty).await;
        assert!(found.is_some(), "not found: {fault}");
    }
}
