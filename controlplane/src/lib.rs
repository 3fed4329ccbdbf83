//! Millrace's control plane: two Raft groups that keep the cluster's metadata and the consumers' offsets.
//!
//! [`meta::MetaState`] and [`offsets::OffsetsState`] are pure state machines that a simulator can run without tokio or Raft.
//! Everything else puts them behind openraft, a listener and an operator's command line.

mod clock;
pub mod command;
pub mod config;
mod data;
mod descriptors;
#[cfg(test)]
mod golden_tests;
mod group;
pub mod history;
mod http;
mod identity;
mod levels;
pub mod limits;
pub mod member;
pub mod meta;
mod metrics;
pub mod node;
pub mod offsets;
pub mod operator;
pub mod proposal;
pub mod quorum;
pub mod raft;
mod requests;
pub mod rules;
mod server;
pub mod sessions;
mod supervise;
#[cfg(test)]
mod testing;
mod watch;
