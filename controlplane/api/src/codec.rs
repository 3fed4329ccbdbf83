//! Turns what is stored or sent into bytes and back.
//!
//! ```text
//!  0      1         2
//!  | kind | version | rkyv archive of that kind in that version ...
//! ```
//! Frames, the Raft logs, snapshots and stored images use it. Each variant of an enum is a kind of its own, since an archive is
//! read from its end: an enum is as long as its largest variant, so a field more in one would move all the others. A kind that
//! changes gets a new version, and keeps its old form as a type of its own, from which and into which it converts; the
//! feature level says which of them is written ([`formats!`](crate::formats)).
//!
//! Reading is checked: garbage gives an error, never a panic, and takes memory in proportion to the bytes that are there,
//! whatever they claim.

use crate::level::{Level, Levels};
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Error, Fallible};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Deserialize, Place, Serialize};
use std::num::NonZeroUsize;

/// How deep an archive may nest. Our deepest type needs about ten levels; a tree forged to overflow the stack needs more.
const DEPTH_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");

/// What everything has at [`Level::TRIAL`] for a version, and the field that it has more, in front of its archive.
const TRIAL_VERSION: u8 = 200;
const TRIAL_FIELD: [u8; 4] = *b"more";

/// What is said of a kind: which numbers are whose. None is ever given again.
const FAMILIES: [(std::ops::RangeInclusive<u8>, &str); 12] = [
    (0..=1, "something of a program that wrote no kinds"),
    (2..=15, "an empty message"),
    (16..=47, "a request"),
    (48..=79, "an answer"),
    (80..=87, "a metadata update"),
    (88..=119, "a metadata event"),
    (120..=127, "a metadata image"),
    (128..=159, "a command to meta"),
    (160..=191, "a command to offsets"),
    (192..=223, "a message between controllers"),
    (224..=239, "a snapshot"),
    (240..=255, "something of an unknown program"),
];

fn family(kind: u8) -> &'static str {
    let family = FAMILIES.iter().find(|(kinds, _)| kinds.contains(&kind));
    family.map_or("something unknown", |(_, name)| name)
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("nothing to decode")]
    Empty,
    #[error("it is {} (kind {found}), not {} that this program knows", family(*found), family(*wanted))]
    Foreign { found: u8, wanted: u8 },
    #[error(
        "it is {} {name} of version {version}, and this program reads up to version {newest}", family(*kind)
    )]
    UnknownVersion {
        kind: u8,
        name: &'static str,
        version: u8,
        newest: u8,
    },
    /// Something that is at a feature level which this program does not know.
    #[error(
        "it is at feature level {}, and this program supports levels {}",
        .0,
        Levels::supported()
    )]
    UnsupportedLevel(Level),
    #[error("damaged archive: {0}")]
    Damaged(String),
}

/// What stands before every archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub kind: u8,
    pub version: u8,
}

/// A kind of something, as the tests look through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub kind: u8,
    pub name: &'static str,
    pub newest: u8,
}

/// Something that is stored or sent. [`formats!`](crate::formats) implements it.
pub trait Format: Sized {
    /// All kinds that it may be.
    const KINDS: &'static [Kind];

    /// Appends what stands before the archive, and the archive, as they are at this level.
    fn write(&self, level: Level, bytes: Vec<u8>) -> Vec<u8>;
    fn read(tag: Tag, archive: &[u8]) -> Result<Self, CodecError>;
}

/// A type that can be archived.
pub trait Encode: for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>> {}
impl<T> Encode for T where T: for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>> {}

/// A type that an archive gives.
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

/// As every program reads it.
pub fn encode<T: Format>(value: &T) -> Vec<u8> {
    encode_at(Level::FIRST, value)
}

/// As every program reads it that supports the level.
pub fn encode_at<T: Format>(level: Level, value: &T) -> Vec<u8> {
    value.write(level, Vec::new())
}

pub fn decode<T: Format>(bytes: &[u8]) -> Result<T, CodecError> {
    let (tag, archive) = bytes.split_first_chunk::<2>().ok_or(CodecError::Empty)?;
    let [kind, version] = *tag;
    T::read(Tag { kind, version }, archive)
}

