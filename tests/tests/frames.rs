//! A connection's bytes cut into frames, in the pieces that each test names, on the simulated world's sockets.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with the test")]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use dataplane::frame::{Frame, FrameError, FrameMemory, FrameReader};
use dataplane::io::{Gather, GatherPart, Io};
use dataplane::limits::{
    FRAME_BYTES_COPIED_MAX, FRAME_BYTES_HELD_MAX, FRAME_BYTES_MAX, FRAME_PIECES_MAX,
    HELD_BYTES_MAX, LARGE_FRAME_STEP_BYTES, PINNED_BYTES_MAX, RECEIVE_BUFFER_BYTES,
    RECEIVE_BUFFERS, SMALL_BATCHES_BUFFERS_KEPT, SMALL_BATCHES_BYTES,
};
use millrace_tests::sim::{SimIo, SimListener, SimSocket, Simulation};

/// More than is copied while a frame waits for its rest, and less than a receive buffer.
const PIECE_BYTES: usize = 6000;
const _: () = assert!(FRAME_BYTES_COPIED_MAX < PIECE_BYTES && PIECE_BYTES < RECEIVE_BUFFER_BYTES);

struct World {
    simulation: Simulation,
    io: SimIo,
    listener: SimListener,
    memory: Rc<FrameMemory>,
}

impl World {
    fn new() -> World {
        let simulation = Simulation::seeded(1);
        let io = simulation.boot("broker");
        let listener = io.listen(address()).unwrap();
        World {
            simulation,
            io,
            listener,
            memory: Rc::default(),
        }
    }

    /// A client's socket, and the reader of what it sends.
    async fn connect(&self) -> (SimSocket, FrameReader<SimIo>) {
        let client = self.io.connect(address()).await.unwrap();
        let (socket, _) = self.io.accept(&self.listener).await.unwrap();
        let reader = FrameReader::new(self.io.clone(), socket, self.memory.clone());
        (client, reader)
    }

    /// Begins to send bytes, which arrive in these pieces if somebody waits for them.
    fn send(&self, client: &SimSocket, bytes: &[u8], pieces: &[usize]) {
        self.simulation.deliver_in(pieces.iter().copied());
        let message = Gather {
            inline: bytes.to_vec(),
            parts: vec![GatherPart::Inline(0..bytes.len())],
            ..Gather::default()
        };
        let (io, client) = (self.io.clone(), client.clone());
        self.io.spawn(async move {
            // A reader that has had enough closes.
            let _ = io.send(&client, message).await;
        });
    }

    fn receive_buffers_in_use(&self) -> usize {
        RECEIVE_BUFFERS - self.io.receive_buffers_available()
    }

    fn assert_nothing_is_held(&self) {
        assert_eq!(self.memory.held_bytes(), 0);
        assert_eq!(self.memory.large_bytes(), 0);
        assert_eq!(self.receive_buffers_in_use(), 0);
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9092))
}

/// What a frame of so many bytes says.
fn content(number: usize, bytes: usize) -> Vec<u8> {
    let byte = |at: usize| (at.wrapping_mul(31) + number * 7 + (at >> 8)) as u8;
    (0..bytes).map(byte).collect()
}

/// Frames of these lengths, back to back with their prefixes.
fn stream(lengths: &[usize]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (number, length) in lengths.iter().enumerate() {
        stream.extend((*length as i32).to_be_bytes());
        stream.extend(content(number, *length));
    }
    stream
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.copy_to(&mut bytes);
    bytes
}

fn part_lengths(frame: &Frame) -> Vec<usize> {
    frame.parts().map(<[u8]>::len).collect()
}

