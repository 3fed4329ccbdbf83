//! The tail beside a file that is only bytes: what is said to be written is there, whatever order writes end in.

use std::cell::Cell;
use std::path::Path;

use super::super::limits::{BATCH_BYTES_MIN, WRITES_IN_FLIGHT_MAX};
use super::*;
use crate::io::WriteLease;
use crate::io::ring::RingIo;

const BUFFER_BYTES: usize = 64 * 1024;
/// What the file held in another life.
const STALE: u8 = 0xee;

/// A tail beside the file that it is written to and the bytes that were appended.
struct World {
    tail: Tail<RingIo>,
    segment: Rc<Segment<RingIo>>,
    file: Vec<u8>,
    appended: Vec<u8>,
    /// Ends of the batches, by offset.
    ends: Vec<usize>,
    /// Writes in flight with the bytes that the kernel took.
    in_flight: Vec<(Write<RingIo>, Vec<u8>)>,
    random: Cell<u64>,
    limits: WriteLimits,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            tail: Tail::new(Vec::new()),
            segment: Rc::new(Segment::new(Path::new("/nowhere"), Offset(0))),
            file: vec![STALE; 8 << 20],
            appended: Vec::new(),
            ends: Vec::new(),
            in_flight: Vec::new(),
            random: Cell::new(seed | 1),
            limits: WriteLimits {
                in_flight_max: WRITES_IN_FLIGHT_MAX,
                buffers_max: 1,
            },
        }
    }

    fn random(&self, below: usize) -> usize {
        let next = self
            .random
            .get()
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(99);
        self.random.set(next);
        (next >> 33) as usize % below
    }

    fn append(&mut self, bytes: usize) {
        let batch: Vec<u8> = (0..bytes).map(|at| (at % 200) as u8 + 1).collect();
        let needed = self
            .tail
            .buffers_needed(bytes, BUFFER_BYTES, Some(&self.segment));
        let mut fresh: Vec<Buffer> = (0..needed)
            .map(|_| Buffer::allocate(BUFFER_BYTES).unwrap())
            .collect();
        let next_offset = Offset(self.ends.len() as i64 + 1);
        let (head, rest) = batch.split_at(BATCH_BYTES_MIN);
        self.tail.append(
            &self.segment,
            [head, rest].into_iter(),
            next_offset,
            &mut fresh,
        );
        assert!(fresh.is_empty(), "as many buffers as were asked for");
        self.appended.extend(&batch);
        self.ends.push(self.appended.len());
    }

    fn submit(&mut self) -> bool {
        let Next::Write(write) = self.tail.next_write(self.limits, |_, _| true) else {
            return false;
        };
        assert!(write.leases.as_slice().len() <= self.limits.buffers_max);
        for (other, _) in &self.in_flight {
            let apart =
                other.blocks.end <= write.blocks.start || write.blocks.end <= other.blocks.start;
            assert!(apart, "two writes of one block in flight");
        }
        let bytes = memory_of(&write);
        let blocks_bytes = (write.blocks.end - write.blocks.start) as usize;
        assert_eq!(bytes.len(), blocks_bytes, "the leases are the blocks");
        self.in_flight.push((write, bytes));
        true
    }

    /// Completes one of the writes in flight and checks what is now said to be written.
    fn complete(&mut self) {
        let (write, bytes) = self
            .in_flight
            .swap_remove(self.random(self.in_flight.len()));
        assert!(
            memory_of(&write) == bytes,
            "memory changed under a write in flight"
        );
        let at = write.blocks.start as usize;
        self.file[at..at + bytes.len()].copy_from_slice(&bytes);
        let pieces = write.pieces.clone();
        drop(write);
        let Some(written) = self.tail.complete(pieces) else {
            return;
        };
        if written > Offset(0) {
            let end = self.ends[written.0 as usize - 1];
            assert!(
                self.file[..end] == self.appended[..end],
                "what is said to be written is in the file"
            );
        }
    }

    fn settle(&mut self) {
        while self.submit() || !self.in_flight.is_empty() {
            if !self.in_flight.is_empty() {
                self.complete();
            }
        }
        let end = self.appended.len();
        assert!(
            self.file[..end] == self.appended[..],
            "everything is in the file"
        );
        assert_eq!(
            self.file[end..end + TERMINATOR_BYTES],
            [0; TERMINATOR_BYTES],
            "zeros follow"
        );
        assert_eq!(self.tail.unwritten_buffers(), 0);
    }
}

