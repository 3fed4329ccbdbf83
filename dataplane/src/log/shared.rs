//! What the logs of one shard share: memory for recent and for old bytes, and segment files prepared ahead of need.

use std::rc::Rc;

use super::cache::TailCache;
use super::chunks::ChunkCache;
use super::load::WriteLoad;
use super::spare::SpareSegments;
use crate::io::Buffer;

pub struct LogShared {
    pub(super) tails: TailCache,
    pub(super) chunks: ChunkCache,
    pub spares: SpareSegments,
    pub(super) load: WriteLoad,
}

impl LogShared {
    /// Old bytes are read into `chunk_buffers`, or into memory of their own if those are few.
    pub fn new(chunk_buffers: Vec<Buffer>, spares: SpareSegments) -> Rc<LogShared> {
        Rc::new(LogShared {
            tails: TailCache::default(),
            chunks: ChunkCache::new(chunk_buffers),
            spares,
            load: WriteLoad::default(),
        })
    }
}
