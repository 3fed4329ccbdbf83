//! What crosses the parts of Millrace in its tests: the simulated world that shards and logs run in.

pub mod sim;
pub mod sweep;
