//! The data plane: a broker of one shard per core on io_uring.

pub mod event;
pub mod io;
pub mod log;
pub mod partition;
