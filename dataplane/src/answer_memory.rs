//! The memory of one shard that fetched records keep until their clients have taken them.
//!
//! ```text
//! pinned   slices of tail buffers and chunks: no copy, but producers and other readers miss those buffers meanwhile
//! copied   once so much is pinned that they would: memory of its own, and little of it per answer
//! neither  the fetch waits until some of both is given back; meanwhile connections whose clients take nothing are ended
//! ```
//! A slice keeps the whole buffer that it lies in, so buffers are what is charged. An answer pins at most half of what is left, and copies at
//! most a small part of it: many clients that do not read leave something for those that do.

use crate::io::{Buffer, Charge, MemoryBudget, Slice};
use crate::limits::{COPIED_BYTES_MAX, COPYING_ANSWERS, TAIL_BUFFER_BYTES};

pub struct AnswerMemory {
    pinned: MemoryBudget,
    copied: MemoryBudget,
}

/// Leave to read up to `bytes_max` bytes and keep them.
pub struct ReadPermit {
    pub bytes_max: usize,
    charge: Charge,
    copies: bool,
}

/// Records of one partition, and the charge for the memory that they keep.
#[derive(Debug, Default)]
pub struct KeptRecords {
    pub slices: Vec<Slice>,
    pub bytes: usize,
    pub charge: Option<Charge>,
}

impl AnswerMemory {
    pub fn new(pinned_bytes_max: usize) -> AnswerMemory {
        AnswerMemory {
            pinned: MemoryBudget::new(pinned_bytes_max),
            copied: MemoryBudget::new(COPIED_BYTES_MAX),
        }
    }

    /// Bytes that answers pin now.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned.charged()
    }

    /// What a next answer may carry.
    pub fn share(&self) -> usize {
        let pinned = (self.pinned.left() / 2).saturating_sub(TAIL_BUFFER_BYTES);
        pinned.max(self.copied_share())
    }

    fn copied_share(&self) -> usize {
        self.copied.left() / COPYING_ANSWERS
    }

    /// Leave to read up to `bytes_max` bytes, or fewer if they must be copied; `None` while nothing can be kept.
    pub fn permit(&self, bytes_max: usize) -> Option<ReadPermit> {
        if let Some(charge) = self.pinned.try_charge(buffers_of(bytes_max)) {
            return Some(ReadPermit {
                bytes_max,
                charge,
                copies: false,
            });
        }
        let bytes_max = bytes_max.min(self.copied_share());
        let Some(charge) = self.copied.try_charge(bytes_max) else {
            self.note_shortage();
            return None;
        };
        Some(ReadPermit {
            bytes_max,
            charge,
            copies: true,
        })
    }

    /// Keeps what was read with leave, charged as what it is; `None` if that is more than can be kept, as a first batch may be that is
    /// larger than every limit.
    pub fn keep(
        &self,
        permit: ReadPermit,
        slices: Vec<Slice>,
        bytes: usize,
    ) -> Option<KeptRecords> {
        if bytes == 0 {
            return Some(KeptRecords::default());
        }
        let mut charge = permit.charge;
        if !permit.copies && charge.resize(slices.len() * TAIL_BUFFER_BYTES) {
            return Some(KeptRecords {
                slices,
                bytes,
                charge: Some(charge),
            });
        }
        let copied = match permit.copies {
            true => charge.resize(bytes).then_some(charge),
            false => self.copied.try_charge(bytes),
        };
        let Some(charge) = copied else {
            self.note_shortage();
            return None;
        };
        let mut copy = Buffer::allocate(bytes)?;
        slices
            .iter()
            .for_each(|slice| copy.extend_from_slice(slice));
        Some(KeptRecords {
            slices: vec![copy.slice(0..bytes)],
            bytes,
            charge: Some(charge),
        })
    }
    fn note_shortage(&self) {
        self.pinned.note_shortage();
        self.copied.note_shortage();
    }
}

/// The memory that a read of so many bytes pins at most, as long as the buffers that it meets are full.
fn buffers_of(bytes: usize) -> usize {
    (bytes.div_ceil(TAIL_BUFFER_BYTES) + 1) * TAIL_BUFFER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(count: usize) -> Vec<Slice> {
        let mut buffer = Buffer::allocate(10).expect("memory");
        buffer.extend_from_slice(&[7; 10]);
        (0..count).map(|_| buffer.slice(0..10)).collect()
    }

    fn read(memory: &AnswerMemory, bytes_max: usize, count: usize) -> Option<KeptRecords> {
        let permit = memory.permit(bytes_max)?;
        memory.keep(permit, slices(count), 10 * count)
    }

    #[test]
    fn an_answer_is_charged_the_buffers_that_it_keeps_and_not_those_it_might_have_kept() {
        let memory = AnswerMemory::new(64 * TAIL_BUFFER_BYTES);
        let kept = read(&memory, 30 * TAIL_BUFFER_BYTES, 2).expect("there is room");
        assert_eq!(memory.pinned_bytes(), 2 * TAIL_BUFFER_BYTES);
        assert_eq!((kept.slices.len(), kept.bytes), (2, 20));
        drop(kept);
        assert_eq!(memory.pinned_bytes(), 0);
    }

    #[test]
    fn what_can_no_more_be_pinned_is_copied_and_what_can_no_more_be_copied_waits() {
        let memory = AnswerMemory::new(4 * TAIL_BUFFER_BYTES);
        let pinned = read(&memory, 1, 4).expect("there is room");
        assert_eq!(memory.share(), COPIED_BYTES_MAX / COPYING_ANSWERS);
        let copied = read(&memory, 4 * TAIL_BUFFER_BYTES, 3).expect("there is memory");
        assert_eq!(copied.slices.len(), 1, "one copy");
        assert_eq!(copied.slices[0][..], [7; 30]);
        assert_eq!(memory.copied.charged(), 30);
        let rest = memory.copied.try_charge(memory.copied.left());
        assert!(read(&memory, 10, 1).is_none());
        drop(rest);
        assert!(read(&memory, 10, 1).is_some());
        drop(pinned);
        let permit = memory.permit(10).expect("there is room");
        assert!(!permit.copies, "what was pinned is given back");
    }

    #[test]
    fn each_answer_leaves_something_for_the_next() {
        let memory = AnswerMemory::new(256 * TAIL_BUFFER_BYTES);
        let mut held = Vec::new();
        for _ in 0..100 {
            let share = memory.share();
            assert!(share >= TAIL_BUFFER_BYTES, "{share}");
            let permit = memory.permit(share).expect("there is room");
            let buffers = permit.bytes_max.div_ceil(TAIL_BUFFER_BYTES);
            held.push(memory.keep(permit, slices(buffers), 10 * buffers));
        }
        assert!(memory.pinned_bytes() <= 256 * TAIL_BUFFER_BYTES);
    }
}
