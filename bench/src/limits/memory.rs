//! How fast one thread checks and copies bytes: in its own cache, and where every byte comes from memory.

use std::hint::black_box;

use super::figure::Figures;
use super::timing::Timing;
use crate::clock::now;

/// Between two looks at the clock.
const BYTES_AT_ONCE: usize = 1 << 20;

pub(super) fn measure(timing: &Timing, figures: &mut Figures) {
    let cold = timing.cold_bytes;
    let cold_name = format!("{} MiB cold", cold >> 20);
    let sizes = [
        ("200 B hot", 200),
        ("64 KiB hot", 64 << 10),
        (cold_name.as_str(), cold),
    ];
    let from = vec![7; cold];
    let mut to = vec![0; cold];
    for (name, bytes) in sizes {
        figures.begin("CRC-32C");
        let rate = rate(timing, bytes, || {
            black_box(crc32c::crc32c(black_box(&from[..bytes])));
        });
        figures.add(&format!("CRC-32C, {name}"), rate, "GB/s", "one thread");
    }
    for (name, bytes) in sizes {
        figures.begin("memcpy");
        let rate = rate(timing, bytes, || {
            black_box(&mut to[..bytes]).copy_from_slice(black_box(&from[..bytes]));
        });
        figures.add(&format!("memcpy, {name}"), rate, "GB/s", "one thread");
    }
}

/// Gigabytes per second of an operation on `bytes` bytes.
fn rate(timing: &Timing, bytes: usize, mut operation: impl FnMut()) -> f64 {
    let repeats = (BYTES_AT_ONCE / bytes).max(1);
    // The first one may still have to bring in the pages.
    operation();
    let started = now();
    let mut done = 0;
    loop {
        (0..repeats).for_each(|_| operation());
        done += repeats * bytes;
        let passed = now().duration_since(started);
        if passed >= timing.duration {
            return done as f64 / 1e9 / passed.as_secs_f64();
        }
    }
}
