//! What machine the figures are of.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Host {
    kernel: String,
    processor: String,
    /// That this process may use.
    processors: usize,
    memory_bytes: u64,
    /// Of the directory that is measured.
    file_system: String,
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel,
            processor,
            processors,
            memory_bytes,
            file_system,
        } = self;
        let gigabytes = *memory_bytes as f64 / 1e9;
        write!(
            formatter,
            "Linux {kernel}, {processors} x {processor}, {gigabytes:.1} GB of memory, {file_system}"
        )
    }
}

pub(super) fn look(directory: &Path) -> Result<Host> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let processor = field(&read("/proc/cpuinfo")?, "model name");
    let memory = field(&read("/proc/meminfo")?, "MemTotal");
    let kilobytes: u64 = memory
        .and_then(|text| text.trim_end_matches(" kB").parse().ok())
        .context("cannot read how much memory there is")?;
    Ok(Host {
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        // Not every architecture names its processor there.
        processor: processor.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        processors: std::thread::available_parallelism()?.get(),
        memory_bytes: kilobytes << 10,
        file_system: file_system(directory)?,
    })
}

/// The type of the file system that a directory, a path without links, is on.
pub(super) fn file_system(directory: &Path) -> Result<String> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read what is mounted where")?;
    mounted_on(&mounts, directory).context("cannot find out what file system this is")
}

fn mounted_on(mounts: &str, directory: &Path) -> Option<String> {
    let lines = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    // The longest path that leads there; of several mounts on one path the last one hides the others.
    lines
        .filter(|(path, _)| directory.starts_with(path))
        .max_by_key(|(path, _)| path.len())
        .map(|(_, kind)| kind.to_owned())
}

/// The first value of a key in lines of `key : value`.
fn field(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_says_what_file_system_it_is() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/x xfs rw 0 0\n/dev/c /tmp/x btrfs rw 0 0\n";
        let on = |path: &str| mounted_on(mounts, Path::new(path));
        assert_eq!(on("/home").as_deref(), Some("ext4"));
        assert_eq!(on("/tmpfile").as_deref(), Some("ext4"));
        assert_eq!(on("/tmp/y").as_deref(), Some("tmpfs"));
        assert_eq!(on("/tmp/x/y").as_deref(), Some("btrfs"));
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "MemTotalHuge: 1 kB\nMemTotal:       24684528 kB\n";
        assert_eq!(field(text, "MemTotal").as_deref(), Some("24684528 kB"));
    }
}
