//! The disk's jobs on our own ring: registered memory, and a flush that is part of its write.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use ring::{File, Ring, RingConfig};

use super::disk::{Direction, Job};
use super::timing::{Repeated, Repeats};

pub(super) fn run(job: &Job<'_>) -> Result<Repeated> {
    let ring = Ring::new(RingConfig {
        receive_buffers: 1,
        pool_buffer_bytes: job.request_bytes,
        pool_buffers: job.depth,
        ..RingConfig::default()
    })?;
    ring.block_on(async {
        let file = ring.create_direct(job.path).await?;
        let repeats = Repeats::new(job.duration);
        try_join_all((0..job.depth).map(|_| repeat(&ring, &file, job, &repeats))).await?;
        Ok(repeats.finish())
    })
}

async fn repeat(ring: &Ring, file: &File, job: &Job<'_>, repeats: &Repeats) -> Result<()> {
    let bytes = job.request_bytes;
    let mut buffer = ring.wait_buffer().await;
    buffer.append(bytes, |memory| memory.fill(7));
    while let Some((number, begun_at)) = repeats.next() {
        let position = job.position(number);
        match job.direction {
            Direction::Write | Direction::WriteSynced => {
                let synced = job.direction == Direction::WriteSynced;
                let lease = buffer.write_lease(0..bytes);
                ring.write(file, position, lease, synced).await?;
            }
            Direction::Read => {
                let cleared = buffer.clear();
                assert!(cleared, "a finished operation holds no memory");
                let read;
                (read, buffer) = ring.read(file, position, buffer, bytes).await;
                ensure!(read? == bytes, "a read ended short");
            }
        }
        repeats.done(begun_at);
    }
    Ok(())
}
