//! The last metadata image, kept on disk so that a broker can start and serve while the quorum is away.

use control_api::codec;
use control_api::image::MetadataImage;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

const FILE: &str = "metadata.image";

/// The stored image; `None` when there is none. A damaged one is an error: the file is written whole or not at all, so damage
/// means that the disk is not to be trusted.
pub fn load_image(data: &Path) -> io::Result<Option<MetadataImage>> {
    let bytes = match fs::read(data.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = |reason: &dyn std::fmt::Display| {
        let text = format!("{} is damaged: {reason}", data.join(FILE).display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let Some((crc, archive)) = bytes.split_first_chunk::<4>() else {
        return Err(damaged(&"it is too short"));
    };
    if crc32c::crc32c(archive) != u32::from_le_bytes(*crc) {
        return Err(damaged(&"its checksum does not match"));
    }
    codec::decode(archive)
        .map(Some)
        .map_err(|error| damaged(&error))
}

/// Replaces the stored image as one step.
pub(super) fn store_image(data: &Path, image: &MetadataImage) -> io::Result<()> {
    let archive = codec::encode(image);
    let temporary = data.join("metadata.image.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&crc32c::crc32c(&archive).to_le_bytes())?;
    file.write_all(&archive)?;
    file.sync_all()?;
    fs::rename(&temporary, data.join(FILE))?;
    File::open(data)?.sync_all()
}