/// For [`Format::write`].
pub fn write_archive<T: Encode>(tag: Tag, level: Level, mut bytes: Vec<u8>, value: &T) -> Vec<u8> {
    match level == Level::TRIAL {
        true => {
            bytes.extend([tag.kind, TRIAL_VERSION]);
            bytes.extend(TRIAL_FIELD);
        }
        false => bytes.extend([tag.kind, tag.version]),
    }
    rkyv::api::high::to_bytes_in::<_, Error>(value, bytes)
        .expect("writing to a Vec cannot fail and our types hold no shared pointers")
}

/// For [`Format::read`], of a kind that is known, in its newest version.
pub fn read_newest<T: Decode>(kind: Kind, version: u8, archive: &[u8]) -> Result<T, CodecError> {
    let trial = Levels::supported().max == Level::TRIAL && version == TRIAL_VERSION;
    match archive.strip_prefix(&TRIAL_FIELD) {
        Some(archive) if trial => read_archive(archive),
        _ => {
            check_newest(kind, version)?;
            read_archive(archive)
        }
    }
}

/// A version that is neither the newest nor one of the old ones is one that this program does not know.
pub fn check_newest(kind: Kind, version: u8) -> Result<(), CodecError> {
    match version == kind.newest {
        true => Ok(()),
        false => Err(CodecError::UnknownVersion {
            kind: kind.kind,
            name: kind.name,
            version,
            newest: kind.newest,
        }),
    }
}

pub fn read_archive<T: Decode>(archive: &[u8]) -> Result<T, CodecError> {
    let mut validator = Validator::new(
        ArchiveValidator::with_max_depth(archive, Some(DEPTH_MAX)),
        SharedValidator::new(),
    );
    let archived = rkyv::api::access_with_context::<T::Archived, _, Error>(archive, &mut validator)
        .map_err(damaged)?;
    rkyv::api::high::deserialize::<T, Error>(archived).map_err(damaged)
}

/// Whether this program knows what may be there at a level; before the first one there is nothing.
pub fn check_level(level: Level) -> Result<(), CodecError> {
    match level == Level::default() || Levels::supported().contain(level) {
        true => Ok(()),
        false => Err(CodecError::UnsupportedLevel(level)),
    }
}

fn damaged(error: Error) -> CodecError {
    // The library's own report spans many lines; its first says what was wrong.
    let report = error.to_string();
    CodecError::Damaged(report.lines().next().unwrap_or_default().to_owned())
}

/// Archived as what it refers to, so that the fields of a variant can be written without being moved.
pub struct ByRef<'a, T>(pub &'a T);

impl<T: Archive> Archive for ByRef<'_, T> {
    type Archived = T::Archived;
    type Resolver = T::Resolver;

    fn resolve(&self, resolver: T::Resolver, out: Place<T::Archived>) {
        self.0.resolve(resolver, out);
    }
}

impl<T: Serialize<S>, S: Fallible + ?Sized> Serialize<S> for ByRef<'_, T> {
    fn serialize(&self, serializer: &mut S) -> Result<T::Resolver, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Counts the old versions of a kind, for [`formats!`](crate::formats).
pub const fn one(_version: u8) -> u8 {
    1
}