/// Sends frames in pieces and closes; gives the lengths of the parts that each frame came in.
fn parts_of(lengths: &[usize], pieces: &[usize]) -> Vec<Vec<usize>> {
    let world = World::new();
    let run = world.simulation.run(async {
        let (client, mut reader) = world.connect().await;
        world.send(&client, &stream(lengths), pieces);
        drop(client);
        let mut parts = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            let frame = reader.next().await.unwrap().unwrap();
            assert!(bytes_of(&frame) == content(number, *length));
            parts.push(part_lengths(&frame));
            reader.recycle(frame);
        }
        assert!(reader.next().await.unwrap().is_none());
        parts
    });
    let parts = run.unwrap();
    world.assert_nothing_is_held();
    parts
}

/// How a connection ends that sends this and closes.
fn end_of(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    let world = World::new();
    let run = world.simulation.run(async {
        let (client, mut reader) = world.connect().await;
        world.send(&client, bytes, &[]);
        drop(client);
        reader.next().await
    });
    let end = run.unwrap();
    world.assert_nothing_is_held();
    end
}

#[test]
fn a_frame_that_arrives_whole_lies_in_one_part() {
    assert_eq!(parts_of(&[100], &[104]), [[100]]);
    assert_eq!(parts_of(&[10_000], &[10_004]), [[10_000]]);
}

#[test]
fn frames_that_arrive_together_are_cut_where_they_lie() {
    assert_eq!(
        parts_of(&[100, 5000, 1], &[100 + 5000 + 1 + 12]),
        [[100], [5000], [1]]
    );
}

#[test]
fn a_small_start_is_copied_and_a_larger_one_is_read_where_it_lies() {
    assert_eq!(parts_of(&[10_000], &[104, 9900]), [[100, 9900]]);
    // Of many small pieces one part is made, of large ones none.
    assert_eq!(parts_of(&[10_000], &[54, 50, 1000, 8900]), [[1100, 8900]]);
    assert_eq!(parts_of(&[10_000], &[5004, 5000]), [[5000, 5000]]);
}

#[test]
fn a_length_may_arrive_in_parts() {
    for cut in 1..4 {
        assert_eq!(
            parts_of(&[8000, 9000], &[8004 + cut, 9004 - cut]),
            [[8000], [9000]]
        );
    }
}

#[test]
fn frames_may_arrive_byte_by_byte() {
    // All but the last byte have been copied.
    assert_eq!(
        parts_of(&[1, 50, 2], &[1; 65]),
        [vec![1], vec![49, 1], vec![1, 1]]
    );
}

#[test]
fn a_frame_in_very_many_pieces_is_copied_together() {
    let pieces = FRAME_PIECES_MAX + 1;
    let parts = parts_of(&[pieces * PIECE_BYTES - 4], &vec![PIECE_BYTES; pieces]);
    let copied = FRAME_PIECES_MAX * PIECE_BYTES - 4;
    assert_eq!(parts, [[copied, PIECE_BYTES]]);
}

#[test]
fn a_large_frame_gets_a_buffer_of_its_own() {
    let large = FRAME_BYTES_HELD_MAX + 1;
    let several_steps = LARGE_FRAME_STEP_BYTES * 5 / 2;
    for lengths in [[large, 10, large], [10, several_steps, 10]] {
        let expected = lengths.map(|length| [length]);
        assert_eq!(parts_of(&lengths, &[]), expected);
        // The start of the first lies in the copied head, behind a part of its length.
        assert_eq!(parts_of(&lengths, &[3, 1, 30]), expected);
    }
    let held = FRAME_BYTES_HELD_MAX;
    let held_parts = parts_of(&[held], &[RECEIVE_BUFFER_BYTES; 9]);
    assert!(held_parts[0].len() > 1, "it is not large yet");
}

/// The length of the frame behind a large one is received alone.
#[test]
fn behind_a_large_frame_comes_one_of_any_size_or_the_end() {
    let large = FRAME_BYTES_HELD_MAX + 1;
    let lengths = [large, large, 10, large, 5000, 1, large];
    for cut in 0..4 {
        let mut pieces = Vec::new();
        for length in lengths {
            pieces.extend(
                [cut, 4 + length - cut]
                    .into_iter()
                    .filter(|piece| *piece > 0),
            );
        }
        let received: Vec<usize> = parts_of(&lengths, &pieces)
            .iter()
            .map(|parts| parts.iter().sum())
            .collect();
        assert_eq!(received, lengths);
    }
}

