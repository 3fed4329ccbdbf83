//! Streams of several clients cut into request frames, whatever pieces they arrive in.
//!
//! A short input describes long streams, so that frames which get a buffer of their own are among them. The connections share what
//! a shard's connections share; some frames are kept while others are read. Each stream must give the frames that a cut by its
//! length prefixes gives, and the end that it has there; frames must not change while they are kept; no memory stays in use.
#![no_main]

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;

use dataplane::frame::{Frame, FrameError, FrameMemory, FrameReader};
use dataplane::io::{Gather, GatherPart, Io};
use dataplane::limits::FRAME_BYTES_MAX;
use futures::future::join_all;
use libfuzzer_sys::fuzz_target;
use millrace_tests::sim::{SimIo, SimListener, SimOptions, SimSocket, Simulation};

const CONNECTIONS_MAX: usize = 3;
const STREAM_BYTES_MAX: usize = 1_200_000;
/// Enough that no reader ever waits for a buffer which a kept frame holds: a frame lies in at most 33 pieces.
const FRAMES_KEPT_MAX: usize = 4;
const RECEIVE_BUFFERS: usize = CONNECTIONS_MAX * (FRAMES_KEPT_MAX + 2) * 33;

/// What it is, a length, and bytes that are repeated up to some length.
type Part = (u8, u16, Vec<u8>);

/// A client's stream, and what its reader does after each frame in turn.
type Connection = (Vec<Part>, Vec<u8>);

/// A seed, the sizes of the first pieces, the connections.
type Input = (u64, Vec<u16>, Vec<Connection>);

fuzz_target!(|input: Input| {
    let (seed, pieces, mut connections) = input;
    connections.truncate(CONNECTIONS_MAX);
    let simulation = Simulation::new(SimOptions {
        buffers: 1,
        buffer_bytes: 4096,
        receive_buffers: RECEIVE_BUFFERS,
        ..SimOptions::seeded(seed)
    });
    simulation.deliver_in(pieces.into_iter().map(usize::from));
    let io = simulation.boot("broker");
    let clients = simulation.boot("clients");
    let address = SocketAddr::from(([127, 0, 0, 1], 9092));
    let listener = io.listen(address).expect("nobody else listens");
    let memory = Rc::new(FrameMemory::default());

    let served = simulation.run(async {
        let mut running = Vec::new();
        for (parts, habits) in connections {
            let (client, socket) = connect(&io, &clients, &listener, address).await;
            let stream: Rc<[u8]> = stream_of(&parts).into();
            let reader = FrameReader::new(io.clone(), socket, memory.clone());
            running.push(async {
                let sending = send(&clients, client, stream.clone());
                futures::join!(sending, check(&io, &memory, reader, stream, habits));
            });
        }
        join_all(running).await;
    });
    served.expect("a stream that ends is read to its end");
    assert_eq!((memory.held_bytes(), memory.large_bytes()), (0, 0));
    assert_eq!(io.receive_buffers_available(), RECEIVE_BUFFERS);
});

async fn connect(
    io: &SimIo,
    clients: &SimIo,
    listener: &SimListener,
    address: SocketAddr,
) -> (SimSocket, SimSocket) {
    let client = clients.connect(address).await.expect("somebody listens");
    let (socket, _) = io.accept(listener).await.expect("a client is there");
    (client, socket)
}

/// Sends it all and closes. The reader may have had enough before.
fn send(clients: &SimIo, client: SimSocket, stream: Rc<[u8]>) -> impl Future<Output = ()> {
    let message = Gather {
        inline: stream.to_vec(),
        parts: vec![GatherPart::Inline(0..stream.len())],
        charges: Vec::new(),
    };
    async move {
        let _ = clients.send(&client, message).await;
    }
}

