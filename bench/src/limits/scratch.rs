//! The file that is measured: prewritten, on a file system that takes unbuffered writes. It loses its name as soon as it is there, so it is
//! gone with this process, whatever ends it.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::host::file_system;
use crate::sink::server::prewrite;

pub(super) struct Scratch {
    directory: PathBuf,
    path: PathBuf,
    /// What the path leads to.
    _file: File,
}

impl Scratch {
    pub(super) fn open(directory: &Path, file_bytes: u64) -> Result<Self> {
        let directory = directory
            .canonicalize()
            .with_context(|| format!("cannot use {}", directory.display()))?;
        let shown = directory.display();
        let kind = file_system(&directory)?;
        ensure!(
            !["tmpfs", "ramfs"].contains(&kind.as_str()),
            "{shown} is in memory, not on a disk: name another directory with --data"
        );
        let file =
            nameless_file(&directory).with_context(|| format!("cannot make a file in {shown}"))?;
        let path = PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            file.as_raw_fd()
        ));
        prewrite(&path, file_bytes).with_context(|| format!("cannot write a file in {shown}"))?;
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .with_context(|| {
                format!("{shown} takes no unbuffered writes (O_DIRECT): name another directory with --data")
            })?;
        Ok(Self {
            directory,
            path,
            _file: file,
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Good for this process and for those that it starts.
    pub(super) fn file(&self) -> &Path {
        &self.path
    }
}

fn nameless_file(directory: &Path) -> std::io::Result<File> {
    let name = format!("millrace-limits-{}", std::process::id());
    let named = directory.join(name);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&named)?;
    fs::remove_file(&named)?;
    Ok(file)
}
