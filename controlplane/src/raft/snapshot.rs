//! A group's latest snapshot: one file, replaced whole.
//!
//! ```text
//!  0          8        12       20
//!  | MILLSNAP | crc32c | length | codec bytes of SnapshotFile
//! ```
//! Integers are little-endian; the checksum covers what `length` counts. A new snapshot is written beside the old one,
//! flushed, and renamed over it, so a crash leaves one or the other.

use super::SnapshotMeta;
use super::wire::WireSnapshotMeta;
use crate::clock::since_1970_ms;
use crate::limits::SNAPSHOT_BYTES_MAX;
use bytes::Bytes;
use control_api::codec::{self, Format};
use control_api::formats;
use control_api::level::Level;
use rkyv::{Archive, Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const MAGIC: &[u8; 8] = b"MILLSNAP";
const HEADER_BYTES: usize = 20;
const FILE_NAME: &str = "snapshot";
const TEMPORARY_NAME: &str = "snapshot.new";

#[derive(Archive, Serialize, Deserialize)]
struct SnapshotFile {
    meta: WireSnapshotMeta,
    state: Vec<u8>,
}

formats! { struct SnapshotFile: 224 }

/// Where the snapshot of one group is kept. Its calls block; clones share one lock.
#[derive(Clone)]
pub struct SnapshotStore {
    directory: PathBuf,
    /// The log index that the file covers.
    saved: Arc<Mutex<Option<u64>>>,
}

impl SnapshotStore {
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        // Left behind by a crash in the middle of a save.
        match fs::remove_file(directory.join(TEMPORARY_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(SnapshotStore {
            directory: directory.to_owned(),
            saved: Arc::default(),
        })
    }

    /// An older snapshot than the one that is there is not saved: one that was built may come after one that was received.
    /// `level`: the one that the state is at.
    pub fn save(&self, level: Level, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let index = meta.last_log_id.as_ref().map(|id| id.index);
        if index < *saved {
            return Ok(());
        }
        let temporary = self.directory.join(TEMPORARY_NAME);
        let written = write_flushed(&temporary, &encode_snapshot(level, meta, state));
        if let Err(error) = written {
            // A part of it would only take the room that the next try needs; if it cannot be removed, that try truncates it.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        fs::rename(&temporary, self.directory.join(FILE_NAME))?;
        File::open(&self.directory)?.sync_all()?;
        *saved = index;
        Ok(())
    }

    /// When the file was written, milliseconds since 1970.
    pub fn saved_ms(&self) -> io::Result<u64> {
        let file = fs::metadata(self.directory.join(FILE_NAME))?;
        Ok(since_1970_ms(file.modified()?))
    }

    /// `None` where no snapshot was taken yet; a damaged file is an error.
    pub fn load(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match File::open(self.directory.join(FILE_NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let (meta, state) = read_snapshot(file)?;
        *saved = meta.last_log_id.as_ref().map(|id| id.index);
        Ok(Some((meta, state)))
    }
}

fn write_flushed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A whole snapshot file, as [`read_snapshot`] reads it.
pub fn encode_snapshot(level: Level, meta: &SnapshotMeta, state: &[u8]) -> Vec<u8> {
    let content = SnapshotFile {
        meta: meta.into(),
        state: state.to_vec(),
    };
    let mut file = content.write(level, vec![0; HEADER_BYTES]);
    let (header, body) = file.split_at_mut(HEADER_BYTES);
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    header[12..].copy_from_slice(&(body.len() as u64).to_le_bytes());
    file
}

/// Reads a whole snapshot file: what it covers, and the state machine's bytes.
pub fn read_snapshot(mut file: impl Read) -> io::Result<(SnapshotMeta, Bytes)> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header)
        .map_err(|_| damaged("its header is cut"))?;
    let (magic, rest) = header.split_at(8);
    let (checksum, length) = rest.split_at(4);
    if magic != MAGIC {
        return Err(damaged("it is no snapshot"));
    }
    let mut body = Vec::new();
    file.take(2 * SNAPSHOT_BYTES_MAX as u64)
        .read_to_end(&mut body)?;
    if (body.len() as u64).to_le_bytes() != length {
        return Err(damaged("its length is wrong"));
    }
    if crc32c::crc32c(&body).to_le_bytes() != checksum {
        return Err(damaged("its checksum does not match"));
    }
    let file: SnapshotFile = codec::decode(&body).map_err(|error| damaged(&error.to_string()))?;
    let meta = SnapshotMeta::try_from(file.meta)?;
    Ok((meta, file.state.into()))
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the snapshot file is damaged: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::wire::WireLogId;
    use crate::testing::TestDirectory;

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(WireLogId { term: 2, index }.into()),
            last_membership: Default::default(),
        }
    }

    #[test]
    fn a_saved_snapshot_is_loaded_after_a_restart() {
        let directory = TestDirectory::new();
        let store = SnapshotStore::open(directory.path()).unwrap();
        assert!(store.load().unwrap().is_none());
        store.save(Level::FIRST, &meta(7), b"seven").unwrap();
        let store = SnapshotStore::open(directory.path()).unwrap();
        assert_eq!(
            store.load().unwrap(),
            Some((meta(7), Bytes::from_static(b"seven")))
        );
    }

    #[test]
    fn an_older_snapshot_does_not_replace_a_newer() {
        let directory = TestDirectory::new();
        let store = SnapshotStore::open(directory.path()).unwrap();
        store.save(Level::FIRST, &meta(7), b"seven").unwrap();
        store.save(Level::FIRST, &meta(6), b"six").unwrap();
        assert_eq!(store.load().unwrap().unwrap().1, b"seven"[..]);
    }

    #[test]
    fn any_cut_or_changed_byte_is_noticed() {
        let directory = TestDirectory::new();
        let store = SnapshotStore::open(directory.path()).unwrap();
        store.save(Level::FIRST, &meta(7), b"seven").unwrap();
        let path = directory.path().join(FILE_NAME);
        let good = fs::read(&path).unwrap();
        for position in 0..good.len() {
            let mut bytes = good.clone();
            bytes[position] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(store.load().is_err(), "byte {position}");
            fs::write(&path, &good[..position]).unwrap();
            assert!(store.load().is_err(), "cut at {position}");
        }
    }

    #[test]
    fn a_half_written_snapshot_is_left_aside() {
        let directory = TestDirectory::new();
        fs::write(directory.path().join(TEMPORARY_NAME), b"half").unwrap();
        let store = SnapshotStore::open(directory.path()).unwrap();
        assert!(store.load().unwrap().is_none());
        assert!(!directory.path().join(TEMPORARY_NAME).exists());
    }
}