#[test]
fn a_connection_that_ends_inside_the_length_behind_a_large_frame_is_truncated() {
    let world = World::new();
    let run = world.simulation.run(async {
        let (client, mut reader) = world.connect().await;
        let large = FRAME_BYTES_HELD_MAX + 1;
        let mut bytes = stream(&[large]);
        bytes.extend([0, 0]);
        world.send(&client, &bytes, &[4 + large, 2]);
        drop(client);
        let frame = reader.next().await.unwrap().unwrap();
        reader.recycle(frame);
        reader.next().await
    });
    assert!(matches!(run.unwrap(), Err(FrameError::Truncated)));
    world.assert_nothing_is_held();
}

#[test]
fn a_large_frame_may_start_in_several_pieces() {
    let large = 2 * FRAME_BYTES_HELD_MAX;
    // A frame in three pieces, and the next one's start behind it; its length is split.
    assert_eq!(
        parts_of(&[15_000, large], &[5000, 5000, 5004 + 2, 20_000]),
        [vec![4996, 5000, 5004], vec![large]]
    );
    assert_eq!(
        parts_of(&[15_000, large], &[5000, 5000, 5004 + 9000]),
        [vec![4996, 5000, 5004], vec![large]]
    );
}

#[test]
fn a_connection_that_ends_inside_a_frame_is_truncated() {
    assert!(matches!(end_of(b""), Ok(None)));
    for frame_bytes in [10, 10_000, FRAME_BYTES_HELD_MAX + 1000] {
        let stream = stream(&[frame_bytes]);
        for end in [1, 3, 4, 5, stream.len() - 1] {
            let end = end_of(&stream[..end]);
            assert!(matches!(end, Err(FrameError::Truncated)));
        }
    }
}

#[test]
fn a_length_that_cannot_be_is_refused_at_once() {
    for length in [0, -1, i32::MIN, FRAME_BYTES_MAX as i32 + 1, i32::MAX] {
        let end = end_of(&length.to_be_bytes());
        assert!(matches!(end, Err(FrameError::BadLength(_))), "{length}");
    }
}

/// Starts to read the next frame of a client in a task; what becomes of it is put there.
fn read_in_background(world: &World, mut reader: FrameReader<SimIo>) -> Rc<RefCell<Option<Read>>> {
    let read = Rc::new(RefCell::new(None));
    let result = read.clone();
    world.io.spawn(async move {
        let next = reader.next().await;
        *result.borrow_mut() = Some(next);
        // The connection stays open.
        std::future::pending::<()>().await;
        drop(reader);
    });
    read
}

type Read = Result<Option<Frame>, FrameError>;

/// While nobody else needs the memory, a large frame may stop for as long as a connection may be idle.
#[test]
fn a_large_frame_that_stops_half_way_is_let_go_once_others_wait_for_its_memory() {
    let frame_bytes = FRAME_BYTES_HELD_MAX * 2;
    let mut world = World::new();
    // Room for one, and for one more as the reserve.
    world.memory = Rc::new(FrameMemory::new(frame_bytes, frame_bytes));
    let run = world.simulation.run(async {
        let stream = stream(&[frame_bytes]);
        let (mut clients, mut stopped) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (client, reader) = world.connect().await;
            world.send(&client, &stream[..100_000], &[]);
            clients.push(client);
            stopped.push(read_in_background(&world, reader));
        }
        world.io.sleep_until(world.io.now().after_ms(300_000)).await;
        assert!(stopped.iter().all(|read| read.borrow().is_none()));

        let (client, reader) = world.connect().await;
        world.send(&client, &stream, &[]);
        let whole = read_in_background(&world, reader);
        while whole.borrow().is_none() {
            world.io.sleep_until(world.io.now().after_ms(100)).await;
        }
        let frame = whole.take().unwrap().unwrap().unwrap();
        assert!(bytes_of(&frame) == content(0, frame_bytes));
        drop(frame);
        let gone = |read: &Rc<RefCell<Option<Read>>>| {
            matches!(*read.borrow(), Some(Err(FrameError::Stalled)))
        };
        assert!(stopped.iter().any(gone), "it had to go");
    });
    run.unwrap();
}

