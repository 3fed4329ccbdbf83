//! Encoding straight into a connection's send buffer. Handlers and clients encode messages through it.
//!
//! Record bytes that the sender already holds elsewhere are not copied in: their length is written and a [`Splice`] notes where they
//! belong, so that the connection sends `[bytes | records | bytes | ...]` with one gathering send.

use thiserror::Error;

use crate::turns;

/// What is written of a long message before other tasks have their turn.
const BYTES_PER_TURN: usize = 32 * 1024;

/// Why a message cannot be written. The fault is always our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A version outside the range in the API table.
    #[error("version {0} is not supported")]
    UnsupportedVersion(i16),
    /// A field that this version does not carry, set to something that must not be dropped.
    #[error("`{0}` is set, but this version cannot carry it")]
    FieldNotCarried(&'static str),
    /// Null where the message's version has no null.
    #[error("null in `{0}`, which is not nullable in this version")]
    UnexpectedNull(&'static str),
    /// A string, an array or a frame longer than its length field can say.
    #[error("a length of {0} does not fit its field")]
    TooLong(usize),
}

/// Bytes that belong into the encoded message but are sent from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splice {
    /// Position in the send buffer before which the bytes belong.
    pub position: usize,
    pub len: usize,
}

/// Writes to the end of a send buffer.
#[derive(Debug)]
pub struct Writer<'b> {
    bytes: &'b mut Vec<u8>,
    splices: Vec<Splice>,
    spliced_bytes: usize,
    /// Where the task has had its turn.
    turn_ends: usize,
}

/// The place of a length prefix that [`Writer::end_frame`] fills in.
#[derive(Debug)]
#[must_use]
pub struct FrameStart {
    position: usize,
    spliced_bytes: usize,
}

impl<'b> Writer<'b> {
    pub fn new(bytes: &'b mut Vec<u8>) -> Self {
        Self::with_splices(bytes, Vec::new())
    }

    /// As `new`, with the emptied splice list of an earlier response, so that nothing is allocated.
    pub fn with_splices(bytes: &'b mut Vec<u8>, mut splices: Vec<Splice>) -> Self {
        splices.clear();
        Self {
            turn_ends: bytes.len() + BYTES_PER_TURN,
            bytes,
            splices,
            spliced_bytes: 0,
        }
    }

    /// Where external records belong, in order of position.
    pub fn into_splices(self) -> Vec<Splice> {
        self.splices
    }

    /// Bytes that lie before the next one, counting those that were in the buffer before, not counting spliced ones.
    pub fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Leaves room for a frame's length prefix.
    pub fn start_frame(&mut self) -> FrameStart {
        let start = FrameStart {
            position: self.bytes.len(),
            spliced_bytes: self.spliced_bytes,
        };
        self.write(&[0; 4]);
        start
    }

    /// Fills in the length prefix, which counts everything after it, spliced bytes too.
    pub fn end_frame(&mut self, start: FrameStart) -> Result<(), EncodeError> {
        let own_bytes = self.bytes.len() - start.position - 4;
        let len = own_bytes + (self.spliced_bytes - start.spliced_bytes);
        let prefix = i32::try_from(len).map_err(|_| EncodeError::TooLong(len))?;
        self.bytes[start.position..start.position + 4].copy_from_slice(&prefix.to_be_bytes());
        Ok(())
    }

    /// Lets other tasks run if this one has written much since they last did.
    #[inline]
    pub(crate) async fn give_way(&mut self) {
        if self.bytes.len() < self.turn_ends {
            return;
        }
        self.turn_ends = self.bytes.len() + BYTES_PER_TURN;
        turns::give_way().await;
    }

    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    #[inline]
    pub fn write_i16(&mut self, value: i16) {
        self.write(&value.to_be_bytes());
    }

    #[inline]
    pub fn write_i32(&mut self, value: i32) {
        self.write(&value.to_be_bytes());
    }

    /// Seven bits a byte, lowest first, the high bit set on all but the last.
    #[inline]
    pub fn write_unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub(crate) fn write_external(&mut self, len: usize) {
        if len > 0 {
            self.splices.push(Splice {
                position: self.bytes.len(),
                len,
            });
            self.spliced_bytes += len;
        }
    }

    /// Writes what `content` writes behind its length in bytes, as a tagged field has it.
    pub(crate) fn write_sized(
        &mut self,
        content: impl FnOnce(&mut Self) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let start = self.bytes.len();
        let splices = self.splices.len();
        content(self)?;
        assert!(
            self.splices.len() == splices,
            "records never lie in a tagged field"
        );
        let len = self.bytes.len() - start;
        let size = u32::try_from(len).map_err(|_| EncodeError::TooLong(len))?;
        self.write_unsigned_varint(size);
        // The size was written last because it was not known; move it to the front.
        self.bytes[start..].rotate_left(len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn a_frame_counts_its_spliced_bytes_and_no_earlier_ones() {
        let mut bytes = vec![9, 9];
        let mut writer = Writer::new(&mut bytes);
        writer.write_external(1000);
        let start = writer.start_frame();
        writer.write_i16(7);
        writer.write_external(70_000);
        writer.write_i16(8);
        writer.end_frame(start).unwrap();
        let splices = writer.into_splices();
        assert_eq!(
            splices,
            [
                Splice {
                    position: 2,
                    len: 1000
                },
                Splice {
                    position: 8,
                    len: 70_000
                }
            ]
        );
        assert_eq!(bytes[2..6], 70_004_i32.to_be_bytes());
    }

    #[test]
    fn a_long_message_is_written_in_turns() {
        let topics = vec![crate::messages::metadata::MetadataResponseTopic::default(); 50_000];
        let response = crate::messages::MetadataResponse {
            topics: (&topics).into(),
            ..Default::default()
        };
        let (mut at_once, mut in_turns) = (Vec::new(), Vec::new());
        response.encode(&mut Writer::new(&mut at_once), 12).unwrap();
        let mut turns = 1;
        {
            let mut writer = Writer::new(&mut in_turns);
            let mut encoding = pin!(response.encode_in_turns(&mut writer, 12));
            let context = &mut Context::from_waker(Waker::noop());
            while encoding.as_mut().poll(context).is_pending() {
                turns += 1;
            }
        }
        assert_eq!(in_turns, at_once);
        assert!(turns > at_once.len() / BYTES_PER_TURN / 2, "{turns} turns");
    }

    #[test]
    fn a_size_of_any_width_stands_before_its_content() {
        for len in [0, 1, 127, 128, 20_000] {
            let mut bytes = vec![1];
            let mut writer = Writer::new(&mut bytes);
            writer
                .write_sized(|writer| {
                    writer.write(&vec![5; len]);
                    Ok(())
                })
                .unwrap();
            let mut expected = vec![1];
            Writer::new(&mut expected).write_unsigned_varint(len as u32);
            expected.resize(expected.len() + len, 5);
            assert_eq!(bytes, expected);
        }
    }
}
