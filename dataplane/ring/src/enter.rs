//! The one system call of a running ring, io_uring_enter, through a registered ring descriptor.
//!
//! Written out because the io-uring crate keeps the registered descriptor in a borrow of the ring, which a reactor that owns its ring
//! cannot hold. It always asks for events: with DEFER_TASKRUN nothing completes otherwise.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use io_uring::{EnterFlags, IoUring};

const IORING_REGISTER_RING_FDS: libc::c_uint = 20;
const IORING_UNREGISTER_RING_FDS: libc::c_uint = 21;

pub(crate) struct Enter {
    ring: RawFd,
    /// The ring's place among this thread's registered ring descriptors, which spares the kernel a look-up per call.
    registered: Option<u32>,
}

/// `struct io_uring_rsrc_update` of the kernel.
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct io_uring_getevents_arg` of the kernel.
#[repr(C)]
struct WaitArgument {
    signal_mask: u64,
    signal_mask_bytes: u32,
    wait_microseconds_min: u32,
    timeout: u64,
}

/// `struct __kernel_timespec` of the kernel.
#[repr(C)]
struct KernelTime {
    seconds: i64,
    nanoseconds: i64,
}

impl Enter {
    /// Must be dropped before `uring`, on the same thread.
    pub(crate) fn new(uring: &IoUring) -> Enter {
        let ring = uring.as_raw_fd();
        let mut update = RingUpdate {
            offset: u32::MAX,
            reserved: 0,
            data: ring as u64,
        };
        let registered = register(ring, IORING_REGISTER_RING_FDS, &mut update)
            .is_ok()
            .then_some(update.offset);
        Enter { ring, registered }
    }

    /// Submits and waits for `completions_min` completions or the end of `timeout_nanos`.
    pub(crate) fn enter(
        &self,
        submissions: u32,
        completions_min: u32,
        timeout_nanos: Option<u64>,
    ) -> io::Result<()> {
        let time = timeout_nanos.map(|nanos| KernelTime {
            seconds: (nanos / 1_000_000_000) as i64,
            nanoseconds: (nanos % 1_000_000_000) as i64,
        });
        let timeout = time
            .as_ref()
            .map_or(0, |time| ptr::from_ref(time).expose_provenance() as u64);
        let argument = WaitArgument {
            signal_mask: 0,
            signal_mask_bytes: 0,
            wait_microseconds_min: 0,
            timeout,
        };
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        let mut descriptor = self.ring;
        if let Some(index) = self.registered {
            flags |= EnterFlags::REGISTERED_RING;
            descriptor = index as RawFd;
        }
        // SAFETY: the argument and the time it points to outlive the call. What the queued entries point to is the reactor's promise, kept
        // where it pushes them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                descriptor,
                submissions,
                completions_min,
                flags.bits(),
                ptr::from_ref(&argument),
                size_of::<WaitArgument>(),
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl Drop for Enter {
    fn drop(&mut self) {
        if let Some(offset) = self.registered {
            let mut update = RingUpdate {
                offset,
                reserved: 0,
                data: 0,
            };
            // A place that stays taken costs this thread one of sixteen; later rings then go without.
            let _ = register(self.ring, IORING_UNREGISTER_RING_FDS, &mut update);
        }
    }
}

fn register(ring: RawFd, operation: libc::c_uint, update: &mut RingUpdate) -> io::Result<()> {
    // SAFETY: the kernel reads and writes one update, which outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring,
            operation,
            ptr::from_mut(update),
            1,
        )
    };
    if done == 1 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
