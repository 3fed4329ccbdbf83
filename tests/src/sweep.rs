//! Runs a test for one seed after the other and says, when one fails, which it was and how to run it again.

use std::ops::Range;

const SEEDS: &str = "MILLRACE_SEEDS";

/// Runs the test for seeds from 0 on, `usual` of them or those that MILLRACE_SEEDS names: so many, or a range such as `17..18`.
pub fn for_each_seed(usual: u64, run: impl Fn(u64)) {
    let named = std::env::var(SEEDS).ok();
    let seeds = named.map_or(0..usual, |text| {
        parse(&text).unwrap_or_else(|| panic!("{SEEDS} is a number or a range, not {text:?}"))
    });
    for seed in seeds {
        let _named = NameOnPanic(seed);
        run(seed);
    }
}

fn parse(text: &str) -> Option<Range<u64>> {
    match text.split_once("..") {
        Some((from, to)) => Some(from.parse().ok()?..to.parse().ok()?),
        None => Some(0..text.parse().ok()?),
    }
}

struct NameOnPanic(u64);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            // The test harness names its threads after its tests.
            let thread = std::thread::current();
            let test = thread.name().unwrap_or_default();
            eprintln!(
                "failed at seed {seed}; again: {SEEDS}={seed}..{} cargo test -p millrace-tests {test}",
                seed + 1
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_number_or_a_range() {
        assert_eq!(parse("12"), Some(0..12));
        assert_eq!(parse("17..18"), Some(17..18));
        assert_eq!(parse("some"), None);
        assert_eq!(parse("1.."), None);
    }
}
