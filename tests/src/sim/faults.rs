//! What may go wrong in a simulation, and when: by chance from the seed, or aimed at one operation by a test.

use std::io;
use std::path::PathBuf;

use dataplane::io::OpenMode;

use super::operation::Operation;
use super::random::Random;

/// How often each fault happens, per million operations of its kind. The default is a world without faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultPlan {
    pub write_errors: u32,
    pub short_writes: u32,
    pub read_errors: u32,
    pub sync_errors: u32,
    /// Operations that are refused before anything of them happened, for want of descriptors, memory or room.
    pub refusals: u32,
    /// Connections that are reset, per million deliveries of bytes.
    pub dropped_connections: u32,
}

/// How one file operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFault {
    /// A write fails with EIO after some of its sectors were written.
    WriteError,
    /// A write ends early.
    ShortWrite,
    /// A write or allocation finds the disk full.
    NoSpace,
    ReadError,
    /// A sync fails with EIO; what it covered will not be made durable by a later one either.
    SyncError,
    /// The kernel refuses to begin.
    Refused(Shortage),
}

/// What a kernel may be short of, for a moment or longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// EMFILE: this process has as many files open as it may.
    Descriptors,
    /// ENFILE: so has the whole host.
    HostDescriptors,
    /// ENOMEM.
    Memory,
    /// EAGAIN.
    Moment,
    /// ENOSPC, where a name, a block or an extent would have to be made.
    Space,
}

impl Shortage {
    pub const ALL: [Shortage; 5] = [
        Shortage::Descriptors,
        Shortage::HostDescriptors,
        Shortage::Memory,
        Shortage::Moment,
        Shortage::Space,
    ];

    pub(super) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Shortage::Descriptors => 24,
            Shortage::HostDescriptors => 23,
            Shortage::Memory => 12,
            Shortage::Moment => 11,
            Shortage::Space => 28,
        })
    }

    /// Whether the operation needs what is short. A sync that fails is always taken for a failed sync, so none is refused; and a file's
    /// bytes are read without any of these.
    fn suits(self, operation: &Operation) -> bool {
        let opens = matches!(
            operation,
            Operation::Open(..)
                | Operation::OpenEmpty(_)
                | Operation::ReadFile(..)
                | Operation::List(_)
                | Operation::SyncDirectory(_)
        );
        let makes = matches!(
            operation,
            Operation::Open(_, OpenMode::DirectCreate)
                | Operation::OpenEmpty(_)
                | Operation::CreateDirectories(_)
                | Operation::Rename(..)
                | Operation::RemoveFile(_)
                | Operation::Write(..)
                | Operation::WriteBuffered(..)
                | Operation::Allocate(..)
        );
        match self {
            Shortage::Descriptors | Shortage::HostDescriptors => opens,
            Shortage::Memory | Shortage::Moment => {
                opens || makes || matches!(operation, Operation::Truncate(..))
            }
            Shortage::Space => makes,
        }
    }
}

impl FileFault {
    fn suits(self, operation: &Operation) -> bool {
        match self {
            FileFault::WriteError | FileFault::ShortWrite => {
                matches!(operation, Operation::Write(..))
            }
            FileFault::NoSpace => matches!(
                operation,
                Operation::Write(..) | Operation::Allocate(..) | Operation::WriteBuffered(..)
            ),
            FileFault::ReadError => {
                matches!(operation, Operation::Read(..) | Operation::ReadFile(..))
            }
            FileFault::SyncError => {
                matches!(operation, Operation::Sync(_) | Operation::SyncDirectory(_))
            }
            FileFault::Refused(shortage) => shortage.suits(operation),
        }
    }
}

/// A fault that a test aimed.
struct Aimed {
    fault: FileFault,
    /// End of the path that the file was opened by, or of the name that is worked on.
    path_end: PathBuf,
    /// Matching operations that still go well.
    skip: u64,
}

pub(super) struct Faults {
    pub(super) plan: FaultPlan,
    aimed: Vec<Aimed>,
}

impl Faults {
    pub(super) fn new(plan: FaultPlan) -> Faults {
        let aimed = Vec::new();
        Faults { plan, aimed }
    }

    pub(super) fn aim(&mut self, fault: FileFault, path_end: PathBuf, skip: u64) {
        self.aimed.push(Aimed {
            fault,
            path_end,
            skip,
        });
    }

    pub(super) fn aimed(&self) -> usize {
        self.aimed.len()
    }

    /// The fault that befalls an operation on `path`, if any.
    pub(super) fn draw(
        &mut self,
        operation: &Operation,
        path: &str,
        random: &mut Random,
    ) -> Option<FileFault> {
        let hit = |aimed: &Aimed| {
            aimed.fault.suits(operation) && path.ends_with(&*aimed.path_end.to_string_lossy())
        };
        if let Some(index) = self.aimed.iter().position(hit) {
            if self.aimed[index].skip == 0 {
                return Some(self.aimed.remove(index).fault);
            }
            self.aimed[index].skip -= 1;
        }
        let plan = self.plan;
        // Drawn only where it matters, so that a world without refusals is the world it was.
        let short = match plan.refusals {
            0 => Shortage::Moment,
            _ => Shortage::ALL[random.index(Shortage::ALL.len())],
        };
        let chances = [
            (FileFault::WriteError, plan.write_errors),
            (FileFault::ShortWrite, plan.short_writes),
            (FileFault::ReadError, plan.read_errors),
            (FileFault::SyncError, plan.sync_errors),
            (FileFault::Refused(short), plan.refusals),
        ];
        chances
            .into_iter()
            .find(|&(fault, chance)| fault.suits(operation) && random.happens(chance))
            .map(|(fault, _)| fault)
    }
}