/// Each of thousands of connections could have some of it.
#[test]
fn the_start_of_a_large_frame_takes_no_memory_while_it_waits_for_room() {
    let frame_bytes = FRAME_BYTES_HELD_MAX * 2;
    let start_bytes = 20_000;
    let mut world = World::new();
    world.memory = Rc::new(FrameMemory::new(0, frame_bytes));
    let run = world.simulation.run(async {
        let stream = stream(&[frame_bytes]);
        let (first, reader) = world.connect().await;
        world.send(&first, &stream[..100_000], &[]);
        let _keeps_the_reserve = read_in_background(&world, reader);
        world.io.sleep_until(world.io.now().after_ms(100)).await;
        assert_eq!(world.memory.moved_bytes(), 0);

        let mut waiting = Vec::new();
        for _ in 1..=10 {
            let (client, reader) = world.connect().await;
            world.send(&client, &stream[..start_bytes + 4], &[start_bytes + 4]);
            let read = read_in_background(&world, reader);
            world.io.sleep_until(world.io.now().after_ms(100)).await;
            assert!(read.borrow().is_none());
            assert_eq!(world.memory.moved_bytes(), 0);
            assert_eq!(world.receive_buffers_in_use(), 0);
            waiting.push((client, read));
        }
    });
    run.unwrap();
}

/// What hopped is counted until the other shard has let go of it, whatever became of the frame here.
#[test]
fn a_shared_large_frame_is_counted_until_nobody_keeps_it() {
    let world = World::new();
    let run = world.simulation.run(async {
        let (client, mut reader) = world.connect().await;
        let large = FRAME_BYTES_HELD_MAX + 1;
        world.send(&client, &stream(&[large]), &[]);
        let frame = reader.next().await.unwrap().unwrap();
        let parts: Vec<&[u8]> = frame.parts().map(|part| &part[..10]).collect();
        let shared = frame.share(&world.memory, parts.into_iter()).unwrap();
        reader.recycle(frame);
        assert_eq!(world.memory.large_bytes(), large);
        drop(shared);
        assert_eq!(world.memory.large_bytes(), 0);
        drop(client);
    });
    run.unwrap();
    world.assert_nothing_is_held();
}

/// A batch that waits on another shard must not keep others from receiving, nor grow without a bound.
#[test]
fn what_is_shared_keeps_few_receive_buffers_from_others() {
    let world = World::new();
    let run = world.simulation.run(async {
        let mut held = Vec::new();
        let mut shared = Vec::new();
        for _ in 0..RECEIVE_BUFFERS {
            let (client, mut reader) = world.connect().await;
            world.send(&client, &stream(&[PIECE_BYTES]), &[PIECE_BYTES + 4]);
            let frame = reader.next().await.unwrap().unwrap();
            let parts: Vec<&[u8]> = frame.parts().collect();
            shared.push(frame.share(&world.memory, parts.into_iter()).unwrap());
            held.push(client);
            reader.recycle(frame);
            assert!(world.receive_buffers_in_use() * RECEIVE_BUFFER_BYTES <= PINNED_BYTES_MAX);
        }
        for records in &shared {
            let bytes = records.slices().iter().flat_map(|part| part.to_vec());
            assert!(bytes.collect::<Vec<u8>>() == content(0, PIECE_BYTES));
        }
        assert!(world.memory.moved_bytes() > 0);
        drop(shared);
        assert_eq!(world.memory.moved_bytes(), 0);
    });
    run.unwrap();
    world.assert_nothing_is_held();
}

