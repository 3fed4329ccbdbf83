//! Reads what callgrind wrote: how many instructions a thread ran, and how often it allocated.
//!
//! ```text
//! ob=(3) /usr/lib/libc.so.6       the object whose costs follow; the name stands there the first time only
//! fn=(944) malloc
//! 264 125196                      line, instructions of the function itself
//! cfn=(956) _int_malloc
//! calls=12 264                    calls of that function, then in the next line what they cost with all below them
//! 270 4711
//! ```

use std::collections::HashMap;
use std::ops::Sub;

/// Whatever takes memory from the system's allocator.
const ALLOCATING: [&str; 6] = [
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
];

/// The function that every turn of a shard's ring goes through, for which its threads are known.
const SHARD_FUNCTION: &str = "reactor::Reactor::";

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) instructions: u64,
    pub(super) allocations: u64,
}

impl Sub for Counts {
    type Output = Counts;

    fn sub(self, other: Counts) -> Counts {
        Counts {
            instructions: self.instructions.saturating_sub(other.instructions),
            allocations: self.allocations.saturating_sub(other.allocations),
        }
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Counts>>(all: I) -> Counts {
        all.fold(Counts::default(), |sum, counts| Counts {
            instructions: sum.instructions + counts.instructions,
            allocations: sum.allocations + counts.allocations,
        })
    }
}

/// What a shard's thread did; `None` for any other thread. Objects whose path ends with `left_out` do not count.
pub(super) fn parse_shard(text: &str, left_out: &str) -> Option<Counts> {
    let mut objects: HashMap<&str, &str> = HashMap::new();
    let mut functions: HashMap<&str, &str> = HashMap::new();
    let mut counts = Counts::default();
    let (mut counted, mut is_shard, mut calls_cost_is_next) = (true, false, false);
    let mut called = "";
    for line in text.lines() {
        if let Some(reference) = line.strip_prefix("ob=") {
            counted = !resolve(&mut objects, reference).ends_with(left_out);
        } else if let Some(reference) = line.strip_prefix("cob=") {
            resolve(&mut objects, reference);
        } else if let Some(reference) = line.strip_prefix("fn=") {
            is_shard |= resolve(&mut functions, reference).contains(SHARD_FUNCTION);
        } else if let Some(reference) = line.strip_prefix("cfn=") {
            called = resolve(&mut functions, reference);
        } else if let Some(calls) = line.strip_prefix("calls=") {
            calls_cost_is_next = true;
            if ALLOCATING.contains(&called) {
                counts.allocations += first_number(calls);
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            // What a call cost is counted where it was spent.
            if counted && !calls_cost_is_next {
                let cost = line.split(' ').nth(1).unwrap_or_default();
                counts.instructions += first_number(cost);
            }
            calls_cost_is_next = false;
        }
    }
    is_shard.then_some(counts)
}

/// The name behind `(3) name`, or behind `(3)` once it was given.
fn resolve<'a>(names: &mut HashMap<&'a str, &'a str>, reference: &'a str) -> &'a str {
    match reference.split_once(' ') {
        Some((number, name)) => {
            names.insert(number, name);
            name
        }
        None => names.get(reference).copied().unwrap_or_default(),
    }
}

fn first_number(text: &str) -> u64 {
    let digits = text.split(' ').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: &str = "\
thread: 3
summary: 999

ob=(1) /usr/bin/broker
fl=(1) reactor.rs
fn=(1) reactor::Reactor::turn
10 100
+5 20
cob=(2) /usr/lib/libc.so.6
cfi=(2) malloc.c
cfn=(2) malloc
calls=7 264
* 70
cfn=(3) syscall
cob=(3)
calls=1 1
-4 1000

ob=(2)
fn=(2)
264 63
+1 7
cfn=(4) _int_malloc
calls=7 300
+1 30

ob=(3) /tmp/preloaded.so
fn=(3)
1 1000
";

    #[test]
    fn own_instructions_are_summed_and_the_preloaded_objects_are_not() {
        let counts = parse_shard(SHARD, "preloaded.so").unwrap();
        assert_eq!(counts.instructions, 190);
    }

    #[test]
    fn calls_of_the_allocator_are_counted_and_not_what_it_calls_itself() {
        let counts = parse_shard(SHARD, "preloaded.so").unwrap();
        assert_eq!(counts.allocations, 7);
        let again = SHARD.replace("cfn=(4) _int_malloc", "cfn=(2)");
        assert_eq!(parse_shard(&again, "x").unwrap().allocations, 14);
    }

    #[test]
    fn a_thread_that_turns_no_ring_is_none_of_ours() {
        let other = SHARD.replace("Reactor", "Other");
        assert_eq!(parse_shard(&other, "preloaded.so"), None);
    }
}
