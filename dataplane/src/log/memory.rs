//! The memory that the logs of one shard share: recent bytes in tail buffers, old ones in chunks.

use std::rc::Rc;

use super::cache::TailCache;
use super::chunks::ChunkCache;
use crate::io::Buffer;

pub struct LogMemory {
    pub(super) tails: TailCache,
    pub(super) chunks: ChunkCache,
}

impl LogMemory {
    /// Old bytes are read into `chunk_buffers`, or into memory of their own if those are few.
    pub fn new(chunk_buffers: Vec<Buffer>) -> Rc<LogMemory> {
        Rc::new(LogMemory {
            tails: TailCache::default(),
            chunks: ChunkCache::new(chunk_buffers),
        })
    }
}
