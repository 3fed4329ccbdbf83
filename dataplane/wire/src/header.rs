//! Request and response headers, in every form that the API table calls for.
//!
//! ```text
//! request  v1: api_key i16 | api_version i16 | correlation_id i32 | client_id nullable string
//! request  v2: the same | tagged fields
//! response v0: correlation_id i32
//! response v1: the same | tagged fields
//! ```
//! The client id keeps its 16-bit length even in the flexible form, so that a broker can read it before it looks at the version (KIP-482).

use crate::field::{Field, Form};
use crate::schema::read_tags;
use crate::{ApiKey, DecodeError, EncodeError, Reader, Writer};

/// What every request starts with. The key and version are as sent: they may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<&'a str>,
}

/// What every response starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    pub correlation_id: i32,
}

/// The form of the client id, whatever that of the message.
const OLD: Form = Form {
    version: 1,
    flexible: false,
};

impl<'a> RequestHeader<'a> {
    /// Reads the header and leaves the reader at the message. The header of an unknown API is taken for version 1.
    pub fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let header = Self {
            api_key: reader.read_i16()?,
            api_version: reader.read_i16()?,
            correlation_id: reader.read_i32()?,
            client_id: Field::read(reader, OLD)?,
        };
        let form = ApiKey::from_i16(header.api_key)
            .map(|api| api.request_header_version(header.api_version));
        if form == Some(2) {
            read_tags(reader, |_, _| Ok(false))?;
        }
        Ok(header)
    }

    pub fn encode(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        writer.write_i16(self.api_key);
        writer.write_i16(self.api_version);
        writer.write_i32(self.correlation_id);
        self.client_id.write(writer, OLD)?;
        let form =
            ApiKey::from_i16(self.api_key).map(|api| api.request_header_version(self.api_version));
        if form == Some(2) {
            writer.write_unsigned_varint(0);
        }
        Ok(())
    }
}

impl ResponseHeader {
    pub fn decode(reader: &mut Reader<'_>, api: ApiKey, version: i16) -> Result<Self, DecodeError> {
        let correlation_id = reader.read_i32()?;
        if api.response_header_version(version) == 1 {
            read_tags(reader, |_, _| Ok(false))?;
        }
        Ok(Self { correlation_id })
    }

    pub fn encode(&self, writer: &mut Writer<'_>, api: ApiKey, version: i16) {
        writer.write_i32(self.correlation_id);
        if api.response_header_version(version) == 1 {
            writer.write_unsigned_varint(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_in_both_forms_and_leaves_the_message() {
        for (api, version, tags) in [(ApiKey::Produce, 8, false), (ApiKey::Produce, 9, true)] {
            for client_id in [None, Some(""), Some("kcat")] {
                let header = RequestHeader {
                    api_key: api as i16,
                    api_version: version,
                    correlation_id: 7,
                    client_id,
                };
                let mut bytes = Vec::new();
                header.encode(&mut Writer::new(&mut bytes)).unwrap();
                assert_eq!(
                    bytes.len(),
                    10 + client_id.map_or(0, str::len) + usize::from(tags)
                );
                bytes.extend([1, 2, 3]);
                let mut reader = Reader::new(&bytes);
                assert_eq!(RequestHeader::decode(&mut reader), Ok(header));
                assert_eq!(reader.remaining(), 3);
            }
        }
    }

    #[test]
    fn unknown_header_tags_are_passed_over() {
        let bytes = [0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 2, 0, 1, 9, 5, 2, 9, 9];
        let mut reader = Reader::new(&bytes);
        let header = RequestHeader::decode(&mut reader).unwrap();
        assert_eq!(
            (header.api_version, header.client_id, reader.remaining()),
            (3, None, 0)
        );
    }

    #[test]
    fn a_response_header_has_tags_only_where_the_table_says_so() {
        for (api, version, len) in [
            (ApiKey::ApiVersions, 4, 4),
            (ApiKey::Fetch, 12, 5),
            (ApiKey::Fetch, 11, 4),
        ] {
            let mut bytes = Vec::new();
            let header = ResponseHeader { correlation_id: -5 };
            header.encode(&mut Writer::new(&mut bytes), api, version);
            assert_eq!(bytes.len(), len);
            assert_eq!(
                ResponseHeader::decode(&mut Reader::new(&bytes), api, version),
                Ok(header)
            );
        }
    }
}
