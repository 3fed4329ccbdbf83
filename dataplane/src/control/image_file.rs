//! The last metadata image, kept on disk so that a broker can start and serve while the quorum is away.

use control_api::codec::{self, CodecError, Format};
use control_api::image::MetadataImage;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

const FILE: &str = "metadata.image";

/// Why a file's bytes are no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("it is too short")]
    TooShort,
    #[error("its checksum does not match")]
    WrongChecksum,
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// The stored image; `None` when there is none. A damaged one is an error: the file is written whole or not at all, so damage
/// means that the disk is not to be trusted.
pub fn load_image(data: &Path) -> io::Result<Option<MetadataImage>> {
    let bytes = match fs::read(data.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let unreadable = |reason| {
        let text = format!("{} cannot be read: {reason}", data.join(FILE).display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    decode_image(&bytes).map(Some).map_err(unreadable)
}

/// What the file says, from the whole of its bytes.
pub fn decode_image(bytes: &[u8]) -> Result<MetadataImage, ImageError> {
    let (crc, archive) = bytes.split_first_chunk::<4>().ok_or(ImageError::TooShort)?;
    if crc32c::crc32c(archive) != u32::from_le_bytes(*crc) {
        return Err(ImageError::WrongChecksum);
    }
    let image: MetadataImage = codec::decode(archive)?;
    image.check_level()?;
    Ok(image)
}

/// The whole file, as [`decode_image`] reads it.
pub fn encode_image(image: &MetadataImage) -> Vec<u8> {
    let mut bytes = image.write(image.feature_level, vec![0; 4]);
    let (crc, archive) = bytes.split_at_mut(4);
    crc.copy_from_slice(&crc32c::crc32c(archive).to_le_bytes());
    bytes
}

/// Replaces the stored image as one step.
pub(super) fn store_image(data: &Path, image: &MetadataImage) -> io::Result<()> {
    let temporary = data.join("metadata.image.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&encode_image(image))?;
    file.sync_all()?;
    fs::rename(&temporary, data.join(FILE))?;
    File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::level::Level;

    /// Data directories outlive the program that wrote them, so the file is never changed; a new version gets another one.
    #[test]
    fn an_image_of_every_version_is_still_read() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/golden/metadata.image.1"
        );
        let stored = fs::read(path).unwrap();
        let image = decode_image(&stored).unwrap();
        assert_eq!((image.index, image.topics.len()), (77, 1));
        assert_eq!(encode_image(&image), stored);
    }

    #[test]
    fn an_image_of_another_program_is_refused_and_named() {
        let mut bytes = encode_image(&MetadataImage::default());
        for (kind, version, said) in [
            (120, 9, "a metadata image MetadataImage of version 9"),
            (1, 1, "a program that wrote no kinds"),
            (225, 1, "a snapshot"),
        ] {
            bytes[4..6].copy_from_slice(&[kind, version]);
            let crc = crc32c::crc32c(&bytes[4..]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
            let refused = decode_image(&bytes).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn an_image_at_a_later_level_is_refused() {
        let image = MetadataImage {
            feature_level: Level(9),
            ..MetadataImage::default()
        };
        let refused = decode_image(&encode_image(&image)).unwrap_err().to_string();
        let newest = Level::NEWEST.0;
        assert_eq!(
            refused,
            format!("it is at feature level 9, and this program supports levels 1 to {newest}")
        );
    }

    #[test]
    fn an_image_is_read_as_it_was_written_and_any_changed_byte_is_noticed() {
        let image = MetadataImage {
            index: 7,
            cluster_id: "mQxNyM-0RYK1AUOhzXb8dw".into(),
            ..MetadataImage::default()
        };
        let bytes = encode_image(&image);
        assert_eq!(decode_image(&bytes).ok(), Some(image));
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            assert!(decode_image(&damaged).is_err(), "byte {position}");
            let cut = &bytes[..position];
            assert!(decode_image(cut).is_err(), "cut at {position}");
        }
    }
}
