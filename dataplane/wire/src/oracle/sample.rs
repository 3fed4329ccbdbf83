//! Random values of messages, the same for the same seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::field::Form;
use crate::{Array, Records, Uuid};

/// The source of all randomness of one value.
pub(crate) struct Random(StdRng);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.0.random()).collect()
    }

    /// Mostly short, now and then long enough for a length of two bytes.
    fn length(&mut self) -> usize {
        match self.below(20) {
            0 => 120 + self.below(200),
            1..5 => 0,
            _ => 1 + self.below(12),
        }
    }
}

/// A type that has random values. What a value borrows is leaked, which a test process can bear.
pub(crate) trait Sample: Sized {
    fn sample(random: &mut Random, form: Form) -> Self;
}

macro_rules! number {
    ($($type:ident)*) => {$(
        impl Sample for $type {
            fn sample(random: &mut Random, _: Form) -> Self {
                match random.below(8) {
                    0 => 0,
                    1 => $type::MAX,
                    2 => $type::MIN,
                    3 => !0,
                    _ => random.0.random(),
                }
            }
        }
    )*};
}

number!(i8 i16 i32 i64 u16 u32);

impl Sample for bool {
    fn sample(random: &mut Random, _: Form) -> Self {
        random.0.random()
    }
}

impl Sample for Uuid {
    fn sample(random: &mut Random, _: Form) -> Self {
        Uuid(random.0.random())
    }
}

impl Sample for &str {
    fn sample(random: &mut Random, _: Form) -> Self {
        let len = random.length();
        let text: String = (0..len)
            .map(|_| ['a', 'Z', '7', '-', '.', 'ü', '"', '漢'][random.below(8)])
            .collect();
        text.leak()
    }
}

impl Sample for &[u8] {
    fn sample(random: &mut Random, _: Form) -> Self {
        let len = random.length();
        random.bytes(len).leak()
    }
}

impl Sample for Records<'_> {
    fn sample(random: &mut Random, form: Form) -> Self {
        Records::from_slice(Sample::sample(random, form))
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(random: &mut Random, form: Form) -> Self {
        (random.below(4) > 0).then(|| T::sample(random, form))
    }
}

impl<'a, T: Sample + 'a> Sample for Array<'a, T> {
    fn sample(random: &mut Random, form: Form) -> Self {
        let count = random.below(4);
        let elements: Vec<T> = (0..count).map(|_| T::sample(random, form)).collect();
        Array::from(&*elements.leak())
    }
}
