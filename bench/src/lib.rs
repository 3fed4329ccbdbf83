//! Load generator and host ceilings. `millrace-bench` is its command line; nothing else in the project depends on it.
//!
//! A command that loads a server runs on one thread and one monoio runtime: a closed loop in which every connection keeps a window of requests in flight.
//!
//! ```text
//! smoke | produce | consume      one file per command
//!    topic   lanes               what is asked of the cluster; the prebuilt requests
//!    run     window              when a run ends, what it counts; which requests are in flight
//!    connection                  frames and single calls over one socket
//! suite                          the target table: every run of it is one of the commands here, in a process of its own
//! sink                           the ceiling from a socket to the disk: a server on the broker's reactor, and its client
//! ```

pub mod clock;
pub mod connection;
pub mod consume;
pub mod lanes;
pub mod produce;
pub mod report;
pub mod run;
pub mod sink;
pub mod smoke;
pub mod stamp;
pub mod suite;
pub mod topic;
pub mod units;
pub mod verify;
pub mod window;

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
