//! One host's disk: files by number, names in directories, operations in flight, and what a crash leaves of all three.
//!
//! The disk knows no time and no tasks. The simulation begins an operation, finishes it when its latency is over, and crashes the
//! disk between any two of these; an operation has no effect before it is finished, except that a crash may leave part of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use dataplane::io::{BLOCK_BYTES, OpenMode, WriteDurability};

use super::faults::FileFault;
use super::file::{SECTOR_BYTES, SimFileData, Unsynced, tear};
use super::random::Random;
use super::trace::hash_bytes;

pub(super) type FileNumber = u64;

const ROOT: FileNumber = 0;
const EIO: i32 = 5;
const EBADF: i32 = 9;

/// What a shard may ask of a disk; the arguments are those of the `Io` trait.
#[derive(Debug)]
pub(super) enum Operation {
    Open(PathBuf, OpenMode),
    Read(OpenFile, u64, usize),
    Write(OpenFile, u64, Vec<u8>, WriteDurability),
    Sync(OpenFile),
    Allocate(OpenFile, u64, u64),
    Truncate(OpenFile, u64),
    FileBytes(OpenFile),
    CreateDirectories(PathBuf),
    List(PathBuf),
    Rename(PathBuf, PathBuf),
    RemoveFile(PathBuf),
    RemoveDirectory(PathBuf),
    ReadFile(PathBuf, usize),
    ReplaceFile(PathBuf, Vec<u8>),
    SyncDirectory(PathBuf),
}

/// A file number that keeps its file although its name may have gone.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    number: FileNumber,
    /// By which it was opened.
    path: Rc<str>,
    mode: OpenMode,
    _open: Rc<()>,
}

impl Operation {
    /// The path that is worked on, or by which the file was opened.
    pub(super) fn path(&self) -> Cow<'_, str> {
        match self {
            Operation::Read(file, ..)
            | Operation::Write(file, ..)
            | Operation::Sync(file)
            | Operation::Allocate(file, ..)
            | Operation::Truncate(file, _)
            | Operation::FileBytes(file) => Cow::Borrowed(&*file.path),
            Operation::Open(path, _)
            | Operation::CreateDirectories(path)
            | Operation::List(path)
            | Operation::Rename(path, _)
            | Operation::RemoveFile(path)
            | Operation::RemoveDirectory(path)
            | Operation::ReadFile(path, _)
            | Operation::ReplaceFile(path, _)
            | Operation::SyncDirectory(path) => path.to_string_lossy(),
        }
    }

    /// For the trace: a name, and a number or two that tell this operation from others.
    pub(super) fn summary(&self) -> (&'static str, [u64; 2]) {
        match self {
            Operation::Open(..) => ("open", [0, 0]),
            Operation::Read(_, at, bytes) => ("read", [*at, *bytes as u64]),
            Operation::Write(_, at, bytes, _) => ("write", [*at, hash_bytes(bytes)]),
            Operation::Sync(_) => ("sync", [0, 0]),
            Operation::Allocate(_, at, bytes) => ("allocate", [*at, *bytes]),
            Operation::Truncate(_, bytes) => ("truncate", [*bytes, 0]),
            Operation::FileBytes(_) => ("file_bytes", [0, 0]),
            Operation::CreateDirectories(_) => ("create_directories", [0, 0]),
            Operation::List(_) => ("list", [0, 0]),
            Operation::Rename(..) => ("rename", [0, 0]),
            Operation::RemoveFile(_) => ("remove_file", [0, 0]),
            Operation::RemoveDirectory(_) => ("remove_directory", [0, 0]),
            Operation::ReadFile(..) => ("read_file", [0, 0]),
            Operation::ReplaceFile(_, bytes) => ("replace_file", [0, hash_bytes(bytes)]),
            Operation::SyncDirectory(_) => ("sync_directory", [0, 0]),
        }
    }

    /// Nanoseconds that it usually takes: an NVMe disk's order of magnitude.
    pub(super) fn usual_nanos(&self) -> u64 {
        match self {
            Operation::Sync(_) | Operation::ReplaceFile(..) | Operation::SyncDirectory(_) => {
                1_000_000
            }
            Operation::Write(.., WriteDurability::Synced) => 400_000,
            Operation::Write(..) | Operation::Read(..) => 80_000,
            _ => 20_000,
        }
    }
}

#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    File(OpenFile),
    Bytes(Vec<u8>),
    Length(u64),
    Names(Vec<String>),
}

