//! The declarative form of Kafka's messages, and what a declaration becomes.
//!
//! `messages!` takes one API: its key, its request and response, then every struct of the two, field by field in wire order, named as in
//! Kafka's JSON schemas:
//!
//! ```text
//! messages! {
//!     Fetch: FetchRequest<'a> => FetchResponse<'a>;
//!
//!     struct FetchRequest<'a> {
//!         replica_id: i32 [4..=14] = -1,             // versions up to 14, default -1; set in any other version it is an error
//!         session_id: i32 [7..] ignorable,           // from version 7 on; dropped without an error where it does not exist
//!         topics: Array<'a, FetchTopic<'a>>,         // all versions
//!         names: Option<Array<'a, &'a str>> [3.., null 5..],   // from 3 on, nullable from 5 on
//!     } tags {
//!         1 => replica_state: ReplicaState [15..],   // tagged fields in order of tag; not written while they hold their default
//!     }
//! }
//! ```
//!
//! Each struct becomes plain data with public fields, `Default` being the schema's defaults, and a [`Field`](crate::field::Field); the two
//! messages also get `decode` and `encode`, which check the version against the API table.

use crate::{DecodeError, Reader};

/// Reads a tagged-field section. `take` decodes a tag that it knows and says whether it did; others are passed over.
#[inline]
pub(crate) fn read_tags<'a>(
    reader: &mut Reader<'a>,
    mut take: impl FnMut(u32, &mut Reader<'a>) -> Result<bool, DecodeError>,
) -> Result<(), DecodeError> {
    // Each takes two bytes at least, so the frame bounds the loop.
    for _ in 0..reader.read_unsigned_varint()? {
        let tag = reader.read_unsigned_varint()?;
        let size = reader.read_unsigned_varint()? as usize;
        let mut content = reader.limited(size)?;
        reader.skip(size)?;
        if take(tag, &mut content)? && content.remaining() > 0 {
            return Err(DecodeError::TaggedFieldSize { tag });
        }
    }
    Ok(())
}

macro_rules! messages {
    ($key:ident: $request:ident $(<$request_life:lifetime>)? => $response:ident $(<$response_life:lifetime>)?; $($structs:tt)*) => {
        $crate::schema::structs! { $($structs)* }
        $crate::schema::message! { $key, $request $(<$request_life>)? }
        $crate::schema::message! { $key, $response $(<$response_life>)? }
    };
}

macro_rules! message {
    ($key:ident, $name:ident $(<$life:lifetime>)?) => {
        impl<'a> $name $(<$life>)? {
            /// Decodes the whole message and checks it; what follows it in the reader is left there.
            pub fn decode(reader: &mut $crate::Reader<'a>, version: i16) -> Result<Self, $crate::DecodeError> {
                let form = $crate::ApiKey::$key.form(version).ok_or($crate::DecodeError::UnsupportedVersion(version))?;
                $crate::field::Field::read(reader, form)
            }

            /// As `decode`, for messages that may be long: other tasks have their turn after every few hundred elements.
            pub async fn decode_in_turns(reader: &mut $crate::Reader<'a>, version: i16) -> Result<Self, $crate::DecodeError> {
                let form = $crate::ApiKey::$key.form(version).ok_or($crate::DecodeError::UnsupportedVersion(version))?;
                <Self as $crate::field::Field>::read_in_turns(reader, form).await
            }

            /// Appends the message. After an error the buffer holds a part of it, which the caller cuts off.
            pub fn encode(&self, writer: &mut $crate::Writer<'_>, version: i16) -> Result<(), $crate::EncodeError> {
                let form = $crate::ApiKey::$key.form(version).ok_or($crate::EncodeError::UnsupportedVersion(version))?;
                $crate::field::Field::write(self, writer, form)
            }

            /// As `encode`, for messages that may be long: other tasks have their turn after every few thousand bytes.
            pub async fn encode_in_turns(&self, writer: &mut $crate::Writer<'_>, version: i16) -> Result<(), $crate::EncodeError> {
                let form = $crate::ApiKey::$key.form(version).ok_or($crate::EncodeError::UnsupportedVersion(version))?;
                $crate::field::Field::write_in_turns(self, writer, form).await
            }
        }
    };
}

