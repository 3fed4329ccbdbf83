//! One segment file: batches back to back from a base offset on, and its sparse index.
//!
//! The partition's log owns its segments and is alone in using them. The file's name is the base offset in twenty digits, so names
//! sort as offsets do. What follows the last batch in the file is zeros, never bytes of another life: see `space.rs`.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::ages::SegmentClock;
use super::checkpoint::SegmentSummary;
use super::chunks::{ChunkCache, ChunkKey};
use super::index::Index;
use super::limits::{EXTENT_BYTES_MIN, INDEX_FILE_BYTES_MAX};
use super::spare::SpareSegments;
use super::types::{Offset, block_ceil};
use crate::io::{Io, OpenMode};

pub(super) struct Segment<I: Io> {
    pub(super) base: Offset,
    path: PathBuf,
    /// Bytes of batches, appended ones included.
    pub(super) bytes: Cell<u64>,
    /// One past the last offset.
    pub(super) next: Cell<Offset>,
    pub(super) max_timestamp: Cell<(i64, Offset)>,
    /// The largest timestamp of the first batch, from which `segment.ms` counts.
    pub(super) first_timestamp: Cell<Option<i64>>,
    pub(super) clock: Cell<SegmentClock>,
    /// Loaded while the segment is active or warm.
    pub(super) index: RefCell<Option<Index>>,
    /// Up to where the stored index reaches.
    pub(super) index_stored_bytes: Cell<u64>,

    /// For writing; open from the first write to the sealing.
    pub(super) file: RefCell<Option<I::File>>,
    /// For reading; open while the segment is warm.
    reader: RefCell<Option<I::File>>,
    /// What the file's chunks are known by, from the first one on.
    chunk_key: Cell<Option<u64>>,
    /// Closed, cut to its batches, and its index stored: nothing is written any more.
    pub(super) sealed: Cell<bool>,
    /// The file exists up to here, and reads as zeros from `bytes` on.
    pub(super) allocated: Cell<u64>,
    /// Zeros have been written up to here.
    pub(super) zeroed: Cell<u64>,
    pub(super) next_extent: Cell<u64>,
    /// What the zeroing task writes now: no other write may touch it.
    pub(super) zeroing: RefCell<Option<Range<u64>>>,
    pub(super) zeroing_runs: Cell<bool>,
}

impl<I: Io> Segment<I> {
    /// A segment without batches and without a file.
    pub(super) fn new(directory: &Path, base: Offset) -> Segment<I> {
        Segment {
            base,
            path: segment_path(directory, base),
            bytes: Cell::new(0),
            next: Cell::new(base),
            max_timestamp: Cell::new((super::index::NO_TIMESTAMP, base)),
            first_timestamp: Cell::new(None),
            clock: Cell::default(),
            index: RefCell::new(Some(Index::new(base))),
            index_stored_bytes: Cell::new(0),
            file: RefCell::new(None),
            reader: RefCell::new(None),
            chunk_key: Cell::new(None),
            sealed: Cell::new(false),
            allocated: Cell::new(0),
            zeroed: Cell::new(0),
            next_extent: Cell::new(EXTENT_BYTES_MIN),
            zeroing: RefCell::new(None),
            zeroing_runs: Cell::new(false),
        }
    }

    /// A closed segment that a checkpoint or a stored index vouches for.
    pub(super) fn closed(directory: &Path, summary: &SegmentSummary) -> Segment<I> {
        let segment = Segment::new(directory, summary.base);
        segment.bytes.set(summary.bytes);
        segment.next.set(summary.next);
        segment
            .max_timestamp
            .set((summary.max_timestamp, summary.max_timestamp_offset));
        segment.index_stored_bytes.set(summary.bytes);
        segment.allocated.set(block_ceil(summary.bytes));
        segment.index.replace(None);
        segment.sealed.set(true);
        segment
    }

