//! Puts right what a loss of power may leave of a log's files and `raft-log` does not open. `LogStore` calls it before each opening.
//!
//! ```text
//! r-0 | r-1 | r-2 | r-3 | r-4 ->      each file goes on where the one before ends, and begins with the state up to there
//! ```
//! A disk forgets what was not flushed in any order, so there are two things more than a log that ends earlier:
//!
//! - Of the first files, which are removed once everything in them is purged, any may be there again. They are removed once more
//!   if the file behind the gap shows that all before it was purged, since a purge is flushed before a file is removed.
//! - In the last file with anything in it, any sectors behind the last flush hold zeros. It ends with the last record before them:
//!   what was flushed lies before.
//!
//! Whatever else is wrong no loss of power leaves. It is an error, of one line, and nothing is touched: it might be what was answered for.

use super::log::{LogTypes, StoredId};
use codeq::Decode;
use raft_log::chunked_wal::Config;
use raft_log::{ChunkId, RaftLogAction, RaftLogRecord};
use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// The least that a disk writes whole. A file system's pages are whole numbers of it.
const SECTOR_BYTES: usize = 512;

struct LogFile {
    path: PathBuf,
    /// Its place in the log, which is its name.
    start: u64,
    bytes: u64,
}

impl LogFile {
    fn end(&self) -> u64 {
        self.start + self.bytes
    }
}

/// To be called while nobody else has the log open.
pub(super) fn mend(config: &Config) -> io::Result<()> {
    let mut files = files(config)?;
    while let Some(last) = files.last_mut() {
        let whole = whole_records(last)?;
        if whole > 0 {
            if whole < last.bytes {
                tracing::warn!(file = %last.path.display(), from = last.bytes, to = whole, "what was written last was not flushed and is not whole: the log ends before it");
                cut(last, whole)?;
            }
            break;
        }
        // Made for what comes next, of which nothing was flushed.
        remove(config, &files.split_off(files.len() - 1))?;
    }
    let apart = |pair: &[LogFile]| pair[0].end() != pair[1].start;
    if let Some(before) = files.windows(2).rposition(apart) {
        let behind = files.split_off(before + 1);
        if !covers_all_before(&behind)? {
            return Err(damaged(format!(
                "the log has nothing between {} and {}, and what was there was not purged",
                files[before].path.display(),
                behind[0].path.display()
            )));
        }
        tracing::warn!(
            files = files.len(),
            "removed log files are there again, and are removed"
        );
        remove(config, &files)?;
    }
    Ok(())
}

/// In the order of the log.
fn files(config: &Config) -> io::Result<Vec<LogFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(&config.dir)? {
        let entry = entry?;
        let name = entry.file_name();
        // There is a lock too.
        let Ok(start) = Config::parse_chunk_file_name(&name.to_string_lossy()) else {
            continue;
        };
        files.push(LogFile {
            path: PathBuf::from(config.chunk_path(ChunkId(start))),
            start,
            bytes: entry.metadata()?.len(),
        });
    }
    files.sort_by_key(|file| file.start);
    Ok(files)
}

/// How many bytes at the beginning of the log's last file are whole records, if a loss of power explains the rest.
fn whole_records(file: &LogFile) -> io::Result<u64> {
    let bytes = fs::read(&file.path)?;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let start = bytes.len() - rest.len();
        match RaftLogRecord::<LogTypes>::decode(&mut rest) {
            Ok(_) => {}
            Err(error) => {
                let record = start..bytes.len() - rest.len();
                let ends_too_soon = error.kind() == io::ErrorKind::UnexpectedEof;
                if ends_too_soon || has_lost_sector(&bytes, record) {
                    return Ok(start as u64);
                }
                return Err(damaged(format!(
                    "{} is damaged at byte {start}: {error}",
                    file.path.display()
                )));
            }
        }
    }
    Ok(file.bytes)
}

/// Whether a sector of the record holds nothing but zeros, from the record's beginning on. What was written with the record or after
/// it may be lost with it, and what was before is there.
fn has_lost_sector(bytes: &[u8], record: Range<usize>) -> bool {
    let mut at = record.start;
    while at < record.end {
        let end = bytes.len().min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
        if bytes[at..end].iter().all(|byte| *byte == 0) {
            return true;
        }
        at = end;
    }
    false
}

/// Whether everything that ever stood before these files was purged, as they say themselves. It is by this that files are removed.
fn covers_all_before(files: &[LogFile]) -> io::Result<bool> {
    // The last entry before the first of the files.
    let mut last_before: Option<Option<StoredId>> = None;
    let mut purged: Option<StoredId> = None;
    for file in files {
        let bytes = fs::read(&file.path)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match RaftLogRecord::<LogTypes>::decode(&mut rest)? {
                RaftLogRecord::Checkpoint(state) => {
                    last_before.get_or_insert(state.last().copied());
                    purged = purged.max(state.purged().copied());
                }
                RaftLogRecord::Action(action) => {
                    // One that begins otherwise says nothing of what was before it.
                    last_before.get_or_insert(Some((u64::MAX, u64::MAX)));
                    if let RaftLogAction::PurgeUpto(id) = action {
                        purged = purged.max(Some(id));
                    }
                }
            }
        }
    }
    Ok(last_before.is_some_and(|last| last <= purged))
}

fn cut(file: &mut LogFile, bytes: u64) -> io::Result<()> {
    let open = OpenOptions::new().write(true).open(&file.path)?;
    open.set_len(bytes)?;
    open.sync_all()?;
    file.bytes = bytes;
    Ok(())
}

fn remove(config: &Config, files: &[LogFile]) -> io::Result<()> {
    for file in files {
        fs::remove_file(&file.path)?;
    }
    config.sync_dir()
}

fn damaged(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