/// A view of it would keep a whole receive buffer, so it is copied to where others like it lie; each is counted for as long as another
/// shard keeps it.
#[test]
fn a_small_batch_that_is_shared_keeps_no_receive_buffer_and_is_counted() {
    let small = FRAME_BYTES_COPIED_MAX * 3 / 4;
    let count = 2 * SMALL_BATCHES_BUFFERS_KEPT * SMALL_BATCHES_BYTES / small;
    let world = World::new();
    let run = world.simulation.run(async {
        let (client, mut reader) = world.connect().await;
        let mut shared = Vec::new();
        for _ in 0..count {
            world.send(&client, &stream(&[small]), &[small + 4]);
            let frame = reader.next().await.unwrap().unwrap();
            let parts: Vec<&[u8]> = frame.parts().collect();
            shared.push(frame.share(&world.memory, parts.into_iter()).unwrap());
            reader.recycle(frame);
            assert_eq!(world.receive_buffers_in_use(), 0);
        }
        assert!(world.memory.moved_bytes() >= count * small);
        for records in &shared {
            let bytes = records.slices().iter().flat_map(|part| part.to_vec());
            assert!(bytes.collect::<Vec<u8>>() == content(0, small));
        }
        drop(shared);
        let kept = SMALL_BATCHES_BUFFERS_KEPT * SMALL_BATCHES_BYTES;
        assert!(world.memory.moved_bytes() <= kept, "they are used again");
        drop(client);
    });
    run.unwrap();
}

#[test]
fn frames_that_wait_keep_few_receive_buffers_from_others() {
    let world = World::new();
    let run = world.simulation.run(async {
        let mut waiting = Vec::new();
        for _ in 0..RECEIVE_BUFFERS {
            let (client, mut reader) = world.connect().await;
            world.send(&client, &stream(&[PIECE_BYTES]), &[PIECE_BYTES + 4]);
            let mut frame = reader.next().await.unwrap().unwrap();
            frame.settle(&world.memory);
            assert!(world.receive_buffers_in_use() * RECEIVE_BUFFER_BYTES <= PINNED_BYTES_MAX);
            waiting.push((client, reader, frame));
        }
        for (_, _, frame) in &waiting {
            assert!(bytes_of(frame) == content(0, PIECE_BYTES));
        }
        drop(waiting);
        assert_eq!(world.memory.moved_bytes(), 0);
    });
    run.unwrap();
    world.assert_nothing_is_held();
}

#[test]
fn parts_are_shared_where_they_lie_and_copied_out_of_the_head() {
    let world = World::new();
    let run = world.simulation.run(async {
        let (client, mut reader) = world.connect().await;
        world.send(&client, &stream(&[10_000]), &[104, 9900]);
        let frame = reader.next().await.unwrap().unwrap();
        let parts: Vec<&[u8]> = frame.parts().collect();
        assert_eq!(parts[0].len(), 100, "the head");
        let asked = [&parts[0][10..90], &parts[1][..0], &parts[1][5..9000]];
        let shared = frame.share(&world.memory, asked.into_iter()).unwrap();
        let shared = shared.slices();
        let expected = asked.map(<[u8]>::to_vec);
        assert_ne!(shared[0].as_ptr(), asked[0].as_ptr());
        assert_eq!(shared[2].as_ptr(), asked[2].as_ptr());
        // Another shard reads on when the frame is gone here.
        drop(frame);
        assert!(
            shared
                .iter()
                .zip(&expected)
                .all(|(one, other)| **one == **other)
        );
        drop(client);
    });
    run.unwrap();
    world.assert_nothing_is_held();
}

