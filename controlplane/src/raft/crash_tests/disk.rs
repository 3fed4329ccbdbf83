//! What a process asked of its disk, as `strace` saw it, and the images that a loss of power may leave.
//!
//! A disk may forget what was not flushed in any order: of a file's sectors any may hold zeros, whether its length was stored or not,
//! and of the changes of names in a directory any may be lost. Beside that there are the images that a disk leaves which keeps to
//! the order.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One thing that a process did, in order. Paths are relative to its directory, which is empty at the start.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    MakeDirectory(PathBuf),
    Create(PathBuf),
    Truncate(PathBuf, usize),
    /// At the end of the file, as all of ours are.
    Write(PathBuf, Vec<u8>),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Flush(PathBuf),
    FlushDirectory(PathBuf),
    Said(String),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) changes: Vec<Change>,
}

/// What becomes of that which was not flushed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    /// The process was killed, and the machine goes on.
    Nothing,
    Everything,
    /// Names are there, and what the files hold is not.
    Contents,
    /// The last write of each file is there by half, and all names are.
    Halves,
    /// Anything of it, in order, drawn by this seed.
    Some(u64),
    /// Anything of it, in no order.
    Any(u64),
}

/// The least that is lost or kept as a whole; file systems' pages consist of them.
const SECTOR_BYTES: usize = 512;

impl Loss {
    /// One of each kind, and a few of those that are drawn.
    pub(super) fn every_kind(seed: u64) -> Vec<Loss> {
        let drawn = (0..4).flat_map(|number| {
            let seed = seed * 4 + number;
            [Loss::Some(seed), Loss::Any(seed)]
        });
        let fixed = [
            Loss::Nothing,
            Loss::Everything,
            Loss::Contents,
            Loss::Halves,
        ];
        fixed.into_iter().chain(drawn).collect()
    }
}

/// Runs a test of this program that is ignored otherwise, with a directory to work in, and records what it does there.
pub(super) fn record(test: &str, (variable, directory): (&str, &Path)) -> Record {
    let trace = directory.with_extension("strace");
    let program = std::env::current_exe().expect("the test is a program");
    let done = Command::new("strace")
        .args(["-f", "-qq", "-y", "-xx", "-s", "1000000", "-o"])
        .arg(&trace)
        .arg("-e")
        .arg("trace=openat,write,writev,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat")
        .arg(program)
        .args(["--ignored", "--exact", test, "--nocapture"])
        .env(variable, directory)
        .output()
        .expect("strace is installed");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let lines = fs::read_to_string(&trace).expect("strace wrote it");
    fs::remove_file(&trace).expect("it is ours");
    let mut reader = Reader {
        directory: directory.to_owned(),
        files: BTreeSet::new(),
        changes: Vec::new(),
    };
    lines.lines().for_each(|line| reader.line(line));
    Record {
        changes: reader.changes,
    }
}

struct Reader {
    directory: PathBuf,
    files: BTreeSet<PathBuf>,
    changes: Vec<Change>,
}

impl Reader {
    /// A call is taken to be made when it begins: a flush whose end was not seen yet has promised nothing.
    fn line(&mut self, line: &str) {
        let call = line.split_once(' ').map(|(_, call)| call.trim_start());
        let Some((name, arguments)) = call.and_then(|call| call.split_once('(')) else {
            return;
        };
        // Calls that failed changed nothing.
        if arguments.contains(" = -1 E") {
            return;
        }
        if name == "write" && arguments.starts_with("1<") {
            return self.hear(arguments);
        }
        let named = strings(arguments, '"', '"').map(|name| self.inside(&name));
        let named: Vec<PathBuf> = named.flatten().collect();
        let opened = strings(arguments, '<', '>').next();
        let opened = opened.and_then(|path| self.inside(&path));
        match (name, opened, &named[..]) {
            ("openat", _, [path]) => self.open(path, arguments),
            ("write" | "writev" | "pwrite64", Some(path), _) => {
                let bytes = strings(arguments, '"', '"').flatten().collect();
                self.changes.push(Change::Write(path, bytes));
            }
            ("ftruncate", Some(path), _) => {
                let length = arguments.split([',', ')']).nth(1).unwrap_or_default();
                let length = length.trim().parse().expect("a length");
                self.changes.push(Change::Truncate(path, length));
            }
            ("fsync" | "fdatasync", Some(path), _) => {
                self.changes.push(match self.files.contains(&path) {
                    true => Change::Flush(path),
                    false => Change::FlushDirectory(path),
                });
            }
            ("rename" | "renameat" | "renameat2", _, [from, to]) => {
                self.files.remove(from);
                self.files.insert(to.clone());
                self.changes.push(Change::Rename(from.clone(), to.clone()));
            }
            ("unlink" | "unlinkat", _, [path]) => {
                self.files.remove(path);
                self.changes.push(Change::Remove(path.clone()));
            }
            ("mkdir" | "mkdirat", _, [path]) => {
                self.changes.push(Change::MakeDirectory(path.clone()));
            }
            _ => {}
        }
    }

