//! The reactor under a shard: one io_uring, one thread, one executor, and the memory that the kernel shares with it.
//!
//! The only crate of the project with `unsafe`. Everything it offers is safe to call: an operation owns its buffers, paths and
//! descriptors until its completion has been seen, whatever happens to the future that waits for it.

pub mod memory;
