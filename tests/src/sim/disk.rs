//! One host's disk: files by number, names in directories, operations in flight, and what a crash leaves of all three.
//!
//! The disk knows no time and no tasks. The simulation begins an operation, finishes it when its latency is over, and crashes the
//! disk between any two of these; an operation has no effect before it is finished, except that a crash may leave part of it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dataplane::io::{BLOCK_BYTES, OpenMode, WriteDurability};

use super::faults::FileFault;
use super::file::{SECTOR_BYTES, SimFileData, Unsynced, tear};
use super::names::{FileNumber, Names};
use super::operation::{Descriptor, OpenFile, Operation, Outcome};
use super::random::Random;

const EIO: i32 = 5;
const EBADF: i32 = 9;
const EMFILE: i32 = 24;
const FILES_TO_COLLECT_MIN: usize = 64;

/// What a disk has been asked to do so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    pub reads: u64,
    pub writes: u64,
    pub written_bytes: u64,
    /// Writes begun while another one to the same block was in flight: their order is anyone's guess.
    pub overlapping_writes: u64,
    pub syncs: u64,
}

pub(super) struct Disk {
    names: Names,
    files: BTreeMap<FileNumber, DiskFile>,
    in_flight: BTreeMap<u64, InFlight>,
    next_operation: u64,
    /// Counts finished operations, so that a sync knows what it covers.
    stamp: u64,
    /// The world's clock, for the times at which files are changed.
    clock_ms: i64,
    capacity_bytes: u64,
    allocates: bool,
    descriptors_max: usize,
    /// With so many files it is time to forget those that nothing leads to.
    files_to_collect: usize,
    pub(super) counters: DiskCounters,
}

#[derive(Default)]
struct DiskFile {
    data: SimFileData,
    changed_ms: i64,
    /// Each descriptor holds a clone.
    open: Rc<()>,
}

struct InFlight {
    operation: Operation,
    begun_at: u64,
}

impl Disk {
    pub(super) fn new(capacity_bytes: u64, allocates: bool) -> Disk {
        Disk {
            names: Names::new(),
            files: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_operation: 0,
            stamp: 1,
            clock_ms: 0,
            capacity_bytes,
            allocates,
            descriptors_max: usize::MAX,
            files_to_collect: FILES_TO_COLLECT_MIN,
            counters: DiskCounters::default(),
        }
    }

    pub(super) fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    pub(super) fn set_descriptors(&mut self, descriptors_max: usize) {
        self.descriptors_max = descriptors_max;
    }

    /// Files that are open, each as often as it was opened.
    pub(super) fn descriptors(&self) -> usize {
        let files = self.files.values();
        files.map(|file| Rc::strong_count(&file.open) - 1).sum()
    }

    pub(super) fn set_clock(&mut self, ms: i64) {
        self.clock_ms = ms;
    }

    pub(super) fn begin(&mut self, operation: Operation) -> u64 {
        self.count(&operation);
        let id = self.next_operation;
        self.next_operation += 1;
        let begun_at = self.stamp;
        self.in_flight.insert(
            id,
            InFlight {
                operation,
                begun_at,
            },
        );
        id
    }

