//! The one source of chance of a simulation: SplitMix64, written here so that a seed means the same run for ever.
//!
//! Every part of the simulator draws from it; it never looks at the clock or the operating system.

pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..end`; 0 when `end` is 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub(super) fn happens(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < u64::from(per_million)
    }

    /// A delay around `usual` nanoseconds, now and then much longer: reordering needs a tail.
    pub(super) fn latency(&mut self, usual: u64) -> u64 {
        let delay = usual / 2 + self.below(usual + 1);
        if self.below(32) == 0 {
            delay * 20
        } else {
            delay
        }
    }

    /// How many of `available` bytes arrive together: from a single byte to 32 KiB.
    pub(super) fn chunk(&mut self, available: usize) -> usize {
        let largest = match self.below(4) {
            0 => 16,
            1 => 1024,
            _ => 32 * 1024,
        };
        (1 + self.index(largest)).min(available)
    }
}
