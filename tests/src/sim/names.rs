//! The names of a simulated disk: directories as readers see them, as the disk would have them after a power loss, and the changes
//! between the two.
//!
//! ```text
//!   change ──> entries           what readers see
//!      └─────> journal ──sync_directory or luck──> durable
//! ```
//! Each change happens whole or not at all, so a rename never loses its file; changes may become durable out of order.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use super::file::Unsynced;
use super::random::Random;

/// A file or a directory, whatever its names are.
pub(super) type FileNumber = u64;

const ROOT: FileNumber = 0;

pub(super) struct Names {
    directories: BTreeMap<FileNumber, Directory>,
    next_number: FileNumber,
    /// Changes that no directory sync has covered, oldest first.
    journal: Vec<Vec<NameChange>>,
}

#[derive(Default)]
struct Directory {
    entries: BTreeMap<String, FileNumber>,
    durable: BTreeMap<String, FileNumber>,
}

struct NameChange {
    directory: FileNumber,
    name: String,
    becomes: Option<FileNumber>,
}

impl Names {
    pub(super) fn new() -> Names {
        Names {
            directories: BTreeMap::from([(ROOT, Directory::default())]),
            next_number: ROOT + 1,
            journal: Vec::new(),
        }
    }

    /// What a path leads to, which may be a directory.
    pub(super) fn lookup(&self, path: &Path) -> io::Result<FileNumber> {
        names_of(path)?.iter().try_fold(ROOT, |number, name| {
            let entries = &self.directory(number)?.entries;
            entries
                .get(name)
                .copied()
                .ok_or_else(|| ErrorKind::NotFound.into())
        })
    }

    pub(super) fn is_directory(&self, number: FileNumber) -> bool {
        self.directories.contains_key(&number)
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let directory = self.directory(self.lookup(path)?)?;
        Ok(directory.entries.keys().cloned().collect())
    }

    /// Gives a new file this name, in place of any that has it.
    pub(super) fn add_file(&mut self, path: &Path) -> io::Result<FileNumber> {
        let (directory, name) = self.place(path)?;
        let number = self.take_number();
        self.change(vec![NameChange {
            directory,
            name,
            becomes: Some(number),
        }]);
        Ok(number)
    }

    pub(super) fn create_directories(&mut self, path: &Path) -> io::Result<()> {
        let mut number = ROOT;
        for name in names_of(path)? {
            let found = self.directory(number)?.entries.get(&name).copied();
            number = found.unwrap_or_else(|| self.add_directory(number, name));
        }
        self.directory(number).map(|_| ())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let number = self.lookup(from)?;
        let (from_directory, from_name) = self.place(from)?;
        let (directory, name) = self.place(to)?;
        if let Ok(replaced) = self.lookup(to)
            && (self.is_directory(replaced) || self.is_directory(number))
        {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let gone = NameChange {
            directory: from_directory,
            name: from_name,
            becomes: None,
        };
        let there = NameChange {
            directory,
            name,
            becomes: Some(number),
        };
        self.change(vec![gone, there]);
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        if self.is_directory(self.lookup(path)?) {
            return Err(ErrorKind::IsADirectory.into());
        }
        self.remove(path)
    }

    pub(super) fn remove_directory(&mut self, path: &Path) -> io::Result<()> {
        let directory = self.directory(self.lookup(path)?)?;
        if !directory.entries.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        self.remove(path)
    }

    /// Makes every change in the directory durable, and with each also the earlier changes in whatever other directory it touches.
    pub(super) fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        let number = self.lookup(path)?;
        self.directory(number)?;
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
        settled
            .iter()
            .rev()
            .for_each(|change| self.make_durable(change));
        Ok(())
    }

    pub(super) fn sync_all(&mut self) {
        for change in std::mem::take(&mut self.journal) {
            self.make_durable(&change);
        }
    }

    pub(super) fn lose_power(&mut self, random: &mut Random, fate: Unsynced) {
        for change in std::mem::take(&mut self.journal) {
            if fate.pick(random, 2) == 1 {
                self.make_durable(&change);
            }
        }
        for directory in self.directories.values_mut() {
            directory.entries = directory.durable.clone();
        }
    }

    /// Forgets directories that nothing leads to, and returns everything that something still does.
    pub(super) fn collect_reachable(&mut self) -> BTreeSet<FileNumber> {
        let mut reached = BTreeSet::new();
        let mut open = vec![ROOT];
        let journal = self.journal.iter().flatten();
        open.extend(journal.filter_map(|change| change.becomes));
        while let Some(number) = open.pop() {
            if reached.insert(number)
                && let Some(directory) = self.directories.get(&number)
            {
                open.extend(directory.entries.values().chain(directory.durable.values()));
            }
        }
        self.directories
            .retain(|number, _| reached.contains(number));
        reached
    }

    /// Everything that a path leads to now.
    pub(super) fn visible(&self) -> BTreeSet<FileNumber> {
        let mut reached = BTreeSet::new();
        let mut open = vec![ROOT];
        while let Some(number) = open.pop() {
            if reached.insert(number)
                && let Some(directory) = self.directories.get(&number)
            {
                open.extend(directory.entries.values());
            }
        }
        reached
    }

    /// Paths of all files, sorted.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, number)) = open.pop() {
            match self.directories.get(&number) {
                Some(directory) => {
                    let entries = directory.entries.iter();
                    open.extend(entries.map(|(name, &number)| (path.join(name), number)));
                }
                None => found.push(path),
            }
        }
        found.sort();
        found
    }

    fn add_directory(&mut self, parent: FileNumber, name: String) -> FileNumber {
        let number = self.take_number();
        self.directories.insert(number, Directory::default());
        self.change(vec![NameChange {
            directory: parent,
            name,
            becomes: Some(number),
        }]);
        number
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (directory, name) = self.place(path)?;
        self.change(vec![NameChange {
            directory,
            name,
            becomes: None,
        }]);
        Ok(())
    }

    fn change(&mut self, changes: Vec<NameChange>) {
        for change in &changes {
            if let Some(directory) = self.directories.get_mut(&change.directory) {
                set_name(&mut directory.entries, change);
            }
        }
        self.journal.push(changes);
    }

    fn make_durable(&mut self, changes: &[NameChange]) {
        for change in changes {
            if let Some(directory) = self.directories.get_mut(&change.directory) {
                set_name(&mut directory.durable, change);
            }
        }
    }

    fn take_number(&mut self) -> FileNumber {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// The directory that holds, or would hold, the path's last name.
    fn place(&self, path: &Path) -> io::Result<(FileNumber, String)> {
        let name = names_of(path)?.pop().ok_or(ErrorKind::InvalidInput)?;
        let parent = self.lookup(path.parent().ok_or(ErrorKind::InvalidInput)?)?;
        self.directory(parent)?;
        Ok((parent, name))
    }

    fn directory(&self, number: FileNumber) -> io::Result<&Directory> {
        self.directories
            .get(&number)
            .ok_or_else(|| ErrorKind::NotADirectory.into())
    }
}

fn set_name(names: &mut BTreeMap<String, FileNumber>, change: &NameChange) {
    match change.becomes {
        Some(number) => names.insert(change.name.clone(), number),
        None => names.remove(&change.name),
    };
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