/// Says which kinds an enum or a struct is stored and sent as.
///
/// `16 Name(Body) was [1 below 3: OldBody]` is kind 16, of version 1 below feature level 3, when its archive is one of
/// `OldBody`, and of version 2 from then on. Fields of a variant are archived as a tuple of them.
#[macro_export]
macro_rules! formats {
    (struct $type:ty: $kind:literal $(was [$($old:literal below $below:literal: $was:ty),+])?) => {
        impl $crate::codec::Format for $type {
            const KINDS: &'static [$crate::codec::Kind] = &[$crate::codec::Kind {
                kind: $kind,
                name: stringify!($type),
                newest: 1 $($(+ $crate::codec::one($old))+)?,
            }];

            fn write(&self, level: $crate::level::Level, bytes: Vec<u8>) -> Vec<u8> {
                let kind = Self::KINDS[0];
                $($(if level.0 < $below {
                    let tag = $crate::codec::Tag { kind: kind.kind, version: $old };
                    return $crate::codec::write_archive(tag, level, bytes, &<$was>::from(self));
                })+)?
                let tag = $crate::codec::Tag { kind: kind.kind, version: kind.newest };
                $crate::codec::write_archive(tag, level, bytes, self)
            }

            fn read(
                tag: $crate::codec::Tag,
                archive: &[u8],
            ) -> Result<Self, $crate::codec::CodecError> {
                let kind = Self::KINDS[0];
                match (tag.kind, tag.version) {
                    $($(($kind, $old) => Ok(
                        $crate::codec::read_archive::<$was>(archive)?.into(),
                    ),)+)?
                    ($kind, version) => $crate::codec::read_newest(kind, version, archive),
                    (found, _) => {
                        let wanted = kind.kind;
                        Err($crate::codec::CodecError::Foreign { found, wanted })
                    }
                }
            }
        }
    };
    (enum $type:ident {
        $($kind:literal $variant:ident
            $(($body:ty))?
            $({ $($field:ident: $field_type:ty),+ $(,)? })?
            $(was [$($old:literal below $below:literal: $was:ty),+])?
        ),+ $(,)?
    }) => {
        impl $crate::codec::Format for $type {
            const KINDS: &'static [$crate::codec::Kind] = &[$($crate::codec::Kind {
                kind: $kind,
                name: stringify!($variant),
                newest: 1 $($(+ $crate::codec::one($old))+)?,
            }),+];

            fn write(&self, level: $crate::level::Level, bytes: Vec<u8>) -> Vec<u8> {
                match self {
                    $($crate::formats!(@pattern $type $variant body $(($body))? $({ $($field),+ })?) => {
                        $($(if level.0 < $below {
                            let tag = $crate::codec::Tag { kind: $kind, version: $old };
                            let old = <$was>::from(body);
                            return $crate::codec::write_archive(tag, level, bytes, &old);
                        })+)?
                        let version = 1 $($(+ $crate::codec::one($old))+)?;
                        let tag = $crate::codec::Tag { kind: $kind, version };
                        let body = $crate::formats!(@borrow body $(($body))? $({ $($field),+ })?);
                        $crate::codec::write_archive(tag, level, bytes, body)
                    })+
                }
            }

            fn read(
                tag: $crate::codec::Tag,
                archive: &[u8],
            ) -> Result<Self, $crate::codec::CodecError> {
                let kind = Self::KINDS.iter().find(|known| known.kind == tag.kind);
                let Some(kind) = kind.copied() else {
                    let (found, wanted) = (tag.kind, Self::KINDS[0].kind);
                    return Err($crate::codec::CodecError::Foreign { found, wanted });
                };
                match (tag.kind, tag.version) {
                    $($($(($kind, $old) => {
                        let old = $crate::codec::read_archive::<$was>(archive)?;
                        Ok($type::$variant(old.into()))
                    })+)?)+
                    $(($kind, version) => $crate::formats!(
                        @build $type $variant (kind, version, archive)
                        $(($body))? $({ $($field: $field_type),+ })?
                    ),)+
                    // It was found above.
                    (found, _) => {
                        let wanted = kind.kind;
                        Err($crate::codec::CodecError::Foreign { found, wanted })
                    }
                }
            }
        }
    };
    (@pattern $type:ident $variant:ident $name:ident ($body:ty)) => { $type::$variant($name) };
    (@pattern $type:ident $variant:ident $name:ident { $($field:ident),+ }) => {
        $type::$variant { $($field),+ }
    };
    (@pattern $type:ident $variant:ident $name:ident) => { $type::$variant };
    (@borrow $name:ident ($body:ty)) => { $name };
    (@borrow $name:ident { $($field:ident),+ }) => { &($($crate::codec::ByRef($field),)+) };
    (@borrow $name:ident) => { &() };
    (@build $type:ident $variant:ident ($kind:ident, $version:ident, $archive:ident) ($body:ty)) => {
        $crate::codec::read_newest::<$body>($kind, $version, $archive).map($type::$variant)
    };
    (@build $type:ident $variant:ident ($kind:ident, $version:ident, $archive:ident)
        { $($field:ident: $field_type:ty),+ }
    ) => {
        $crate::codec::read_newest::<($($field_type,)+)>($kind, $version, $archive)
            .map(|($($field,)+)| $type::$variant { $($field),+ })
    };
    (@build $type:ident $variant:ident ($kind:ident, $version:ident, $archive:ident)) => {
        $crate::codec::read_newest::<()>($kind, $version, $archive).map(|()| $type::$variant)
    };
}