macro_rules! structs {
    ($(
        $(#[$meta:meta])*
        struct $name:ident $(<$life:lifetime>)? {
            $($field:ident: $type:ty
                $([$versions:pat $(, null $nullable:pat)?] $($ignorable:ident)?)? $(= $default:expr)?),* $(,)?
        } $(tags {
            $($tag:literal => $tagged:ident: $tagged_type:ty
                [$tagged_versions:pat] $($tagged_ignorable:ident)? $(= $tagged_default:expr)?),* $(,)?
        })?
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name $(<$life>)? {
            $(pub $field: $type,)*
            $($(pub $tagged: $tagged_type,)*)?
        }

        impl $(<$life>)? Default for $name $(<$life>)? {
            fn default() -> Self {
                Self {
                    $($field: $crate::schema::default!($($default)?),)*
                    $($($tagged: $crate::schema::default!($($tagged_default)?),)*)?
                }
            }
        }

        impl<'a> $crate::field::Field<'a> for $name $(<$life>)? {
            fn read(reader: &mut $crate::Reader<'a>, form: $crate::field::Form) -> Result<Self, $crate::DecodeError> {
                $(
                    let $field = if $crate::schema::carried!(form $(, $versions)?) {
                        let value = <$type as $crate::field::Field>::read(reader, form)?;
                        $($(if value.is_none() && !$crate::schema::carried!(form, $nullable) {
                            return Err($crate::DecodeError::UnexpectedNull(stringify!($field)));
                        })?)?
                        value
                    } else {
                        $crate::schema::default!($($default)?)
                    };
                )*
                let value = Self {
                    $($field,)*
                    $($($tagged: $crate::schema::default!($($tagged_default)?),)*)?
                };
                value.with_tags(reader, form)
            }

            async fn read_in_turns(reader: &mut $crate::Reader<'a>, form: $crate::field::Form) -> Result<Self, $crate::DecodeError> {
                $(
                    let $field = if $crate::schema::carried!(form $(, $versions)?) {
                        let value = <$type as $crate::field::Field>::read_in_turns(reader, form).await?;
                        $($(if value.is_none() && !$crate::schema::carried!(form, $nullable) {
                            return Err($crate::DecodeError::UnexpectedNull(stringify!($field)));
                        })?)?
                        value
                    } else {
                        $crate::schema::default!($($default)?)
                    };
                )*
                let value = Self {
                    $($field,)*
                    $($($tagged: $crate::schema::default!($($tagged_default)?),)*)?
                };
                value.with_tags(reader, form)
            }

            fn write(&self, writer: &mut $crate::Writer<'_>, form: $crate::field::Form) -> Result<(), $crate::EncodeError> {
                $(
                    if $crate::schema::carried!(form $(, $versions)?) {
                        $crate::schema::refuse_null!(form, self.$field, stringify!($field) $($(, $nullable)?)?);
                        $crate::field::Field::write(&self.$field, writer, form)?;
                    } else {
                        $crate::schema::refuse_unless_default!(
                            [$($($ignorable)?)?] self.$field, stringify!($field), $type, $($default)?
                        );
                    }
                )*
                self.write_tags(writer, form)
            }

            async fn write_in_turns(&self, writer: &mut $crate::Writer<'_>, form: $crate::field::Form) -> Result<(), $crate::EncodeError> {
                $(
                    if $crate::schema::carried!(form $(, $versions)?) {
                        $crate::schema::refuse_null!(form, self.$field, stringify!($field) $($(, $nullable)?)?);
                        $crate::field::Field::write_in_turns(&self.$field, writer, form).await?;
                    } else {
                        $crate::schema::refuse_unless_default!(
                            [$($($ignorable)?)?] self.$field, stringify!($field), $type, $($default)?
                        );
                    }
                )*
                self.write_tags(writer, form)
            }
        }

        impl<'a> $name $(<$life>)? {
            /// Reads the tagged fields, which come last.
            #[allow(unused_mut)]
            fn with_tags(mut self, reader: &mut $crate::Reader<'a>, form: $crate::field::Form) -> Result<Self, $crate::DecodeError> {
                if form.flexible {
                    $crate::schema::read_tags(reader, |_tag, _content| {
                        $($(if _tag == $tag && $crate::schema::carried!(form, $tagged_versions) {
                            self.$tagged = $crate::field::Field::read(_content, form)?;
                            return Ok(true);
                        })*)?
                        Ok(false)
                    })?;
                }
                Ok(self)
            }

            fn write_tags(&self, writer: &mut $crate::Writer<'_>, form: $crate::field::Form) -> Result<(), $crate::EncodeError> {
                $($(
                    if !$crate::schema::carried!(form, $tagged_versions) {
                        $crate::schema::refuse_unless_default!(
                            [$($tagged_ignorable)?] self.$tagged, stringify!($tagged), $tagged_type, $($tagged_default)?
                        );
                    }
                )*)?
                if form.flexible {
                    let set: &[bool] = &[$($({
                        let default: $tagged_type = $crate::schema::default!($($tagged_default)?);
                        $crate::schema::carried!(form, $tagged_versions) && self.$tagged != default
                    },)*)?];
                    writer.write_unsigned_varint(set.iter().filter(|set| **set).count() as u32);
                    let mut _set = set.iter();
                    $($(
                        if _set.next() == Some(&true) {
                            writer.write_unsigned_varint($tag);
                            writer.write_sized(|writer| $crate::field::Field::write(&self.$tagged, writer, form))?;
                        }
                    )*)?
                }
                Ok(())
            }
        }

        #[cfg(test)]
        impl $(<$life>)? $crate::oracle::Sample for $name $(<$life>)? {
            fn sample(random: &mut $crate::oracle::Random, form: $crate::field::Form) -> Self {
                #[allow(unused_mut)]
                let mut value = Self {
                    $($field: if $crate::schema::carried!(form $(, $versions)?) {
                        <$type as $crate::oracle::Sample>::sample(random, form)
                    } else {
                        $crate::schema::default!($($default)?)
                    },)*
                    $($($tagged: if $crate::schema::carried!(form, $tagged_versions) {
                        <$tagged_type as $crate::oracle::Sample>::sample(random, form)
                    } else {
                        $crate::schema::default!($($tagged_default)?)
                    },)*)?
                };
                $($($(if value.$field.is_none() && !$crate::schema::carried!(form, $nullable) {
                    value.$field = Some(Default::default());
                })?)?)*
                value
            }
        }
    )*};
}

