//! Real controller processes on loopback: clusters that lose members, and what an operator sees.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod certificates;
mod cluster;
mod hostile;
mod keeping;
mod levels;
mod memory;
mod operation;
mod quorum;
mod support;
mod tls;
