//! A simulated world: the data plane's [`Io`](dataplane::io::Io) in memory, in one thread, under a virtual clock, from a seed.
//!
//! A test boots a host, runs shards or logs on its [`SimIo`], crashes it, boots it again on the same disk, and looks at what is
//! left. The same seed gives the same run, event for event; [`Simulation::trace_hash`] proves it. The code under test knows nothing
//! of this: it is the code that runs in production.
//!
//! ```text
//!   Simulation ── hosts ── disk       outlives crashes
//!       │            └──── SimIo      one incarnation: tasks, timers, open files, sockets
//!       ├── executor                  ready tasks and due events, in an order drawn from the seed
//!       ├── network                   streams between incarnations
//!       └── faults, trace
//! ```
//! What is honest: nothing completes at once or in order; files know which bytes are written and which are synced; streams arrive in
//! chunks of any size; pools run dry. What is not modelled: CPU time (a task runs in no time) and the page cache's memory.

mod disk;
mod executor;
mod faults;
mod file;
mod io;
mod names;
mod network;
mod operation;
mod random;
mod trace;
mod world;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use disk::Disk;
use faults::Faults;
use world::{Incarnation, Shared, World};

pub use disk::DiskCounters;
pub use faults::{FaultPlan, FileFault, Shortage};
pub use io::{SimFile, SimHandoff, SimIo, SimListener, SimSocket};
pub use trace::TraceEvent;

/// The shape of a simulated world.
#[derive(Clone, Copy, Debug)]
pub struct SimOptions {
    pub seed: u64,
    /// Memory for each incarnation, as the ring would be given.
    pub buffer_bytes: usize,
    pub buffers: usize,
    pub receive_buffers: usize,
    /// Bytes that each host's disk has.
    pub disk_bytes: u64,
    /// Whether the file system can reserve space, as some cannot.
    pub allocates: bool,
    pub wall_clock_ms: i64,
    pub faults: FaultPlan,
    /// Polls and events after which a run is taken for endless.
    pub steps_max: u64,
}

impl SimOptions {
    pub fn seeded(seed: u64) -> SimOptions {
        SimOptions {
            seed,
            buffer_bytes: 256 * 1024,
            buffers: 64,
            receive_buffers: 64,
            disk_bytes: u64::MAX,
            allocates: true,
            wall_clock_ms: 1_767_225_600_000,
            faults: FaultPlan::default(),
            steps_max: 50_000_000,
        }
    }
}

/// How an incarnation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// SIGKILL: completed writes stay; each one in flight stays, goes, or is torn at 512-byte sectors.
    ProcessKilled,
    /// Of what was not synced, any block and any name may be lost.
    PowerLost,
}

/// Why a run ended before its future did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The incarnation that the future belonged to is gone.
    Crashed,
    /// Every task waits for something that will never happen.
    Stuck,
    /// `steps_max` was reached.
    Endless,
}

/// Owns a simulated world. Dropping it drops every task in it.
pub struct Simulation {
    shared: Rc<Shared>,
}

impl Simulation {
    pub fn new(options: SimOptions) -> Simulation {
        let shared = Shared {
            options,
            world: RefCell::new(World::new(options)),
        };
        Simulation {
            shared: Rc::new(shared),
        }
    }

    pub fn seeded(seed: u64) -> Simulation {
        Simulation::new(SimOptions::seeded(seed))
    }

    /// Starts a new incarnation of a host, crashing the one before if it still runs; the first one of a name gets an empty disk.
    pub fn boot(&self, host: &str) -> SimIo {
        let number = self.host(host);
        self.shared.crash(number, CrashKind::ProcessKilled);
        let mut world = self.shared.world.borrow_mut();
        world.hosts[number].life += 1;
        let life = world.hosts[number].life;
        world.hosts[number].running = true;
        world.record("boot", &[number as u64, life]);
        drop(world);
        SimIo::new(Rc::clone(&self.shared), Incarnation { host: number, life })
    }

