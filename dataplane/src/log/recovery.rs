//! Opens a partition's directory and finds out where its log ends.
//!
//! Behind the checkpoint's recovery point everything was flushed: segments are taken as the checkpoint lists them, or their headers
//! are walked where no index covers them. Past it each batch is checked: a plausible header, the offset that is due, a leader epoch
//! that does not fall, and the CRC. The first that fails ends the log: the file is cut there, physically, so that nothing behind it
//! can come back, and later segments are set aside by renaming (Kafka deletes them). Without a usable checkpoint everything is
//! checked from the first segment on, so no good batch is lost.
//!
//! The checkpoint also says where the log starts. Files of what ends below may still be there, any of them, because a disk forgets
//! names in whatever order it likes: they are removed before anything is concluded from a gap.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::rc::Rc;

use control_api::ids::LeaderEpoch;
use wire::{BatchHeader, TimestampType};

use super::checkpoint::Checkpoint;
use super::epochs::Epochs;
use super::flush::CHECKPOINT_FILE;
use super::index::Index;
use super::limits::{CHECKPOINT_BYTES_MAX, TERMINATOR_BYTES};
use super::producers::Producers;
use super::scan::Scanner;
use super::segment::{Segment, base_of, ignore_missing, segment_path};
use super::sequenced_header;
use super::shortage::is_shortage;
use super::types::{LogConfig, Offset, block_floor};
use crate::io::{Io, OpenMode};

pub(super) struct Recovered<I: Io> {
    pub(super) clean: bool,
    pub(super) log_start: Offset,
    pub(super) log_end: Offset,
    /// What consumers could see at least.
    pub(super) high_watermark: Offset,
    pub(super) segments: VecDeque<Rc<Segment<I>>>,
    pub(super) epochs: Epochs,
    pub(super) producers: Producers,
    /// The bytes of the block that the log ends in.
    pub(super) partial: Vec<u8>,
    /// Log start and end as the stored checkpoint has them.
    pub(super) checkpointed: (Offset, Offset),
    /// Bytes behind it.
    pub(super) bytes_since_checkpoint: u64,
}

pub(super) async fn recover<I: Io>(io: &I, directory: &Path) -> io::Result<Recovered<I>> {
    io.create_directories(directory).await?;
    let names = io.list(directory).await?;
    if names.is_empty() {
        make_directory_last(io, directory).await?;
    }
    let mut bases: Vec<Offset> = names.iter().filter_map(|name| base_of(name)).collect();
    bases.sort_unstable();
    let checkpoint = read_checkpoint(io, directory).await?;
    let log_start = checkpoint
        .as_ref()
        .map_or(Offset(0), |known| known.log_start);
    remove_leftovers(io, directory, &names).await?;
    if let Some(checkpoint) = &checkpoint {
        let recovery = Recovery::new(io, directory, log_start, Some(checkpoint));
        if let Some(recovered) = recovery.run(&bases).await? {
            return Ok(recovered);
        }
        let directory = directory.display();
        tracing::warn!(%directory, "the segments do not reach the checkpoint: checking all of them");
    }
    let recovery = Recovery::new(io, directory, log_start, None);
    let recovered = recovery.run(&bases).await?;
    let mut recovered = recovered.expect("only a checkpoint can be contradicted");
    recovered.high_watermark = checkpoint
        .map_or(recovered.log_start, |known| known.high_watermark)
        .clamp(recovered.log_start, recovered.log_end);
    Ok(recovered)
}

/// Small files that were being replaced, and indexes whose segments are gone.
async fn remove_leftovers<I: Io>(io: &I, directory: &Path, names: &[String]) -> io::Result<()> {
    let is_leftover = |name: &&String| {
        let index = name.strip_suffix(".index");
        let segment = index.map(|base| format!("{base}.log"));
        name.ends_with(".tmp") || segment.is_some_and(|segment| !names.contains(&segment))
    };
    for name in names.iter().filter(is_leftover) {
        ignore_missing(io.remove_file(&directory.join(name)).await)?;
    }
    Ok(())
}

/// A new directory's name, and those of the directories around it, survive the loss of power from here on.
async fn make_directory_last<I: Io>(io: &I, directory: &Path) -> io::Result<()> {
    for parent in directory
        .ancestors()
        .skip(1)
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        match io.sync_directory(parent).await {
            // One that we may not open is not one that we made a name in.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            result => result?,
        }
    }
    Ok(())
}

