//! What can be asked of the kernel once and is answered once.
//!
//! A request owns everything that the kernel reads or writes on its behalf: descriptors, buffers, paths, vectors. All of it lives
//! on the heap or in mapped memory, so it stays where it is while the request itself is moved into the table of operations in
//! flight, from which it only comes out with its completion. That is the whole safety argument of this crate's submissions.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{opcode, squeue, types};

use crate::leases::WriteLeases;
use crate::memory::Buffer;
use crate::outgoing::Outgoing;
use crate::registered::Registered;

/// The kernel moves at most this much per call, rounded down to whole blocks.
pub(crate) const TRANSFER_BYTES_MAX: usize = 1 << 30;

pub(crate) enum Request {
    Open {
        path: CString,
        flags: i32,
    },
    /// Into the buffer's spare part.
    Read {
        file: Rc<OwnedFd>,
        buffer: Buffer,
        position: u64,
        bytes: usize,
    },
    /// From `done` on.
    Write {
        file: Rc<OwnedFd>,
        leases: WriteLeases,
        done: usize,
        position: u64,
        synced: bool,
    },
    WriteBytes {
        file: Rc<OwnedFd>,
        bytes: Vec<u8>,
        done: usize,
    },
    Sync {
        file: Rc<OwnedFd>,
        data_only: bool,
    },
    Allocate {
        file: Rc<OwnedFd>,
        position: u64,
        bytes: u64,
    },
    Truncate {
        file: Rc<OwnedFd>,
        bytes: u64,
    },
    Status {
        file: Rc<OwnedFd>,
        status: Box<libc::statx>,
    },
    Rename {
        from: CString,
        to: CString,
    },
    RemoveFile {
        path: CString,
    },
    RemoveDirectory {
        path: CString,
    },
    MakeDirectory {
        path: CString,
    },
    /// Into the buffer's spare part, waiting for all of it.
    Receive {
        socket: Rc<OwnedFd>,
        buffer: Buffer,
        bytes: usize,
    },
    Send {
        socket: Rc<OwnedFd>,
        message: Box<Outgoing>,
    },
}

impl Request {
    /// The submission for this request, whose pointers all lead into what it owns.
    pub(crate) fn entry(&mut self, registered: Option<Registered>) -> squeue::Entry {
        let here = types::Fd(libc::AT_FDCWD);
        match self {
            Request::Open { path, flags } => opcode::OpenAt::new(here, path.as_ptr())
                .flags(*flags | libc::O_CLOEXEC)
                .mode(0o644)
                .build(),
            Request::Read {
                file,
                buffer,
                position,
                bytes,
            } => {
                assert!(
                    *bytes <= buffer.remaining(),
                    "a read stays inside its buffer"
                );
                let (file, bytes) = (descriptor(file), (*bytes).min(TRANSFER_BYTES_MAX));
                let address = buffer.spare();
                match Registered::index(registered, address, bytes) {
                    Some(index) => opcode::ReadFixed::new(file, address, bytes as u32, index)
                        .offset(*position)
                        .build(),
                    None => opcode::Read::new(file, address, bytes as u32)
                        .offset(*position)
                        .build(),
                }
            }
            Request::Write {
                file,
                leases,
                done,
                position,
                synced,
            } => {
                let flags = if *synced { libc::RWF_DSYNC } else { 0 };
                let position = *position + *done as u64;
                leases.entry(descriptor(file), *done, position, flags, registered)
            }
            Request::WriteBytes { file, bytes, done } => {
                let rest = &bytes[*done..];
                let length = rest.len().min(TRANSFER_BYTES_MAX) as u32;
                opcode::Write::new(descriptor(file), rest.as_ptr(), length)
                    .offset(*done as u64)
                    .build()
            }
            Request::Sync { file, data_only } => {
                let flags = if *data_only {
                    types::FsyncFlags::DATASYNC
                } else {
                    types::FsyncFlags::empty()
                };
                opcode::Fsync::new(descriptor(file)).flags(flags).build()
            }
            Request::Allocate {
                file,
                position,
                bytes,
            } => opcode::Fallocate::new(descriptor(file), *bytes)
                .offset(*position)
                .build(),
            Request::Truncate { file, bytes } => {
                opcode::Ftruncate::new(descriptor(file), *bytes).build()
            }
            Request::Status { file, status } => {
                let target: *mut libc::statx = &mut **status;
                opcode::Statx::new(descriptor(file), c"".as_ptr(), target.cast())
                    .flags(libc::AT_EMPTY_PATH)
                    .mask(libc::STATX_SIZE | libc::STATX_MTIME)
                    .build()
            }
            Request::Rename { from, to } => {
                opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build()
            }
            Request::RemoveFile { path } => opcode::UnlinkAt::new(here, path.as_ptr()).build(),
            Request::RemoveDirectory { path } => opcode::UnlinkAt::new(here, path.as_ptr())
                .flags(libc::AT_REMOVEDIR)
                .build(),
            Request::MakeDirectory { path } => opcode::MkDirAt::new(here, path.as_ptr())
                .mode(0o755)
                .build(),
            Request::Receive {
                socket,
                buffer,
                bytes,
            } => {
                assert!(
                    *bytes <= buffer.remaining(),
                    "a receive stays inside its buffer"
                );
                let bytes = (*bytes).min(TRANSFER_BYTES_MAX) as u32;
                opcode::Recv::new(descriptor(socket), buffer.spare(), bytes)
                    .flags(libc::MSG_WAITALL)
                    .build()
            }
            Request::Send { socket, message } => message.entry(descriptor(socket)),
        }
    }

    /// Undoes what completed with nobody left to take it.
    pub(crate) fn discard(self, result: i32) {
        if let Request::Open { .. } = self
            && result >= 0
        {
            // SAFETY: a successful open gave us this descriptor, and the future that would have owned it is gone.
            drop(unsafe { OwnedFd::from_raw_fd(result) });
        }
    }
}

fn descriptor(descriptor: &Rc<OwnedFd>) -> types::Fd {
    types::Fd(descriptor.as_raw_fd())
}
