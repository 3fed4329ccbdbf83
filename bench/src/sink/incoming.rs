//! The frames of one connection. A frame that came in few pieces stays where it was received; one in many pieces is gathered in a buffer,
//! straight from the socket, so that no connection holds more than a few of the ring's receive buffers. Behind a gathered frame another one
//! is expected: going back to receive buffers for its first bytes would cost a cancelled receive and a second copy of what came in.

use std::collections::VecDeque;
use std::io;

use anyhow::{Context, Result, bail, ensure};
use ring::memory::{Buffer, Slice};
use ring::{Ring, Socket};

use super::{HEADER_BYTES, PAYLOAD_BYTES_MAX, parse_header};

/// Receive buffers that one connection holds at most while it waits for the rest of a frame, the one being used up included.
pub(super) const PIECES_HELD_MAX: usize = 4;

/// A frame of at least so many bytes of payload is not likely to fit in as many receive buffers.
const GATHERED_BYTES_MIN: usize = 128 << 10;

pub(super) struct Incoming {
    ring: Ring,
    socket: Socket,
    /// Received and not used yet, none of them empty.
    pieces: VecDeque<Slice>,
    /// Bytes of the first piece that `next_whole` has used.
    used: usize,
    /// Not used yet.
    bytes: usize,
    /// Made for the first frame that needs it.
    gathered: Option<Buffer>,
    /// The last frame was gathered and nothing is held, so the next one can be received where that lay.
    gathers: bool,
}

impl Incoming {
    pub(super) fn new(ring: Ring, socket: Socket) -> Self {
        Self {
            ring,
            socket,
            pieces: VecDeque::new(),
            used: 0,
            bytes: 0,
            gathered: None,
            gathers: false,
        }
    }

    /// The next frame, header and payload, if it lies whole in the first piece, as nearly all small ones do.
    pub(super) fn next_whole(&mut self) -> Result<Option<&[u8]>> {
        let Some(piece) = self.pieces.front() else {
            return Ok(None);
        };
        let held = &piece[self.used..];
        let Some(header) = held.first_chunk() else {
            return Ok(None);
        };
        let (payload_bytes, crc) = parse_header(*header);
        let Some(payload) = held[HEADER_BYTES..].get(..payload_bytes) else {
            return Ok(None);
        };
        ensure!(crc32c::crc32c(payload) == crc, "a frame with a wrong CRC");
        let frame = &held[..HEADER_BYTES + payload_bytes];
        self.used += frame.len();
        self.bytes -= frame.len();
        Ok(Some(frame))
    }

    /// Puts the next frame, wherever it lies, into `frame`. False at the end of the stream.
    pub(super) async fn next(&mut self, frame: &mut Vec<Slice>) -> Result<bool> {
        frame.clear();
        self.drop_used();
        let header = if self.gathers {
            self.gather_header().await?
        } else if self.hold(HEADER_BYTES).await? {
            Some(self.peek_header())
        } else {
            ensure!(self.bytes == 0, "a header did not come whole");
            None
        };
        let Some(header) = header else {
            return Ok(false);
        };
        let (payload_bytes, crc) = parse_header(header);
        ensure!(
            payload_bytes <= PAYLOAD_BYTES_MAX,
            "a frame of {payload_bytes} bytes"
        );
        let frame_bytes = HEADER_BYTES + payload_bytes;
        if !self.gathers && self.hold(frame_bytes).await? {
            self.take(frame_bytes, frame);
        } else {
            frame.push(self.gather(frame_bytes).await?);
            self.gathers = payload_bytes >= GATHERED_BYTES_MIN;
        }
        ensure!(payload_crc(frame) == crc, "a frame with a wrong CRC");
        Ok(true)
    }

    fn drop_used(&mut self) {
        let used = std::mem::take(&mut self.used);
        let Some(first) = self.pieces.front_mut() else {
            return;
        };
        if used == first.len() {
            self.pieces.pop_front();
        } else {
            *first = first.slice(used..first.len());
        }
    }

    /// Receives until `bytes` bytes are held. False if they would take too many pieces, or if the stream ends before.
    async fn hold(&mut self, bytes: usize) -> io::Result<bool> {
        while self.bytes < bytes && self.pieces.len() < PIECES_HELD_MAX {
            let piece = self.ring.receive(&self.socket).await?;
            if piece.is_empty() {
                break;
            }
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
        Ok(self.bytes >= bytes)
    }

    fn peek_header(&self) -> [u8; HEADER_BYTES] {
        let first = self.pieces.front().and_then(|piece| piece.first_chunk());
        if let Some(header) = first {
            return *header;
        }
        let mut header = [0; HEADER_BYTES];
        let held = self.pieces.iter().flat_map(|piece| piece.iter());
        header
            .iter_mut()
            .zip(held)
            .for_each(|(to, from)| *to = *from);
        header
    }

    fn take(&mut self, mut bytes: usize, frame: &mut Vec<Slice>) {
        self.bytes -= bytes;
        while bytes > 0 {
            let first = self.pieces.front_mut().expect("that many bytes are held");
            if first.len() <= bytes {
                bytes -= first.len();
                frame.extend(self.pieces.pop_front());
            } else {
                frame.push(first.slice(0..bytes));
                *first = first.slice(bytes..first.len());
                return;
            }
        }
    }

    /// Receives a header alone, into the buffer that its frame will be gathered in. `None` at the end of the stream.
    async fn gather_header(&mut self) -> Result<Option<[u8; HEADER_BYTES]>> {
        let buffer = self.cleared_buffer()?;
        let (received, buffer) = self
            .ring
            .receive_into(&self.socket, buffer, HEADER_BYTES)
            .await;
        let received = received?;
        ensure!(
            received == 0 || received == HEADER_BYTES,
            "a header did not come whole"
        );
        let header = buffer.as_slice().first_chunk().copied();
        self.gathered = Some(buffer);
        Ok(header)
    }

    /// Receives the rest of a frame behind what has come of it.
    async fn gather(&mut self, bytes: usize) -> Result<Slice> {
        let mut buffer = if self.gathers {
            self.gathered.take().context("a header was gathered")?
        } else {
            self.cleared_buffer()?
        };
        for piece in self.pieces.drain(..) {
            buffer.extend_from_slice(&piece);
        }
        self.bytes = 0;
        let missing = bytes - buffer.len();
        let (received, buffer) = self.ring.receive_into(&self.socket, buffer, missing).await;
        if received? < missing {
            bail!("the stream ended inside a frame");
        }
        let frame = buffer.slice(0..bytes);
        self.gathered = Some(buffer);
        Ok(frame)
    }

    fn cleared_buffer(&mut self) -> Result<Buffer> {
        let mut buffer = match self.gathered.take() {
            Some(buffer) => buffer,
            None => Buffer::allocate(HEADER_BYTES + PAYLOAD_BYTES_MAX)
                .context("no memory for a frame")?,
        };
        let cleared = buffer.clear();
        assert!(
            cleared,
            "the frame that lay here was taken over before the next one is asked for"
        );
        Ok(buffer)
    }
}

fn payload_crc(frame: &[Slice]) -> u32 {
    let mut skip = HEADER_BYTES;
    frame.iter().fold(0, |crc, piece| {
        let payload = &piece[skip.min(piece.len())..];
        skip = skip.saturating_sub(piece.len());
        crc32c::crc32c_append(crc, payload)
    })
}
