//! The frames of one connection. A frame that came in few pieces stays where it was received; one in many pieces is gathered in a buffer,
//! straight from the socket, so that no connection holds more than a few of the ring's receive buffers.

use std::collections::VecDeque;
use std::io;

use anyhow::{Context, Result, bail, ensure};
use ring::memory::{Buffer, Slice};
use ring::{Ring, Socket};

use super::{HEADER_BYTES, PAYLOAD_BYTES_MAX, parse_header};

/// Receive buffers that one connection holds at most while it waits for the rest of a frame, the one being used up included.
pub(super) const PIECES_HELD_MAX: usize = 4;

pub(super) struct Incoming {
    ring: Ring,
    socket: Socket,
    /// Received and not used yet, none of them empty.
    pieces: VecDeque<Slice>,
    bytes: usize,
    /// Made for the first frame that needs it.
    gathered: Option<Buffer>,
}

impl Incoming {
    pub(super) fn new(ring: Ring, socket: Socket) -> Self {
        Self {
            ring,
            socket,
            pieces: VecDeque::new(),
            bytes: 0,
            gathered: None,
        }
    }

    /// Puts the next frame, header and payload, into `frame`. False at the end of the stream.
    pub(super) async fn next(&mut self, frame: &mut Vec<Slice>) -> Result<bool> {
        frame.clear();
        if !self.hold(HEADER_BYTES).await? {
            ensure!(self.bytes == 0, "a header did not come whole");
            return Ok(false);
        }
        let (payload_bytes, crc) = parse_header(self.peek_header());
        ensure!(
            payload_bytes <= PAYLOAD_BYTES_MAX,
            "a frame of {payload_bytes} bytes"
        );
        let frame_bytes = HEADER_BYTES + payload_bytes;
        if self.hold(frame_bytes).await? {
            self.take(frame_bytes, frame);
        } else {
            frame.push(self.gather(frame_bytes).await?);
        }
        ensure!(payload_crc(frame) == crc, "a frame with a wrong CRC");
        Ok(true)
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

    async fn gather(&mut self, bytes: usize) -> Result<Slice> {
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
        let missing = bytes - self.bytes;
        for piece in self.pieces.drain(..) {
            buffer.extend_from_slice(&piece);
        }
        self.bytes = 0;
        let (received, buffer) = self.ring.receive_into(&self.socket, buffer, missing).await;
        if received? < missing {
            bail!("the stream ended inside a frame");
        }
        let frame = buffer.slice(0..bytes);
        self.gathered = Some(buffer);
        Ok(frame)
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