    /// Ends an operation that was begun. The fault, if any, is one that suits the operation.
    pub(super) fn finish(
        &mut self,
        id: u64,
        fault: Option<FileFault>,
        random: &mut Random,
    ) -> io::Result<Outcome> {
        let InFlight {
            operation,
            begun_at,
        } = self
            .in_flight
            .remove(&id)
            .expect("an operation is finished once, after it was begun");
        self.stamp += 1;
        match (fault, operation) {
            (None, operation) => self.apply(operation, begun_at, random),
            (Some(FileFault::Refused(shortage)), _) => Err(shortage.error()),
            // What came before the block that found no room is there.
            (Some(FileFault::NoSpace), Operation::Write(file, at, bytes, _)) => {
                let kept = random.index(bytes.len() / BLOCK_BYTES) * BLOCK_BYTES;
                self.write(&file, at, &bytes[..kept], false)?;
                Err(ErrorKind::StorageFull.into())
            }
            (Some(FileFault::NoSpace), _) => Err(ErrorKind::StorageFull.into()),
            (Some(fault), Operation::Write(file, at, bytes, _)) => {
                let whole_sectors = bytes.len() / SECTOR_BYTES;
                let kept = random.index(whole_sectors) * SECTOR_BYTES;
                self.write(&file, at, &bytes[..kept], false)?;
                Err(match fault {
                    FileFault::ShortWrite => ErrorKind::WriteZero.into(),
                    _ => io::Error::from_raw_os_error(EIO),
                })
            }
            (Some(_), Operation::Sync(file)) => {
                self.file(file.number)?.sync_failed(begun_at);
                Err(io::Error::from_raw_os_error(EIO))
            }
            (Some(_), _) => Err(io::Error::from_raw_os_error(EIO)),
        }
    }

    /// The process dies: what it had in flight happens, does not happen, or happens in part.
    pub(super) fn kill_process(&mut self, random: &mut Random) {
        for (_, InFlight { operation, .. }) in std::mem::take(&mut self.in_flight) {
            self.stamp += 1;
            match (random.below(3), operation) {
                (0, _) => {}
                (1, Operation::Write(file, at, bytes, _)) => {
                    let mut torn = self.read_range(&file, at, bytes.len());
                    torn.resize(bytes.len(), 0);
                    tear(random, &mut torn, &bytes);
                    // An error here is one that nobody is left to hear.
                    let _ = self.write(&file, at, &torn, false);
                }
                (1, Operation::WriteBuffered(file, bytes)) => {
                    let kept = random.index(bytes.len() + 1);
                    let _ = self.write_buffered(&file, &bytes[..kept]);
                }
                (_, Operation::Write(file, at, bytes, _)) => {
                    let _ = self.write(&file, at, &bytes, false);
                }
                // A sync that nobody saw complete promises nothing.
                (_, Operation::Sync(_) | Operation::SyncDirectory(_)) => {}
                (_, operation) => {
                    let _ = self.apply(operation, self.stamp, random);
                }
            }
        }
        self.collect_unreachable();
    }

