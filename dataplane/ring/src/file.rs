//! Files and names, all through the ring but for listing a directory.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::Ring;
use crate::leases::WriteLeases;
use crate::memory::{BLOCK_BYTES, Buffer};
use crate::operation::perform;
use crate::reactor::descriptor_of;
use crate::request::Request;

/// An open file of one ring. Closes when its last handle is dropped and no operation uses it.
#[derive(Clone)]
pub struct File(Rc<OwnedFd>);

impl Ring {
    /// For unbuffered reads and writes of whole blocks of a file that is there. On a file system without unbuffered mode the page cache
    /// is used after all.
    pub async fn open_direct(&self, path: &Path) -> io::Result<File> {
        self.open_unbuffered(path, libc::O_RDWR).await
    }

    /// As [`Ring::open_direct`]; made if absent.
    pub async fn create_direct(&self, path: &Path) -> io::Result<File> {
        self.open_unbuffered(path, libc::O_RDWR | libc::O_CREAT)
            .await
    }

    /// For unbuffered reads of whole blocks of a file that is there.
    pub async fn open_direct_to_read(&self, path: &Path) -> io::Result<File> {
        self.open_unbuffered(path, libc::O_RDONLY).await
    }

    async fn open_unbuffered(&self, path: &Path, flags: i32) -> io::Result<File> {
        if !self.0.unbuffered_files {
            return self.open(path, flags).await;
        }
        match self.open(path, flags | libc::O_DIRECT).await {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.open(path, flags).await
            }
            result => result,
        }
    }

    /// For reads through the page cache.
    pub async fn open_cached(&self, path: &Path) -> io::Result<File> {
        self.open(path, libc::O_RDONLY).await
    }

    /// Writes a lease, or several one behind the other, whole. `synced`: with its completion all is on stable storage.
    pub async fn write(
        &self,
        file: &File,
        position: u64,
        leases: impl Into<WriteLeases>,
        synced: bool,
    ) -> io::Result<()> {
        let mut leases = leases.into();
        let bytes = leases.bytes();
        let mut done = 0;
        while done < bytes {
            let request = Request::Write {
                file: Rc::clone(&file.0),
                leases,
                done,
                position,
                synced,
            };
            let (result, request) = perform(&self.0, request).await;
            let Request::Write {
                leases: returned, ..
            } = request
            else {
                unreachable!("a request comes back as it went");
            };
            leases = returned;
            done += whole_blocks(result?)?;
        }
        Ok(())
    }

    /// Appends up to `bytes` bytes of the file to `buffer`, fewer at the end of the file.
    pub async fn read(
        &self,
        file: &File,
        position: u64,
        mut buffer: Buffer,
        bytes: usize,
    ) -> (io::Result<usize>, Buffer) {
        assert!(
            bytes <= buffer.remaining(),
            "the caller has room for what it asks"
        );
        let mut read = 0;
        while read < bytes {
            let request = Request::Read {
                file: Rc::clone(&file.0),
                buffer,
                position: position + read as u64,
                bytes: bytes - read,
            };
            let (result, request) = perform(&self.0, request).await;
            let Request::Read {
                buffer: returned, ..
            } = request
            else {
                unreachable!("a request comes back as it went");
            };
            buffer = returned;
            match result {
                Ok(part) => {
                    buffer.advance(part);
                    read += part;
                    // The end of the file. A direct file could not even be asked for more from the middle of a block.
                    if part == 0 || !part.is_multiple_of(BLOCK_BYTES) {
                        break;
                    }
                }
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(read), buffer)
    }

    /// fdatasync: the file's bytes and what is needed to read them are on stable storage.
    pub async fn sync(&self, file: &File) -> io::Result<()> {
        self.run(Request::Sync {
            file: Rc::clone(&file.0),
            data_only: true,
        })
        .await
    }

    /// Reserves blocks for a range, which reads as zeros where nothing was written; the file grows to cover it.
    pub async fn allocate(&self, file: &File, position: u64, bytes: u64) -> io::Result<()> {
        self.run(Request::Allocate {
            file: Rc::clone(&file.0),
            position,
            bytes,
        })
        .await
    }

    pub async fn truncate(&self, file: &File, bytes: u64) -> io::Result<()> {
        if self.0.truncates {
            return self
                .run(Request::Truncate {
                    file: Rc::clone(&file.0),
                    bytes,
                })
                .await;
        }
        // Kernels before 6.9 have no such operation. This one waits, and is rare.
        std::fs::File::from(file.0.try_clone()?).set_len(bytes)
    }

    pub async fn file_bytes(&self, file: &File) -> io::Result<u64> {
        Ok(self.status(file).await?.stx_size)
    }

    /// When the file's content was changed last, in milliseconds since 1970.
    pub async fn changed_ms(&self, file: &File) -> io::Result<i64> {
        let at = self.status(file).await?.stx_mtime;
        let ms = i64::from(at.tv_nsec / 1_000_000);
        Ok(at.tv_sec.saturating_mul(1000).saturating_add(ms))
    }

    async fn status(&self, file: &File) -> io::Result<Box<libc::statx>> {
        let request = Request::Status {
            file: Rc::clone(&file.0),
            status: Box::new(empty_status()),
        };
        let (result, request) = perform(&self.0, request).await;
        let Request::Status { status, .. } = request else {
            unreachable!("a request comes back as it went");
        };
        result.map(|_| status)
    }

    /// Makes a directory and those above it that are missing.
    pub async fn create_directories(&self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = Vec::new();
        for directory in path
            .ancestors()
            .filter(|directory| !directory.as_os_str().is_empty())
        {
            match self.create_directory(directory).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(directory),
                result => {
                    result?;
                    break;
                }
            }
        }
        for directory in missing.into_iter().rev() {
            self.create_directory(directory).await?;
        }
        Ok(())
    }

    /// Names in a directory, sorted. A plain read that waits, as io_uring has none.
    pub fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let name = entry?.file_name().into_string();
            names.push(name.map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, "a file name is not UTF-8")
            })?);
        }
        names.sort();
        Ok(names)
    }

    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Request::Rename {
            from: c_path(from)?,
            to: c_path(to)?,
        })
        .await
    }

    pub async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.run(Request::RemoveFile {
            path: c_path(path)?,
        })
        .await
    }

    pub async fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.run(Request::RemoveDirectory {
            path: c_path(path)?,
        })
        .await
    }

    /// A whole small file; one longer than `bytes_max` is an error.
    pub async fn read_file(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        let too_long = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is too long", path.display()),
            )
        };
        let file = self.open_cached(path).await?;
        let bytes = usize::try_from(self.file_bytes(&file).await?)
            .ok()
            .filter(|bytes| *bytes <= bytes_max);
        let bytes = bytes.ok_or_else(too_long)?;
        let buffer = Buffer::allocate(bytes).ok_or(io::ErrorKind::OutOfMemory)?;
        let (result, buffer) = self.read(&file, 0, buffer, bytes).await;
        result?;
        Ok(buffer.as_slice().to_vec())
    }

    /// Replaces a small file as one step: whoever reads it, even after a power loss, finds the old bytes or the new.
    pub async fn replace_file(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let no_name =
            || io::Error::new(io::ErrorKind::InvalidInput, "a file to replace has a name");
        let mut temporary = path.file_name().ok_or_else(no_name)?.to_owned();
        temporary.push(".tmp");
        let temporary = path.with_file_name(temporary);
        let file = self
            .open(&temporary, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)
            .await?;
        self.write_bytes(&file, bytes).await?;
        self.run(Request::Sync {
            file: Rc::clone(&file.0),
            data_only: false,
        })
        .await?;
        self.rename(&temporary, path).await?;
        self.sync_directory(&parent(path)).await
    }

    /// fsync of a directory, so that names in it last.
    pub async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let directory = self.open(path, libc::O_RDONLY | libc::O_DIRECTORY).await?;
        self.run(Request::Sync {
            file: directory.0,
            data_only: false,
        })
        .await
    }

    async fn open(&self, path: &Path, flags: i32) -> io::Result<File> {
        let path = c_path(path)?;
        let (result, _) = perform(&self.0, Request::Open { path, flags }).await;
        let descriptor = descriptor_of(result? as i32);
        let descriptor = descriptor.map_err(io::Error::from_raw_os_error)?;
        Ok(File(Rc::new(descriptor)))
    }

    async fn write_bytes(&self, file: &File, mut bytes: Vec<u8>) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (result, request) = perform(
                &self.0,
                Request::WriteBytes {
                    file: Rc::clone(&file.0),
                    bytes,
                    done,
                },
            )
            .await;
            let Request::WriteBytes {
                bytes: returned, ..
            } = request
            else {
                unreachable!("a request comes back as it went");
            };
            bytes = returned;
            match result? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                part => done += part,
            }
        }
        Ok(())
    }

    /// A directory that is there already is as good as made.
    async fn create_directory(&self, path: &Path) -> io::Result<()> {
        match self
            .run(Request::MakeDirectory {
                path: c_path(path)?,
            })
            .await
        {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        }
    }

    async fn run(&self, request: Request) -> io::Result<()> {
        perform(&self.0, request).await.0.map(drop)
    }
}

/// A write may go on after whole blocks only: the middle of a block cannot be written unbuffered. Trying the rest brings the reason to
/// light, as a full device gives it on the next write.
fn whole_blocks(written: usize) -> io::Result<usize> {
    if written == 0 || !written.is_multiple_of(BLOCK_BYTES) {
        return Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("a write ended short after {written} bytes"),
        ));
    }
    Ok(written)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path holds a zero byte"))
}

fn empty_status() -> libc::statx {
    // SAFETY: statx is plain integers, for which all zeros is a value.
    unsafe { std::mem::zeroed() }
}
