//! One log of the sink: frames are copied once into registered memory and written from there, unbuffered, into a prewritten part of a file.
//! One write is in flight at a time, as for one partition; more logs keep more in flight.
//!
//! ```text
//!         full, being written               being filled
//!   |------------------------------|---------------------------          |
//!              ^ stored: every byte before it is in the file    ^ end
//! ```
//! A block that is not full at the end is written with zeros behind its bytes, and again once more bytes have followed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;

use ring::memory::{Buffer, WriteLease};
use ring::{File, Ring};

use super::BLOCK_BYTES;
use super::signal::Signal;

/// One that is being written and one that is being filled.
pub(super) const BUFFERS_PER_LOG: usize = 2;

/// Where the bytes go, over and over from its start. Without it they are overwritten in memory.
pub(super) struct Region {
    pub(super) file: File,
    pub(super) start: u64,
    /// A multiple of a pooled buffer, so that no write wraps around.
    pub(super) bytes: u64,
    pub(super) synced: bool,
}

pub(super) struct Log {
    ring: Ring,
    region: Option<Region>,
    /// In order, never empty, at most `BUFFERS_PER_LOG`; all but the last are full.
    pieces: RefCell<VecDeque<Piece>>,
    stored: Cell<u64>,
    appended: Signal,
    pub(super) progressed: Signal,
}

/// A buffer and the position of its first byte in the log.
struct Piece {
    buffer: Buffer,
    start: u64,
}

impl Log {
    pub(super) async fn new(ring: Ring, region: Option<Region>) -> Self {
        let first = Piece {
            buffer: ring.wait_buffer().await,
            start: 0,
        };
        Self {
            ring,
            region,
            pieces: RefCell::new(VecDeque::from([first])),
            stored: Cell::new(0),
            appended: Signal::default(),
            progressed: Signal::default(),
        }
    }

    /// Every byte before this position has been stored.
    pub(super) fn stored(&self) -> u64 {
        self.stored.get()
    }

    /// Appends a frame that lies in pieces, as soon as there is room; returns the position behind it.
    pub(super) async fn append(&self, frame: &[&[u8]]) -> u64 {
        let bytes = frame.iter().map(|piece| piece.len()).sum();
        let end = self
            .progressed
            .until(|| self.try_append(frame, bytes))
            .await;
        match &self.region {
            Some(_) => self.appended.wake(),
            None => {
                self.stored.set(end);
                self.progressed.wake();
            }
        }
        end
    }

    /// `None` while there is no room for the whole frame: two frames never interleave.
    fn try_append(&self, frame: &[&[u8]], bytes: usize) -> Option<u64> {
        let mut pieces = self.pieces.borrow_mut();
        let last = pieces.back_mut().expect("there is always a piece to fill");
        let mut next = None;
        if bytes > last.buffer.remaining() {
            if self.region.is_none() {
                last.restart();
            } else if pieces.len() < BUFFERS_PER_LOG {
                next = Some(self.ring.pool().take()?);
            } else {
                return None;
            }
        }
        for part in frame {
            let last = pieces.back_mut().expect("there is always a piece to fill");
            let (fits, rest) = part.split_at(part.len().min(last.buffer.remaining()));
            last.buffer.extend_from_slice(fits);
            if !rest.is_empty() {
                let start = last.end();
                let mut buffer = next.take().expect("a frame is smaller than a buffer");
                buffer.extend_from_slice(rest);
                pieces.push_back(Piece { buffer, start });
            }
        }
        pieces.back().map(Piece::end)
    }

    /// Writes what is appended, for as long as the ring runs; ends at the first failed write.
    pub(super) async fn write(&self) -> io::Error {
        let Some(region) = &self.region else {
            return std::future::pending().await;
        };
        loop {
            let (position, lease, end) = self.appended.until(|| self.next_write()).await;
            let place = region.start + position % region.bytes;
            if let Err(error) = self
                .ring
                .write(&region.file, place, lease, region.synced)
                .await
            {
                return error;
            }
            self.stored.set(end);
            self.drop_stored();
            self.progressed.wake();
        }
    }

    /// The blocks that hold the first bytes not stored yet: their position, and the position behind their last byte.
    fn next_write(&self) -> Option<(u64, WriteLease, u64)> {
        // A piece that was stored whole while it was the last one is still here, in front of what came after it.
        self.drop_stored();
        let stored = self.stored.get();
        let mut pieces = self.pieces.borrow_mut();
        let first = pieces.front_mut().filter(|piece| piece.end() > stored)?;
        let from = (stored - first.start) as usize / BLOCK_BYTES * BLOCK_BYTES;
        let to = first.buffer.len().next_multiple_of(BLOCK_BYTES);
        let end = first.end();
        Some((
            first.start + from as u64,
            first.buffer.write_lease(from..to),
            end,
        ))
    }

    fn drop_stored(&self) {
        let mut pieces = self.pieces.borrow_mut();
        while pieces.len() > 1
            && pieces
                .front()
                .is_some_and(|piece| piece.end() <= self.stored.get())
        {
            pieces.pop_front();
        }
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// Forgets its bytes.
    fn restart(&mut self) {
        self.start = self.end();
        let cleared = self.buffer.clear();
        assert!(cleared, "nothing refers to bytes that are never written");
    }
}