    fn hear(&mut self, arguments: &str) {
        let said = strings(arguments, '"', '"').flatten().collect();
        let said = String::from_utf8(said).expect("it is text");
        let lines = said.lines().filter_map(|line| line.strip_prefix('@'));
        self.changes
            .extend(lines.map(|line| Change::Said(line.to_owned())));
    }

    fn open(&mut self, path: &Path, arguments: &str) {
        if arguments.contains("O_CREAT") && self.files.insert(path.to_owned()) {
            self.changes.push(Change::Create(path.to_owned()));
        } else if arguments.contains("O_TRUNC") {
            self.changes.push(Change::Truncate(path.to_owned(), 0));
        }
    }

    /// The path in the directory; the directory itself is the empty one.
    fn inside(&self, path: &[u8]) -> Option<PathBuf> {
        let path = Path::new(OsStr::from_bytes(path));
        path.strip_prefix(&self.directory).ok().map(Path::to_owned)
    }
}

/// What is between each pair of marks, which strace writes as hexadecimal digits.
fn strings(arguments: &str, open: char, close: char) -> impl Iterator<Item = Vec<u8>> {
    let mut rest = arguments;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(open)?;
        let (inside, after) = after.split_once(close)?;
        rest = after;
        let bytes = inside.split("\\x").skip(1);
        Some(
            bytes
                .map(|digits| u8::from_str_radix(digits, 16).expect("strace writes digits"))
                .collect(),
        )
    })
}

/// A file as it is in memory, and what of it is on the disk for certain.
#[derive(Clone, Default)]
struct File {
    flushed: Vec<u8>,
    /// Since then, in order.
    unflushed: Vec<Unflushed>,
}

#[derive(Clone)]
enum Unflushed {
    /// At the end of the file.
    Write(Vec<u8>),
    Cut(usize),
}

impl File {
    fn after(&self, loss: Loss, draw: &mut Draw) -> Vec<u8> {
        let cut = |change: &Unflushed| matches!(change, Unflushed::Cut(_));
        match loss {
            Loss::Any(_) if !self.unflushed.iter().any(cut) => self.with_lost_sectors(draw),
            _ => self.in_order(loss, draw),
        }
    }

    /// What was written and not flushed, without any of its sectors. Each may have been stored when it was less full than at the end.
    fn with_lost_sectors(&self, draw: &mut Draw) -> Vec<u8> {
        let mut bytes = self.in_order(Loss::Nothing, draw);
        let mut ends = vec![self.flushed.len()];
        for change in &self.unflushed {
            if let (Unflushed::Write(written), Some(end)) = (change, ends.last()) {
                ends.push(end + written.len());
            }
        }
        for start in (0..bytes.len()).step_by(SECTOR_BYTES) {
            let end = bytes.len().min(start + SECTOR_BYTES);
            let stored = ends[draw.below(ends.len() as u64) as usize];
            if end > self.flushed.len() && draw.below(2) == 0 {
                bytes[stored.clamp(start, end)..end].fill(0);
            }
        }
        let short = ends[draw.below(ends.len() as u64) as usize];
        if draw.below(2) == 0 {
            bytes.truncate(short);
        }
        bytes
    }

