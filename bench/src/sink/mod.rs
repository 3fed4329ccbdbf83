//! `sink` and `sink-load`: the ceiling from a socket to the disk. A server on the broker's own reactor that does nothing but what no broker can
//! leave out, and the client that loads it.
//!
//! ```text
//! server       arguments and what both modes share       load       the client: sends frames
//!   store      from sockets to the disk                  receive    the client of `send`
//!     incoming   log
//!   send       from memory to sockets
//! ```
//!
//! ```text
//! frame  = payload length u32 | CRC-32C of the payload u32 | payload      little endian
//! answer = frames of this connection that are stored so far u64
//!
//! In the mode `send`
//! request = bytes wanted u64
//! answer  = so many bytes
//! ```

mod answers;
mod incoming;
pub mod load;
mod log;
mod receive;
mod send;
pub mod server;
mod signal;
mod store;

const HEADER_BYTES: usize = 8;
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
const ANSWER_BYTES: usize = 8;
const REQUEST_BYTES: usize = 8;
/// What one request may ask for in the mode `send`.
const SENT_BYTES_MAX: usize = 4 << 20;
/// Unbuffered writes are made of whole blocks.
const BLOCK_BYTES: usize = 4096;
/// Frames of one connection that may wait for their answer.
const UNANSWERED_MAX: usize = 1 << 16;

/// The length and the CRC that a frame starts with.
fn parse_header(bytes: [u8; HEADER_BYTES]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = bytes;
    (
        u32::from_le_bytes([a, b, c, d]) as usize,
        u32::from_le_bytes([e, f, g, h]),
    )
}

fn header(payload: &[u8]) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = (payload.len() as u32).to_le_bytes();
    let [e, f, g, h] = crc32c::crc32c(payload).to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Bytes that are not all alike.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 31 / 8) as u8).collect()
}
