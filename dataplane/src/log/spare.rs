//! Segment files prepared ahead of need: zeros from end to end, on stable storage, waiting for the log that begins its next segment.
//!
//! A write into such a file is an overwrite: it changes no metadata, and nothing has to be zeroed beside it. A peak that its file
//! outlasts costs the disk what it stores and no more. Freed segments come back here and are zeroed before they are used again.
//!
//! ```text
//!   freed segment --offer--\
//!                           >--> N.raw --zeroed, flushed, renamed--> N.spare --take: renamed--> a log's new segment
//!   nothing --------made---/
//! ```
//! A `.raw` file may hold bytes of another life; nobody takes one. After a crash every `.raw` file is zeroed from its start again.
//!
//! A prepared file has no room for a header, so its name says what it is: these two are version 1. What has any other name was put there
//! by another program, or by a later version of this one: it is left alone, and said.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::load::WriteLoad;
use super::shared::LogShared;
use crate::event::Event;
use crate::io::{BLOCK_BYTES, FilePosition, Instant, Io, OpenMode, WriteDurability};

const RAW: &str = "raw";
const READY: &str = "spare";

/// A disk that is full, or fails, is asked again after this long.
const RETRY_MS: u64 = 10_000;
/// The disk rests at least this long after each write of zeros.
const REST_NANOS_MIN: u64 = 50_000;

/// The prepared files of one shard.
pub struct SpareSegments {
    directory: PathBuf,
    wanted: usize,
    /// Of each file.
    bytes: u64,
    ready: RefCell<Vec<PathBuf>>,
    raw: RefCell<Vec<PathBuf>>,
    /// One is being zeroed.
    zeroing: Cell<bool>,
    next_number: Cell<u64>,
    /// What an earlier process left is known.
    opened: Cell<bool>,
    changed: Event,
}

impl SpareSegments {
    /// Keeps `wanted` files of `bytes` bytes, a number of whole blocks, in `directory`, once [`replenish`] runs.
    pub fn new(directory: PathBuf, wanted: usize, bytes: u64) -> SpareSegments {
        assert!(
            bytes.is_multiple_of(BLOCK_BYTES as u64),
            "a file is written in whole blocks"
        );
        SpareSegments {
            directory,
            wanted,
            bytes,
            ready: RefCell::default(),
            raw: RefCell::default(),
            zeroing: Cell::new(false),
            next_number: Cell::new(0),
            opened: Cell::new(false),
            changed: Event::default(),
        }
    }

    /// Prepares nothing.
    pub fn none() -> SpareSegments {
        SpareSegments::new(PathBuf::new(), 0, 0)
    }

    /// Files that can be taken now.
    pub fn ready(&self) -> usize {
        self.ready.borrow().len()
    }

    /// Gives a prepared file of at most `bytes_max` the name `path` and returns its size; `None` if there is none. It will not be found
    /// among the prepared ones again; the caller makes its new name last before anything is written.
    pub(super) async fn take<I: Io>(
        &self,
        io: &I,
        path: &Path,
        bytes_max: u64,
    ) -> io::Result<Option<u64>> {
        if self.bytes > bytes_max {
            return Ok(None);
        }
        loop {
            let Some(spare) = self.ready.borrow_mut().pop() else {
                return Ok(None);
            };
            self.changed.notify();
            match io.rename(&spare, path).await {
                Ok(()) => break,
                // Somebody has removed it: there may be another, and without any a log makes its own.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(file = %spare.display(), "a prepared segment is missing");
                }
                Err(error) => {
                    self.ready.borrow_mut().push(spare);
                    return Err(error);
                }
            }
        }
        io.sync_directory(&self.directory).await?;
        Ok(Some(self.bytes))
    }

    /// Takes over the file of a segment that is gone and that nobody reads any more; false if there are enough, or it cannot be had.
    pub(super) async fn offer<I: Io>(&self, io: &I, path: &Path) -> bool {
        // Before the directory was read, a number could be one that is taken.
        if !self.opened.get() || self.count() >= self.wanted {
            return false;
        }
        let raw = self.next_path(RAW);
        // Counted before the wait, so that two offers do not both find room for one.
        self.raw.borrow_mut().push(raw.clone());
        if io.rename(path, &raw).await.is_err() {
            self.raw.borrow_mut().retain(|known| *known != raw);
            return false;
        }
        self.changed.notify();
        true
    }

    fn count(&self) -> usize {
        self.ready.borrow().len() + self.raw.borrow().len() + usize::from(self.zeroing.get())
    }

    fn next_path(&self, state: &str) -> PathBuf {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        self.directory.join(format!("{number}.{state}"))
    }

    /// Finds what an earlier process left, and removes what is more than wanted.
    async fn open<I: Io>(&self, io: &I) -> io::Result<()> {
        if self.wanted == 0 {
            return remove_directory(io, &self.directory).await;
        }
        self.ready.borrow_mut().clear();
        self.raw.borrow_mut().clear();
        io.create_directories(&self.directory).await?;
        let mut names = io.list(&self.directory).await?;
        // Those that are ready first.
        names.sort_by_key(|name| !name.ends_with(READY));
        for name in names {
            let path = self.directory.join(&name);
            let Some((number, state)) = number_and_state(&name) else {
                say_foreign(&path);
                continue;
            };
            self.next_number
                .set(self.next_number.get().max(number.saturating_add(1)));
            if self.count() >= self.wanted {
                io.remove_file(&path).await?;
            } else if state == READY && self.is_whole(io, &path).await? {
                self.ready.borrow_mut().push(path);
            } else {
                self.raw.borrow_mut().push(path);
            }
        }
        self.opened.set(true);
        Ok(())
    }

    async fn is_whole<I: Io>(&self, io: &I, path: &Path) -> io::Result<bool> {
        let file = io.open(path, OpenMode::ReadDirect).await?;
        Ok(io.file_bytes(&file).await? == self.bytes)
    }
}

