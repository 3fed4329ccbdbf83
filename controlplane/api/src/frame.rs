//! One frame on a control connection, whichever of its users it carries: brokers, operators, Raft peers.
//!
//! ```text
//!  0        4        8      9       10
//!  | length | crc32c | kind | group | body ...
//!           |<- not counted by length
//! ```
//! Integers are little-endian. `length` counts kind, group and body; the checksum covers the same bytes. `group` is the
//! Raft group that the frame is for ([`META_GROUP`] where none applies).

use crate::codec::{self, CodecError, Format};
use crate::handshake::HandshakeError;
use crate::level::Level;
use bytes::{Bytes, BytesMut};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

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
/// A frame of so many bytes is not counted against [`FrameMemory`]: the number of connections bounds what such frames take.
pub const FREE_BYTES: usize = 16 << 10;

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
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// Inside one frame: it did not come whole in time, or there was no memory for it.
    #[error("a frame took too long")]
    Late,
}

impl Frame {
    /// Decodes the body, if the frame is of the kind expected.
    pub fn body<T: Format>(&self, kind: u8) -> Result<T, FrameError> {
        if self.kind != kind {
            return Err(FrameError::Kind(self.kind));
        }
        Ok(codec::decode(&self.body)?)
    }
}

/// The whole frame as bytes, ready to be written, in the form that it has at this level.
pub fn encode<T: Format>(level: Level, kind: u8, group: u8, body: &T) -> Vec<u8> {
    finish(body.write(level, header(kind, group)))
}

/// A frame around bytes that need no encoding.
pub fn encode_raw(kind: u8, group: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, group);
    bytes.extend_from_slice(body);
    finish(bytes)
}

pub async fn write<W, T>(
    writer: &mut W,
    level: Level,
    kind: u8,
    group: u8,
    body: &T,
) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
    T: Format,
{
    send(writer, &encode(level, kind, group, body)).await
}

/// All of the bytes, and none is left in a buffer of the stream's.
pub async fn send<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// Memory for the frames of many connections together. A frame that is longer than [`FREE_BYTES`] waits for its share before any of
/// its body is read, and gives it back when the next frame is asked for.
#[derive(Clone)]
pub struct FrameMemory {
    kibibytes: Arc<Semaphore>,
    /// How long a frame that has begun may take to come whole, the wait for memory included.
    time: Duration,
}

impl FrameMemory {
    /// `bytes` must be enough for the longest frame that any of the connections takes.
    pub fn new(bytes: usize, time: Duration) -> Self {
        FrameMemory {
            kibibytes: Arc::new(Semaphore::new(bytes >> 10)),
            time,
        }
    }

    async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let kibibytes = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let share = self.kibibytes.clone().acquire_many_owned(kibibytes);
        share.await.expect("the semaphore is never closed")
    }
}

/// Cuts a byte stream into frames. Dropping a pending [`ControlFrameReader::next`] loses nothing.
pub struct ControlFrameReader<R> {
    reader: R,
    buffer: BytesMut,
    limit: usize,
    memory: Option<FrameMemory>,
    begun: Option<Begun>,
    /// The share of the frame that was given out last.
    given: Option<OwnedSemaphorePermit>,
}

/// A frame of which a part is here.
struct Begun {
    until: Instant,
    share: Option<OwnedSemaphorePermit>,
}

impl<R: AsyncRead + Unpin> ControlFrameReader<R> {
    /// `limit` bounds the counted length of each frame.
    pub fn new(reader: R, limit: usize) -> Self {
        ControlFrameReader {
            reader,
            buffer: BytesMut::new(),
            limit,
            memory: None,
            begun: None,
            given: None,
        }
    }

    /// For a reader of bytes that others share their memory with.
    pub fn within(reader: R, limit: usize, memory: FrameMemory) -> Self {
        ControlFrameReader {
            memory: Some(memory),
            ..ControlFrameReader::new(reader, limit)
        }
    }

