//! Everything that is stored or sent, as files: one for each version of each kind, in `tests/golden`.
//!
//! Data directories and the other processes of a cluster outlive the program that wrote them, so a file here is never changed and
//! never removed. A kind that changes gets a new version and another file, which `MILLRACE_WRITE_GOLDEN=1` has this test write.

use crate::command::MetaCommand;
use crate::meta::MetaState;
use crate::raft::log::LogStore;
use crate::raft::machine::Machine;
use crate::raft::wire::{
    WireAppend, WireAppended, WireIntroduction, WireMembership, WireSnapshotStart, WireTransfer,
    WireVote, WireVoteAnswer, WireVoteRequest, samples,
};
use crate::raft::{Record, read_records, read_snapshot};
use crate::testing::TestDirectory;
use control_api::codec::{self, CodecError, Format};
use control_api::level::Level;
use control_api::message::Request;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use values::{
    events, image, meta_commands, meta_state, offsets_commands, offsets_image, quorum_changes,
    requests, responses, updates,
};

mod values;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// Writes a file that is missing, where that was asked for.
fn golden(name: &str, current: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = directory().join(name);
    if !path.exists() && std::env::var_os("MILLRACE_WRITE_GOLDEN").is_some() {
        fs::write(&path, current()).unwrap();
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `samples` has one of each kind, with something in every field.
fn check<T>(family: &str, samples: Vec<T>, known: &mut BTreeSet<String>)
where
    T: Format + PartialEq + Debug,
{
    let mut seen = BTreeSet::new();
    for sample in samples {
        let bytes = codec::encode_at(Level::NEWEST, &sample);
        let kind = T::KINDS.iter().find(|kind| kind.kind == bytes[0]).unwrap();
        assert!(seen.insert(kind.kind), "{} twice", kind.name);
        let file = |version: u8| format!("{family}-{}.{version}", kind.name);
        known.extend((1..=kind.newest).map(file));
        let stored = golden(&file(kind.newest), || bytes.clone());
        assert_eq!(stored, bytes, "{} is written otherwise", kind.name);
        assert_eq!(codec::decode::<T>(&stored), Ok(sample));
        // The older ones are read, whatever they lack; what is newer than this program is named.
        for version in 1..kind.newest {
            let stored = golden(&file(version), || panic!("{} is gone", file(version)));
            codec::decode::<T>(&stored).unwrap();
        }
        let mut newer = stored;
        newer[1] = kind.newest + 1;
        let refused = codec::decode::<T>(&newer).unwrap_err();
        assert!(matches!(refused, CodecError::UnknownVersion { .. }));
        let line = refused.to_string();
        assert!(line.contains(kind.name) && !line.contains('\n'), "{line}");
    }
    assert_eq!(seen.len(), T::KINDS.len(), "a {family} has no sample");
}

#[test]
fn every_version_of_everything_is_still_read() {
    let mut known = BTreeSet::new();
    check("request", requests(), &mut known);
    check("response", responses(), &mut known);
    check("event", events(), &mut known);
    check("update", updates(), &mut known);
    check("image", vec![image()], &mut known);
    check("meta-command", meta_commands(), &mut known);
    check("offsets-command", offsets_commands(), &mut known);
    check("state", vec![meta_state()], &mut known);
    check("state", vec![offsets_image()], &mut known);
    check::<WireVote>("peer", samples::votes(), &mut known);
    check::<WireMembership>("peer", samples::memberships(), &mut known);
    check::<WireAppend>("peer", samples::appends(), &mut known);
    check::<WireVoteRequest>("peer", samples::vote_requests(), &mut known);
    check::<WireVoteAnswer>("peer", samples::vote_answers(), &mut known);
    check::<WireTransfer>("peer", samples::transfers(), &mut known);
    check::<WireIntroduction>("peer", samples::introductions(), &mut known);
    check::<WireSnapshotStart>("peer", samples::snapshot_starts(), &mut known);
    check::<WireAppended>("peer", samples::appended(), &mut known);

    let files = fs::read_dir(directory()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let others = ["snapshot.1", "log.1", "metadata.image.1"];
    known.extend(others.map(str::to_owned));
    known.extend(quorum_changes().into_iter().map(|(file, _)| file));
    // Those of a partition's log are the data plane's.
    let strange: Vec<_> = names
        .filter(|name| !known.contains(name) && !name.starts_with("log-"))
        .collect();
    assert!(strange.is_empty(), "nothing reads {strange:?}");
}

/// They are of one kind, so one file of that kind does not show them all.
#[test]
fn every_change_of_a_quorum_is_still_read() {
    for (file, change) in quorum_changes() {
        let request = Request::ChangeQuorum { group: 1, change };
        let bytes = codec::encode_at(Level::NEWEST, &request);
        let stored = golden(&file, || bytes.clone());
        assert_eq!(stored, bytes, "{file} is written otherwise");
        assert_eq!(codec::decode::<Request>(&stored), Ok(request));
    }
}

/// Which brokers keep; they have a test of their own that reads it.
#[test]
fn a_stored_image_is_a_checksum_and_an_image() {
    let archive = codec::encode(&image());
    let current = [&crc32c::crc32c(&archive).to_le_bytes()[..], &archive].concat();
    assert_eq!(golden("metadata.image.1", || current.clone()), current);
}

/// A whole file of each, around which there is more than an archive.
#[test]
fn a_snapshot_and_a_log_of_every_version_are_still_read() {
    let current = || {
        let meta = samples::snapshot_meta();
        crate::raft::encode_snapshot(Level(1), &meta, &meta_state().to_bytes())
    };
    let stored = golden("snapshot.1", current);
    assert_eq!(stored, current());
    let (meta, state) = read_snapshot(&*stored).unwrap();
    assert_eq!(meta, samples::snapshot_meta());
    assert_eq!(MetaState::from_bytes(&state), Ok(meta_state()));

    // The log of a node is opened as it was left.
    let whole = golden("log.1", || log_with(&meta_commands()));
    let copy = TestDirectory::new();
    fs::write(copy.path().join(FIRST_FILE), whole).unwrap();
    let log = LogStore::open(copy.path()).unwrap();
    assert!(log.is_of("00000000002a") && !log.is_blank());
    drop(log);
    let mut commands = Vec::new();
    read_records(copy.path(), |record| {
        if let Record::Command { bytes, .. } = record {
            commands.push(codec::decode::<MetaCommand>(&bytes).unwrap());
        }
        Ok(())
    })
    .unwrap();
    // Those that there were when it was written.
    assert!(commands.len() >= 10);
    assert_eq!(commands, meta_commands()[..commands.len()]);
}

/// How `raft-log` calls the first file of a log.
const FIRST_FILE: &str = "r-00_000_000_000_000_000_000.wal";

fn log_with(commands: &[MetaCommand]) -> Vec<u8> {
    let directory = TestDirectory::new();
    LogStore::format(directory.path(), "00000000002a").unwrap();
    let log = LogStore::open(directory.path()).unwrap();
    let commands = commands.iter().map(codec::encode);
    futures::executor::block_on(samples::fill(log, commands.collect()));
    fs::read(directory.path().join(FIRST_FILE)).unwrap()
}