fn stream_of(parts: &[Part]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (kind, number, pattern) in parts {
        // Mostly small, and now and then more than a frame that is read where it lies.
        let length = match kind >> 2 {
            0..8 => usize::from(*number) << (kind >> 2),
            _ => usize::from(*number) % 6000,
        };
        let content = repeated(pattern, length.min(STREAM_BYTES_MAX));
        match kind % 4 {
            0 => stream.extend(pattern),
            1 => {
                stream.extend((i32::from(*number as i16) << (kind >> 4)).to_be_bytes());
                stream.extend(pattern);
            }
            _ => {
                stream.extend((content.len() as i32).to_be_bytes());
                stream.extend(content);
            }
        }
        stream.truncate(STREAM_BYTES_MAX);
    }
    stream
}

/// Each repetition differs from the one before, so that no two places look the same.
fn repeated(pattern: &[u8], length: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(length + pattern.len());
    for round in 0.. {
        if pattern.is_empty() || content.len() >= length {
            break;
        }
        let changed = pattern.iter().map(|byte| byte ^ (round as u8));
        content.extend(changed);
    }
    content.resize(length, 0xa5);
    content
}

/// How a stream ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    BetweenFrames,
    InsideFrame,
    BadLength,
}

/// The model: the next frame of what is left of a stream.
fn next_frame<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], End> {
    let Some((prefix, after)) = rest.split_first_chunk::<4>() else {
        return Err(match rest.is_empty() {
            true => End::BetweenFrames,
            false => End::InsideFrame,
        });
    };
    let length = i32::from_be_bytes(*prefix);
    if length <= 0 || length as usize > FRAME_BYTES_MAX {
        return Err(End::BadLength);
    }
    let cut = after.split_at_checked(length as usize);
    let (frame, after) = cut.ok_or(End::InsideFrame)?;
    *rest = after;
    Ok(frame)
}

async fn check(
    io: &SimIo,
    memory: &Rc<FrameMemory>,
    mut reader: FrameReader<SimIo>,
    stream: Rc<[u8]>,
    habits: Vec<u8>,
) {
    let mut rest = &stream[..];
    let mut kept: VecDeque<(Frame, &[u8])> = VecDeque::new();
    let mut habits = habits.into_iter().cycle();
    loop {
        let expected = next_frame(&mut rest);
        let read = reader.next().await.map_err(|error| match error {
            FrameError::BadLength(_) => End::BadLength,
            FrameError::Truncated => End::InsideFrame,
            other => panic!("nothing else can happen to a stream: {other}"),
        });
        let frame = match (
            read.and_then(|frame| frame.ok_or(End::BetweenFrames)),
            expected,
        ) {
            (Ok(frame), Ok(expected)) => (frame, expected),
            (read, expected) => {
                assert_eq!(read.err(), expected.err());
                break;
            }
        };
        assert_same(memory, &frame);
        kept.push_back(frame);

        let habit = habits.next().unwrap_or(0);
        if habit & 1 != 0 {
            reader.release_buffers();
        }
        if habit & 2 != 0 {
            // Meanwhile more arrives than the reader waits for.
            io.sleep_until(io.now().after_ms(u64::from(habit >> 6)))
                .await;
        }
        while kept.len() > usize::from(habit >> 2) % (FRAMES_KEPT_MAX + 1) {
            let oldest = kept.pop_front().expect("it is longer than something");
            assert_same(memory, &oldest);
            if habit & 32 != 0 {
                reader.recycle(oldest.0);
            }
        }
    }
    kept.iter().for_each(|frame| assert_same(memory, frame));
}

/// The frame has the bytes expected, and so has what another shard would be given of it.
fn assert_same(memory: &Rc<FrameMemory>, (frame, expected): &(Frame, &[u8])) {
    assert_eq!(frame.bytes(), expected.len());
    let mut bytes = Vec::with_capacity(expected.len());
    frame.copy_to(&mut bytes);
    // `assert_eq` would print both.
    assert!(bytes == *expected, "a frame of other bytes");
    let parts: Vec<&[u8]> = frame.parts().collect();
    let shared = frame.share(memory, parts.into_iter()).expect("there is memory");
    let shared = shared.slices().iter().flat_map(|part| part.to_vec());
    assert!(
        shared.eq(expected.iter().copied()),
        "shared as other bytes"
    );
}