    /// A segment as a scan found it.
    pub(super) fn scanned(
        directory: &Path,
        index: Index,
        first_timestamp: Option<i64>,
    ) -> Segment<I> {
        let segment = Segment::new(directory, index.base());
        segment.bytes.set(index.covered_bytes());
        segment.next.set(index.next_offset());
        segment.max_timestamp.set(index.max_timestamp());
        segment.first_timestamp.set(first_timestamp);
        segment.allocated.set(block_ceil(index.covered_bytes()));
        segment.index.replace(Some(index));
        segment
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    pub(super) fn summary(&self) -> SegmentSummary {
        let (max_timestamp, max_timestamp_offset) = self.max_timestamp.get();
        SegmentSummary {
            base: self.base,
            next: self.next.get(),
            bytes: self.bytes.get(),
            max_timestamp,
            max_timestamp_offset,
        }
    }

    /// The file for writing, made if absent: where the segment begins and nowhere else, or a file that was deleted would come back.
    pub(super) async fn create(&self, io: &I) -> io::Result<I::File> {
        let file = io.open(&self.path, OpenMode::DirectCreate).await?;
        self.file.replace(Some(file.clone()));
        Ok(file)
    }

    /// The file for writing.
    pub(super) async fn open(&self, io: &I) -> io::Result<I::File> {
        if let Some(file) = self.file.borrow().as_ref() {
            return Ok(file.clone());
        }
        let file = io.open(&self.path, OpenMode::Direct).await?;
        self.file.replace(Some(file.clone()));
        Ok(file)
    }

    /// The file for reading whole blocks.
    pub(super) async fn open_reader(&self, io: &I) -> io::Result<I::File> {
        if let Some(file) = self.reader.borrow().as_ref() {
            return Ok(file.clone());
        }
        let file = io.open(&self.path, OpenMode::ReadDirect).await?;
        self.reader.replace(Some(file.clone()));
        Ok(file)
    }

    pub(super) fn chunk(&self, chunks: &ChunkCache, number: u64) -> ChunkKey {
        let file = self.chunk_key.get().unwrap_or_else(|| chunks.name_file());
        self.chunk_key.set(Some(file));
        ChunkKey { file, number }
    }

    /// Lets go of what only readers need.
    pub(super) fn cool(&self) {
        self.reader.replace(None);
        if self.sealed.get() {
            self.index.replace(None);
        }
    }

    /// Notes that nothing is written any more. From here the index is loaded again when a reader needs it.
    pub(super) fn seal(&self) {
        self.sealed.set(true);
        self.file.replace(None);
        self.index.replace(None);
    }

    /// The stored index, if it is whole and covers no more than the file. An error when another program wrote it.
    pub(super) async fn load_index(&self, io: &I, file_bytes: u64) -> io::Result<Option<Index>> {
        let path = self.index_path();
        let Ok(bytes) = io.read_file(&path, INDEX_FILE_BYTES_MAX).await else {
            return Ok(None);
        };
        match Index::decode(&bytes, self.base) {
            Ok(index) => Ok(Some(index).filter(|index| index.covered_bytes() <= file_bytes)),
            Err(error) => error.damage_of(&path).map(|_| None),
        }
    }

    pub(super) async fn store_index(&self, io: &I) -> io::Result<()> {
        let (bytes, covered) = match self.index.borrow().as_ref() {
            Some(index) => (index.encode(), index.covered_bytes()),
            None => return Ok(()),
        };
        io.replace_file(&self.index_path(), bytes).await?;
        self.index_stored_bytes.set(covered);
        Ok(())
    }

    /// Removes the files; the index first, so that no index outlives its segment. The other file is left to be used again if more are
    /// wanted and nobody but the caller's `handles` knows the segment: a reader that has it open must not see what it holds next.
    pub(super) async fn free(
        self: &Rc<Self>,
        io: &I,
        spares: &SpareSegments,
        handles: usize,
    ) -> io::Result<()> {
        self.file.replace(None);
        self.cool();
        ignore_missing(io.remove_file(&self.index_path()).await)?;
        if Rc::strong_count(self) > handles || !spares.offer(io, &self.path).await {
            ignore_missing(io.remove_file(&self.path).await)?;
        }
        Ok(())
    }
}

pub(super) fn segment_path(directory: &Path, base: Offset) -> PathBuf {
    directory.join(format!("{:020}.log", base.0))
}

/// The base offset in a segment file's name.
pub(super) fn base_of(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Offset)
}

pub(super) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_would_give_are_segments() {
        let path = segment_path(Path::new("/p"), Offset(42));
        assert_eq!(path, Path::new("/p/00000000000000000042.log"));
        assert_eq!(base_of("00000000000000000042.log"), Some(Offset(42)));
        for name in [
            "42.log",
            "00000000000000000042.index",
            "0000000000000000004x.log",
            "99999999999999999999.log",
            "+0000000000000000042.log",
        ] {
            assert_eq!(base_of(name), None, "{name}");
        }
    }
}
