//! Proof of the message declarations against `kafka-protocol`, for tests alone: random values of every message in every version, both
//! directions, whole and in pieces, cut short, damaged, and carried from one version to another.

mod debug_tree;
mod proof;
mod sample;

pub(crate) use sample::{Random, Sample};
