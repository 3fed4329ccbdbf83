//! The bytes of one write to a file: a lease, or several of different buffers that the file takes one behind the other.

use io_uring::{opcode, squeue, types};

use crate::memory::WriteLease;
use crate::registered::Registered;
use crate::request::TRANSFER_BYTES_MAX;

/// Leases of one write, in the order of the file. Made of the first one, to which others may be added.
pub struct WriteLeases(Leases);

enum Leases {
    One(WriteLease),
    /// Boxed, because it is rare and a request is moved with its leases.
    Several(Box<Several>),
}

struct Several {
    leases: Vec<WriteLease>,
    vectors: Vec<libc::iovec>,
}

/// Linux's IOV_MAX.
const LEASES_MAX: usize = 1024;

impl From<WriteLease> for WriteLeases {
    fn from(lease: WriteLease) -> WriteLeases {
        WriteLeases(Leases::One(lease))
    }
}

impl WriteLeases {
    /// These and one more behind them. The memory of several is mapped for the kernel anew in each write; that of one need not be.
    pub fn followed_by(self, lease: WriteLease) -> WriteLeases {
        let mut several = match self.0 {
            Leases::One(first) => Box::new(Several {
                leases: vec![first],
                vectors: Vec::new(),
            }),
            Leases::Several(several) => several,
        };
        assert!(
            several.leases.len() < LEASES_MAX,
            "the leases of a write fit one operation"
        );
        several.leases.push(lease);
        WriteLeases(Leases::Several(several))
    }

    pub fn as_slice(&self) -> &[WriteLease] {
        match &self.0 {
            Leases::One(lease) => std::slice::from_ref(lease),
            Leases::Several(several) => &several.leases,
        }
    }

    /// Of all leases together.
    pub fn bytes(&self) -> usize {
        self.as_slice().iter().map(WriteLease::len).sum()
    }

    /// The submission for what is left after `done` bytes, to be written at `position`. Its pointers lead into leased memory and into what
    /// `self` owns on the heap.
    pub(crate) fn entry(
        &mut self,
        file: types::Fd,
        done: usize,
        position: u64,
        flags: i32,
        registered: Option<Registered>,
    ) -> squeue::Entry {
        match &mut self.0 {
            Leases::One(lease) => {
                assert!(done <= lease.len(), "a write stays inside its lease");
                let bytes = (lease.len() - done).min(TRANSFER_BYTES_MAX);
                let address = lease.address().wrapping_add(done);
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
            Leases::Several(several) => {
                several.gather(done);
                let vectors = &several.vectors;
                opcode::Writev::new(file, vectors.as_ptr(), vectors.len() as u32)
                    .offset(position)
                    .rw_flags(flags)
                    .build()
            }
        }
    }
}

impl Several {
    /// Makes vectors of all bytes but the first `done`.
    fn gather(&mut self, done: usize) {
        self.vectors.clear();
        let mut skip = done;
        for lease in &self.leases {
            let skipped = skip.min(lease.len());
            skip -= skipped;
            if skipped < lease.len() {
                self.vectors.push(libc::iovec {
                    iov_base: lease.address().wrapping_add(skipped).cast_mut().cast(),
                    iov_len: lease.len() - skipped,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{BLOCK_BYTES, Buffer};

    #[test]
    fn what_is_left_of_several_leases_begins_where_the_last_write_ended() {
        let mut buffers = [1, 2, 3].map(|_| Buffer::allocate(4 * BLOCK_BYTES).unwrap());
        let leases = [1, 2, 3]
            .map(|blocks| buffers[blocks - 1].write_lease(BLOCK_BYTES..(blocks + 1) * BLOCK_BYTES));
        let addresses = [0, 1, 2].map(|index: usize| leases[index].address());
        let [first, second, third] = leases;
        let leases = WriteLeases::from(first)
            .followed_by(second)
            .followed_by(third);
        assert_eq!(leases.bytes(), 6 * BLOCK_BYTES);
        let Leases::Several(mut several) = leases.0 else {
            panic!("there are three");
        };
        let mut left = |done_blocks: usize| {
            several.gather(done_blocks * BLOCK_BYTES);
            let blocks = |vector: &libc::iovec| vector.iov_len / BLOCK_BYTES;
            let first = several.vectors[0].iov_base.cast_const().cast::<u8>();
            (
                several.vectors.iter().map(blocks).collect::<Vec<_>>(),
                first,
            )
        };
        assert_eq!(left(0), (vec![1, 2, 3], addresses[0]));
        assert_eq!(left(1), (vec![2, 3], addresses[1]));
        let second_block = addresses[1].wrapping_add(BLOCK_BYTES);
        assert_eq!(left(2), (vec![1, 3], second_block));
        assert_eq!(left(3), (vec![3], addresses[2]));
    }
}
