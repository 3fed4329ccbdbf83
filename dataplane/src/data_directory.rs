//! A broker's data directory: locked while the broker runs, and marked with the broker it belongs to.

use anyhow::{Context, bail};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Holds the lock until dropped; the kernel drops it with the process.
pub struct DataDirectory {
    _lock: File,
}

const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
const LOCK_FILE: &str = "lock";
const IDENTITY_FILE: &str = "broker.id";

impl DataDirectory {
    /// Makes the directory if it is not there, locks it, and checks or writes its identity.
    pub fn open(path: &Path, broker: i32) -> anyhow::Result<DataDirectory> {
        let shown = path.display();
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make the data directory {shown}"))?;
        let lock = File::create(path.join(LOCK_FILE))
            .with_context(|| format!("cannot write to the data directory {shown}"))?;
        match lock_soon(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("the data directory {shown} is in use by another process")
            }
            Err(TryLockError::Error(error)) => {
                return Err(error)
                    .with_context(|| format!("cannot lock the data directory {shown}"));
            }
        }
        check_identity(path, broker)?;
        Ok(DataDirectory { _lock: lock })
    }
}

/// Takes the lock, giving a process that was just killed a moment to let go of it.
fn lock_soon(lock: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_TRIES {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            result => return result,
        }
    }
    lock.try_lock()
}

fn check_identity(path: &Path, broker: i32) -> anyhow::Result<()> {
    let file = path.join(IDENTITY_FILE);
    let shown = file.display();
    if file
        .try_exists()
        .with_context(|| format!("cannot look for {shown}"))?
    {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {shown}"))?;
        return match text.trim().parse::<i32>() {
            Ok(owner) if owner == broker => Ok(()),
            Ok(owner) => bail!(
                "the data directory {} belongs to broker {owner}, not {broker}",
                path.display()
            ),
            Err(_) => bail!("{shown} is damaged: it must hold the broker's id"),
        };
    }
    let mut identity = File::create(&file).with_context(|| format!("cannot write {shown}"))?;
    writeln!(identity, "{broker}")
        .and_then(|()| identity.sync_all())
        .with_context(|| format!("cannot write {shown}"))?;
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot write {shown}"))
}
