//! Walks the batches of a segment file from the disk: for recovery, and to rebuild an index.

use std::io;
use std::path::Path;

use wire::{BATCH_HEADER_BYTES, Batch, BatchHeader, Records};

use super::limits::{BATCH_BYTES_MAX, SCAN_BYTES};
use super::types::Offset;
use crate::io::{Buffer, FilePosition, Io, OpenMode, Slice};

pub(super) struct Scanner<I: Io> {
    io: I,
    file: I::File,
    file_bytes: u64,
    chunk_position: u64,
    chunk: Slice,
}

impl<I: Io> Scanner<I> {
    pub(super) async fn open(io: &I, path: &Path) -> io::Result<Scanner<I>> {
        let file = io.open(path, OpenMode::ReadCached).await?;
        let file_bytes = io.file_bytes(&file).await?;
        Ok(Scanner {
            io: io.clone(),
            file,
            file_bytes,
            chunk_position: 0,
            chunk: Slice::default(),
        })
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The header at `position`, if one could stand there: a whole batch of format 2 that begins with `offset` and lies in the file.
    pub(super) async fn header(
        &mut self,
        position: u64,
        offset: Offset,
    ) -> io::Result<Option<BatchHeader>> {
        let Some(bytes) = self.bytes(position, BATCH_HEADER_BYTES).await? else {
            return Ok(None);
        };
        let Some(bytes) = bytes.first_chunk() else {
            return Ok(None);
        };
        let header = BatchHeader::parse(bytes);
        let length = header.batch_bytes().unwrap_or(usize::MAX);
        let next = header
            .base_offset
            .checked_add(i64::from(header.last_offset_delta) + 1);
        let plausible = header.magic == 2
            && header.base_offset == offset.0
            && header.last_offset_delta >= 0
            && next.is_some()
            && length <= BATCH_BYTES_MAX
            && length as u64 <= self.file_bytes - position;
        Ok(plausible.then_some(header))
    }

    /// Whether the batch with this plausible header is as its CRC says.
    pub(super) async fn is_whole(
        &mut self,
        position: u64,
        header: &BatchHeader,
    ) -> io::Result<bool> {
        let Ok(length) = header.batch_bytes() else {
            return Ok(false);
        };
        let Some(bytes) = self.bytes(position, length).await? else {
            return Ok(false);
        };
        Ok(Batch::first(&Records::from_slice(&bytes)).is_ok_and(|batch| batch.check_crc().is_ok()))
    }

    /// Bytes of the file, or `None` if it ends before them.
    pub(super) async fn bytes(&mut self, position: u64, bytes: usize) -> io::Result<Option<Slice>> {
        assert!(
            bytes <= BATCH_BYTES_MAX,
            "the caller bounds what it asks for"
        );
        if position
            .checked_add(bytes as u64)
            .is_none_or(|end| end > self.file_bytes)
        {
            return Ok(None);
        }
        let held = self.chunk_position..self.chunk_position + self.chunk.len() as u64;
        if position < held.start || position + bytes as u64 > held.end {
            let wanted = (SCAN_BYTES.max(bytes) as u64).min(self.file_bytes - position) as usize;
            self.chunk = Slice::default();
            self.chunk = read_exactly(&self.io, &self.file, position, wanted).await?;
            self.chunk_position = position;
        }
        let start = (position - self.chunk_position) as usize;
        Ok(Some(self.chunk.slice(start..start + bytes)))
    }
}

/// Bytes of a file through the page cache, in a pooled buffer if one is free and large enough.
pub(super) async fn read_exactly<I: Io>(
    io: &I,
    file: &I::File,
    position: u64,
    bytes: usize,
) -> io::Result<Slice> {
    let pooled = if bytes <= io.buffer_bytes() {
        io.take_buffer()
    } else {
        None
    };
    let mut buffer = pooled
        .or_else(|| Buffer::allocate(bytes))
        .ok_or(io::ErrorKind::OutOfMemory)?;
    while buffer.len() < bytes {
        let at = FilePosition(position + buffer.len() as u64);
        let left = bytes - buffer.len();
        let (result, back) = io.read(file, at, buffer, left).await;
        buffer = back;
        if result? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.slice(0..bytes))
}