    /// So many of the changes, and a part of the next one.
    fn in_order(&self, loss: Loss, draw: &mut Draw) -> Vec<u8> {
        let mut bytes = self.flushed.clone();
        let count = self.unflushed.len();
        let kept = match loss {
            Loss::Nothing => count,
            Loss::Everything | Loss::Contents => 0,
            Loss::Halves => count.saturating_sub(1),
            Loss::Some(_) | Loss::Any(_) => draw.below(count as u64 + 1) as usize,
        };
        for (number, change) in self.unflushed.iter().take(kept + 1).enumerate() {
            match change {
                Unflushed::Cut(length) if number < kept => bytes.truncate(*length),
                Unflushed::Cut(_) => {}
                Unflushed::Write(written) if number < kept => bytes.extend(written),
                Unflushed::Write(written) => {
                    let part = match loss {
                        Loss::Nothing | Loss::Everything | Loss::Contents => 0,
                        Loss::Halves => written.len() / 2,
                        Loss::Some(_) | Loss::Any(_) => {
                            draw.below(written.len() as u64 + 1) as usize
                        }
                    };
                    bytes.extend(&written[..part]);
                }
            }
        }
        bytes
    }
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// Where the names lead, in memory or on the disk: files by number, directories by their names alone.
#[derive(Clone, Default)]
struct Names {
    files: BTreeMap<PathBuf, usize>,
    directories: BTreeSet<PathBuf>,
}

impl Names {
    fn apply(&mut self, change: &Change, number: usize) {
        match change {
            Change::MakeDirectory(path) => {
                self.directories.insert(path.clone());
            }
            Change::Create(path) => {
                self.files.insert(path.clone(), number);
            }
            Change::Rename(from, to) => {
                // Where the old name never was, the new one leads to the file all the same.
                self.files.remove(from);
                self.files.insert(to.clone(), number);
            }
            Change::Remove(path) => {
                self.files.remove(path);
            }
            Change::Truncate(..)
            | Change::Write(..)
            | Change::Flush(_)
            | Change::FlushDirectory(_)
            | Change::Said(_) => {}
        }
    }
}

impl Record {
    /// Makes what is there when power is lost after so many changes.
    pub(super) fn lay_out(&self, end: usize, loss: Loss, image: &Path) {
        let mut draw = match loss {
            Loss::Some(seed) | Loss::Any(seed) => {
                Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
            }
            _ => Draw(1),
        };
        let mut files: Vec<File> = Vec::new();
        let mut current = Names::default();
        let mut flushed = Names::default();
        // Changes of names since their directory was flushed, each with the file that it is about.
        let mut unflushed: Vec<(&Change, usize)> = Vec::new();
        for change in &self.changes[..end] {
            let number = |path: &PathBuf| current.files.get(path).copied();
            let mut renamed = None;
            match change {
                Change::Create(_) => {
                    files.push(File::default());
                    renamed = Some(files.len() - 1);
                }
                Change::Rename(path, _) | Change::Remove(path) => renamed = number(path),
                Change::MakeDirectory(_) => renamed = Some(0),
                // One that was removed may still be open; nobody will find it.
                Change::Write(path, _) | Change::Truncate(path, _) | Change::Flush(path)
                    if number(path).is_none() => {}
                Change::Write(path, bytes) => {
                    let file = &mut files[number(path).expect("it has a name")];
                    file.unflushed.push(Unflushed::Write(bytes.clone()));
                }
                Change::Truncate(path, length) => {
                    let file = &mut files[number(path).expect("it has a name")];
                    file.unflushed.push(Unflushed::Cut(*length));
                }
                Change::Flush(path) => {
                    let file = &mut files[number(path).expect("it has a name")];
                    file.flushed = file.in_order(Loss::Nothing, &mut Draw(1));
                    file.unflushed.clear();
                }
                Change::FlushDirectory(directory) => {
                    unflushed.retain(|(change, number)| {
                        let covered = parent(change) == Some(directory.as_path());
                        if covered {
                            flushed.apply(change, *number);
                        }
                        !covered
                    });
                }
                Change::Said(_) => {}
            }
            if let Some(number) = renamed {
                current.apply(change, number);
                unflushed.push((change, number));
            }
        }
        let mut names = flushed;
        let mut ended = BTreeSet::new();
        for (change, number) in unflushed {
            let lost = match loss {
                Loss::Nothing | Loss::Contents | Loss::Halves => false,
                Loss::Everything => true,
                Loss::Some(_) => draw.below(3) == 0,
                Loss::Any(_) => draw.below(2) == 0,
            };
            let in_order = !matches!(loss, Loss::Any(_));
            if lost || in_order && ended.contains(&parent(change)) {
                ended.insert(parent(change));
            } else {
                names.apply(change, number);
            }
        }
        for directory in &names.directories {
            // One whose parent is not there is not there either.
            let _ = fs::create_dir(image.join(directory));
        }
        for (path, number) in &names.files {
            let bytes = files[*number].after(loss, &mut draw);
            let path = image.join(path);
            if path.parent().is_some_and(Path::is_dir) {
                fs::write(path, bytes).expect("the image is ours");
            }
        }
    }

