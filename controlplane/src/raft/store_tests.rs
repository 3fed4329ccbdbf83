//! openraft's storage suite on our log and state machine, and what a crash may leave behind.

use super::log::LogStore;
use super::machine::Applier;
use super::snapshot::SnapshotStore;
use super::wire::{WireLogId, WireVote};
use super::{Entry, LogId, Proposal, TypeConfig, Vote};
use crate::meta::MetaState;
use crate::testing::TestDirectory;
use control_api::level::ClusterLevel;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, StorageError};
use std::fs::{self, OpenOptions};
use std::path::PathBuf;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Applier<MetaState>, TestDirectory> for Builder {
    async fn build(
        &self,
    ) -> Result<(TestDirectory, LogStore, Applier<MetaState>), StorageError<TypeConfig>> {
        let directory = TestDirectory::new();
        let log = LogStore::open(&directory.path().join("log")).unwrap();
        let snapshots = SnapshotStore::open(directory.path()).unwrap();
        Ok((
            directory,
            log,
            Applier::open(snapshots, ClusterLevel::default()).unwrap(),
        ))
    }
}

#[tokio::test]
async fn openrafts_storage_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

fn id(index: u64) -> LogId {
    WireLogId { term: 3, index }.into()
}

fn entry(index: u64) -> Entry {
    openraft::Entry {
        log_id: id(index),
        payload: EntryPayload::Normal(Proposal(vec![index as u8; 100].into())),
    }
}

async fn append(log: &mut LogStore, entries: impl Iterator<Item = u64> + Send) {
    let (sender, receiver) = TypeConfig::oneshot();
    let entries: Vec<Entry> = entries.map(entry).collect();
    log.append(entries, IOFlushed::signal(sender))
        .await
        .unwrap();
    receiver.await.unwrap().unwrap();
}

async fn indexes(log: &mut LogStore) -> Vec<u64> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test]
async fn log_vote_and_purge_survive_a_restart() {
    let directory = TestDirectory::new();
    let vote: Vote = WireVote {
        term: 3,
        node: 2,
        committed: true,
    }
    .into();
    {
        let mut log = LogStore::open(directory.path()).unwrap();
        log.save_vote(&vote).await.unwrap();
        append(&mut log, 0..10).await;
        log.truncate_after(Some(id(7))).await.unwrap();
        log.purge(id(4)).await.unwrap();
        log.save_committed(Some(id(6))).await.unwrap();
    }
    let mut log = LogStore::open(directory.path()).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(indexes(&mut log).await, [5, 6, 7]);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(id(4)), Some(id(7)))
    );
}

#[tokio::test]
async fn truncating_past_the_end_changes_nothing() {
    let directory = TestDirectory::new();
    let mut log = LogStore::open(directory.path()).unwrap();
    append(&mut log, 0..3).await;
    log.truncate_after(Some(id(9))).await.unwrap();
    assert_eq!(indexes(&mut log).await, [0, 1, 2]);
}

/// No leader may have what was committed overwritten: the node stops with the error.
#[tokio::test]
async fn what_was_committed_is_not_truncated() {
    let directory = TestDirectory::new();
    let mut log = LogStore::open(directory.path()).unwrap();
    append(&mut log, 0..10).await;
    log.save_committed(Some(id(6))).await.unwrap();
    for last in [None, Some(id(0)), Some(id(5))] {
        let error = log.truncate_after(last).await.unwrap_err();
        assert!(error.to_string().contains("contradicts"), "{error}");
    }
    log.truncate_after(Some(id(6))).await.unwrap();
    assert_eq!(indexes(&mut log).await, (0..=6).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_knows_what_it_has_lost_and_whose_it_is() {
    let directory = TestDirectory::new();
    LogStore::format(directory.path(), "000000000abc").unwrap();
    let mut log = LogStore::open(directory.path()).unwrap();
    assert!(log.is_of("000000000abc") && !log.is_of("000000000ab9") && log.is_blank());
    append(&mut log, 0..10).await;
    let acknowledged = |index| WireLogId { term: 3, index };
    assert!(!log.has_lost(&acknowledged(9), 3) && log.has_lost(&acknowledged(10), 3));
    // A later leader may have truncated what an earlier one saw.
    let vote = WireVote {
        term: 4,
        node: 2,
        committed: true,
    };
    log.save_vote(&vote.into()).await.unwrap();
    assert!(!log.has_lost(&acknowledged(10), 3) && log.has_lost(&acknowledged(10), 4));
    log.purge(id(20)).await.unwrap();
    assert!(!log.has_lost(&acknowledged(20), 4));
    drop(log);
    let log = LogStore::open(directory.path()).unwrap();
    assert!(log.is_of("000000000abc") && !log.is_blank());
}

#[tokio::test]
async fn a_log_that_was_purged_beyond_its_end_goes_on_there() {
    let directory = TestDirectory::new();
    {
        let mut log = LogStore::open(directory.path()).unwrap();
        append(&mut log, 0..3).await;
        log.purge(id(50)).await.unwrap();
        append(&mut log, 51..53).await;
    }
    let mut log = LogStore::open(directory.path()).unwrap();
    assert_eq!(indexes(&mut log).await, [51, 52]);
}

#[tokio::test]
async fn a_batch_for_a_follower_is_bounded_but_never_empty() {
    let directory = TestDirectory::new();
    let mut log = LogStore::open(directory.path()).unwrap();
    append(&mut log, 0..1_000).await;
    let batch = log.limited_get_log_entries(5, 1_000).await.unwrap();
    assert_eq!(batch[0].log_id, id(5));
    assert!(batch.len() < 995 && !batch.is_empty(), "{}", batch.len());
}

/// The last file of the log.
fn tail(directory: &TestDirectory) -> PathBuf {
    let files = fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "wal"));
    logs.max().unwrap()
}

