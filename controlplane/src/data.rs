//! The data directory: whose it is, and that only one process uses it.
//!
//! ```text
//! DIR/lock             held while the process lives
//! DIR/identity         the node, its disk and its cluster, written once
//! DIR/meta/log         Raft log and vote        DIR/offsets/log
//! DIR/meta/snapshot    the latest snapshot      DIR/offsets/snapshot
//! ```
//!
//! A directory is formatted once: the identity is written as `identity.new`, both logs are begun with the new disk's id in them,
//! and the identity gets its name. A crash before the last step leaves `identity.new`, and formatting begins anew with another
//! disk, since nobody has heard of this one. From then on a log without that id in it has lost its files, and with them its
//! promises, so the node does not start with it.

use crate::config::Peers;
use crate::member::{disk_text, parse_disk, random_disk};
use crate::raft::log::LogStore;
use anyhow::{Context, bail};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// First line of the identity file.
const IDENTITY_FORMAT: &str = "millrace-controller 3";
const IDENTITY_FILE: &str = "identity";
const NEW_IDENTITY_FILE: &str = "identity.new";
/// The directories of the Raft groups.
pub(crate) const GROUPS: [&str; 2] = ["meta", "offsets"];

pub(crate) struct DataDirectory {
    path: PathBuf,
    /// Which disk of its node it is.
    pub(crate) disk: u64,
    _lock: File,
}

impl DataDirectory {
    /// Formats the directory or checks that it is this node's.
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
        let disk = match read_disk(path, id)? {
            Some(disk) => disk,
            None => format(path, id, peers)
                .with_context(|| format!("cannot write in data directory {shown}"))?,
        };
        Ok(DataDirectory {
            path: path.to_owned(),
            disk,
            _lock: lock,
        })
    }

    /// Where one Raft group keeps its files.
    pub(crate) fn group(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// What the identity file says; `None` where the directory was never formatted to its end.
fn read_disk(path: &Path, id: u64) -> anyhow::Result<Option<u64>> {
    let file = path.join(IDENTITY_FILE);
    let shown = path.display();
    let found = match fs::read_to_string(&file) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let has_data = GROUPS.iter().any(|group| path.join(group).exists());
            if has_data && !path.join(NEW_IDENTITY_FILE).exists() {
                bail!("data directory {shown} is damaged: it has data but no identity file");
            }
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let mut lines = found.lines();
    let mut field = |name: &str| Some(lines.next()?.strip_prefix(name)?.to_owned());
    let format = field("millrace-controller ");
    match format.as_deref() {
        Some("1") => bail!(
            "data directory {shown} was made by a version that kept no disk id: empty it, one controller at a time"
        ),
        Some("2") => bail!(
            "data directory {shown} was made by a version whose log says nothing of its form: empty it, and those of the other controllers"
        ),
        Some(newer) if newer.parse::<u32>().is_ok_and(|newer| newer > 3) => bail!(
            "data directory {shown} was made by a newer version: it has format {newer}, and this program reads format 3"
        ),
        _ => {}
    }
    // The peers that the node was formatted with are for whoever looks at the file: who is in the cluster now is in its log.
    let fields = || Some((field("node ")?, field("disk ")?, field("peers ")?));
    let known = format.as_deref() == Some("3");
    let parsed = known
        .then(fields)
        .flatten()
        .and_then(|(node, disk, _)| Some((node.parse::<u64>().ok()?, parse_disk(&disk)?)));
    let Some((node, disk)) = parsed else {
        bail!("data directory {shown} is damaged: its identity file is not readable");
    };
    if node != id {
        bail!("data directory {shown} belongs to node {node}, not to node {id}");
    }
    Ok(Some(disk))
}

fn format(path: &Path, id: u64, peers: &Peers) -> io::Result<u64> {
    let disk = random_disk();
    let text = disk_text(disk);
    let new = path.join(NEW_IDENTITY_FILE);
    let mut file = File::create(&new)?;
    file.write_all(
        format!("{IDENTITY_FORMAT}\nnode {id}\ndisk {text}\npeers {peers}\n").as_bytes(),
    )?;
    file.sync_all()?;
    sync(path)?;
    for group in GROUPS {
        let directory = path.join(group);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        LogStore::format(&directory.join("log"), &text)?;
        sync(&directory)?;
    }
    sync(path)?;
    fs::rename(&new, path.join(IDENTITY_FILE))?;
    sync(path)?;
    Ok(disk)
}

fn sync(directory: &Path) -> io::Result<()> {
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
        let disk = open(&directory, 1, "1=a:1").unwrap().disk;
        assert_eq!(open(&directory, 1, "1=b:1,2=a:1,3=c:1").unwrap().disk, disk);
        assert_eq!(open(&directory, 1, "1=a:1").unwrap().disk, disk);
    }

    /// Each state that a crash in the middle of formatting may leave.
    #[test]
    fn formatting_that_was_interrupted_begins_anew_with_another_disk() {
        let whole = TestDirectory::new();
        let first = open(&whole, 1, "1=a:1").unwrap().disk;
        let path = whole.path();
        let state = |left: &[&str]| {
            fs::rename(path.join("identity"), path.join("identity.new")).unwrap();
            for group in GROUPS.iter().filter(|group| !left.contains(group)) {
                fs::remove_dir_all(path.join(group)).unwrap();
            }
        };
        let mut disk = first;
        for left in [&["meta", "offsets"][..], &["meta"], &[]] {
            state(left);
            let again = open(&whole, 1, "1=a:1").unwrap().disk;
            assert_ne!(again, disk);
            disk = again;
            for group in GROUPS {
                let log = LogStore::open(&path.join(group).join("log")).unwrap();
                assert!(log.is_of(&disk_text(disk)) && log.is_blank(), "{group}");
            }
        }
        // A half-written identity beside nothing else.
        let torn = TestDirectory::new();
        fs::write(torn.path().join("identity.new"), "millrace-contr").unwrap();
        assert!(open(&torn, 1, "1=a:1").is_ok());
    }

    #[test]
    fn a_directory_of_another_version_is_said_so() {
        let directory = TestDirectory::new();
        for (identity, said) in [
            ("1\nnode 1\npeers 1=a:1\n", "no disk id"),
            (
                "2\nnode 1\ndisk 00000000002a\npeers 1=a:1\n",
                "nothing of its form",
            ),
            ("4\nwho knows\n", "newer version: it has format 4"),
        ] {
            let identity = format!("millrace-controller {identity}");
            fs::write(directory.path().join("identity"), identity).unwrap();
            let error = open(&directory, 1, "1=a:1").err().unwrap();
            assert!(error.contains(said), "{error}");
        }
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