async fn read_checkpoint<I: Io>(io: &I, directory: &Path) -> io::Result<Option<Checkpoint>> {
    let path = directory.join(CHECKPOINT_FILE);
    let bytes = match io.read_file(&path, CHECKPOINT_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match Checkpoint::decode(&bytes) {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(error) => {
            let error = error.damage_of(&path)?;
            tracing::warn!(directory = %directory.display(), %error, "the checkpoint is damaged: checking all segments");
            Ok(None)
        }
    }
}

/// One attempt, with a checkpoint or without.
struct Recovery<'a, I: Io> {
    io: &'a I,
    directory: &'a Path,
    /// What is known of it: everything before was deleted.
    log_start: Offset,
    checkpoint: Option<&'a Checkpoint>,
    segments: VecDeque<Rc<Segment<I>>>,
    epochs: Epochs,
    producers: Producers,
    partial: Vec<u8>,
    /// What is to be done to the files once the attempt has succeeded.
    cuts: Vec<Cut<I>>,
    /// Segments that end below the log start.
    deleted: Vec<Offset>,
    reached_checkpoint: bool,
    bytes_since_checkpoint: u64,
}

struct Cut<I: Io> {
    segment: Rc<Segment<I>>,
    file_bytes: u64,
    /// Batches were found that no checkpoint knew, so nobody knows whether they are flushed.
    grown: bool,
}

impl<'a, I: Io> Recovery<'a, I> {
    fn new(
        io: &'a I,
        directory: &'a Path,
        log_start: Offset,
        checkpoint: Option<&'a Checkpoint>,
    ) -> Self {
        Recovery {
            io,
            directory,
            log_start,
            checkpoint,
            segments: VecDeque::new(),
            epochs: checkpoint
                .map(|known| known.epochs.clone())
                .unwrap_or_default(),
            producers: checkpoint
                .map(|known| known.producers.clone())
                .unwrap_or_default(),
            partial: Vec::new(),
            cuts: Vec::new(),
            deleted: Vec::new(),
            reached_checkpoint: false,
            bytes_since_checkpoint: 0,
        }
    }

    /// `None` when the files contradict the checkpoint. Changes no file before it is sure.
    async fn run(mut self, bases: &[Offset]) -> io::Result<Option<Recovered<I>>> {
        // The one that may hold the log start; those before it end there at the latest.
        let first = bases.partition_point(|base| *base <= self.log_start);
        let mut taken = first.saturating_sub(1);
        self.deleted.extend(&bases[..taken]);
        for base in &bases[taken..] {
            let due = self
                .segments
                .back()
                .map_or(*base, |previous| previous.next.get());
            if *base != due {
                break;
            }
            if !self.take_listed(*base).await? && !self.scan(*base).await? {
                return Ok(None);
            }
            taken += 1;
            self.drop_deleted();
        }
        // A log without records may have no file at all.
        let empty = self
            .checkpoint
            .is_some_and(|known| known.recovery.position == 0);
        if self.checkpoint.is_some()
            && !self.reached_checkpoint
            && !(empty && self.reaches_empty_active())
        {
            return Ok(None);
        }
        self.set_aside(&bases[taken..]).await?;
        self.remove_deleted().await?;
        self.cut().await?;
        self.finish().await.map(Some)
    }

    /// The segment that was found last may end below the log start too.
    fn drop_deleted(&mut self) {
        let log_start = self.log_start;
        let ends_below =
            |last: &&Rc<Segment<I>>| last.base < log_start && last.next.get() <= log_start;
        if let Some(last) = self.segments.back().filter(ends_below).cloned() {
            self.deleted.push(last.base);
            self.segments.pop_back();
            self.cuts.retain(|cut| !Rc::ptr_eq(&cut.segment, &last));
        }
    }

