//! Memory against a simple model, across threads, and at its edges.

use super::*;
use std::sync::atomic::AtomicU32;

/// A small generator, so that a failing run can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % end
    }
}

#[test]
fn random_use_matches_a_model() {
    let (seeds, steps) = if cfg!(miri) { (2, 40) } else { (20, 2000) };
    for seed in 0..seeds {
        let mut dice = Dice(seed);
        let pool = Pool::new(BLOCK_BYTES * 2, 4).unwrap();
        let mut buffers: Vec<(Buffer, Vec<u8>)> = Vec::new();
        let mut slices: Vec<(Slice, Vec<u8>)> = Vec::new();
        let mut leases: Vec<(WriteLease, Vec<u8>)> = Vec::new();
        for step in 0..steps {
            match dice.below(9) {
                0 => match pool.take() {
                    Some(buffer) => buffers.push((buffer, Vec::new())),
                    None => assert_eq!(pool.available(), 0),
                },
                1 | 2 if !buffers.is_empty() => {
                    let pick = dice.below(buffers.len());
                    let (buffer, model) = &mut buffers[pick];
                    let bytes = dice.below(buffer.remaining().min(700) + 1);
                    let value = step as u8;
                    buffer.append(bytes, |target| target.fill(value));
                    model.extend(std::iter::repeat_n(value, bytes));
                }
                3 if !buffers.is_empty() => {
                    let (buffer, model) = &buffers[dice.below(buffers.len())];
                    let end = dice.below(model.len() + 1);
                    let start = dice.below(end + 1);
                    slices.push((buffer.slice(start..end), model[start..end].to_vec()));
                }
                4 if !slices.is_empty() => {
                    let (slice, model) = &slices[dice.below(slices.len())];
                    let end = dice.below(model.len() + 1);
                    let part = (slice.slice(0..end), model[..end].to_vec());
                    slices.push(part);
                }
                5 if !slices.is_empty() => drop(slices.swap_remove(dice.below(slices.len()))),
                6 if !buffers.is_empty() => {
                    let pick = dice.below(buffers.len());
                    let (buffer, model) = &mut buffers[pick];
                    let mut expected = model.clone();
                    expected.resize(BLOCK_BYTES * 2, 0);
                    leases.push((buffer.write_lease(0..BLOCK_BYTES * 2), expected));
                }
                7 if !leases.is_empty() => drop(leases.swap_remove(dice.below(leases.len()))),
                8 if !buffers.is_empty() => {
                    let pick = dice.below(buffers.len());
                    let (buffer, model) = &mut buffers[pick];
                    let kept = dice.below(model.len() + 1);
                    if buffer.truncate(kept) {
                        model.truncate(kept);
                    } else if dice.below(3) == 0 {
                        drop(buffers.swap_remove(pick));
                    }
                }
                _ => {}
            }
            for (buffer, model) in &buffers {
                assert_eq!(buffer.as_slice(), model, "seed {seed} step {step}");
            }
            for (slice, model) in &slices {
                assert_eq!(slice[..], model[..], "seed {seed} step {step}");
            }
            for (lease, model) in &leases {
                assert_eq!(lease.as_slice()[..], model[..], "seed {seed} step {step}");
            }
        }
        drop((buffers, slices, leases));
        assert_eq!(
            pool.available(),
            pool.count(),
            "every buffer came home, seed {seed}"
        );
    }
}

#[test]
fn clear_refuses_while_a_slice_or_lease_lives() {
    let mut buffer = Buffer::allocate(10).unwrap();
    buffer.extend_from_slice(b"abc");
    let slice = buffer.slice(1..3);
    assert!(!buffer.clear());
    assert_eq!(&slice[..], b"bc");
    drop(slice);
    let lease = buffer.write_lease(0..BLOCK_BYTES);
    assert!(!lease.is_frozen(), "it runs past what was appended");
    assert!(!buffer.clear());
    drop(lease);
    buffer.append(BLOCK_BYTES - 3, |zeros| zeros.fill(0));
    let lease = buffer.write_lease(0..BLOCK_BYTES);
    assert!(lease.is_frozen());
    assert!(!buffer.truncate(3));
    drop(lease);
    assert!(buffer.truncate(3));
    assert_eq!(buffer.as_slice(), b"abc");
    assert!(buffer.clear());
    assert_eq!(buffer.len(), 0);
    assert_eq!(buffer.capacity(), BLOCK_BYTES);
}

#[test]
fn a_slice_outlives_its_buffer_and_its_pool() {
    let pool = Pool::new(BLOCK_BYTES, 1).unwrap();
    let mut buffer = pool.take().unwrap();
    buffer.extend_from_slice(b"kept");
    let slice = buffer.slice(0..4);
    drop(buffer);
    assert!(pool.take().is_none());
    drop(pool);
    assert_eq!(&slice[..], b"kept");
}

#[test]
fn a_lease_zeroes_what_an_earlier_life_left_behind() {
    let pool = Pool::new(BLOCK_BYTES, 1).unwrap();
    let mut buffer = pool.take().unwrap();
    buffer.append(BLOCK_BYTES, |bytes| bytes.fill(7));
    drop(buffer);
    let mut buffer = pool.take().unwrap();
    buffer.extend_from_slice(b"x");
    let lease = buffer.write_lease(0..BLOCK_BYTES);
    // SAFETY: nothing appends while the test looks at what the kernel would read.
    let kernel_view = unsafe { std::slice::from_raw_parts(lease.address(), lease.len()) };
    assert_eq!(kernel_view[0], b'x');
    assert!(kernel_view[1..].iter().all(|&byte| byte == 0));
}

#[test]
fn the_last_slice_may_drop_on_another_thread() {
    let pool = Pool::new(BLOCK_BYTES, 2).unwrap();
    std::thread::scope(|scope| {
        for round in 0..if cfg!(miri) { 20 } else { 200u8 } {
            let mut buffer = loop {
                match pool.take() {
                    Some(buffer) => break buffer,
                    None => std::thread::yield_now(),
                }
            };
            buffer.append(100, |bytes| bytes.fill(round));
            let slice = buffer.slice(0..100);
            scope.spawn(move || assert!(slice.iter().all(|&byte| byte == round)));
        }
    });
    assert_eq!(pool.available(), 2);
}

#[test]
fn a_return_is_announced_once_for_each_request() {
    let pool = Pool::new(BLOCK_BYTES, 2).unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    pool.on_return(Box::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    drop(pool.take());
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    pool.want();
    drop(pool.take());
    drop(pool.take());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn a_pool_of_odd_shape_is_refused() {
    assert!(Pool::new(100, 1).is_err());
    assert!(Pool::new(0, 1).is_err());
    assert!(Pool::new(BLOCK_BYTES, 0).is_err());
    assert!(Pool::new(BLOCK_BYTES, usize::MAX / 2).is_err());
}

#[test]
#[should_panic(expected = "append past a buffer's capacity")]
fn an_append_past_the_capacity_is_our_bug() {
    let mut buffer = Buffer::allocate(1).unwrap();
    buffer.append(BLOCK_BYTES + 1, |_| ());
}