/// Prepares files for as long as the shard runs, off the path of any record: the disk rests as long as it works, and longer while logs
/// keep it busy.
pub async fn replenish<I: Io>(io: I, shared: Rc<LogShared>) {
    let spares = &shared.spares;
    if spares.directory.as_os_str().is_empty() {
        return;
    }
    loop {
        let generation = spares.changed.generation();
        let step = match spares.opened.get() {
            false => spares.open(&io).await,
            true => prepare_next(&io, &shared).await,
        };
        if let Err(error) = step {
            let directory = spares.directory.display();
            tracing::warn!(%directory, %error, "cannot prepare a segment ahead of need");
            io.sleep_until(io.now().after_ms(RETRY_MS)).await;
            continue;
        }
        if spares.wanted == 0 {
            return;
        }
        if spares.raw.borrow().is_empty() && spares.count() >= spares.wanted {
            spares.changed.changed_since(generation).await;
        }
    }
}

async fn prepare_next<I: Io>(io: &I, shared: &LogShared) -> io::Result<()> {
    let spares = &shared.spares;
    let freed = spares.raw.borrow_mut().pop();
    let raw = match freed {
        Some(raw) => raw,
        None if spares.count() < spares.wanted => spares.next_path(RAW),
        None => return Ok(()),
    };
    spares.zeroing.set(true);
    let prepared = prepare(io, shared, &raw).await;
    spares.zeroing.set(false);
    match prepared {
        Ok(ready) => spares.ready.borrow_mut().push(ready),
        Err(error) => {
            // Half made it would only take what others are short of. What cannot be removed now is found at the next start.
            let _ = io.remove_file(&raw).await;
            let _ = io.remove_file(&raw.with_extension(READY)).await;
            return Err(error);
        }
    }
    Ok(())
}

/// Removes the files of shards that there no longer are, from the directory that holds one directory for each shard.
pub async fn remove_unused<I: Io>(io: I, directory: PathBuf, shards: usize) {
    let names = io.list(&directory).await.unwrap_or_default();
    let gone = |name: &&String| name.parse::<usize>().is_ok_and(|shard| shard >= shards);
    for name in names.iter().filter(gone) {
        let path = directory.join(name);
        if let Err(error) = remove_directory(&io, &path).await {
            tracing::warn!(directory = %path.display(), %error, "cannot remove prepared segments that nobody uses");
        }
    }
}

/// A directory of prepared files, with all of them.
async fn remove_directory<I: Io>(io: &I, directory: &Path) -> io::Result<()> {
    let names = match io.list(directory).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    for name in &names {
        let path = directory.join(name);
        match number_and_state(name) {
            Some(_) => io.remove_file(&path).await?,
            None => say_foreign(&path),
        }
    }
    if names.iter().all(|name| number_and_state(name).is_some()) {
        io.remove_directory(directory).await?;
    }
    Ok(())
}

/// What the name of a prepared file says; `None` for one that this version gives to none.
fn number_and_state(name: &str) -> Option<(u64, &str)> {
    let (number, state) = name.split_once('.')?;
    let number = number.parse().ok()?;
    [RAW, READY].contains(&state).then_some((number, state))
}

fn say_foreign(path: &Path) {
    tracing::warn!(file = %path.display(), "not a prepared segment that this version knows: left alone");
}

/// Writes zeros over the whole file. It gets the name of one that may be taken only once they are on stable storage.
async fn prepare<I: Io>(io: &I, shared: &LogShared, raw: &Path) -> io::Result<PathBuf> {
    let file_bytes = shared.spares.bytes;
    let file = io.open(raw, OpenMode::DirectCreate).await?;
    // Its old name must be gone for good before its old bytes are.
    io.sync_directory(&shared.spares.directory).await?;
    io.truncate(&file, file_bytes).await?;
    match io.allocate(&file, FilePosition(0), file_bytes).await {
        // The zeros make the space where none can be reserved.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        reserved => reserved?,
    }
    let mut at = 0;
    while at < file_bytes {
        while shared.load.is_busy(io.now()) {
            io.sleep_until(io.now().after_ms(WriteLoad::INTERVAL_MS))
                .await;
        }
        let bytes = (io.buffer_bytes() as u64).min(file_bytes - at);
        let begun = io.now();
        let Some(zeros) = shared.tails.zeros(io, bytes as usize) else {
            io.sleep_until(begun.after_ms(1)).await;
            continue;
        };
        io.write(&file, FilePosition(at), zeros, WriteDurability::Written)
            .await?;
        at += bytes;
        let ended = io.now();
        let rest = ended.nanos_since(begun).max(REST_NANOS_MIN);
        io.sleep_until(Instant(ended.0.saturating_add(rest))).await;
    }
    io.sync(&file).await?;
    let ready = raw.with_extension(READY);
    io.rename(raw, &ready).await?;
    io.sync_directory(&shared.spares.directory).await?;
    Ok(ready)
}