    /// Takes a closed segment as the checkpoint lists it, if its file is as long as it says.
    async fn take_listed(&mut self, base: Offset) -> io::Result<bool> {
        let Some(checkpoint) = self.checkpoint else {
            return Ok(false);
        };
        let Ok(index) = checkpoint
            .segments
            .binary_search_by_key(&base, |listed| listed.base)
        else {
            return Ok(false);
        };
        let listed = &checkpoint.segments[index];
        let scanner = Scanner::open(self.io, &segment_path(self.directory, base)).await?;
        if base >= checkpoint.recovery.segment || scanner.file_bytes() != listed.bytes {
            return Ok(false);
        }
        self.segments
            .push_back(Rc::new(Segment::closed(self.directory, listed)));
        Ok(true)
    }

    /// Walks a segment to its end. `false` when it contradicts the checkpoint.
    async fn scan(&mut self, base: Offset) -> io::Result<bool> {
        let path = segment_path(self.directory, base);
        let mut scanner = Scanner::open(self.io, &path).await?;
        let checked_from = self.checked_from(base);
        let stored = Segment::<I>::new(self.directory, base)
            .load_index(self.io, checked_from.min(scanner.file_bytes()))
            .await?;
        let stored_bytes = stored.as_ref().map_or(0, Index::covered_bytes);
        let mut index = stored.unwrap_or_else(|| Index::new(base));
        let interval = LogConfig::default().index_interval_bytes;
        loop {
            let position = index.covered_bytes();
            if let Some(checkpoint) = self
                .checkpoint
                .filter(|known| known.recovery.segment == base)
                && position >= checked_from
                && !self.reached_checkpoint
            {
                if position != checked_from || index.next_offset() != checkpoint.recovery.offset {
                    return Ok(false);
                }
                self.reached_checkpoint = true;
            }
            let Some(header) = scanner.header(position, index.next_offset()).await? else {
                break;
            };
            if position >= checked_from {
                if !self.is_ours(&header) || !scanner.is_whole(position, &header).await? {
                    break;
                }
                self.note(&header);
            }
            let Ok(bytes) = header.batch_bytes() else {
                break;
            };
            let next_offset = Offset(header.last_offset() + 1);
            index.append(
                Offset(header.base_offset),
                next_offset,
                bytes,
                header.max_timestamp,
                interval,
            );
        }
        let end = index.covered_bytes();
        if checked_from < u64::MAX && end < checked_from {
            return Ok(false);
        }
        let first_timestamp = scanner
            .header(0, base)
            .await?
            .filter(|_| end > 0)
            .map(|header| header.max_timestamp);
        self.partial = scanner
            .bytes(block_floor(end), (end - block_floor(end)) as usize)
            .await?
            .map_or_else(Vec::new, |bytes| bytes.to_vec());
        self.say_if_torn(&mut scanner, base, end).await?;
        let segment = Rc::new(Segment::scanned(self.directory, index, first_timestamp));
        segment.index_stored_bytes.set(stored_bytes);
        let grown = end > checked_from;
        self.bytes_since_checkpoint += end.saturating_sub(checked_from);
        self.cuts.push(Cut {
            segment: Rc::clone(&segment),
            file_bytes: scanner.file_bytes(),
            grown,
        });
        self.segments.push_back(segment);
        Ok(true)
    }

    /// The position of a segment from which on batches are checked.
    fn checked_from(&self, base: Offset) -> u64 {
        match self.checkpoint.map(|known| known.recovery) {
            Some(recovery) if base < recovery.segment => u64::MAX,
            Some(recovery) if base == recovery.segment => recovery.position,
            _ => 0,
        }
    }

    fn is_ours(&self, header: &BatchHeader) -> bool {
        let epoch = LeaderEpoch(header.partition_leader_epoch);
        self.epochs.latest().is_none_or(|latest| epoch >= latest)
    }

    fn note(&mut self, header: &BatchHeader) {
        self.epochs.begin(
            LeaderEpoch(header.partition_leader_epoch),
            Offset(header.base_offset),
        );
        if let Some(batch) = sequenced_header(header) {
            let append_time = match header.attributes.timestamp_type() {
                TimestampType::CreateTime => -1,
                TimestampType::LogAppendTime => header.max_timestamp,
            };
            self.producers.append(
                &batch,
                Offset(header.base_offset),
                append_time,
                self.io.wall_clock_ms(),
            );
        }
    }

