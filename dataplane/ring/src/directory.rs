//! What the file system under a directory can do, tried out: unbuffered writes of our blocks, and space reserved ahead of them.
//!
//! Asked once, before anything of a broker runs. What a file system says of itself differs between kernels, so a block is written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::memory::{BLOCK_BYTES, Buffer};

const PROBE_FILE: &str = ".file-system-probe";
const RESERVED_BYTES: libc::off_t = 16 * BLOCK_BYTES as libc::off_t;

/// What files in a directory can be used with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Unbuffered reads and writes of [`BLOCK_BYTES`]; without them the page cache has to be used.
    pub unbuffered: bool,
    /// Whether space can be reserved without writing it.
    pub reserves: bool,
    /// There is no room for one block now, so that nothing more could be found out.
    pub full: bool,
}

/// Tries both with a file in `directory`, which is made if it is not there. An error is one that no broker could live with.
pub fn probe_directory(directory: &Path) -> io::Result<FileSystem> {
    fs::create_dir_all(directory)?;
    let probe = Probe(directory.join(PROBE_FILE));
    let mut found = FileSystem {
        unbuffered: true,
        reserves: true,
        full: false,
    };
    let opened = probe.open(libc::O_DIRECT);
    let file = match opened.and_then(|file| write_block(&file).map(|()| file)) {
        // No unbuffered mode, or one for larger blocks only.
        Err(error) if is_refusal(&error) => {
            found.unbuffered = false;
            probe
                .open(0)
                .and_then(|file| write_block(&file).map(|()| file))
        }
        result => result,
    };
    match file.and_then(|file| reserve(&file)) {
        Ok(()) => {}
        Err(error) if is_refusal(&error) => found.reserves = false,
        Err(error) if is_full(&error) => found.full = true,
        Err(error) => return Err(error),
    }
    Ok(found)
}

/// Removed when it goes out of scope.
struct Probe(PathBuf);

impl Probe {
    fn open(&self, flags: i32) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        options.custom_flags(flags).open(&self.0)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // What is left is found and overwritten the next time.
        let _ = fs::remove_file(&self.0);
    }
}

fn write_block(file: &File) -> io::Result<()> {
    let mut block = Buffer::allocate(BLOCK_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
    block.append(BLOCK_BYTES, |bytes| bytes.fill(1));
    // Not at the file's start, so that the position's alignment is tried too.
    file.write_all_at(block.as_slice(), BLOCK_BYTES as u64)?;
    file.sync_data()
}

fn reserve(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` lives; no memory is involved.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, RESERVED_BYTES) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)
    )
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_and_found_out_about_and_left_empty() {
        let directory = std::env::temp_dir().join(format!("millrace-probe-{}", std::process::id()));
        let found = probe_directory(&directory).unwrap();
        assert!(!found.full);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_is_an_error() {
        let file = std::env::temp_dir().join(format!("millrace-probe-file-{}", std::process::id()));
        fs::write(&file, "in the way").unwrap();
        assert!(probe_directory(&file.join("data")).is_err());
        fs::remove_file(&file).unwrap();
    }
}
