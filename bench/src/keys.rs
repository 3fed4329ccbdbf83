//! How records are spread over partitions.

use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// `--keys`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Keys {
    /// Each partition in turn
    RoundRobin,
    /// Any partition, as keys that are all used alike
    Uniform,
    /// Partition n in proportion to 1/(n+1), as keys of which few are used often
    Zipf,
}

/// Chooses among partitions, one record or batch after the other. The choices are the same in every run.
#[derive(Debug)]
pub enum Chooser {
    RoundRobin {
        partitions: usize,
        next: usize,
    },
    Uniform {
        partitions: usize,
        random: SmallRng,
    },
    Zipf {
        weights: WeightedIndex<f64>,
        random: SmallRng,
    },
}

impl Chooser {
    /// A chooser of places in `partitions`, the numbers of partitions. Choosers of different `seed` choose differently.
    pub fn new(keys: Keys, partitions: &[i32], seed: u64) -> Self {
        assert!(!partitions.is_empty(), "there is something to choose from");
        let random = SmallRng::seed_from_u64(seed);
        let weight = |partition: &i32| 1.0 / (f64::from(*partition) + 1.0);
        let partitions_count = partitions.len();
        match keys {
            Keys::RoundRobin => Chooser::RoundRobin {
                partitions: partitions_count,
                next: 0,
            },
            Keys::Uniform => Chooser::Uniform {
                partitions: partitions_count,
                random,
            },
            Keys::Zipf => Chooser::Zipf {
                weights: WeightedIndex::new(partitions.iter().map(weight))
                    .expect("all weights are above 0"),
                random,
            },
        }
    }

    pub fn choose(&mut self) -> usize {
        match self {
            Chooser::RoundRobin { partitions, next } => {
                let chosen = *next;
                *next = (chosen + 1) % *partitions;
                chosen
            }
            Chooser::Uniform { partitions, random } => random.random_range(0..*partitions),
            Chooser::Zipf { weights, random } => weights.sample(random),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(keys: Keys, choices: usize) -> [usize; 4] {
        let mut chooser = Chooser::new(keys, &[0, 1, 2, 3], 7);
        let mut counts = [0; 4];
        (0..choices).for_each(|_| counts[chooser.choose()] += 1);
        counts
    }

    #[test]
    fn round_robin_is_exactly_even() {
        assert_eq!(counts(Keys::RoundRobin, 400), [100; 4]);
    }

    #[test]
    fn uniform_is_about_even_and_in_no_order() {
        for count in counts(Keys::Uniform, 40_000) {
            assert!((9_500..10_500).contains(&count), "{count}");
        }
        let mut chooser = Chooser::new(Keys::Uniform, &[0, 1], 7);
        let choices: Vec<_> = (0..20).map(|_| chooser.choose()).collect();
        assert!(choices.windows(2).any(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn zipf_falls_with_the_number_of_the_partition() {
        // 1 + 1/2 + 1/3 + 1/4 = 25/12, so the shares are 48%, 24%, 16% and 12%.
        let expected = [48_000, 24_000, 16_000, 12_000];
        for (count, expected) in counts(Keys::Zipf, 100_000).into_iter().zip(expected) {
            assert!(count.abs_diff(expected) < 1_000, "{count} for {expected}");
        }
    }

    #[test]
    fn the_weight_is_that_of_the_partition_and_not_of_its_place() {
        let mut chooser = Chooser::new(Keys::Zipf, &[9, 0], 7);
        let second = (0..1_100).filter(|_| chooser.choose() == 1).count();
        assert!((950..1_050).contains(&second), "{second}");
    }
}
