//! Load generator and host ceilings. `millrace-bench` is its command line; nothing else in the project depends on it.
//!
//! A command that loads a server runs on one thread and one monoio runtime: a closed loop in which every connection keeps a window of requests in flight.
//!
//! ```text
//! smoke | produce | consume      one file per command
//!    topic   lanes               what is asked of the cluster; the prebuilt requests
//!    run     window              when a run ends, what it counts; which requests are in flight
//!    connection                  frames and single calls over one socket
//! sink                           the ceiling from a socket to the disk: a server on the broker's reactor, and its client
//! ```

pub mod answers;
pub mod bounds;
pub mod clock;
pub mod codec;
pub mod connection;
pub mod consume;
pub mod fetch;
pub mod filler;
pub mod idempotence;
pub mod keys;
pub mod lanes;
pub mod meter;
pub mod process;
pub mod produce;
pub mod report;
pub mod run;
pub mod shares;
pub mod sink;
pub mod smoke;
pub mod stamp;
pub mod topic;
pub mod units;
pub mod verify;
pub mod versions;
pub mod window;
pub mod workload;

use std::future::Future;

use anyhow::Context;

/// Runs a command on this thread's runtime.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    monoio::RuntimeBuilder::<monoio::FusionDriver>::new()
        .enable_timer()
        .build()
        .context("cannot start the runtime")?
        .block_on(command)
}
