//! Old bytes of segment files on their way to consumers: whole chunks read without the page cache, and read ahead of those who go on.
//!
//! The page cache would cost a second copy and its readahead stops at what one call asks for. Here a consumer that reads a log from
//! its start finds the next chunks in memory or on their way, and however much it reads, it takes no memory from the tails.
//!
//! ```text
//!   segment file   | chunk 0 | chunk 1 | chunk 2 | chunk 3 | ...
//!                       held     wanted   reading   reading     (read ahead)
//! ```
//! A chunk is found by the segment's key and its place. The least recently used one makes room, once no answer holds a slice of it.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::limits::{CHUNK_BYTES, CHUNKS_MAX, CHUNKS_MIN};
use crate::event::Event;
use crate::io::{Buffer, Slice};

/// A chunk that was read ahead and not asked for in so many uses of others will not be: its reader has gone.
const FORGOTTEN_USES: u64 = 8 * CHUNKS_MAX as u64;

/// Names one chunk of one segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkKey {
    /// No other segment of this shard ever has it.
    pub(super) file: u64,
    pub(super) number: u64,
}

pub(super) enum Found {
    /// Bytes of the range from its start on, at least one.
    Bytes(Slice),
    Reading,
    Absent,
}

pub(super) struct ChunkCache {
    chunks: RefCell<Vec<Chunk>>,
    /// Buffers that no chunk uses.
    free: RefCell<Vec<Buffer>>,
    chunks_max: usize,
    uses: Cell<u64>,
    files: Cell<u64>,
    changed: Event,
}

struct Chunk {
    key: ChunkKey,
    last_use: u64,
    /// Somebody has asked for it since it was begun.
    wanted: bool,
    /// `None` while it is being read.
    buffer: Option<Buffer>,
    /// How many of the buffer's bytes were final in the file when they were read.
    bytes: usize,
}

impl ChunkCache {
    pub(super) fn new(free: Vec<Buffer>) -> ChunkCache {
        ChunkCache {
            chunks: RefCell::default(),
            chunks_max: free.len().clamp(CHUNKS_MIN, CHUNKS_MAX),
            free: RefCell::new(free),
            uses: Cell::new(0),
            files: Cell::new(0),
            changed: Event::default(),
        }
    }

    /// A key for a segment file whose bytes, once they can be read here, never change.
    pub(super) fn name_file(&self) -> u64 {
        self.files.set(self.files.get() + 1);
        self.files.get()
    }

    /// Looks for a range of a chunk.
    pub(super) fn find(&self, key: ChunkKey, range: Range<usize>) -> Found {
        let mut chunks = self.chunks.borrow_mut();
        let Some(chunk) = chunks.iter_mut().find(|chunk| chunk.key == key) else {
            return Found::Absent;
        };
        let Some(buffer) = &chunk.buffer else {
            return Found::Reading;
        };
        chunk.last_use = self.next_use();
        chunk.wanted = true;
        // It may have been read when the file was shorter.
        match range.start..range.end.min(chunk.bytes) {
            held if held.is_empty() => Found::Absent,
            held => Found::Bytes(buffer.slice(held)),
        }
    }

    pub(super) fn has(&self, key: ChunkKey) -> bool {
        self.chunks.borrow().iter().any(|chunk| chunk.key == key)
    }

    /// Makes a place for a chunk and gives the buffer to read it into; `None` while all are in use. One that is `wanted` now may take
    /// the place of any other, one that is read ahead only of those that nobody waits for: readers that read ahead of themselves would
    /// else read everything twice.
    pub(super) fn begin(&self, key: ChunkKey, wanted: bool) -> Option<Buffer> {
        let mut chunks = self.chunks.borrow_mut();
        // One that is too short makes room for itself.
        if let Some(index) = chunks.iter().position(|chunk| chunk.key == key) {
            self.free
                .borrow_mut()
                .extend(chunks.swap_remove(index).buffer);
        }
        let buffer = self
            .take_free(chunks.len())
            .or_else(|| self.make_room(&mut chunks, wanted))?;
        chunks.push(Chunk {
            key,
            last_use: self.next_use(),
            wanted,
            buffer: None,
            bytes: 0,
        });
        Some(buffer)
    }

    /// Ends what `begin` began: with the first `bytes` bytes of the buffer, or with nothing if they could not be read.
    pub(super) fn end(&self, key: ChunkKey, buffer: Buffer, bytes: Option<usize>) {
        let mut chunks = self.chunks.borrow_mut();
        let index = chunks
            .iter()
            .position(|chunk| chunk.key == key && chunk.buffer.is_none());
        let index = index.expect("a chunk that is being read keeps its place");
        match bytes {
            Some(bytes) => {
                chunks[index].bytes = bytes.min(buffer.len());
                chunks[index].buffer = Some(buffer);
            }
            None => {
                chunks.swap_remove(index);
                self.free.borrow_mut().push(buffer);
            }
        }
        drop(chunks);
        self.changed.notify();
    }

    /// Told whenever a chunk has been read.
    pub(super) fn changed(&self) -> &Event {
        &self.changed
    }

    fn next_use(&self) -> u64 {
        self.uses.set(self.uses.get() + 1);
        self.uses.get()
    }

