//! A directory of its own for a unit test, removed at its end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct TestDirectory(PathBuf);

impl TestDirectory {
    pub(crate) fn new() -> Self {
        TestDirectory::inside(&std::env::temp_dir())
    }

    /// Where a flush costs nothing, if there is such a place.
    pub(crate) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        match memory.is_dir() {
            true => TestDirectory::inside(memory),
            false => TestDirectory::new(),
        }
    }

    fn inside(directory: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(format!("millrace-unit-{process}-{number}"));
        std::fs::create_dir_all(&path).expect("the directory for temporary files is writable");
        TestDirectory(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
