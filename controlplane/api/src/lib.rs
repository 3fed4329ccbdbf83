//! What the two planes say to each other: ids, the metadata image and its events, requests and answers; and what the processes of both
//! show of themselves.
//!
//! The data plane depends on this crate alone, never on the controller. Everything here is archived with rkyv and read with
//! checked access.

pub mod client;
pub mod codec;
pub mod config_key;
mod digest;
pub mod frame;
pub mod handshake;
pub mod ids;
pub mod image;
pub mod level;
pub mod map;
pub mod message;
pub mod metadata_stream;
pub mod process;
pub mod scrapers;
pub mod secret;
pub mod secured;
pub mod tls;
pub mod topic_config;
