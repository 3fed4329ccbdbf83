//! What records are filled with: words in random order, out of few enough that every codec finds them again, as in logs and JSON.
//! Random letters, which Kafka's own performance tool sends, compress with some codecs and not with others.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// More than the window of every codec at its level here, so that no record is a copy of an earlier one to it.
const POOL_BYTES: usize = 1 << 20;
const WORDS: usize = 256;
const WORD_BYTES: usize = 8;

/// Words made once and handed out in turn.
#[derive(Debug)]
pub struct Filler {
    pool: Vec<u8>,
    at: usize,
}

impl Filler {
    /// A filler for pieces of up to `bytes_max` bytes, the same in every run.
    pub fn new(bytes_max: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(0);
        let mut letter = |place| match place {
            0 => b' ',
            _ => random.random_range(b'a'..=b'z'),
        };
        let words: Vec<[u8; WORD_BYTES]> = (0..WORDS)
            .map(|_| std::array::from_fn(&mut letter))
            .collect();
        let mut pool = Vec::with_capacity(POOL_BYTES + bytes_max + WORD_BYTES);
        while pool.len() < POOL_BYTES + bytes_max {
            pool.extend_from_slice(&words[random.random_range(0..WORDS)]);
        }
        Self { pool, at: 0 }
    }

    pub fn next(&mut self, bytes: usize) -> &[u8] {
        let start = self.at;
        self.at = (start + bytes) % POOL_BYTES;
        &self.pool[start..start + bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_differ_and_never_run_out() {
        let mut filler = Filler::new(POOL_BYTES);
        let first = filler.next(100).to_vec();
        assert_ne!(filler.next(100), first);
        for bytes in [POOL_BYTES, 1, POOL_BYTES - 7, 0] {
            assert_eq!(filler.next(bytes).len(), bytes);
        }
    }
}
