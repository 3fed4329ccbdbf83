//! An outgoing message: bytes encoded by the sender and shared slices, in order, with what the kernel needs to gather them.

use std::ops::Range;
use std::ptr;

use io_uring::{opcode, squeue, types};

use crate::memory::Slice;

/// Pieces per system call; Linux's IOV_MAX.
const PIECES_PER_SEND_MAX: usize = 1024;

/// Pieces of a message, built by the sender, then owned by the operation until the kernel has taken all of them.
pub struct Outgoing {
    inline: Vec<u8>,
    pieces: Vec<Piece>,
    /// The first piece that is not wholly sent, and how much of it is.
    at: usize,
    at_sent: usize,
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
}

enum Piece {
    Inline(Range<usize>),
    Shared(Slice),
}

impl Outgoing {
    /// Appends a range of the inline bytes.
    pub fn push_inline(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end, "an inline piece is not reversed");
        assert!(
            range.end <= self.inline.len(),
            "an inline piece lies inside the inline bytes"
        );
        if !range.is_empty() {
            self.pieces.push(Piece::Inline(range));
        }
    }

    /// Appends shared bytes, which stay alive until they are sent.
    pub fn push_shared(&mut self, slice: Slice) {
        if !slice.is_empty() {
            self.pieces.push(Piece::Shared(slice));
        }
    }

    pub(crate) fn new() -> Outgoing {
        let header = libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        Outgoing {
            inline: Vec::new(),
            pieces: Vec::new(),
            at: 0,
            at_sent: 0,
            vectors: Vec::new(),
            header,
        }
    }

    /// Starts over with these inline bytes and no pieces.
    pub(crate) fn start(&mut self, inline: Vec<u8>) {
        self.pieces.clear();
        self.inline = inline;
        self.at = 0;
        self.at_sent = 0;
    }

    /// Drops the shared pieces and gives the inline bytes back.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.pieces.clear();
        self.vectors.clear();
        std::mem::take(&mut self.inline)
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.at == self.pieces.len()
    }

    /// Counts bytes that the kernel has taken.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.at_sent += bytes;
        while let Some(piece) = self.pieces.get(self.at) {
            let piece_bytes = self.bytes(piece).len();
            if self.at_sent < piece_bytes {
                return;
            }
            self.at_sent -= piece_bytes;
            self.at += 1;
        }
        assert!(
            self.at_sent == 0,
            "the kernel does not send more than it was given"
        );
    }

    /// The submission for what is left. Its pointers lead into `self`, which must stay where it is until the completion.
    pub(crate) fn entry(&mut self, socket: types::Fd) -> squeue::Entry {
        let mut vectors = std::mem::take(&mut self.vectors);
        vectors.clear();
        let mut skip = self.at_sent;
        for piece in self.pieces[self.at..].iter().take(PIECES_PER_SEND_MAX) {
            let bytes = &self.bytes(piece)[skip..];
            vectors.push(libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            });
            skip = 0;
        }
        self.vectors = vectors;
        // With MSG_WAITALL the kernel itself goes on after a short send, which saves a turn.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        if let [only] = self.vectors[..]
            && let Ok(bytes) = u32::try_from(only.iov_len)
        {
            return opcode::Send::new(socket, only.iov_base.cast(), bytes)
                .flags(flags)
                .build();
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len() as _;
        opcode::SendMsg::new(socket, &self.header)
            .flags(flags as u32)
            .build()
    }

    fn bytes<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        match piece {
            Piece::Inline(range) => &self.inline[range.clone()],
            Piece::Shared(slice) => slice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buffer;

    #[test]
    fn a_short_send_goes_on_in_the_middle_of_a_piece() {
        let mut buffer = Buffer::allocate(10).unwrap();
        buffer.extend_from_slice(b"shared");
        let mut message = Outgoing::new();
        message.start(b"headtail".to_vec());
        message.push_inline(0..4);
        message.push_shared(buffer.slice(0..6));
        message.push_shared(Slice::default());
        message.push_inline(4..8);
        message.entry(types::Fd(-1));
        assert_eq!(message.vectors.len(), 3, "an empty piece is left out");
        message.advance(6);
        message.entry(types::Fd(-1));
        assert_eq!(
            message
                .vectors
                .iter()
                .map(|vector| vector.iov_len)
                .collect::<Vec<_>>(),
            [4, 4]
        );
        assert!(!message.is_sent());
        message.advance(4);
        message.advance(4);
        assert!(message.is_sent());
        assert_eq!(message.finish(), b"headtail");
    }

    #[test]
    fn a_message_of_very_many_pieces_goes_in_several_calls() {
        let mut message = Outgoing::new();
        message.start(vec![0; PIECES_PER_SEND_MAX + 5]);
        for place in 0..PIECES_PER_SEND_MAX + 5 {
            message.push_inline(place..place + 1);
        }
        message.entry(types::Fd(-1));
        assert_eq!(message.vectors.len(), PIECES_PER_SEND_MAX);
        message.advance(PIECES_PER_SEND_MAX);
        message.entry(types::Fd(-1));
        assert_eq!(message.vectors.len(), 5);
    }
}