    /// After a crash zeros follow the last batch; anything else was a write that did not complete.
    async fn say_if_torn(
        &self,
        scanner: &mut Scanner<I>,
        base: Offset,
        end: u64,
    ) -> io::Result<()> {
        let left = scanner.file_bytes() - end;
        let next = scanner
            .bytes(end, left.min(TERMINATOR_BYTES as u64) as usize)
            .await?;
        if next.is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0)) {
            let directory = self.directory.display();
            tracing::warn!(%directory, segment = %base, position = end, "the log ends in a batch that is not whole: cut");
        }
        Ok(())
    }

    /// An active segment whose first write never began has no file.
    fn reaches_empty_active(&self) -> bool {
        let end = self.segments.back().map(|last| last.next.get());
        self.checkpoint
            .is_some_and(|known| end.is_none_or(|end| end == known.recovery.offset))
    }

    /// Segments that do not follow: kept under another name, for an operator to look at.
    async fn set_aside(&self, bases: &[Offset]) -> io::Result<()> {
        for base in bases {
            let path = segment_path(self.directory, *base);
            tracing::error!(segment = %path.display(), "the segment does not follow the one before: set aside");
            self.io
                .rename(&path, &path.with_extension("log.set-aside"))
                .await?;
            ignore_missing(self.io.remove_file(&path.with_extension("index")).await)?;
        }
        Ok(())
    }

    /// A deletion that a crash interrupted, or undid.
    async fn remove_deleted(&self) -> io::Result<()> {
        for base in &self.deleted {
            let path = segment_path(self.directory, *base);
            ignore_missing(self.io.remove_file(&path.with_extension("index")).await)?;
            ignore_missing(self.io.remove_file(&path).await)?;
        }
        Ok(())
    }

    /// Ends each scanned file where its batches end. Afterwards all that was found is flushed.
    async fn cut(&self) -> io::Result<()> {
        for Cut {
            segment,
            file_bytes,
            grown,
        } in &self.cuts
        {
            if *file_bytes == segment.bytes.get() && !grown {
                continue;
            }
            let file = self.io.open(segment.path(), OpenMode::Direct).await?;
            if *file_bytes != segment.bytes.get() {
                self.io.truncate(&file, segment.bytes.get()).await?;
            }
            self.io.sync(&file).await?;
            self.io.sync_directory(self.directory).await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> io::Result<Recovered<I>> {
        let first = self.segments.front().map(|first| first.base);
        let log_start = self.log_start.max(first.unwrap_or_default());
        self.seal_closed().await?;
        self.begin_active(log_start);
        let active = Rc::clone(self.segments.back().expect("one was just begun"));
        let log_end = active.next.get();
        self.epochs.truncate(log_end);
        self.epochs.forget_before(log_start);
        let clean = self
            .checkpoint
            .is_some_and(|known| known.clean && known.recovery.offset == log_end);
        Ok(Recovered {
            clean: clean
                && self
                    .cuts
                    .iter()
                    .all(|cut| cut.file_bytes == cut.segment.bytes.get()),
            log_start,
            log_end,
            high_watermark: self
                .checkpoint
                .map_or(log_start, |known| known.high_watermark)
                .clamp(log_start, log_end),
            segments: self.segments,
            epochs: self.epochs,
            producers: self.producers,
            partial: self.partial,
            checkpointed: self.checkpoint.map_or((Offset(-1), Offset(-1)), |known| {
                (known.log_start, known.recovery.offset)
            }),
            bytes_since_checkpoint: self.bytes_since_checkpoint,
        })
    }

    /// Scanned segments that others follow are as good as sealed; only their indexes are missing.
    async fn seal_closed(&self) -> io::Result<()> {
        let closed = self.segments.len().saturating_sub(1);
        for segment in self
            .segments
            .iter()
            .take(closed)
            .filter(|segment| !segment.sealed.get())
        {
            match segment.store_index(self.io).await {
                // A full disk keeps no log closed. Who reads the segment builds its index anew.
                Err(error) if is_shortage(&error) => {}
                stored => stored?,
            }
            segment.seal();
        }
        Ok(())
    }

    /// The last segment found goes on; a new one begins where there is none or where it is a closed one.
    fn begin_active(&mut self, log_start: Offset) {
        let last = self.segments.back();
        if last.is_some_and(|last| !last.sealed.get()) {
            return;
        }
        let base = last.map_or(log_start, |last| last.next.get());
        self.partial.clear();
        self.segments
            .push_back(Rc::new(Segment::new(self.directory, base)));
    }
}