/// What a disk has been asked to do so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    pub reads: u64,
    pub writes: u64,
    pub written_bytes: u64,
    /// Writes begun while another one to the same block was in flight: their order is anyone's guess.
    pub overlapping_writes: u64,
    pub syncs: u64,
    pub files_replaced: u64,
}

pub(super) struct Disk {
    nodes: BTreeMap<FileNumber, Node>,
    next_node: FileNumber,
    /// Name changes that no directory sync has covered, oldest first. Each happens whole or not at all.
    journal: Vec<Vec<NameChange>>,
    in_flight: BTreeMap<u64, InFlight>,
    next_operation: u64,
    /// Counts finished operations, so that a sync knows what it covers.
    stamp: u64,
    capacity_bytes: u64,
    pub(super) counters: DiskCounters,
}

enum Node {
    File(SimFileData, Rc<()>),
    Directory(Directory),
}

#[derive(Default)]
struct Directory {
    entries: BTreeMap<String, FileNumber>,
    durable: BTreeMap<String, FileNumber>,
}

#[derive(Clone)]
struct NameChange {
    directory: FileNumber,
    name: String,
    becomes: Option<FileNumber>,
}

struct InFlight {
    operation: Operation,
    begun_at: u64,
}

impl Disk {
    pub(super) fn new(capacity_bytes: u64) -> Disk {
        Disk {
            nodes: BTreeMap::from([(ROOT, Node::Directory(Directory::default()))]),
            next_node: ROOT + 1,
            journal: Vec::new(),
            in_flight: BTreeMap::new(),
            next_operation: 0,
            stamp: 1,
            capacity_bytes,
            counters: DiskCounters::default(),
        }
    }

