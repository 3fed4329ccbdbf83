//! The data plane: a thread-per-core broker that speaks the Kafka protocol.
//!
//! ```text
//! connection -> dispatch -> handlers -> partition -> log -> io
//! ```
//! `broker.rs` puts it together; `shard.rs` is one thread of it. Dependencies point down only, and everything below a shard is
//! written against the [`io::Io`] trait, so that the simulator can run it.

pub mod abandon;
pub mod answer_memory;
pub mod broker;
pub mod calls;
pub mod check;
mod closing;
pub mod config;
pub mod connection;
pub mod control;
pub mod coordinators;
pub mod data_directory;
pub mod decompress;
pub mod dispatch;
pub mod errors;
pub mod event;
pub mod fetch_sessions;
pub mod frame;
pub mod frame_memory;
pub mod handlers;
pub mod http;
pub mod inspection;
pub mod io;
pub mod lease;
pub mod limits;
pub mod line;
pub mod log;
pub mod mesh;
pub mod message;
pub mod metrics;
pub mod pace;
pub mod partition;
pub mod partition_metrics;
pub mod partition_request;
pub mod read;
pub mod ready;
pub mod reconcile;
pub mod request_memory;
pub mod respond;
pub mod routes;
pub mod select;
pub mod shard;
pub mod smoke;
pub mod strays;
pub mod upkeep;