    /// Runs the world until a future of the outside, such as a test's clients, has ended.
    pub fn run<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        self.shared.run(None, future)
    }

    pub fn crash(&self, host: &str, kind: CrashKind) {
        let number = self.host(host);
        self.shared.crash(number, kind);
    }

    /// Crashes a host as soon as it has finished `operations` more file operations.
    pub fn crash_after(&self, host: &str, operations: u64, kind: CrashKind) {
        let number = self.host(host);
        self.shared.world.borrow_mut().hosts[number].crash_after = Some((operations, kind));
    }

    /// In place of all that was planned or aimed before.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.shared.world.borrow_mut().faults = Faults::new(plan);
    }

    /// Makes one file operation fail: the first one that suits and whose path ends so, after `skip` that go well.
    pub fn fail_once(&self, fault: FileFault, path_end: impl Into<PathBuf>, skip: u64) {
        let mut world = self.shared.world.borrow_mut();
        world.faults.aim(fault, path_end.into(), skip);
    }

    /// Faults that were aimed and have not come yet.
    pub fn aimed_faults(&self) -> usize {
        self.shared.world.borrow().faults.aimed()
    }

    /// Makes the next deliveries of any connection bring so many bytes each, or what is on the wire if that is less. A piece of at
    /// most 32 KiB is then one receive of an end that waits for it.
    pub fn deliver_in(&self, pieces: impl IntoIterator<Item = usize>) {
        let mut world = self.shared.world.borrow_mut();
        world.network.pieces.extend(pieces);
    }

    pub fn set_disk_bytes(&self, host: &str, bytes: u64) {
        self.with_disk(host, |disk| disk.set_capacity(bytes));
    }

    /// Makes whatever a host asks of its disk from now on take so many times as long as usual.
    pub fn slow_disk(&self, host: &str, times: u64) {
        let number = self.host(host);
        self.shared.world.borrow_mut().hosts[number].disk_slowness = times;
    }

    /// How many files a host's process may have open at once.
    pub fn set_descriptors(&self, host: &str, descriptors_max: usize) {
        self.with_disk(host, |disk| disk.set_descriptors(descriptors_max));
    }

    /// Files that a host's process has open.
    pub fn descriptors(&self, host: &str) -> usize {
        self.with_disk(host, |disk| disk.descriptors())
    }

    pub fn move_wall_clock(&self, ms: i64) {
        self.shared.world.borrow_mut().wall_clock_ms += ms;
    }

    /// A file's bytes, looked at from outside.
    pub fn file_bytes(&self, host: &str, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.with_disk(host, |disk| disk.peek(path.as_ref()))
    }

    /// Puts a durable file on a host's disk, over any that has its name. Meant for a host that is not running.
    pub fn plant_file(&self, host: &str, path: impl AsRef<Path>, bytes: &[u8]) {
        let planted = self.with_disk(host, |disk| disk.plant(path.as_ref(), bytes));
        planted.expect("a test plants files where there is room for them");
    }

    /// Gives a host that is not running the files that another one has at this moment, as whoever looks at them sees them.
    pub fn copy_files(&self, from: &str, to: &str) {
        for path in self.paths(from) {
            let bytes = self.file_bytes(from, &path).unwrap_or_default();
            self.plant_file(to, &path, &bytes);
        }
    }

    /// Paths of all files of a host, sorted.
    pub fn paths(&self, host: &str) -> Vec<PathBuf> {
        self.with_disk(host, |disk| disk.paths())
    }

    pub fn disk_counters(&self, host: &str) -> DiskCounters {
        self.with_disk(host, |disk| disk.counters)
    }

    pub fn connections(&self) -> usize {
        self.shared.world.borrow().network.connections()
    }

    pub fn tasks(&self) -> usize {
        self.shared.world.borrow().executor.tasks()
    }

    pub fn now_nanos(&self) -> u64 {
        self.shared.world.borrow().executor.now()
    }

    pub fn trace_hash(&self) -> u64 {
        self.shared.world.borrow().trace.hash()
    }

    pub fn events(&self) -> u64 {
        self.shared.world.borrow().trace.events()
    }

    /// The last events, to print when a test fails.
    pub fn recent_events(&self) -> Vec<TraceEvent> {
        self.shared.world.borrow().trace.recent()
    }

    fn host(&self, name: &str) -> usize {
        self.shared.world.borrow_mut().host(name)
    }

    fn with_disk<R>(&self, host: &str, work: impl FnOnce(&mut Disk) -> R) -> R {
        let mut world = self.shared.world.borrow_mut();
        let number = world.host(host);
        work(&mut world.hosts[number].disk)
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        // Tasks hold the world and the world holds the tasks, so someone has to let go first.
        let tasks = self.shared.world.borrow_mut().executor.remove_all(None);
        drop(tasks);
    }
}
