//! The file that is measured: prewritten, on a file system that takes unbuffered writes, and removed afterwards whatever happens.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::host::file_system;
use crate::sink::server::prewrite;

pub(super) struct Scratch {
    directory: PathBuf,
    file: PathBuf,
    /// Also to be removed.
    made_directory: bool,
}

impl Scratch {
    /// Without a directory makes one in the current one.
    pub(super) fn open(directory: Option<PathBuf>, file_bytes: u64) -> Result<Self> {
        let name = format!("millrace-limits-{}", std::process::id());
        let made_directory = directory.is_none();
        let directory = match directory {
            Some(directory) => directory,
            None => {
                let directory = std::env::current_dir()
                    .context("there is no current directory")?
                    .join(&name);
                fs::create_dir(&directory)
                    .with_context(|| format!("cannot make {}", directory.display()))?;
                directory
            }
        };
        // From here on dropping it removes what was made.
        let mut scratch = Self {
            file: directory.join(name),
            directory,
            made_directory,
        };
        scratch.prepare(file_bytes)?;
        Ok(scratch)
    }

    fn prepare(&mut self, file_bytes: u64) -> Result<()> {
        let directory = &self.directory;
        self.directory = directory
            .canonicalize()
            .with_context(|| format!("cannot use {}", directory.display()))?;
        let kind = file_system(&self.directory)?;
        ensure!(
            !["tmpfs", "ramfs"].contains(&kind.as_str()),
            "{} is in memory, not on a disk: name another directory with --data",
            self.directory.display()
        );
        prewrite(&self.file, file_bytes)
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&self.file)
            .with_context(|| {
                format!(
                    "{} takes no unbuffered writes (O_DIRECT): name another directory with --data",
                    self.directory.display()
                )
            })?;
        Ok(())
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may not have been made yet; and what cannot be removed is not worth losing the figures for.
        let _ = fs::remove_file(&self.file);
        if self.made_directory {
            let _ = fs::remove_dir(&self.directory);
        }
    }
}
