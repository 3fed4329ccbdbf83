//! What may go wrong in a simulation, and when: by chance from the seed, or aimed at one operation by a test.

use std::path::PathBuf;

use super::operation::Operation;
use super::random::Random;

/// How often each fault happens, per million operations of its kind. The default is a world without faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultPlan {
    pub write_errors: u32,
    pub short_writes: u32,
    pub read_errors: u32,
    pub sync_errors: u32,
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
}

impl FileFault {
    fn suits(self, operation: &Operation) -> bool {
        match self {
            FileFault::WriteError | FileFault::ShortWrite => {
                matches!(operation, Operation::Write(..))
            }
            FileFault::NoSpace => matches!(
                operation,
                Operation::Write(..) | Operation::Allocate(..) | Operation::ReplaceFile(..)
            ),
            FileFault::ReadError => {
                matches!(operation, Operation::Read(..) | Operation::ReadFile(..))
            }
            FileFault::SyncError => {
                matches!(operation, Operation::Sync(_) | Operation::SyncDirectory(_))
            }
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
        let chances = [
            (FileFault::WriteError, plan.write_errors),
            (FileFault::ShortWrite, plan.short_writes),
            (FileFault::ReadError, plan.read_errors),
            (FileFault::SyncError, plan.sync_errors),
        ];
        chances
            .into_iter()
            .find(|&(fault, chance)| fault.suits(operation) && random.happens(chance))
            .map(|(fault, _)| fault)
    }
}