    pub async fn next(&mut self) -> Result<Frame, FrameError> {
        self.given = None;
        loop {
            let missing = match split(&mut self.buffer, self.limit)? {
                Split::Frame(frame) => {
                    self.given = self.begun.take().and_then(|begun| begun.share);
                    if frame.body.len() > FREE_BYTES {
                        // What is left is a part of the frame's memory, which would stay taken for as long.
                        self.buffer = BytesMut::from(&self.buffer[..]);
                    }
                    return Ok(frame);
                }
                Split::Missing(bytes) => bytes,
            };
            // Memory grows as bytes arrive: a claimed length alone costs one step.
            let wanted = missing.clamp(READ_BYTES_MIN, READ_BYTES_MAX);
            let read = match &self.memory {
                Some(memory) if !self.buffer.is_empty() => {
                    let begun = self.begun.get_or_insert_with(|| Begun {
                        until: Instant::now() + memory.time,
                        share: None,
                    });
                    let until = begun.until;
                    let total = self.buffer.len() + missing;
                    let reading = async {
                        if total > FREE_BYTES && begun.share.is_none() {
                            begun.share = Some(memory.take(total).await);
                        }
                        self.buffer.reserve(wanted);
                        self.reader.read_buf(&mut self.buffer).await
                    };
                    timeout_at(until, reading)
                        .await
                        .map_err(|_| FrameError::Late)??
                }
                _ => {
                    self.buffer.reserve(wanted);
                    self.reader.read_buf(&mut self.buffer).await?
                }
            };
            if read > 0 {
                continue;
            }
            // A close between two frames is an ordinary end; inside one it is a cut.
            return Err(match self.buffer.is_empty() {
                true => FrameError::Closed,
                false => FrameError::Io(io::ErrorKind::UnexpectedEof.into()),
            });
        }
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
        ControlFrameReader::new(bytes, 1 << 20).next().await
    }

    #[tokio::test]
    async fn a_frame_survives_the_round_trip() {
        let bytes = encode(Level::FIRST, KIND_REQUEST, OFFSETS_GROUP, &Request::Status);
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
        let mut reader = ControlFrameReader::new(receiver, 1 << 20);
        assert_eq!(reader.next().await.unwrap().body.len(), 0);
        assert_eq!(reader.next().await.unwrap().body[..], [5; 1000]);
        assert!(matches!(reader.next().await, Err(FrameError::Closed)));
    }

    fn memory() -> FrameMemory {
        FrameMemory::new(1 << 20, Duration::from_millis(100))
    }

    #[tokio::test]
    async fn frames_of_many_connections_share_one_memory() {
        let memory = memory();
        let long = encode_raw(1, 0, &[5; 600 << 10]);
        let mut first = ControlFrameReader::within(&*long, 1 << 20, memory.clone());
        assert_eq!(first.next().await.unwrap().body.len(), 600 << 10);
        // The first frame's share is still taken, so the second gets none; a small one needs none.
        let mut second = ControlFrameReader::within(&*long, 1 << 20, memory.clone());
        assert!(matches!(second.next().await, Err(FrameError::Late)));
        let small = encode_raw(1, 0, &[5; 9 << 10]);
        let mut third = ControlFrameReader::within(&*small, 1 << 20, memory.clone());
        assert!(third.next().await.is_ok());
        assert!(matches!(first.next().await, Err(FrameError::Closed)));
        let mut fourth = ControlFrameReader::within(&*long, 1 << 20, memory);
        assert!(fourth.next().await.is_ok());
    }

    #[tokio::test]
    async fn a_frame_that_has_begun_must_come_whole_in_time() {
        let (mut sender, receiver) = tokio::io::duplex(64);
        let frame = encode_raw(1, 0, &[5; 600 << 10]);
        sender.write_all(&frame[..40]).await.unwrap();
        let memory = memory();
        let mut reader = ControlFrameReader::within(receiver, 1 << 20, memory.clone());
        // Asked for again and again, it is no younger.
        let mut late = false;
        for _ in 0..50 {
            let next = tokio::time::timeout(Duration::from_millis(20), reader.next());
            late = late || matches!(next.await, Ok(Err(FrameError::Late)));
        }
        assert!(late);
        drop(reader);
        assert_eq!(
            memory.kibibytes.available_permits(),
            1 << 10,
            "its share is given back"
        );
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