/// The buffer of a large frame is used again, but not while somebody still reads the frame before.
#[test]
fn a_kept_frame_is_not_overwritten_by_the_next() {
    let world = World::new();
    let run = world.simulation.run(async {
        let (client, mut reader) = world.connect().await;
        let lengths = [300_000, 300_000, 300_000, 5000, 5000];
        let bytes = stream(&lengths);
        world.send(&client, &bytes, &[]);
        let mut shared = Vec::new();
        for _ in lengths {
            let frame = reader.next().await.unwrap().unwrap();
            let parts: Vec<&[u8]> = frame.parts().collect();
            shared.push(frame.share(&world.memory, parts.into_iter()).unwrap());
            reader.recycle(frame);
        }
        for (number, parts) in shared.iter().enumerate() {
            let parts = parts.slices().iter();
            let bytes = parts.flat_map(|part| part.to_vec());
            assert!(bytes.collect::<Vec<u8>>() == content(number, lengths[number]));
        }
    });
    run.unwrap();
    world.assert_nothing_is_held();
}

#[test]
fn released_bytes_wait_in_the_socket() {
    let world = World::new();
    let run = world.simulation.run(async {
        let (client, mut reader) = world.connect().await;
        let lengths = [100, 9000, 8000];
        let bytes = stream(&lengths);
        world.send(&client, &bytes, &[20_000]);
        drop(reader.next().await.unwrap());
        assert_eq!(world.receive_buffers_in_use(), 1);
        reader.release_buffers();
        assert_eq!(world.receive_buffers_in_use(), 0);
        for number in [1, 2] {
            let frame = reader.next().await.unwrap().unwrap();
            assert!(bytes_of(&frame) == content(number, lengths[number]));
        }
        drop(client);
    });
    run.unwrap();
    world.assert_nothing_is_held();
}

/// One connection holds all but one of the buffers that unfinished frames may hold. Another may hold that one, and what comes
/// after it is copied.
#[test]
fn unfinished_frames_beyond_the_budget_are_copied() {
    const BUDGET: usize = HELD_BYTES_MAX / RECEIVE_BUFFER_BYTES;
    let lengths = [BUDGET * PIECE_BYTES, 3 * PIECE_BYTES];
    let world = World::new();
    let run = world.simulation.run(async {
        let mut clients = Vec::new();
        let mut frames = Vec::new();
        for _ in lengths {
            let (client, mut reader) = world.connect().await;
            clients.push(client);
            let io = world.io.clone();
            let frame = Rc::new(std::cell::RefCell::new(None));
            frames.push(frame.clone());
            io.spawn(async move {
                let read = reader.next().await.unwrap();
                *frame.borrow_mut() = read;
            });
        }
        let streams = lengths.map(|length| stream(&[length]));
        let held = BUDGET - 1;
        let pieces = vec![PIECE_BYTES; held];
        let send = async |which: usize, range: std::ops::Range<usize>, pieces: &[usize]| {
            let bytes = &streams[which][range];
            world.send(&clients[which], bytes, pieces);
            world.io.sleep_until(world.io.now().after_ms(100)).await;
            world.receive_buffers_in_use()
        };
        assert_eq!(send(0, 0..held * PIECE_BYTES, &pieces).await, BUDGET - 1);
        assert_eq!(send(1, 0..PIECE_BYTES, &[PIECE_BYTES]).await, BUDGET);
        assert_eq!(world.memory.held_bytes(), HELD_BYTES_MAX);
        let second = PIECE_BYTES..2 * PIECE_BYTES;
        assert_eq!(send(1, second, &[PIECE_BYTES]).await, BUDGET - 1);

        for which in [0, 1] {
            let sent = [held * PIECE_BYTES, 2 * PIECE_BYTES][which];
            send(which, sent..streams[which].len(), &[]).await;
            let frame = frames[which].take().expect("it is whole");
            assert!(bytes_of(&frame) == content(0, lengths[which]));
        }
    });
    run.unwrap();
    world.assert_nothing_is_held();
}
