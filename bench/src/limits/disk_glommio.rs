//! The disk's jobs on glommio: a DmaFile, opened with O_DSYNC where writes are to be flushed.

use std::rc::Rc;

use anyhow::{Result, anyhow, ensure};
use futures::future::try_join_all;
use glommio::io::{DmaFile, OpenOptions};
use glommio::{LocalExecutorBuilder, Placement};

use super::disk::{Direction, Job};
use super::timing::{Repeated, Repeats};

const RING_ENTRIES: usize = 256;
/// It hands out its memory in powers of two.
const SPARE_MEMORY: usize = 2;

pub(super) fn run(job: &Job<'_>) -> Result<Repeated> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .ring_depth(RING_ENTRIES)
        .io_memory(job.request_bytes * job.depth * SPARE_MEMORY)
        .make()
        .map_err(|error| anyhow!("cannot start glommio: {error}"))?
        .run(async {
            let file = open(job).await.map_err(one_line)?;
            let repeats = Repeats::new(job.duration);
            try_join_all((0..job.depth).map(|_| repeat(&file, job, &repeats))).await?;
            file.close().await.map_err(one_line)?;
            Ok(repeats.finish())
        })
}

async fn open(job: &Job<'_>) -> glommio::Result<DmaFile, ()> {
    let synced = job.direction == Direction::WriteSynced;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(if synced { libc::O_DSYNC } else { 0 })
        .dma_open(job.path)
        .await
}

async fn repeat(file: &DmaFile, job: &Job<'_>, repeats: &Repeats) -> Result<()> {
    let bytes = job.request_bytes;
    let mut buffer = file.alloc_dma_buffer(bytes);
    buffer.as_bytes_mut().fill(7);
    let buffer = Rc::new(buffer);
    while let Some((number, begun_at)) = repeats.next() {
        let position = job.position(number);
        let done = match job.direction {
            Direction::Write | Direction::WriteSynced => {
                let written = file.write_rc_at(Rc::clone(&buffer), position).await;
                written.map_err(one_line)?
            }
            Direction::Read => {
                let read = file.read_at_aligned(position, bytes).await;
                read.map_err(one_line)?.len()
            }
        };
        ensure!(done == bytes, "an operation ended short");
        repeats.done(begun_at);
    }
    Ok(())
}

fn one_line(error: glommio::GlommioError<()>) -> anyhow::Error {
    anyhow!("{}", error.to_string().replace('\n', " "))
}