/// What the kernel reads of a write.
fn memory_of(write: &Write<RingIo>) -> Vec<u8> {
    let leases = write.leases.as_slice().iter();
    let of = |lease: &WriteLease| {
        assert!(
            lease.is_frozen(),
            "no append may change what is being written"
        );
        lease.as_slice().into_owned()
    };
    leases.flat_map(of).collect()
}

#[test]
fn writes_in_any_order_leave_the_batches_and_zeros_behind_them() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        for _ in 0..60 {
            match world.random(10) {
                0..4 => world.append(BATCH_BYTES_MIN + world.random(3000)),
                4 => world.append(BATCH_BYTES_MIN + world.random(300_000)),
                5..7 => {
                    world.limits.in_flight_max = 1 + world.random(WRITES_IN_FLIGHT_MAX);
                    world.limits.buffers_max = 1 + world.random(4);
                    world.submit();
                }
                7..9 if !world.in_flight.is_empty() => world.complete(),
                9 => drop(world.tail.evict_oldest()),
                _ => {}
            }
        }
        world.settle();
    }
}

#[test]
fn an_end_near_or_at_a_block_or_buffer_boundary_is_followed_by_zeros() {
    let area = BUFFER_BYTES - BLOCK_BYTES;
    for boundary in [
        BLOCK_BYTES,
        2 * BLOCK_BYTES,
        area,
        area + BLOCK_BYTES,
        2 * area,
    ] {
        for end in boundary - 14..boundary + 3 {
            let mut world = World::new(1);
            world.append(end);
            world.settle();
            world.append(100);
            world.settle();
        }
    }
}

#[test]
fn a_busy_tail_has_several_writes_in_flight_and_a_quiet_one_coalesces() {
    let mut world = World::new(1);
    world.append(1000);
    assert!(world.submit());
    world.append(1000);
    world.append(1000);
    assert!(!world.submit(), "too little to be worth a second write");
    world.append(200_000);
    while world.submit() {}
    assert_eq!(world.tail.in_flight, WRITES_IN_FLIGHT_MAX);
    world.settle();
}

#[test]
fn what_waits_in_several_buffers_goes_in_one_write() {
    let mut world = World::new(1);
    world.limits.buffers_max = 3;
    world.append(1000);
    assert!(world.submit());
    world.append(4 * BUFFER_BYTES);
    while world.submit() {}
    let buffers: Vec<usize> = world
        .in_flight
        .iter()
        .map(|(write, _)| write.leases.as_slice().len())
        .collect();
    assert_eq!(buffers, [1, 3, 2]);
    world.settle();
}

#[test]
fn a_buffer_whose_blocks_are_not_prepared_waits_while_those_before_it_are_written() {
    let mut world = World::new(1);
    world.limits.buffers_max = 4;
    world.append(3 * BUFFER_BYTES);
    let prepared = 2 * (BUFFER_BYTES - BLOCK_BYTES) as u64;
    let is_prepared = |_: &Segment<RingIo>, blocks: &Range<u64>| blocks.end <= prepared;
    let next = world.tail.next_write(world.limits, is_prepared);
    assert!(matches!(next, Next::Write(write) if write.blocks == (0..prepared)));
    let next = world.tail.next_write(world.limits, is_prepared);
    assert!(matches!(next, Next::NoSpace(_, blocks) if blocks.start == prepared));
}

#[test]
fn a_buffer_that_waits_for_its_write_is_not_given_up() {
    let mut world = World::new(1);
    world.append(100_000);
    assert_eq!(world.tail.evict_oldest(), Some(false));
    world.submit();
    assert_eq!(world.tail.evict_oldest(), Some(false));
    world.settle();
    assert_eq!(world.tail.evict_oldest(), Some(true));
    assert_eq!(world.tail.evict_oldest(), Some(true));
    assert_eq!(world.tail.evict_oldest(), None);
    world.append(5000);
    world.settle();
}