/// Whether a version is in a field's range; without a range, always.
macro_rules! carried {
    ($form:ident) => {
        true
    };
    ($form:ident, $versions:pat) => {
        matches!($form.version, $versions)
    };
}

macro_rules! default {
    () => {
        Default::default()
    };
    ($default:expr) => {
        $default
    };
}

/// Null is written only where the version has it.
macro_rules! refuse_null {
    ($form:ident, $value:expr, $name:expr) => {};
    ($form:ident, $value:expr, $name:expr, $nullable:pat) => {
        if $value.is_none() && !$crate::schema::carried!($form, $nullable) {
            return Err($crate::EncodeError::UnexpectedNull($name));
        }
    };
}

/// A field that the version does not carry may be dropped if it is ignorable or holds its default.
macro_rules! refuse_unless_default {
    ([ignorable] $($rest:tt)*) => {};
    ([] $value:expr, $name:expr, $type:ty, $($default:expr)?) => {
        let default: $type = $crate::schema::default!($($default)?);
        if $value != default {
            return Err($crate::EncodeError::FieldNotCarried($name));
        }
    };
}

pub(crate) use {carried, default, message, messages, refuse_null, refuse_unless_default, structs};

#[cfg(test)]
mod tests {
    use crate::messages::produce::{
        LeaderIdAndEpoch, PartitionProduceResponse, TopicProduceResponse,
    };
    use crate::messages::{FetchRequest, MetadataRequest, ProduceResponse};
    use crate::{DecodeError, EncodeError, Reader, Writer};

