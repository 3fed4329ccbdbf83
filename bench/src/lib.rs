//! Load generator and host ceilings. `millrace-bench` is its command line; nothing else in the project depends on it.
//!
//! A command that loads a server runs on one thread and one monoio runtime. In a closed loop every connection keeps a window of requests in
//! flight, which finds the peak; in an open loop records are sent at a fixed rate, which finds the latency.
//!
//! ```text
//! produce | consume | e2e | ramp             one file per command
//!    workload  topic  bounds  shares         what is sent; what is asked of the cluster; which connection serves what
//!    lanes  produce::closed                  the closed loop and its prebuilt requests
//!    open  timer                             the open loop
//!    fetch  follow  verify                   reading: requests, the end of a topic, the check of what came back
//!    stamp  filler  codec  keys  idempotence what records and batches are made of
//!    meter  run  report  process             what is counted, shown and written
//!    window  connection  versions            which requests are in flight; frames; which versions both sides speak
//! offsets  groups                            commits of many groups, and what is asked of their coordinators
//! suite                                      the target table: every run of it is one of the commands here, in a process of its own
//! page                                       `report`: one HTML page from the results of all the others
//! sink                                       the ceiling from a socket to the disk: a server on the broker's reactor, and its client
//! limits                                     the host's ceilings: loopback, disk, memory, wakes, and the sink
//! ```

pub mod answers;
pub mod bounds;
pub mod clock;
pub mod codec;
pub mod connection;
pub mod consume;
pub mod e2e;
pub mod fetch;
pub mod filler;
pub mod follow;
pub mod groups;
pub mod idempotence;
pub mod keys;
pub mod lanes;
pub mod limits;
pub mod meter;
pub mod offsets;
pub mod open;
pub mod page;
pub mod process;
pub mod produce;
pub mod ramp;
pub mod report;
pub mod run;
pub mod shares;
pub mod sink;
pub mod stamp;
pub mod suite;
pub mod timer;
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
