//! What a shard may ask of a simulated disk, and what it gets back.

use std::borrow::Cow;
use std::path::PathBuf;
use std::rc::Rc;

use dataplane::io::{OpenMode, WriteDurability};

use super::names::FileNumber;
use super::trace::hash_bytes;

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
    ChangedMs(OpenFile),
    CreateDirectories(PathBuf),
    List(PathBuf),
    Rename(PathBuf, PathBuf),
    RemoveFile(PathBuf),
    RemoveDirectory(PathBuf),
    ReadFile(PathBuf, usize),
    /// Opens a file for buffered writing, made if absent and cut to nothing.
    OpenEmpty(PathBuf),
    /// From the start of the file, through the page cache.
    WriteBuffered(OpenFile, Vec<u8>),
    SyncDirectory(PathBuf),
}

/// A file number that keeps its file although its name may have gone.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    pub(super) number: FileNumber,
    /// By which it was opened.
    pub(super) path: Rc<str>,
    pub(super) mode: OpenMode,
    pub(super) _open: Rc<Descriptor>,
}

/// One descriptor; clones of an [`OpenFile`] share it.
#[derive(Debug)]
pub(super) struct Descriptor {
    pub(super) _file: Rc<()>,
}

impl Operation {
    /// The path that is worked on, or by which the file was opened.
    pub(super) fn path(&self) -> Cow<'_, str> {
        match self {
            Operation::Read(file, ..)
            | Operation::Write(file, ..)
            | Operation::WriteBuffered(file, _)
            | Operation::Sync(file)
            | Operation::Allocate(file, ..)
            | Operation::Truncate(file, _)
            | Operation::FileBytes(file)
            | Operation::ChangedMs(file) => Cow::Borrowed(&*file.path),
            Operation::Open(path, _)
            | Operation::OpenEmpty(path)
            | Operation::CreateDirectories(path)
            | Operation::List(path)
            | Operation::Rename(path, _)
            | Operation::RemoveFile(path)
            | Operation::RemoveDirectory(path)
            | Operation::ReadFile(path, _)
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
            Operation::ChangedMs(_) => ("changed_ms", [0, 0]),
            Operation::CreateDirectories(_) => ("create_directories", [0, 0]),
            Operation::List(_) => ("list", [0, 0]),
            Operation::Rename(..) => ("rename", [0, 0]),
            Operation::RemoveFile(_) => ("remove_file", [0, 0]),
            Operation::RemoveDirectory(_) => ("remove_directory", [0, 0]),
            Operation::ReadFile(..) => ("read_file", [0, 0]),
            Operation::OpenEmpty(_) => ("open_empty", [0, 0]),
            Operation::WriteBuffered(_, bytes) => ("write_buffered", [0, hash_bytes(bytes)]),
            Operation::SyncDirectory(_) => ("sync_directory", [0, 0]),
        }
    }

    /// Nanoseconds that it usually takes: an NVMe disk's order of magnitude.
    pub(super) fn usual_nanos(&self) -> u64 {
        match self {
            Operation::Sync(_) | Operation::SyncDirectory(_) => 1_000_000,
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
    Time(i64),
    Names(Vec<String>),
}
