//! What can be asked of the kernel once and is answered once.
//!
//! A request owns everything that the kernel reads or writes on its behalf: descriptors, buffers, paths, vectors. All of it lives
//! on the heap or in mapped memory, so it stays where it is while the request itself is moved into the table of operations in
//! flight, from which it only comes out with its completion. That is the whole safety argument of this crate's submissions.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{opcode, squeue, types};

use crate::memory::{Buffer, WriteLease};
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
        lease: WriteLease,
        done: usize,
        position: u64,
        synced: bool,
    },
    /// All leases one behind the other, from `done` on.
    WriteGathered {
        file: Rc<OwnedFd>,
        leases: Vec<WriteLease>,
        vectors: Vec<libc::iovec>,
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
                lease,
                done,
                position,
                synced,
            } => {
                assert!(*done <= lease.len(), "a write stays inside its lease");
                let (file, bytes) = (
                    descriptor(file),
                    (lease.len() - *done).min(TRANSFER_BYTES_MAX),
                );
                let address = lease.address().wrapping_add(*done);
                let position = *position + *done as u64;
                let flags = write_flags(*synced);
                match Registered::index(registered, address, bytes) {
                    Some(index) => opcode::WriteFixed::new(file, address, bytes as u32, index)
                        .offset(position)
                        .rw_flags(flags)
                        .build(),
                    None => opcode::Write::new(file, address, bytes as u32)
                        .offset(position)
                        .rw_flags(flags)
                        .build(),
                }
            }
            Request::WriteGathered {
                file,
                leases,
                vectors,
                done,
                position,
                synced,
            } => {
                gather(leases, *done, vectors);
                opcode::Writev::new(descriptor(file), vectors.as_ptr(), vectors.len() as u32)
                    .offset(*position + *done as u64)
                    .rw_flags(write_flags(*synced))
                    .build()
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
                    .mask(libc::STATX_SIZE)
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

fn write_flags(synced: bool) -> i32 {
    if synced { libc::RWF_DSYNC } else { 0 }
}

/// The bytes of all leases but the first `done`.
fn gather(leases: &[WriteLease], done: usize, vectors: &mut Vec<libc::iovec>) {
    vectors.clear();
    let mut skip = done;
    for lease in leases {
        let skipped = skip.min(lease.len());
        skip -= skipped;
        if skipped < lease.len() {
            vectors.push(libc::iovec {
                iov_base: lease.address().wrapping_add(skipped).cast_mut().cast(),
                iov_len: lease.len() - skipped,
            });
        }
    }
}

fn descriptor(descriptor: &Rc<OwnedFd>) -> types::Fd {
    types::Fd(descriptor.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::BLOCK_BYTES;

    #[test]
    fn what_is_left_of_a_gathered_write_begins_where_the_last_one_ended() {
        let mut buffers = [1, 2, 3].map(|_| Buffer::allocate(4 * BLOCK_BYTES).unwrap());
        let leases = [1, 2, 3]
            .map(|blocks| buffers[blocks - 1].write_lease(BLOCK_BYTES..(blocks + 1) * BLOCK_BYTES));
        let mut vectors = Vec::new();
        let mut left = |done_blocks: usize| {
            gather(&leases, done_blocks * BLOCK_BYTES, &mut vectors);
            let blocks = |vector: &libc::iovec| vector.iov_len / BLOCK_BYTES;
            let first = vectors[0].iov_base.cast_const().cast::<u8>();
            (vectors.iter().map(blocks).collect::<Vec<_>>(), first)
        };
        assert_eq!(left(0), (vec![1, 2, 3], leases[0].address()));
        assert_eq!(left(1), (vec![2, 3], leases[1].address()));
        let second_block = leases[1].address().wrapping_add(BLOCK_BYTES);
        assert_eq!(left(2), (vec![1, 3], second_block));
        assert_eq!(left(3), (vec![3], leases[2].address()));
    }
}
