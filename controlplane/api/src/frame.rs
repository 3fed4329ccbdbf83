//! One frame on a control connection, whichever of its users it carries: brokers, operators, Raft peers.
//!
//! ```text
//!  0        4        8      9       10
//!  | length | crc32c | kind | group | body ...
//!           |<- not counted by length
//! ```
//! Integers are little-endian. `length` counts kind, group and body; the checksum covers the same bytes. `group` is the
//! Raft group that the frame is for ([`META_GROUP`] where none applies).

use crate::codec::{self, CodecError, Decode, Encode};
use bytes::{Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The Raft group of brokers, topics and configs.
pub const META_GROUP: u8 = 0;
/// The Raft group of committed consumer offsets.
pub const OFFSETS_GROUP: u8 = 1;

/// What a broker or operator sends: a [`crate::message::Request`].
pub const KIND_REQUEST: u8 = 1;
/// A [`crate::message::Response`].
pub const KIND_RESPONSE: u8 = 2;
/// A [`crate::message::MetadataUpdate`].
pub const KIND_UPDATE: u8 = 3;
/// Kinds from here on are spoken among controllers only.
pub const KIND_PEER_FIRST: u8 = 16;

/// The longest answer or update: a whole metadata image must fit.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// The longest request that a controller reads.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;

const HEADER_BYTES: usize = 10;
/// The most that the buffer grows before the bytes for it have arrived.
const READ_BYTES_MAX: usize = 256 << 10;
/// Enough for several small frames in one read.
const READ_BYTES_MIN: usize = 4 << 10;

const _: () = assert!(REQUEST_BYTES_MAX <= FRAME_BYTES_MAX, "a request is a frame");

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub group: u8,
    pub body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side closed between two frames.
    #[error("the connection was closed")]
    Closed,
    #[error("a frame of {length} bytes, outside 2..={limit}")]
    Length { length: usize, limit: usize },
    #[error("a frame's checksum does not match")]
    Checksum,
    #[error("an unexpected frame of kind {0}")]
    Kind(u8),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl Frame {
    /// Decodes the body, if the frame is of the kind expected.
    pub fn body<T: Decode>(&self, kind: u8) -> Result<T, FrameError> {
        if self.kind != kind {
            return Err(FrameError::Kind(self.kind));
        }
        Ok(codec::decode(&self.body)?)
    }
}

/// The whole frame as bytes, ready to be written.
pub fn encode<T: Encode>(kind: u8, group: u8, body: &T) -> Vec<u8> {
    finish(codec::encode_after(header(kind, group), body))
}

/// A frame around bytes that need no encoding.
pub fn encode_raw(kind: u8, group: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, group);
    bytes.extend_from_slice(body);
    finish(bytes)
}

pub async fn write<W, T>(writer: &mut W, kind: u8, group: u8, body: &T) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
    T: Encode,
{
    writer.write_all(&encode(kind, group, body)).await
}

/// Cuts a byte stream into frames. Dropping a pending [`FrameReader::next`] loses nothing.
pub struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// `limit` bounds the counted length of each frame.
    pub fn new(reader: R, limit: usize) -> Self {
        FrameReader {
            reader,
            buffer: BytesMut::new(),
            limit,
        }
    }

    pub async fn next(&mut self) -> Result<Frame, FrameError> {
        loop {
            let missing = match split(&mut self.buffer, self.limit)? {
                Split::Frame(frame) => return Ok(frame),
                Split::Missing(bytes) => bytes,
            };
            // Memory grows as bytes arrive: a claimed length alone costs one step.
            self.buffer
                .reserve(missing.clamp(READ_BYTES_MIN, READ_BYTES_MAX));
            if self.reader.read_buf(&mut self.buffer).await? > 0 {
                continue;
            }
            // A close between two frames is an ordinary end; inside one it is a cut.
            return Err(match self.buffer.is_empty() {
                true => FrameError::Closed,
                false => FrameError::Io(io::ErrorKind::UnexpectedEof.into()),
            });
        }
    }

    /// Once the other side has said who it is, it may be allowed longer frames.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub fn get_mut(&mut self) -> &mut R {
        &mut self.reader
    }
}

enum Split {
    Frame(Frame),
    /// At least so many more bytes are needed.
    Missing(usize),
}

fn split(buffer: &mut BytesMut, limit: usize) -> Result<Split, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(Split::Missing(HEADER_BYTES - buffer.len()));
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3, kind, group] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length < 2 || length > limit {
        return Err(FrameError::Length { length, limit });
    }
    let frame_bytes = length + 8;
    if buffer.len() < frame_bytes {
        return Ok(Split::Missing(frame_bytes - buffer.len()));
    }
    let counted = buffer.split_to(frame_bytes).split_off(8).freeze();
    if crc32c::crc32c(&counted) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(FrameError::Checksum);
    }
    let body = counted.slice(2..);
    Ok(Split::Frame(Frame { kind, group, body }))
}

fn header(kind: u8, group: u8) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[8] = kind;
    bytes[9] = group;
    bytes
}

fn finish(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len() - 8).expect("bodies are far below 4 GiB");
    let checksum = crc32c::crc32c(&bytes[8..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Request;

    async fn read_bytes(bytes: &[u8]) -> Result<Frame, FrameError> {
        FrameReader::new(bytes, 1 << 20).next().await
    }

    #[tokio::test]
    async fn a_frame_survives_the_round_trip() {
        let bytes = encode(KIND_REQUEST, OFFSETS_GROUP, &Request::Status);
        let frame = read_bytes(&bytes).await.unwrap();
        assert_eq!((frame.kind, frame.group), (KIND_REQUEST, OFFSETS_GROUP));
        assert_eq!(
            frame.body::<Request>(KIND_REQUEST).unwrap(),
            Request::Status
        );
    }

    #[tokio::test]
    async fn frames_that_arrive_in_pieces_come_out_whole() {
        let (mut sender, receiver) = tokio::io::duplex(3);
        let sent = [encode_raw(1, 0, b""), encode_raw(2, 1, &[5; 1000])].concat();
        tokio::spawn(async move { sender.write_all(&sent).await });
        let mut reader = FrameReader::new(receiver, 1 << 20);
        assert_eq!(reader.next().await.unwrap().body.len(), 0);
        assert_eq!(reader.next().await.unwrap().body[..], [5; 1000]);
        assert!(matches!(reader.next().await, Err(FrameError::Closed)));
    }

    #[tokio::test]
    async fn bad_lengths_are_refused_before_any_body_is_read() {
        for length in [0u32, 1, (1 << 20) + 1, u32::MAX] {
            let mut bytes = encode_raw(1, 0, &[0; 40]);
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            let error = read_bytes(&bytes).await.unwrap_err();
            assert!(
                matches!(error, FrameError::Length { .. }),
                "{length}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn any_changed_byte_is_noticed() {
        let good = encode_raw(1, 0, b"body");
        for position in 0..good.len() {
            let mut bytes = good.clone();
            bytes[position] ^= 0x40;
            assert!(read_bytes(&bytes).await.is_err(), "byte {position}");
        }
    }

    #[tokio::test]
    async fn a_cut_is_told_from_a_close() {
        let good = encode_raw(1, 0, b"body");
        assert!(matches!(read_bytes(&[]).await, Err(FrameError::Closed)));
        for end in 1..good.len() {
            let error = read_bytes(&good[..end]).await.unwrap_err();
            assert!(matches!(error, FrameError::Io(_)), "cut at {end}: {error}");
        }
    }
}