    pub(super) fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
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
                (1, Operation::ReplaceFile(path, bytes)) => {
                    let kept = random.index(bytes.len() + 1);
                    let _ = self.leave_temporary(&path, &bytes[..kept]);
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
        for change in std::mem::take(&mut self.journal) {
            if fate.pick(random, 2) == 1 {
                self.make_durable(&change);
            }
        }
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file, _) => file.lose_power(random, fate),
                Node::Directory(directory) => directory.entries = directory.durable.clone(),
            }
        }
        self.collect_unreachable();
    }

    /// A file's bytes as a test sees them, past all operations.
    pub(super) fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let number = self.lookup(path).ok()?;
        match &self.nodes[&number] {
            Node::File(file, _) => Some(file.read(0, file.len() as usize)),
            Node::Directory(_) => None,
        }
    }

    /// Puts a durable file in place, past all operations: the way for a test to damage or plant one.
    pub(super) fn plant(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.create_directories(parent)?;
        }
        self.replace_file(path, bytes)?;
        let journal = std::mem::take(&mut self.journal);
        journal.iter().for_each(|change| self.make_durable(change));
        Ok(())
    }

    /// Paths of all files, sorted.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, number)) = open.pop() {
            match &self.nodes[&number] {
                Node::File(..) => found.push(path),
                Node::Directory(directory) => {
                    let entries = directory.entries.iter();
                    open.extend(entries.map(|(name, &number)| (path.join(name), number)));
                }
            }
        }
        found.sort();
        found
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
            Operation::ReplaceFile(..) => self.counters.files_replaced += 1,
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
            Operation::Allocate(file, at, bytes) => {
                let end = at.checked_add(bytes).ok_or(ErrorKind::FileTooLarge)?;
                self.reserve(file.number, end)?;
                let stamp = self.stamp;
                self.file(file.number)?.allocate(stamp, end);
            }
            Operation::Truncate(file, bytes) => {
                let stamp = self.stamp;
                self.file(file.number)?.truncate(stamp, bytes);
            }
            Operation::FileBytes(file) => {
                return Ok(Outcome::Length(self.file(file.number)?.len()));
            }
            Operation::CreateDirectories(path) => {
                self.create_directories(&path)?;
            }
            Operation::List(path) => {
                let number = self.lookup(&path)?;
                let names = self.directory(number)?.entries.keys().cloned().collect();
                return Ok(Outcome::Names(names));
            }
            Operation::Rename(from, to) => self.rename(&from, &to)?,
            Operation::RemoveFile(path) => self.remove(&path, false)?,
            Operation::RemoveDirectory(path) => self.remove(&path, true)?,
            Operation::ReadFile(path, bytes_max) => {
                let number = self.lookup(&path)?;
                let file = self.file(number)?;
                if file.len() > bytes_max as u64 {
                    return Err(ErrorKind::FileTooLarge.into());
                }
                return Ok(Outcome::Bytes(file.read(0, bytes_max)));
            }
            Operation::ReplaceFile(path, bytes) => self.replace_file(&path, &bytes)?,
            Operation::SyncDirectory(path) => {
                let number = self.lookup(&path)?;
                self.directory(number)?;
                self.sync_directory(number);
            }
        }
        Ok(Outcome::Done)
    }

    // Contents.

    fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<OpenFile> {
        let number = match (self.lookup(path), mode) {
            (Err(error), OpenMode::Direct) if error.kind() == ErrorKind::NotFound => {
                let (directory, name) = self.place(path)?;
                let number = self.add_node(Node::File(SimFileData::default(), Rc::new(())));
                self.change_names(vec![NameChange {
                    directory,
                    name,
                    becomes: Some(number),
                }]);
                number
            }
            (found, _) => found?,
        };
        match &self.nodes[&number] {
            Node::File(_, open) => Ok(OpenFile {
                number,
                path: Rc::from(path.to_string_lossy()),
                mode,
                _open: Rc::clone(open),
            }),
            Node::Directory(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    /// A read that meets a write in flight sees any mixture of old and new sectors.
    fn read(
        &mut self,
        file: &OpenFile,
        at: u64,
        bytes: usize,
        random: &mut Random,
    ) -> io::Result<Vec<u8>> {
        if file.mode == OpenMode::Direct && !(is_aligned(at) && is_aligned(bytes as u64)) {
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
        if file.mode != OpenMode::Direct {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        if !is_aligned(at) {
            return Err(ErrorKind::InvalidInput.into());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.reserve(file.number, at + bytes.len() as u64)?;
        let stamp = self.stamp;
        self.file(file.number)?.write(stamp, at, bytes, durable);
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

    fn reserve(&mut self, number: FileNumber, end: u64) -> io::Result<()> {
        let needed = self.file(number)?.blocks_needed(end);
        let used: u64 = self
            .nodes
            .values()
            .map(|node| match node {
                Node::File(file, _) => file.blocks_used(),
                Node::Directory(_) => 0,
            })
            .sum();
        if needed > 0 && (used + needed).saturating_mul(BLOCK_BYTES as u64) > self.capacity_bytes {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    // Names.

    fn create_directories(&mut self, path: &Path) -> io::Result<()> {
        let mut number = ROOT;
        for name in names_of(path)? {
            let next = self.directory(number)?.entries.get(&name).copied();
            number = match next {
                Some(next) => next,
                None => {
                    let created = self.add_node(Node::Directory(Directory::default()));
                    self.change_names(vec![NameChange {
                        directory: number,
                        name,
                        becomes: Some(created),
                    }]);
                    created
                }
            };
        }
        self.directory(number).map(|_| ())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let number = self.lookup(from)?;
        let (from_directory, from_name) = self.place(from)?;
        let (directory, name) = self.place(to)?;
        if let Ok(replaced) = self.lookup(to)
            && (matches!(self.nodes[&replaced], Node::Directory(_))
                || matches!(self.nodes[&number], Node::Directory(_)))
        {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.change_names(vec![
            NameChange {
                directory: from_directory,
                name: from_name,
                becomes: None,
            },
            NameChange {
                directory,
                name,
                becomes: Some(number),
            },
        ]);
        Ok(())
    }

    fn remove(&mut self, path: &Path, want_directory: bool) -> io::Result<()> {
        let number = self.lookup(path)?;
        match (&self.nodes[&number], want_directory) {
            (Node::Directory(directory), true) if !directory.entries.is_empty() => {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            (Node::Directory(_), false) => return Err(ErrorKind::IsADirectory.into()),
            (Node::File(..), true) => return Err(ErrorKind::NotADirectory.into()),
            (Node::Directory(_), true) | (Node::File(..), false) => {}
        }
        let (directory, name) = self.place(path)?;
        self.change_names(vec![NameChange {
            directory,
            name,
            becomes: None,
        }]);
        Ok(())
    }

    fn replace_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (directory, name) = self.place(path)?;
        let mut data = SimFileData::default();
        data.write(self.stamp, 0, bytes, false);
        data.settle_all();
        let number = self.add_node(Node::File(data, Rc::new(())));
        if let Err(error) = self.reserve(number, bytes.len() as u64) {
            self.nodes.remove(&number);
            return Err(error);
        }
        self.change_names(vec![NameChange {
            directory,
            name,
            becomes: Some(number),
        }]);
        self.sync_directory(directory);
        Ok(())
    }

    /// What a replacement that was cut off before its rename leaves behind.
    fn leave_temporary(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (directory, name) = self.place(path)?;
        let mut data = SimFileData::default();
        data.write(self.stamp, 0, bytes, false);
        let number = self.add_node(Node::File(data, Rc::new(())));
        self.change_names(vec![NameChange {
            directory,
            name: format!("{name}.tmp"),
            becomes: Some(number),
        }]);
        Ok(())
    }

    fn change_names(&mut self, changes: Vec<NameChange>) {
        for change in &changes {
            if let Some(Node::Directory(directory)) = self.nodes.get_mut(&change.directory) {
                set_name(&mut directory.entries, change);
            }
        }
        self.journal.push(changes);
    }

    /// Makes every change in `number` durable, and with each also the earlier changes in whatever other directory it touches.
    fn sync_directory(&mut self, number: FileNumber) {
        let mut covered = vec![number];
        let mut settled = Vec::new();
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.journal).into_iter().rev() {
            if change.iter().any(|part| covered.contains(&part.directory)) {
                covered.extend(change.iter().map(|part| part.directory));
                settled.push(change);
            } else {
                left.push(change);
            }
        }
        left.reverse();
        self.journal = left;
        for change in settled.iter().rev() {
            self.make_durable(change);
        }
        self.collect_unreachable();
    }

    fn make_durable(&mut self, changes: &[NameChange]) {
        for change in changes {
            if let Some(Node::Directory(directory)) = self.nodes.get_mut(&change.directory) {
                set_name(&mut directory.durable, change);
            }
        }
    }

    /// Forgets files and directories that no name, no journal entry and no handle leads to.
    fn collect_unreachable(&mut self) {
        let mut reached = std::collections::BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        let journal = self.journal.iter().flatten();
        open.extend(journal.filter_map(|change| change.becomes));
        while let Some(number) = open.pop() {
            reached.insert(number);
            if let Some(Node::Directory(directory)) = self.nodes.get(&number) {
                let entries = directory.entries.values();
                let all = entries.chain(directory.durable.values());
                open.extend(all.filter(|&number| !reached.contains(number)));
            }
        }
        self.nodes.retain(|number, node| {
            let is_open = matches!(node, Node::File(_, open) if Rc::strong_count(open) > 1);
            is_open || reached.contains(number)
        });
    }

    fn add_node(&mut self, node: Node) -> FileNumber {
        let number = self.next_node;
        self.next_node += 1;
        self.nodes.insert(number, node);
        number
    }

    fn lookup(&self, path: &Path) -> io::Result<FileNumber> {
        let mut number = ROOT;
        for name in names_of(path)? {
            match &self.nodes[&number] {
                Node::Directory(directory) => {
                    number = *directory.entries.get(&name).ok_or(ErrorKind::NotFound)?;
                }
                Node::File(..) => return Err(ErrorKind::NotADirectory.into()),
            }
        }
        Ok(number)
    }

    /// The directory that holds, or would hold, the path's last name.
    fn place(&self, path: &Path) -> io::Result<(FileNumber, String)> {
        let name = names_of(path)?.pop().ok_or(ErrorKind::InvalidInput)?;
        let parent = self.lookup(path.parent().ok_or(ErrorKind::InvalidInput)?)?;
        self.directory(parent)?;
        Ok((parent, name))
    }

    fn directory(&self, number: FileNumber) -> io::Result<&Directory> {
        match self.nodes.get(&number) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(..)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn file(&mut self, number: FileNumber) -> io::Result<&mut SimFileData> {
        match self.nodes.get_mut(&number) {
            Some(Node::File(file, _)) => Ok(file),
            Some(Node::Directory(_)) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }
}

fn set_name(names: &mut BTreeMap<String, FileNumber>, change: &NameChange) {
    match change.becomes {
        Some(number) => names.insert(change.name.clone(), number),
        None => names.remove(&change.name),
    };
}

fn is_aligned(bytes: u64) -> bool {
    bytes.is_multiple_of(BLOCK_BYTES as u64)
}

fn names_of(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                let name = name.to_str().ok_or(ErrorKind::InvalidFilename)?;
                names.push(name.to_owned());
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ErrorKind::InvalidFilename.into());
            }
        }
    }
    Ok(names)
}