    /// A buffer that nothing views any more, or a new one while there may be more.
    fn take_free(&self, chunks: usize) -> Option<Buffer> {
        let mut free = self.free.borrow_mut();
        if let Some(index) = free.iter_mut().position(Buffer::clear) {
            return Some(free.swap_remove(index));
        }
        let may_grow = chunks + free.len() < self.chunks_max;
        may_grow.then(|| Buffer::allocate(CHUNK_BYTES)).flatten()
    }

    /// Gives up the chunk that was not used for longest, of those that no answer holds. `any`: also one that its reader has not come to
    /// yet, if there is no other.
    fn make_room(&self, chunks: &mut Vec<Chunk>, any: bool) -> Option<Buffer> {
        let forgotten = self.uses.get().saturating_sub(FORGOTTEN_USES);
        let free = chunks.iter().enumerate().filter(|(_, chunk)| {
            (any || !chunk.is_awaited(forgotten))
                && chunk.buffer.as_ref().is_some_and(Buffer::is_alone)
        });
        let (oldest, _) =
            free.min_by_key(|(_, chunk)| (chunk.is_awaited(forgotten), chunk.last_use))?;
        let mut buffer = chunks.swap_remove(oldest).buffer?;
        assert!(buffer.clear(), "nobody else can view a buffer meanwhile");
        Some(buffer)
    }
}

impl Chunk {
    /// It was read ahead, and its reader is expected still.
    fn is_awaited(&self, forgotten: u64) -> bool {
        !self.wanted && self.last_use > forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> ChunkKey {
        ChunkKey { file: 1, number }
    }

    fn cache_of(chunks: u64) -> ChunkCache {
        let cache = ChunkCache::new(Vec::new());
        for number in 0..chunks {
            fill(&cache, number, CHUNK_BYTES);
        }
        cache
    }

    fn fill(cache: &ChunkCache, number: u64, bytes: usize) {
        let mut buffer = cache.begin(key(number), true).expect("there is room");
        buffer.append(CHUNK_BYTES, |target| target.fill(number as u8));
        cache.end(key(number), buffer, Some(bytes));
    }

    fn found(cache: &ChunkCache, number: u64) -> Option<Slice> {
        match cache.find(key(number), 10..20) {
            Found::Bytes(slice) => Some(slice),
            Found::Reading | Found::Absent => None,
        }
    }

    #[test]
    fn the_chunk_not_used_for_longest_makes_room_unless_an_answer_holds_it() {
        let cache = cache_of(CHUNKS_MIN as u64);
        let held = found(&cache, 0).expect("chunk 0 is there");
        found(&cache, 1);
        for number in 2..CHUNKS_MIN as u64 {
            found(&cache, number);
        }
        fill(&cache, 100, CHUNK_BYTES);
        assert_eq!(held[..], [0; 10]);
        assert!(found(&cache, 0).is_some() && found(&cache, 1).is_none());
        drop(held);
        for number in 101..101 + CHUNKS_MIN as u64 {
            fill(&cache, number, CHUNK_BYTES);
        }
        assert!(found(&cache, 0).is_none());
    }

    #[test]
    fn nothing_is_read_while_answers_hold_every_chunk() {
        let cache = cache_of(CHUNKS_MIN as u64);
        let held: Vec<Slice> = (0..CHUNKS_MIN as u64)
            .filter_map(|number| found(&cache, number))
            .collect();
        assert!(cache.begin(key(100), true).is_none());
        drop(held);
        assert!(cache.begin(key(100), true).is_some());
    }

    #[test]
    fn what_is_read_ahead_takes_no_place_of_what_another_reader_has_ahead() {
        let cache = cache_of(0);
        let read_ahead = |number| {
            let Some(mut buffer) = cache.begin(key(number), false) else {
                return false;
            };
            buffer.append(CHUNK_BYTES, |target| target.fill(0));
            cache.end(key(number), buffer, Some(CHUNK_BYTES));
            true
        };
        assert!((0..CHUNKS_MIN as u64).all(read_ahead));
        assert!(!read_ahead(100), "all are awaited");
        assert!(found(&cache, 5).is_some());
        assert!(read_ahead(100), "chunk 5 has been read");
        assert!(found(&cache, 5).is_none() && found(&cache, 6).is_some());
        assert!(
            cache.begin(key(101), true).is_some(),
            "who needs one now gets it"
        );
    }

    #[test]
    fn a_chunk_is_absent_then_being_read_then_there_and_again_absent_after_a_failure() {
        let cache = cache_of(0);
        assert!(matches!(cache.find(key(7), 0..1), Found::Absent));
        let buffer = cache.begin(key(7), true).expect("there is room");
        assert!(matches!(cache.find(key(7), 0..1), Found::Reading) && cache.has(key(7)));
        cache.end(key(7), buffer, None);
        assert!(matches!(cache.find(key(7), 0..1), Found::Absent) && !cache.has(key(7)));
    }

    #[test]
    fn a_chunk_read_when_its_file_was_shorter_gives_what_it_has_and_is_read_again_for_more() {
        let cache = cache_of(0);
        fill(&cache, 7, 15);
        assert_eq!(found(&cache, 7).map(|slice| slice.len()), Some(5));
        assert!(matches!(cache.find(key(7), 15..20), Found::Absent));
        fill(&cache, 7, 30);
        assert_eq!(found(&cache, 7).map(|slice| slice.len()), Some(10));
    }
}