    /// The host loses power: as for the process, and then only what was synced is sure.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        self.kill_process(random);
        let fate = Unsynced::draw(random);
        self.names.lose_power(random, fate);
        for file in self.files.values_mut() {
            file.data.lose_power(random, fate);
        }
        self.collect_unreachable();
    }

    /// A file's bytes as a test sees them, past all operations.
    pub(super) fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let number = self.names.lookup(path).ok()?;
        let data = &self.files.get(&number)?.data;
        Some(data.read(0, data.len() as usize))
    }

    /// Puts a durable file in place, past all operations: the way for a test to damage or plant one.
    pub(super) fn plant(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.names.create_directories(parent)?;
        }
        self.reserve(bytes.len() as u64)?;
        let number = self.names.add_file(path)?;
        let mut file = DiskFile::default();
        file.data.write(self.stamp, 0, bytes, false);
        file.data.settle_all();
        self.files.insert(number, file);
        self.names.sync_all();
        self.collect_unreachable();
        Ok(())
    }

    /// Paths of all files, sorted.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.names.paths()
    }

    fn count(&mut self, operation: &Operation) {
        match operation {
            Operation::Read(..) => self.counters.reads += 1,
            Operation::Write(file, at, bytes, _) => {
                self.counters.writes += 1;
                self.counters.written_bytes += bytes.len() as u64;
                if !self.writes_over(file.number, *at, bytes.len()).is_empty() {
                    self.counters.overlapping_writes += 1;
                }
            }
            Operation::Sync(_) => self.counters.syncs += 1,
            _ => {}
        }
    }

    fn apply(
        &mut self,
        operation: Operation,
        begun_at: u64,
        random: &mut Random,
    ) -> io::Result<Outcome> {
        match operation {
            Operation::Open(path, mode) => return self.open(&path, mode).map(Outcome::File),
            Operation::Read(file, at, bytes) => {
                return self.read(&file, at, bytes, random).map(Outcome::Bytes);
            }
            Operation::Write(file, at, bytes, durability) => {
                self.write(&file, at, &bytes, durability == WriteDurability::Synced)?;
            }
            Operation::Sync(file) => self.file(file.number)?.sync(begun_at),
            Operation::Allocate(..) if !self.allocates => {
                return Err(ErrorKind::Unsupported.into());
            }
            Operation::Allocate(file, at, bytes) => {
                let end = at.checked_add(bytes).ok_or(ErrorKind::FileTooLarge)?;
                self.reserve_up_to(file.number, end)?;
                let stamp = self.stamp;
                self.file(file.number)?.allocate(stamp, end);
            }
            Operation::Truncate(file, bytes) => {
                let stamp = self.stamp;
                self.file(file.number)?.truncate(stamp, bytes);
                self.touch(file.number);
            }
            Operation::FileBytes(file) => {
                return Ok(Outcome::Length(self.file(file.number)?.len()));
            }
            Operation::ChangedMs(file) => {
                let file = self.files.get(&file.number).ok_or(ErrorKind::NotFound)?;
                return Ok(Outcome::Time(file.changed_ms));
            }
            Operation::CreateDirectories(path) => self.names.create_directories(&path)?,
            Operation::List(path) => {
                self.need_descriptor()?;
                return self.names.list(&path).map(Outcome::Names);
            }
            Operation::Rename(from, to) => self.names.rename(&from, &to)?,
            Operation::RemoveFile(path) => self.names.remove_file(&path)?,
            Operation::RemoveDirectory(path) => self.names.remove_directory(&path)?,
            Operation::ReadFile(path, bytes_max) => {
                self.need_descriptor()?;
                let number = self.names.lookup(&path)?;
                let file = self.file(number)?;
                if file.len() > bytes_max as u64 {
                    return Err(ErrorKind::FileTooLarge.into());
                }
                return Ok(Outcome::Bytes(file.read(0, bytes_max)));
            }
            Operation::OpenEmpty(path) => return self.open_empty(&path).map(Outcome::File),
            Operation::WriteBuffered(file, bytes) => self.write_buffered(&file, &bytes)?,
            Operation::SyncDirectory(path) => {
                self.need_descriptor()?;
                self.names.sync_directory(&path)?;
                // Nobody sees the others, so this only has to keep them few.
                if self.files.len() >= self.files_to_collect {
                    self.collect_unreachable();
                }
            }
        }
        Ok(Outcome::Done)
    }

    // Contents.

    fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<OpenFile> {
        self.need_descriptor()?;
        let number = match (self.names.lookup(path), mode) {
            (Err(error), OpenMode::DirectCreate) if error.kind() == ErrorKind::NotFound => {
                let number = self.names.add_file(path)?;
                self.files.insert(number, DiskFile::default());
                number
            }
            (found, _) => found?,
        };
        let file = self.files.get(&number).ok_or(ErrorKind::IsADirectory)?;
        Ok(OpenFile {
            number,
            path: Rc::from(path.to_string_lossy()),
            mode,
            _open: Rc::new(Descriptor {
                _file: Rc::clone(&file.open),
            }),
        })
    }

    fn open_empty(&mut self, path: &Path) -> io::Result<OpenFile> {
        let file = self.open(path, OpenMode::DirectCreate)?;
        let stamp = self.stamp;
        self.file(file.number)?.truncate(stamp, 0);
        Ok(file)
    }

    fn need_descriptor(&self) -> io::Result<()> {
        if self.descriptors() >= self.descriptors_max {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        Ok(())
    }

    /// A read that meets a write in flight sees any mixture of old and new sectors.
    fn read(
        &mut self,
        file: &OpenFile,
        at: u64,
        bytes: usize,
        random: &mut Random,
    ) -> io::Result<Vec<u8>> {
        if file.mode != OpenMode::ReadCached && !(is_aligned(at) && is_aligned(bytes as u64)) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut result = self.read_range(file, at, bytes);
        for id in self.writes_over(file.number, at, result.len()) {
            let Operation::Write(_, write_at, written, _) = &self.in_flight[&id].operation else {
                continue;
            };
            let start = at.max(*write_at);
            let end = (at + result.len() as u64).min(write_at + written.len() as u64);
            let new = &written[(start - write_at) as usize..(end - write_at) as usize];
            let old = &mut result[(start - at) as usize..(end - at) as usize];
            tear(random, old, new);
        }
        Ok(result)
    }

    fn read_range(&mut self, file: &OpenFile, at: u64, bytes: usize) -> Vec<u8> {
        self.file(file.number)
            .map(|data| data.read(at, bytes))
            .unwrap_or_default()
    }

    fn write(&mut self, file: &OpenFile, at: u64, bytes: &[u8], durable: bool) -> io::Result<()> {
        if !matches!(file.mode, OpenMode::Direct | OpenMode::DirectCreate) {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        if !is_aligned(at) {
            return Err(ErrorKind::InvalidInput.into());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.reserve_up_to(file.number, at + bytes.len() as u64)?;
        let stamp = self.stamp;
        self.file(file.number)?.write(stamp, at, bytes, durable);
        self.touch(file.number);
        Ok(())
    }

    fn write_buffered(&mut self, file: &OpenFile, bytes: &[u8]) -> io::Result<()> {
        self.reserve_up_to(file.number, bytes.len() as u64)?;
        let stamp = self.stamp;
        self.file(file.number)?.write(stamp, 0, bytes, false);
        self.touch(file.number);
        Ok(())
    }

    /// Operations in flight that write to blocks of a range.
    fn writes_over(&self, number: FileNumber, at: u64, bytes: usize) -> Vec<u64> {
        let overlaps = |operation: &Operation| match operation {
            Operation::Write(file, write_at, written, _) => {
                file.number == number
                    && *write_at < at + bytes as u64
                    && at < write_at + written.len() as u64
            }
            _ => false,
        };
        let in_flight = self.in_flight.iter();
        in_flight
            .filter(|(_, in_flight)| overlaps(&in_flight.operation))
            .map(|(&id, _)| id)
            .collect()
    }

    fn reserve_up_to(&mut self, number: FileNumber, end: u64) -> io::Result<()> {
        let needed = self.file(number)?.blocks_needed(end);
        self.reserve(needed * BLOCK_BYTES as u64)
    }

    /// Whether the disk has room for so much more. A file without a name takes none once nobody has it open.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        if bytes == 0 || self.capacity_bytes == u64::MAX {
            return Ok(());
        }
        let named = self.names.visible();
        let there = |(number, file): &(&FileNumber, &DiskFile)| {
            named.contains(number) || Rc::strong_count(&file.open) > 1
        };
        let files = self.files.iter().filter(there);
        let used: u64 = files.map(|(_, file)| file.data.blocks_used()).sum();
        if (used * BLOCK_BYTES as u64).saturating_add(bytes) > self.capacity_bytes {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Forgets files that no name, no change of names and no handle leads to.
    fn collect_unreachable(&mut self) {
        let reachable = self.names.collect_reachable();
        self.files
            .retain(|number, file| reachable.contains(number) || Rc::strong_count(&file.open) > 1);
        self.files_to_collect = FILES_TO_COLLECT_MIN.max(2 * self.files.len());
    }

    fn touch(&mut self, number: FileNumber) {
        let clock_ms = self.clock_ms;
        if let Some(file) = self.files.get_mut(&number) {
            file.changed_ms = clock_ms;
        }
    }

    fn file(&mut self, number: FileNumber) -> io::Result<&mut SimFileData> {
        match self.files.get_mut(&number) {
            Some(file) => Ok(&mut file.data),
            None if self.names.is_directory(number) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }
}

fn is_aligned(bytes: u64) -> bool {
    bytes.is_multiple_of(BLOCK_BYTES as u64)
}