    /// A Fetch request of version 12 with nothing in it but these tagged fields.
    fn fetch_with_tags(tags: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        FetchRequest::default()
            .encode(&mut Writer::new(&mut bytes), 12)
            .unwrap();
        assert_eq!(bytes.pop(), Some(0), "no tagged field");
        bytes.extend_from_slice(tags);
        bytes
    }

    #[test]
    fn unknown_tags_are_passed_over_and_known_ones_read() {
        let bytes = fetch_with_tags(&[3, 0, 3, 3, b'i', b'd', 1, 2, 9, 9, 77, 0]);
        let mut reader = Reader::new(&bytes);
        // Tag 1 exists from version 15 on and is unknown in 12.
        let request = FetchRequest::decode(&mut reader, 12).unwrap();
        assert_eq!(
            request,
            FetchRequest {
                cluster_id: Some("id"),
                ..Default::default()
            }
        );
        assert_eq!(reader.remaining(), 0);
    }

    #[test]
    fn a_tagged_field_must_fill_its_size_and_not_more() {
        let decode =
            |tags| FetchRequest::decode(&mut Reader::new(&fetch_with_tags(tags)), 12).map(|_| ());
        assert_eq!(
            decode(&[1, 0, 4, 3, b'i', b'd', 0]),
            Err(DecodeError::TaggedFieldSize { tag: 0 })
        );
        assert_eq!(
            decode(&[1, 0, 2, 3, b'i', b'd']),
            Err(DecodeError::Truncated { wanted: 2, left: 1 })
        );
        assert_eq!(
            decode(&[1, 0, 9, 3, b'i', b'd']),
            Err(DecodeError::Truncated { wanted: 9, left: 3 })
        );
        assert!(decode(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }

    #[test]
    fn null_is_refused_where_the_version_has_none() {
        let null = [0xff; 4];
        assert_eq!(
            MetadataRequest::decode(&mut Reader::new(&null), 1).map(|request| request.topics),
            Ok(None)
        );
        assert_eq!(
            MetadataRequest::decode(&mut Reader::new(&null), 0),
            Err(DecodeError::UnexpectedNull("topics"))
        );
        let request = MetadataRequest {
            topics: None,
            ..Default::default()
        };
        let encoded = request.encode(&mut Writer::new(&mut Vec::new()), 0);
        assert_eq!(encoded, Err(EncodeError::UnexpectedNull("topics")));
    }

    #[test]
    fn what_a_version_cannot_carry_is_dropped_only_if_it_may_be() {
        let encode = |partition: PartitionProduceResponse<'_>, version| {
            let partitions = [partition];
            let topics = [TopicProduceResponse {
                partition_responses: (&partitions).into(),
                ..Default::default()
            }];
            let response = ProduceResponse {
                responses: (&topics).into(),
                ..Default::default()
            };
            let mut bytes = Vec::new();
            response
                .encode(&mut Writer::new(&mut bytes), version)
                .map(|()| bytes)
        };
        let ignorable = PartitionProduceResponse {
            log_start_offset: 5,
            ..Default::default()
        };
        assert_eq!(
            encode(ignorable, 4),
            encode(PartitionProduceResponse::default(), 4)
        );
        let leader = LeaderIdAndEpoch {
            leader_id: 1,
            leader_epoch: 1,
        };
        let needed = PartitionProduceResponse {
            current_leader: leader,
            ..Default::default()
        };
        assert!(encode(needed.clone(), 10).is_ok());
        assert_eq!(
            encode(needed, 9),
            Err(EncodeError::FieldNotCarried("current_leader"))
        );
    }
}