crate::formats! { struct (): 2 }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BrokerId, TopicId};
    use crate::image::{MetadataEvent, MetadataImage};
    use crate::message::{MetadataUpdate, NewTopic, Request, Response};
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
        let bytes = request().write(Level::FIRST, vec![9; 13]);
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
    fn what_is_newer_or_foreign_is_refused_and_named() {
        let refusal = |kind, version| {
            let mut bytes = encode(&request());
            bytes[..2].copy_from_slice(&[kind, version]);
            decode::<Request>(&bytes).unwrap_err().to_string()
        };
        let [kind, version, ..] = encode(&request())[..] else {
            panic!("it is longer")
        };
        assert_eq!(
            refusal(kind, 77),
            "it is a request CreateTopics of version 77, and this program reads up to version 1"
        );
        assert_eq!(
            refusal(120, version),
            "it is a metadata image (kind 120), not a request that this program knows"
        );
        assert_eq!(
            refusal(1, version),
            "it is something of a program that wrote no kinds (kind 1), not a request that this program knows"
        );
        // A later version of the program has more kinds of request.
        assert_eq!(
            refusal(47, version),
            "it is a request (kind 47), not a request that this program knows"
        );
        assert_eq!(decode::<Request>(&[kind]), Err(CodecError::Empty));
    }

    #[test]
    fn every_kind_has_its_own_number_and_family() {
        fn check<T: Format>(seen: &mut BTreeMap<u8, &'static str>) {
            for kind in T::KINDS {
                assert_eq!(seen.insert(kind.kind, kind.name), None, "{}", kind.name);
                assert_eq!(family(kind.kind), family(T::KINDS[0].kind));
            }
        }
        let mut seen = BTreeMap::new();
        check::<()>(&mut seen);
        check::<Request>(&mut seen);
        check::<Response>(&mut seen);
        check::<MetadataUpdate>(&mut seen);
        check::<MetadataEvent>(&mut seen);
        check::<MetadataImage>(&mut seen);
        for kinds in FAMILIES.windows(2) {
            assert_eq!(*kinds[0].0.end() + 1, *kinds[1].0.start());
        }
    }

    /// How a kind changes: the field that came last is known from level 6 on.
    #[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
    struct Door {
        colour: String,
        locked: bool,
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct DoorWithoutLock {
        colour: String,
    }

    impl From<&Door> for DoorWithoutLock {
        fn from(door: &Door) -> Self {
            DoorWithoutLock {
                colour: door.colour.clone(),
            }
        }
    }

    impl From<DoorWithoutLock> for Door {
        fn from(door: DoorWithoutLock) -> Self {
            Door {
                colour: door.colour,
                locked: false,
            }
        }
    }

    #[derive(Clone, Debug, PartialEq)]
    enum Part {
        Door(Door),
        Window { panes: u32, open: bool },
    }

    formats! { struct Door: 250 was [1 below 6: DoorWithoutLock] }
    formats! {
        enum Part {
            251 Door(Door) was [1 below 6: DoorWithoutLock],
            252 Window { panes: u32, open: bool },
        }
    }

    #[test]
    fn a_kind_that_grew_is_written_as_its_level_says_and_read_in_every_version() {
        let locked = Door {
            colour: "green".into(),
            locked: true,
        };
        let unlocked = Door {
            locked: false,
            ..locked.clone()
        };
        for (level, version, read) in [(1, 1, &unlocked), (6, 2, &locked), (9, 2, &locked)] {
            let bytes = encode_at(Level(level), &locked);
            assert_eq!(bytes[..2], [250, version]);
            assert_eq!(decode::<Door>(&bytes).as_ref(), Ok(read));
            let bytes = encode_at(Level(level), &Part::Door(locked.clone()));
            assert_eq!(bytes[..2], [251, version]);
            assert_eq!(decode::<Part>(&bytes), Ok(Part::Door(read.clone())));
        }
        // Its neighbour does not move.
        let window = Part::Window {
            panes: 4,
            open: true,
        };
        let bytes = encode_at(Level(6), &window);
        assert_eq!((bytes[1], decode::<Part>(&bytes)), (1, Ok(window)));
    }

    #[test]
    fn a_later_level_is_read_by_who_tries_it_and_nobody_else() {
        let bytes = encode_at(Level::TRIAL, &request());
        assert!(matches!(
            decode::<Request>(&bytes),
            Err(CodecError::UnknownVersion { .. })
        ));
        crate::level::try_later_level(true);
        assert_eq!(decode::<Request>(&bytes), Ok(request()));
        assert_eq!(decode::<Request>(&encode(&request())), Ok(request()));
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
