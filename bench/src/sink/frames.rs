//! The frames of one connection of a twin, cut from a buffer of its own: neither runtime lends out its receive buffers, so both receive
//! straight into this one, and a frame is copied once, from here into its log.

use std::mem;
use std::ops::Range;

use anyhow::{Result, ensure};

use super::{HEADER_BYTES, PAYLOAD_BYTES_MAX, parse_header};

/// Room for several frames of 64 KiB, so that little of a frame has to be moved when the end of the buffer is reached.
const BUFFER_BYTES: usize = 256 << 10;

pub(super) struct Frames {
    buffer: Box<[u8]>,
    /// What was received and not taken yet.
    held: Range<usize>,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            held: 0..0,
        }
    }

    /// The next whole frame, header and payload, if it is here.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>> {
        let held = self.held.clone();
        let Some(frame_bytes) = self.frame_bytes()?.filter(|bytes| *bytes <= held.len()) else {
            return Ok(None);
        };
        self.held.start += frame_bytes;
        let frame = &self.buffer[held.start..self.held.start];
        let (header, payload) = frame.split_at(HEADER_BYTES);
        let (_, crc) = parse_header(header.try_into()?);
        ensure!(crc32c::crc32c(payload) == crc, "a frame with a wrong CRC");
        Ok(Some(frame))
    }

    /// Lends the buffer and the part of it to receive into. Until it is given back no frame is here.
    pub(super) fn lend(&mut self) -> Result<(Box<[u8]>, Range<usize>)> {
        let frame_bytes = self.frame_bytes()?.unwrap_or(HEADER_BYTES);
        if frame_bytes > self.buffer.len() {
            let mut larger = vec![0; frame_bytes].into_boxed_slice();
            larger[..self.held.len()].copy_from_slice(&self.buffer[self.held.clone()]);
            self.buffer = larger;
            self.held = 0..self.held.len();
        } else if self.held.is_empty() || self.held.start + frame_bytes > self.buffer.len() {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        // Behind a large frame nothing is received that would have to be moved.
        let end = if frame_bytes > BUFFER_BYTES {
            self.held.start + frame_bytes
        } else {
            self.buffer.len()
        };
        Ok((mem::take(&mut self.buffer), self.held.end..end))
    }

    /// Gives the buffer back with so many bytes received. False at the end of the stream.
    pub(super) fn received(&mut self, buffer: Box<[u8]>, bytes: usize) -> Result<bool> {
        self.buffer = buffer;
        self.held.end += bytes;
        ensure!(
            bytes > 0 || self.held.is_empty(),
            "the stream ended inside a frame"
        );
        Ok(bytes > 0)
    }

    /// Of the first frame that is held, once its header is.
    fn frame_bytes(&self) -> Result<Option<usize>> {
        let Some(header) = self.buffer[self.held.clone()].first_chunk() else {
            return Ok(None);
        };
        let (payload_bytes, _) = parse_header(*header);
        ensure!(
            payload_bytes <= PAYLOAD_BYTES_MAX,
            "a frame of {payload_bytes} bytes"
        );
        Ok(Some(HEADER_BYTES + payload_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::header;

    /// Feeds a stream in parts of at most `part_bytes` and collects its frames.
    fn cut(mut stream: &[u8], part_bytes: usize) -> Result<Vec<Vec<u8>>> {
        let (mut frames, mut found) = (Frames::new(), Vec::new());
        loop {
            while let Some(frame) = frames.next()? {
                found.push(frame.to_vec());
            }
            let (mut buffer, room) = frames.lend()?;
            let bytes = part_bytes.min(room.len()).min(stream.len());
            buffer[room.start..room.start + bytes].copy_from_slice(&stream[..bytes]);
            stream = &stream[bytes..];
            if !frames.received(buffer, bytes)? {
                return Ok(found);
            }
        }
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        [&header(payload)[..], payload].concat()
    }

    #[test]
    fn frames_of_all_sizes_come_out_as_they_went_in() {
        let sizes = [1, 700, 70_000, 100_000, PAYLOAD_BYTES_MAX, 3, 250_000, 0];
        let sent: Vec<Vec<u8>> = sizes.iter().map(|bytes| frame(&vec![7; *bytes])).collect();
        for part_bytes in [1 << 20, 65_536, 4_999] {
            assert_eq!(cut(&sent.concat(), part_bytes).unwrap(), sent);
        }
    }

    #[test]
    fn a_damaged_cut_or_too_large_frame_is_an_error() {
        let mut damaged = frame(b"payload");
        *damaged.last_mut().unwrap() ^= 1;
        assert!(cut(&damaged, 100).is_err());
        assert!(cut(&frame(b"payload")[..12], 100).is_err());
        assert!(cut(&[0xff; 8], 100).is_err());
    }
}