    /// Whether the record, with nothing lost, is what its process left.
    pub(super) fn is_what_is_in(&self, directory: &Path) -> bool {
        let image = crate::testing::TestDirectory::in_memory();
        self.lay_out(self.changes.len(), Loss::Nothing, image.path());
        contents(image.path()) == contents(directory)
    }

    fn without(&self, missing: impl Fn(&Change) -> bool) -> Record {
        let changes = self.changes.iter().filter(|change| !missing(change));
        Record {
            changes: changes.cloned().collect(),
        }
    }

    /// As of a program that does not flush these files.
    pub(super) fn without_flush(&self, of: impl Fn(&Path) -> bool) -> Record {
        self.without(|change| matches!(change, Change::Flush(path) if of(path)))
    }

    /// As of a program that does not flush these directories.
    pub(super) fn without_directory_flush(&self, of: impl Fn(&Path) -> bool) -> Record {
        self.without(|change| matches!(change, Change::FlushDirectory(path) if of(path)))
    }

    /// As of a program that answers so before the flush that it should wait for.
    pub(super) fn said_early(&self, what: &str) -> Record {
        let mut changes = self.changes.clone();
        for place in 0..changes.len() {
            let early = matches!(&changes[place], Change::Said(said) if said.starts_with(what));
            let flush = changes[..place].iter().rposition(|change| {
                matches!(change, Change::Flush(path) if path.parent().is_some_and(|log| log.ends_with("log")))
            });
            if let (true, Some(flush)) = (early, flush) {
                let said = changes.remove(place);
                changes.insert(flush, said);
            }
        }
        Record { changes }
    }

    /// As of a program that gives a snapshot its name only after the log behind it was purged.
    pub(super) fn renamed_late(&self) -> Record {
        let mut changes = self.changes.clone();
        let renames = |change: &Change| matches!(change, Change::Rename(from, _) if from.ends_with("snapshot.new"));
        let purges = |change: &Change| matches!(change, Change::Remove(path) if path.starts_with("meta/log"));
        let purge = changes.iter().position(purges).expect("the log was purged");
        let rename = changes[..purge].iter().rposition(renames);
        let renamed = changes.remove(rename.expect("behind a snapshot"));
        changes.insert(purge, renamed);
        Record { changes }
    }
}

/// The directory whose flush keeps the change.
fn parent(change: &Change) -> Option<&Path> {
    match change {
        Change::MakeDirectory(path)
        | Change::Create(path)
        | Change::Rename(_, path)
        | Change::Remove(path) => path.parent(),
        Change::Truncate(..)
        | Change::Write(..)
        | Change::Flush(_)
        | Change::FlushDirectory(_)
        | Change::Said(_) => None,
    }
}

fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("it is there") {
            let path = entry.expect("it has a name").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(directory).expect("it is inside");
            found.insert(inside.to_owned(), fs::read(&path).expect("it is ours"));
        }
    }
    found
}
