//! Turns the shared types into bytes and back: one version byte, then an rkyv archive.
//!
//! Frames, the Raft log and snapshots use it. Reading is checked: garbage gives an error, never a panic, and takes memory
//! in proportion to the bytes that are there, whatever they claim.

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Deserialize, Serialize};
use std::num::NonZeroUsize;

/// The first byte of everything encoded. Raised when an old node could not read what a new one writes.
pub const FORMAT_VERSION: u8 = 1;

/// How deep an archive may nest. Our deepest type needs about ten levels; a tree forged to overflow the stack needs more.
const DEPTH_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("nothing to decode")]
    Empty,
    #[error("format version {0} is not known, this program writes version {FORMAT_VERSION}")]
    UnknownVersion(u8),
    #[error("damaged archive: {0}")]
    Damaged(String),
}

/// A type that [`encode`] takes.
pub trait Encode: for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>> {}
impl<T> Encode for T where T: for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>> {}

/// A type that [`decode`] gives.
pub trait Decode: Archive<Archived: Readable<Self>> + Sized {}
impl<T> Decode for T where T: Archive<Archived: Readable<T>> {}

/// An archive that can be checked and turned into a `T`.
pub trait Readable<T>:
    for<'a> CheckBytes<HighValidator<'a, Error>> + Deserialize<T, HighDeserializer<Error>>
{
}
impl<T, A> Readable<T> for A where
    A: for<'a> CheckBytes<HighValidator<'a, Error>> + Deserialize<T, HighDeserializer<Error>>
{
}

pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    encode_after(Vec::new(), value)
}

/// Appends the encoded value to what `bytes` holds, which may be a header still to be filled in.
pub fn encode_after<T: Encode>(mut bytes: Vec<u8>, value: &T) -> Vec<u8> {
    bytes.push(FORMAT_VERSION);
    rkyv::api::high::to_bytes_in::<_, Error>(value, bytes)
        .expect("writing to a Vec cannot fail and our types hold no shared pointers")
}

pub fn decode<T: Decode>(bytes: &[u8]) -> Result<T, CodecError> {
    let (version, archive) = bytes.split_first().ok_or(CodecError::Empty)?;
    if *version != FORMAT_VERSION {
        return Err(CodecError::UnknownVersion(*version));
    }
    let mut validator = Validator::new(
        ArchiveValidator::with_max_depth(archive, Some(DEPTH_MAX)),
        SharedValidator::new(),
    );
    let archived = rkyv::api::access_with_context::<T::Archived, _, Error>(archive, &mut validator)
        .map_err(damaged)?;
    rkyv::api::high::deserialize::<T, Error>(archived).map_err(damaged)
}

fn damaged(error: Error) -> CodecError {
    // The library's own report spans many lines; its first says what was wrong.
    let report = error.to_string();
    CodecError::Damaged(report.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BrokerId, TopicId};
    use crate::message::{NewTopic, Request};
    use std::collections::BTreeMap;

    fn request() -> Request {
        let configs = (0..40).map(|i| (format!("key.{i}"), format!("value {i}")));
        let topic = NewTopic {
            name: "orders".into(),
            id: TopicId([7; 16]),
            partitions: 3,
            replication_factor: 1,
            assignment: vec![vec![BrokerId(1)], vec![BrokerId(2)]],
            configs: configs.collect::<BTreeMap<_, _>>(),
        };
        Request::CreateTopics {
            topics: vec![topic],
            validate_only: false,
        }
    }

    #[test]
    fn a_value_survives_the_round_trip() {
        assert_eq!(decode::<Request>(&encode(&request())), Ok(request()));
    }

    #[test]
    fn a_header_before_the_value_does_not_disturb_it() {
        let bytes = encode_after(vec![9; 13], &request());
        assert_eq!(decode::<Request>(&bytes[13..]), Ok(request()));
    }

    /// An archive is read from its end, so what is left of a cut one may happen to be sound; the checksums around our
    /// archives are what notices. What must not happen is a panic or the original value.
    #[test]
    fn a_truncated_value_never_panics() {
        let bytes = encode(&request());
        for end in 0..bytes.len() {
            assert_ne!(
                decode::<Request>(&bytes[..end]),
                Ok(request()),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let mut bytes = encode(&request());
        bytes[0] = 77;
        assert_eq!(
            decode::<Request>(&bytes),
            Err(CodecError::UnknownVersion(77))
        );
    }

    #[test]
    fn changed_bytes_never_panic() {
        let good = encode(&request());
        for position in 1..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[position] ^= 1 << bit;
                let _ = decode::<Request>(&bytes);
            }
        }
    }
}
