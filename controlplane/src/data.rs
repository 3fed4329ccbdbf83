//! The data directory: whose it is, and that only one process uses it.
//!
//! ```text
//! DIR/lock             held while the process lives
//! DIR/identity         the node and its cluster, written once
//! DIR/meta/log         Raft log and vote        DIR/offsets/log
//! DIR/meta/snapshot    the latest snapshot      DIR/offsets/snapshot
//! ```

use crate::config::Peers;
use anyhow::{Context, bail};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// First line of the identity file.
const IDENTITY_FORMAT: &str = "millrace-controller 1";

pub(crate) struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Creates the directory or checks that it is this node's.
    pub(crate) fn open(path: &Path, id: u64, peers: &Peers) -> anyhow::Result<Self> {
        let shown = path.display();
        fs::create_dir_all(path)
            .with_context(|| format!("cannot create data directory {shown}"))?;
        let lock = File::create(path.join("lock"))
            .with_context(|| format!("cannot write in data directory {shown}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("data directory {shown} is in use by another controller")
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock data directory {shown}"));
            }
        }
        check_identity(path, id, peers)?;
        Ok(DataDirectory {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where one Raft group keeps its files.
    pub(crate) fn group(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn check_identity(path: &Path, id: u64, peers: &Peers) -> anyhow::Result<()> {
    let ours = format!("{IDENTITY_FORMAT}\nnode {id}\npeers {peers}\n");
    let file = path.join("identity");
    let shown = path.display();
    match fs::read_to_string(&file) {
        Ok(found) if found == ours => Ok(()),
        Ok(found) => {
            let mut lines = found.lines();
            match (lines.next(), lines.next(), lines.next()) {
                (Some(IDENTITY_FORMAT), Some(node), Some(peers)) => bail!(
                    "data directory {shown} belongs to {node} with {peers}, not to node {id} with these peers"
                ),
                _ => bail!("data directory {shown} is damaged: its identity file is not readable"),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if path.join("meta").exists() {
                bail!("data directory {shown} is damaged: it has data but no identity file");
            }
            write_identity(path, &file, &ours)
                .with_context(|| format!("cannot write in data directory {shown}"))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn write_identity(directory: &Path, file: &Path, text: &str) -> std::io::Result<()> {
    let temporary = directory.join("identity.new");
    let mut new = File::create(&temporary)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(&temporary, file)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDirectory;

    fn open(directory: &TestDirectory, id: u64, peers: &str) -> Result<DataDirectory, String> {
        let peers = peers.parse().unwrap();
        DataDirectory::open(directory.path(), id, &peers).map_err(|error| error.to_string())
    }

    #[test]
    fn a_directory_serves_one_process_of_one_node_at_a_time() {
        let directory = TestDirectory::new();
        let first = open(&directory, 1, "1=a:1").unwrap();
        assert!(
            open(&directory, 1, "1=a:1")
                .err()
                .unwrap()
                .contains("in use")
        );
        drop(first);
        assert!(
            open(&directory, 2, "1=a:1")
                .err()
                .unwrap()
                .contains("belongs to node 1")
        );
        assert!(
            open(&directory, 1, "1=b:1")
                .err()
                .unwrap()
                .contains("belongs to node 1")
        );
        assert!(open(&directory, 1, "1=a:1").is_ok());
    }

    #[test]
    fn a_damaged_identity_is_said_so() {
        let directory = TestDirectory::new();
        fs::write(directory.path().join("identity"), [0xff, 0, 3]).unwrap();
        assert!(open(&directory, 1, "1=a:1").is_err());
        fs::remove_file(directory.path().join("identity")).unwrap();
        fs::create_dir(directory.path().join("meta")).unwrap();
        assert!(
            open(&directory, 1, "1=a:1")
                .err()
                .unwrap()
                .contains("damaged")
        );
    }
}