#[tokio::test]
async fn a_torn_tail_costs_only_the_entry_that_was_torn() {
    for cut in [1, 7, 30, 100] {
        let directory = TestDirectory::new();
        append(&mut LogStore::open(directory.path()).unwrap(), 0..10).await;
        let path = tail(&directory);
        let length = fs::metadata(&path).unwrap().len();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length - cut)
            .unwrap();
        let mut log = LogStore::open(directory.path()).unwrap();
        assert_eq!(
            indexes(&mut log).await,
            (0..9).collect::<Vec<_>>(),
            "cut by {cut}"
        );
        append(&mut log, 9..11).await;
        assert_eq!(indexes(&mut log).await.len(), 11);
    }
}

#[tokio::test]
async fn damage_in_the_middle_is_an_error_and_no_silent_loss() {
    let directory = TestDirectory::new();
    append(&mut LogStore::open(directory.path()).unwrap(), 0..10).await;
    let path = tail(&directory);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(LogStore::open(directory.path()).is_err());
}

/// The files of a log of 30 entries, of which each has a few.
async fn many_files(directory: &TestDirectory) -> Vec<(PathBuf, Vec<u8>)> {
    let mut log = LogStore::open_sized(directory.path(), 500).unwrap();
    for index in 0..30 {
        append(&mut log, index..index + 1).await;
    }
    drop(log);
    let files = wal_files(directory);
    assert!(files.len() > 5);
    files
}

fn wal_files(directory: &TestDirectory) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(directory.path()).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let logs = paths.filter(|path| path.extension().is_some_and(|extension| extension == "wal"));
    let mut files: Vec<_> = logs
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn files_that_were_purged_and_are_there_again_are_removed_again() {
    let directory = TestDirectory::new();
    let before = many_files(&directory).await;
    let mut log = LogStore::open_sized(directory.path(), 500).unwrap();
    log.purge(id(20)).await.unwrap();
    drop(log);
    let after = wal_files(&directory);
    let removed = before.len() - after.len();
    assert!(removed > 3);
    // Any of them: each bit is one.
    for again in 0..1 << removed {
        let chosen = |place: &usize| again & (1 << place) != 0;
        for place in (0..removed).filter(chosen) {
            fs::write(&before[place].0, &before[place].1).unwrap();
        }
        let mut log = LogStore::open_sized(directory.path(), 500).unwrap();
        let entries = indexes(&mut log).await;
        assert_eq!(entries, (21..30).collect::<Vec<_>>(), "{again:b}");
        log.purge(id(20)).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_is_gone_and_was_not_purged_is_an_error_of_one_line() {
    let directory = TestDirectory::new();
    let before = many_files(&directory).await;
    // The last one is no different from one that was never made.
    for (gone, bytes) in &before[..before.len() - 1] {
        fs::remove_file(gone).unwrap();
        let left = wal_files(&directory);
        let error = LogStore::open_sized(directory.path(), 500).err().unwrap();
        let line = error.to_string();
        assert!(
            line.contains("was not purged") && !line.contains('\n'),
            "{line}"
        );
        assert_eq!(wal_files(&directory), left, "nothing is touched");
        fs::write(gone, bytes).unwrap();
    }
    assert!(LogStore::open_sized(directory.path(), 500).is_ok());
}

#[tokio::test]
async fn a_sector_that_was_not_flushed_costs_what_follows_and_nothing_before() {
    let directory = TestDirectory::new();
    append(&mut LogStore::open(directory.path()).unwrap(), 0..10).await;
    let path = tail(&directory);
    let flushed = fs::metadata(&path).unwrap().len() as usize;
    append(&mut LogStore::open(directory.path()).unwrap(), 10..40).await;
    let whole = fs::read(&path).unwrap();
    let sectors = (0..whole.len())
        .step_by(512)
        .filter(|start| start + 512 > flushed);
    for start in sectors {
        let mut bytes = whole.clone();
        let end = bytes.len().min(start + 512);
        bytes[start.max(flushed)..end].fill(0);
        fs::write(&path, bytes).unwrap();
        let mut log = LogStore::open(directory.path()).unwrap();
        let entries = indexes(&mut log).await;
        assert!((10..40).contains(&entries.len()), "{start}: {entries:?}");
        assert_eq!(entries, (0..entries.len() as u64).collect::<Vec<_>>());
        append(&mut log, entries.len() as u64..50).await;
        drop(log);
        let mut log = LogStore::open(directory.path()).unwrap();
        assert_eq!(indexes(&mut log).await.len(), 50);
    }
}
