//! One log of a twin: frames are copied into the memory that is being filled, and all that came while a batch was being written is the
//! next batch. Buffers move into these runtimes' writes and come back, so a block that is not full yet is copied into the next batch.
//!
//! ```text
//!   being written             being filled
//!   | block | block | blo0 |  | blo............. |
//!                     |_________^ carried over
//! ```

use std::cell::{Cell, RefCell};

use super::BLOCK_BYTES;
use super::server::BUFFER_BYTES;
use super::signal::Signal;

/// Memory of `BUFFER_BYTES` that can be written unbuffered.
pub(super) trait Blocks {
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// Where in the file the log lies, over and over from its start.
#[derive(Clone, Copy)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

pub(super) struct Batches<B> {
    /// Without it bytes are overwritten in memory.
    region: Option<Region>,
    filling: RefCell<Filling<B>>,
    stored: Cell<u64>,
    appended: Signal,
    taken: Signal,
    pub(super) progressed: Signal,
}

struct Filling<B> {
    blocks: B,
    /// Position in the log of the first byte, at the start of a block.
    start: u64,
    used: usize,
    /// The first bytes, which were in the batch before too.
    carried: usize,
}

/// Whole blocks on their way to the file.
pub(super) struct Batch<B> {
    pub(super) blocks: B,
    pub(super) bytes: usize,
    /// In the file.
    pub(super) position: u64,
    /// In the log, behind its last frame.
    pub(super) end: u64,
}

impl<B: Blocks> Batches<B> {
    pub(super) fn new(blocks: B, region: Option<Region>) -> Self {
        Self {
            region,
            filling: RefCell::new(Filling {
                blocks,
                start: 0,
                used: 0,
                carried: 0,
            }),
            stored: Cell::new(0),
            appended: Signal::default(),
            taken: Signal::default(),
            progressed: Signal::default(),
        }
    }

    /// Every byte before this position has been stored.
    pub(super) fn stored(&self) -> u64 {
        self.stored.get()
    }

    /// Appends a frame as soon as there is room; returns the position behind it.
    pub(super) async fn append(&self, frame: &[u8]) -> u64 {
        let end = self.taken.until(|| self.try_append(frame)).await;
        match self.region {
            Some(_) => self.appended.wake(),
            None => self.written(end),
        }
        end
    }

    fn try_append(&self, frame: &[u8]) -> Option<u64> {
        let filling = &mut *self.filling.borrow_mut();
        let room = match self.region {
            Some(region) => {
                BUFFER_BYTES.min((region.bytes - filling.start % region.bytes) as usize)
            }
            None => BUFFER_BYTES,
        };
        if filling.used + frame.len() > room {
            match self.region {
                None => filling.restart_at(filling.start + filling.used as u64),
                // A frame that does not fit before the end of the region goes to its start, once all before it is on its way.
                Some(region) if room < BUFFER_BYTES && filling.used == filling.carried => {
                    filling.restart_at((filling.start + 1).next_multiple_of(region.bytes));
                }
                Some(_) => return None,
            }
        }
        let from = filling.used;
        filling.used += frame.len();
        let to = filling.used;
        filling.blocks.bytes_mut()[from..to].copy_from_slice(frame);
        Some(filling.start + to as u64)
    }

    /// Waits for frames and takes all of them; `spare` is filled from now on.
    pub(super) async fn take(&self, spare: B) -> Batch<B> {
        let mut spare = Some(spare);
        let batch = self.appended.until(|| self.try_take(&mut spare)).await;
        self.taken.wake();
        batch
    }

    fn try_take(&self, spare: &mut Option<B>) -> Option<Batch<B>> {
        let region = self.region?;
        let mut filling = self.filling.borrow_mut();
        if filling.used == filling.carried {
            return None;
        }
        let mut blocks = std::mem::replace(&mut filling.blocks, spare.take()?);
        let (start, used) = (filling.start, filling.used);
        let whole = used / BLOCK_BYTES * BLOCK_BYTES;
        let padded = used.next_multiple_of(BLOCK_BYTES);
        let carried = used - whole;
        blocks.bytes_mut()[used..padded].fill(0);
        filling.blocks.bytes_mut()[..carried].copy_from_slice(&blocks.bytes_mut()[whole..used]);
        filling.start = start + whole as u64;
        filling.used = carried;
        filling.carried = carried;
        Some(Batch {
            blocks,
            bytes: padded,
            position: region.start + start % region.bytes,
            end: start + used as u64,
        })
    }

    /// What was taken up to `end` is stored.
    pub(super) fn written(&self, end: u64) {
        self.stored.set(end);
        self.progressed.wake();
    }
}

impl<B> Filling<B> {
    fn restart_at(&mut self, start: u64) {
        self.start = start;
        self.used = 0;
        self.carried = 0;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    impl Blocks for Vec<u8> {
        fn bytes_mut(&mut self) -> &mut [u8] {
            self
        }
    }

    fn memory() -> Vec<u8> {
        vec![0; BUFFER_BYTES]
    }

    fn log(region_bytes: usize) -> Batches<Vec<u8>> {
        let region = Region {
            start: 8 << 20,
            bytes: region_bytes as u64,
        };
        Batches::new(memory(), Some(region))
    }

    #[test]
    fn a_block_that_is_not_full_is_written_again_with_what_follows() {
        let log = log(4 * BUFFER_BYTES);
        assert_eq!(log.append(&[1; 5_000]).now_or_never(), Some(5_000));
        let first = log.take(memory()).now_or_never().unwrap();
        assert_eq!(
            (first.position, first.bytes, first.end),
            (8 << 20, 8_192, 5_000)
        );
        assert_eq!(first.blocks[5_000], 0);
        assert!(log.take(memory()).now_or_never().is_none());
        log.written(first.end);
        assert_eq!(log.append(&[2; 100]).now_or_never(), Some(5_100));
        let second = log.take(memory()).now_or_never().unwrap();
        assert_eq!(
            (second.position, second.bytes, second.end),
            ((8 << 20) + 4_096, 4_096, 5_100)
        );
        assert_eq!(second.blocks[..905], [[1; 904].as_slice(), &[2]].concat());
    }

    #[test]
    fn a_frame_that_does_not_fit_before_the_end_waits_and_goes_to_the_start() {
        let log = log(BUFFER_BYTES);
        let frame = vec![3; BUFFER_BYTES / 2 + 1];
        assert!(log.append(&frame).now_or_never().is_some());
        assert_eq!(log.append(&frame).now_or_never(), None);
        let first = log.take(memory()).now_or_never().unwrap();
        log.written(first.end);
        let end = (BUFFER_BYTES + frame.len()) as u64;
        assert_eq!(log.append(&frame).now_or_never(), Some(end));
        let second = log.take(memory()).now_or_never().unwrap();
        assert_eq!((second.position, second.end), (8 << 20, end));
    }
}
