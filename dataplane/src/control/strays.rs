//! Sets aside the directories of topics that were deleted while this broker was away.

use control_api::image::MetadataImage;
use std::fs;
use std::io;
use std::path::Path;

/// Moves each topic directory whose id neither image knows to `stray/`. Nothing is deleted: a control plane that lost its state
/// would otherwise take the data with it.
pub(super) fn set_aside(
    data: &Path,
    stored: &MetadataImage,
    live: &MetadataImage,
) -> io::Result<()> {
    let topics = data.join("topics");
    let entries = match fs::read_dir(&topics) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let known = |name: &str| {
        let mut topics = live.topics.keys().chain(stored.topics.keys());
        topics.any(|id| name.ends_with(&id.to_string()))
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if known(name) {
            continue;
        }
        fs::create_dir_all(data.join("stray"))?;
        fs::rename(topics.join(name), data.join("stray").join(name))?;
        tracing::warn!(
            directory = name,
            "set aside the files of a topic that no longer exists, in stray/"
        );
    }
    Ok(())
}
