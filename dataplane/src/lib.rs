//! The data plane: a thread-per-core broker that speaks the Kafka protocol.
//!
//! ```text
//! connection -> dispatch -> handlers -> partition -> log -> io
//! ```
//! `broker.rs` puts it together; `shard.rs` is one thread of it. Dependencies point down only, and everything below a shard is
//! written against the [`io::Io`] trait, so that the simulator can run it.

pub mod broker;
mod calls;
pub mod check;
pub mod config;
mod connection;
mod control;
mod coordinators;
mod data_directory;
mod dispatch;
mod errors;
mod event;
mod fetch_sessions;
mod frame;
mod handlers;
mod http;
pub mod io;
pub mod limits;
pub mod log;
pub mod mesh;
pub mod message;
pub mod metrics;
pub mod partition;
mod partition_request;
mod read;
mod reconcile;
mod respond;
mod routes;
mod select;
pub mod shard;
mod upkeep;
