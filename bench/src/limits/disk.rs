//! What the disk does: the jobs, run first on our ring and then on glommio. All of them are unbuffered, on a prewritten file, with a fixed
//! number of requests in flight.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::figure::Figures;
use super::timing::{Repeated, Timing};
use super::{disk_glommio, disk_ring};

const DEPTHS: [usize; 3] = [1, 8, 64];
/// As the broker writes its logs.
const SEQUENTIAL_BYTES: usize = 256 << 10;
const RANDOM_BYTES: usize = 4 << 10;
const SYNCED_BYTES: [usize; 2] = [4 << 10, 64 << 10];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Write,
    /// On stable storage before it completes.
    WriteSynced,
    Read,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Over and over from the start of the file.
    Sequential,
    Random,
}

/// One measurement.
pub(super) struct Job<'a> {
    pub(super) path: &'a Path,
    file_bytes: u64,
    pub(super) direction: Direction,
    order: Order,
    pub(super) request_bytes: usize,
    pub(super) depth: usize,
    pub(super) duration: Duration,
}

impl Job<'_> {
    /// Where in the file a request goes.
    pub(super) fn position(&self, number: u64) -> u64 {
        let places = self.file_bytes / self.request_bytes as u64;
        let place = match self.order {
            Order::Sequential => number,
            // Multiplying by an odd number with no pattern of its own and taking the high half scatters them well enough.
            Order::Random => number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
        };
        place % places * self.request_bytes as u64
    }
}

pub(super) fn measure(timing: &Timing, path: &Path, figures: &mut Figures) -> Result<()> {
    let kinds = [
        (Direction::Write, Order::Sequential, SEQUENTIAL_BYTES),
        (Direction::Read, Order::Sequential, SEQUENTIAL_BYTES),
        (Direction::Write, Order::Random, RANDOM_BYTES),
        (Direction::Read, Order::Random, RANDOM_BYTES),
        (Direction::WriteSynced, Order::Sequential, SYNCED_BYTES[0]),
        (Direction::WriteSynced, Order::Sequential, SYNCED_BYTES[1]),
    ];
    for (direction, order, request_bytes) in kinds {
        for depth in DEPTHS {
            let job = Job {
                path,
                file_bytes: timing.file_bytes,
                direction,
                order,
                request_bytes,
                depth,
                duration: timing.duration,
            };
            both(&job, figures)?;
        }
    }
    Ok(())
}

fn both(job: &Job<'_>, figures: &mut Figures) -> Result<()> {
    let what = match (job.direction, job.order) {
        (Direction::Write, Order::Sequential) => "sequential write",
        (Direction::Write, Order::Random) => "random write",
        (Direction::WriteSynced, _) => "DSYNC write",
        (Direction::Read, Order::Sequential) => "sequential read",
        (Direction::Read, Order::Random) => "random read",
    };
    let what = format!("{what} {} KiB", job.request_bytes >> 10);
    figures.begin(&what);
    let on_ring = disk_ring::run(job).with_context(|| format!("{what} on the ring"))?;
    let on_glommio = disk_glommio::run(job).with_context(|| format!("{what} on glommio"))?;
    for (runtime, repeated) in [("ring", on_ring), ("glommio", on_glommio)] {
        let name = format!("{what}, depth {}, {runtime}", job.depth);
        add(job, &name, &repeated, figures);
    }
    Ok(())
}

fn add(job: &Job<'_>, name: &str, repeated: &Repeated, figures: &mut Figures) {
    let per_second = repeated.per_second();
    let note = "O_DIRECT, prewritten file";
    match (job.direction, job.order) {
        (Direction::WriteSynced, _) => {
            let latency = |quantile| repeated.micros(quantile);
            figures.add(&format!("{name}, p50"), latency(0.5), "us", note);
            figures.add(&format!("{name}, p99"), latency(0.99), "us", note);
            figures.add(name, per_second, "IOPS", note);
        }
        (_, Order::Random) => figures.add(name, per_second, "IOPS", note),
        (_, Order::Sequential) => {
            let gigabytes = job.request_bytes as f64 / 1e9;
            figures.add(name, per_second * gigabytes, "GB/s", note);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn positions(order: Order) -> Vec<u64> {
        let job = Job {
            path: Path::new(""),
            file_bytes: 1 << 20,
            direction: Direction::Read,
            order,
            request_bytes: 4096,
            depth: 1,
            duration: Duration::ZERO,
        };
        (0..256).map(|number| job.position(number)).collect()
    }

    #[test]
    fn a_sequential_job_takes_every_place_once_before_it_starts_over() {
        let expected: Vec<u64> = (0..256).map(|place| place * 4096).collect();
        assert_eq!(positions(Order::Sequential), expected);
    }

    #[test]
    fn a_random_job_stays_in_the_file_and_takes_most_places() {
        let positions = positions(Order::Random);
        assert!(positions.iter().all(|at| at % 4096 == 0 && *at < 1 << 20));
        let different: HashSet<u64> = positions.iter().copied().collect();
        assert!(different.len() > 128, "{}", different.len());
        assert!(positions.windows(2).all(|pair| pair[0] + 4096 != pair[1]));
    }
}
