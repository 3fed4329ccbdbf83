//! The ring's pool as the kernel knows it: pinned once, so that each write and read of it is spared the work.

use io_uring::IoUring;

use crate::error::RingError;
use crate::memory::Pool;

/// Most that one fixed buffer may span.
pub(crate) const PIECE_BYTES_MAX: usize = 1 << 30;

/// Memory that the ring has registered, in pieces that are one fixed buffer each.
#[derive(Clone, Copy)]
pub(crate) struct Registered {
    start: usize,
    bytes: usize,
    piece_bytes: usize,
}

impl Registered {
    /// Pins the pool for the kernel in pieces. `None` when the memlock limit forbids it.
    pub(crate) fn register(uring: &IoUring, pool: &Pool) -> Result<Option<Registered>, RingError> {
        let piece_bytes = PIECE_BYTES_MAX / pool.buffer_bytes() * pool.buffer_bytes();
        let (start, bytes) = pool.mapped();
        let pieces: Vec<libc::iovec> = (0..bytes)
            .step_by(piece_bytes)
            .map(|offset| libc::iovec {
                iov_base: start.wrapping_add(offset).cast(),
                iov_len: piece_bytes.min(bytes - offset),
            })
            .collect();
        // SAFETY: the pieces cover the pool's mapping, which the reactor keeps until the ring is gone.
        match unsafe { uring.submitter().register_buffers(&pieces) } {
            Ok(()) => Ok(Some(Registered {
                start: start.addr(),
                bytes,
                piece_bytes,
            })),
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Ok(None),
            Err(source) => Err(RingError::Other {
                action: "registering buffers",
                source,
            }),
        }
    }

    /// The fixed buffer that holds the range, if one does.
    pub(crate) fn index(
        registered: Option<Registered>,
        address: *const u8,
        bytes: usize,
    ) -> Option<u16> {
        let Registered {
            start,
            bytes: registered_bytes,
            piece_bytes,
        } = registered?;
        let offset = address.addr().checked_sub(start)?;
        if offset.checked_add(bytes)? > registered_bytes {
            return None;
        }
        let first = offset / piece_bytes;
        let last = (offset + bytes.max(1) - 1) / piece_bytes;
        (first == last).then(|| u16::try_from(first).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_buffer_is_found_only_for_a_range_inside_one_piece() {
        let registered = Some(Registered {
            start: 0x10000,
            bytes: 0x3000,
            piece_bytes: 0x1000,
        });
        let at = |address: usize| std::ptr::without_provenance::<u8>(address);
        assert_eq!(Registered::index(registered, at(0x10000), 0x1000), Some(0));
        assert_eq!(Registered::index(registered, at(0x12fff), 1), Some(2));
        assert_eq!(
            Registered::index(registered, at(0x10800), 0x1000),
            None,
            "crosses two pieces"
        );
        assert_eq!(
            Registered::index(registered, at(0x12800), 0x1000),
            None,
            "runs past the end"
        );
        assert_eq!(
            Registered::index(registered, at(0xffff), 1),
            None,
            "lies before the start"
        );
        assert_eq!(
            Registered::index(None, at(0x10000), 1),
            None,
            "nothing is registered"
        );
    }
}
