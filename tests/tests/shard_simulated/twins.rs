//! Two processes with one broker id, the second on a copy of the first one's files: at most one of them appends at any time.

use dataplane::io::{BLOCK_BYTES, Io};
use dataplane::limits::TAIL_BUFFER_BYTES;
use millrace_tests::sim::SimIo;
use millrace_tests::sweep::for_each_seed;
use wire::ErrorCode;

use super::broker::TAIL_BUFFERS;
use super::client::Client;
use super::control::SESSION_MS;
use super::slow_disk;
use super::{PORT, TOPIC, World};

const TWIN_PORT: u16 = 9093;
const FRAME_BYTES: usize = 1_000_000;
const REFUSED: Option<(ErrorCode, i64)> = Some((ErrorCode::NotLeaderOrFollower, -1));

fn produce(world: &World, clients: &SimIo, port: u16, value: &[u8]) -> Option<(ErrorCode, i64)> {
    let mut client = Client::of(clients.clone(), port);
    world.run(clients, client.try_produce("topic", 0, value))
}

fn world_with_topic(seed: u64) -> (World, SimIo, SimIo) {
    let world = World::new(seed, 2);
    let clients = world.simulation.boot("clients");
    let broker = world.boot();
    let mut client = Client::new(clients.clone());
    world.run(&clients, async {
        client.create_topic("topic", 1).await;
        assert_eq!(client.produce("topic", 0, b"before").await, 0);
    });
    // The image that shows the topic is on disk.
    world.pass(&clients, 800);
    (world, clients, broker)
}

#[test]
fn a_second_process_on_copied_files_appends_nothing_and_gives_up() {
    for_each_seed(12, |seed| {
        let (world, clients, _broker) = world_with_topic(seed);
        world.simulation.copy_files("broker", "twin");
        let (_twin, process) = world.boot_process("twin", TWIN_PORT);
        for round in 0..6 {
            world.pass(&clients, 400);
            assert_eq!(produce(&world, &clients, TWIN_PORT, b"twin"), REFUSED);
            let own = produce(&world, &clients, PORT, b"own");
            assert_eq!(own, Some((ErrorCode::None, round + 1)));
        }
        world.pass(&clients, 12_000);
        let ended = process.ended.borrow().clone();
        assert!(matches!(ended, Some(Err(_))), "it ended with {ended:?}");
        let own = produce(&world, &clients, PORT, b"own");
        assert_eq!(own, Some((ErrorCode::None, 7)), "the first goes on");
    });
}

#[test]
fn a_process_that_was_stopped_while_another_took_over_acknowledges_nothing_more() {
    for_each_seed(12, |seed| {
        let (world, clients, broker) = world_with_topic(seed);
        // Requests are under way when it stops.
        let acknowledged = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        for number in 0..4 {
            let mut client = Client::new(clients.clone());
            let (io, acknowledged) = (clients.clone(), acknowledged.clone());
            clients.spawn(async move {
                for record in 0.. {
                    let value = format!("{number}:{record}").into_bytes();
                    if let Some((ErrorCode::None, offset)) =
                        client.try_produce("topic", 0, &value).await
                    {
                        acknowledged.borrow_mut().push((io.now(), offset, value));
                    }
                    io.sleep_until(io.now().after_ms(5)).await;
                }
            });
        }
        world.pass(&clients, 100 + clients.random_u64() % 50);
        broker.stop();
        let stopped_at = clients.now();
        world.simulation.copy_files("broker", "twin");
        let (_twin, process) = world.boot_process("twin", TWIN_PORT);
        let mut client = Client::of(clients.clone(), TWIN_PORT);
        let first = world.run(&clients, client.produce("topic", 0, b"taken over"));
        let registered = world.control.borrow().registrations.last().copied();
        assert_eq!(registered, Some(process.incarnation));
        assert!(clients.now() >= stopped_at.after_ms(SESSION_MS / 2));

        let resumed_at = clients.now();
        broker.go_on();
        world.pass(&clients, 3_000);
        // What was sent before it stopped may arrive later; the twin has it.
        let found = world.run(&clients, client.fetch_all("topic", 0));
        for (at, offset, value) in acknowledged.borrow().iter() {
            let there = found.get(*offset as usize);
            let kept = there.is_some_and(|record| record.value == *value);
            assert!(
                kept,
                "offset {offset} acknowledged at {at:?}, resumed at {resumed_at:?}"
            );
        }
        assert_eq!(found[first as usize].value, b"taken over");
    });
}

/// Of another shard's client, for want of memory: its shard looks at the lease when it comes to it, not when it was sent.
#[test]
fn what_waited_to_be_appended_when_a_process_was_stopped_is_refused_once_another_has_taken_over() {
    let (world, clients, broker) = world_with_topic(1);
    let mut client = Client::new(clients.clone());
    world.run(&clients, client.produce(TOPIC, 0, b"before"));
    world.simulation.slow_disk("broker", 300);
    // More than there is memory for, and last what is looked for in the files.
    let frame = |byte| slow_disk::frame(&clients, 0, &[byte; FRAME_BYTES], 0);
    let mut frames = vec![frame(b'v'); 2 * TAIL_BUFFERS * TAIL_BUFFER_BYTES / FRAME_BYTES];
    frames.push(frame(b'w'));
    // Connections take turns over the shards, so one of two hops.
    for _ in 0..2 {
        let (io, frames) = (clients.clone(), frames.clone());
        clients.spawn(async move {
            let mut client = Client::new(io);
            let socket = client.connected().await.unwrap();
            for frame in frames {
                // Until the process ends, which it does in the end.
                if client.send_bytes(&socket, frame).await.is_none() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        });
    }
    world.pass(&clients, 400);
    broker.stop();
    world.simulation.copy_files("broker", "twin");
    let (_twin, _process) = world.boot_process("twin", TWIN_PORT);
    let mut client = Client::of(clients.clone(), TWIN_PORT);
    world.run(&clients, client.produce(TOPIC, 0, b"taken over"));
    world.simulation.slow_disk("broker", 1);
    broker.go_on();
    world.pass(&clients, 3_000);
    let stored = |byte| {
        let paths = world.simulation.paths("broker");
        let files = paths
            .iter()
            .filter_map(|path| world.simulation.file_bytes("broker", path));
        files
            .filter(|file| {
                file.chunks(BLOCK_BYTES)
                    .any(|block| block.iter().all(|found| *found == byte))
            })
            .count()
    };
    assert_eq!((stored(b'v'), stored(b'w')), (1, 0));
}

#[test]
fn a_process_that_was_stopped_for_a_while_goes_on_once_it_is_known() {
    for_each_seed(12, |seed| {
        let (world, clients, broker) = world_with_topic(seed);
        for round in 0..3 {
            broker.stop();
            world.pass(&clients, 300 + clients.random_u64() % 3_000);
            broker.go_on();
            let mut client = Client::new(clients.clone());
            let offset = world.run(&clients, client.produce("topic", 0, b"again"));
            assert_eq!(offset, round + 1);
        }
    });
}
