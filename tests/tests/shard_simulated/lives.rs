//! Topics come and go while the broker loses one life after another: what was acknowledged in a topic that was not deleted is there,
//! once, at its offset.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use dataplane::io::Io;
use millrace_tests::sim::{CrashKind, SimIo};
use millrace_tests::sweep::for_each_seed;
use wire::ErrorCode;

use super::World;
use super::client::Client;
use super::control::SESSION_MS;

const WRITERS: u64 = 3;
const PARTITIONS_EACH: i32 = 2;

/// By topic and partition, the acknowledged records by offset. A topic goes before it is asked to be deleted.
type Kept = Rc<RefCell<BTreeMap<String, BTreeMap<(i32, i64), Vec<u8>>>>>;

/// Creates topics, writes to each, and deletes some, until told to stop.
async fn write(io: SimIo, writer: u64, kept: Kept, stop: Rc<Cell<bool>>, done: Rc<Cell<u64>>) {
    let mut client = Client::new(io.clone());
    for number in 0.. {
        if stop.get() {
            break;
        }
        let topic = format!("topic-{writer}-{number}");
        client.create_topic(&topic, PARTITIONS_EACH).await;
        kept.borrow_mut().insert(topic.clone(), BTreeMap::new());
        for record in 0..1 + io.random_u64() % 6 {
            let partition = (io.random_u64() % PARTITIONS_EACH as u64) as i32;
            let mut value = format!("{topic}:{record}:").into_bytes();
            value.resize(value.len() + io.random_u64() as usize % 2000, b'.');
            let offset = client.produce(&topic, partition, &value).await;
            let mut kept = kept.borrow_mut();
            let known = kept.get_mut(&topic).unwrap();
            let before = known.insert((partition, offset), value);
            assert!(
                before.is_none(),
                "{topic}-{partition}@{offset} was acknowledged twice"
            );
        }
        if io.random_u64().is_multiple_of(4) {
            kept.borrow_mut().remove(&topic);
            client.delete_topic(&topic).await;
        }
        let pause = io.random_u64() % 150;
        io.sleep_until(io.now().after_ms(pause)).await;
    }
    done.set(done.get() + 1);
}

async fn check(clients: &SimIo, kept: &Kept) {
    let mut client = Client::new(clients.clone());
    let kept = kept.borrow().clone();
    for (topic, records) in &kept {
        for partition in 0..PARTITIONS_EACH {
            let found = client.fetch_all(topic, partition).await;
            for (expected, record) in found.iter().enumerate() {
                assert_eq!(
                    record.offset, expected as i64,
                    "a gap in {topic}-{partition}"
                );
            }
            let own = records.iter().filter(|((of, _), _)| *of == partition);
            for ((_, offset), value) in own {
                let record = found.get(*offset as usize);
                let record =
                    record.unwrap_or_else(|| panic!("{topic}-{partition}@{offset} is lost"));
                assert!(
                    record.value == *value,
                    "{topic}-{partition}@{offset} differs"
                );
            }
        }
    }
}

/// Returns how many topics were there at the end.
fn run(seed: u64, shards: usize) -> usize {
    let world = World::new(seed, shards);
    let clients = world.simulation.boot("clients");
    let (kept, stop, done) = (
        Kept::default(),
        Rc::new(Cell::new(false)),
        Rc::new(Cell::new(0)),
    );
    let mut broker = world.boot();
    for writer in 0..WRITERS {
        let work = write(
            clients.clone(),
            writer,
            kept.clone(),
            stop.clone(),
            done.clone(),
        );
        clients.spawn(work);
    }
    for _ in 0..3 {
        // Mostly the next life comes to serve before it ends; the image on disk is up to half a second old each time.
        let pause = SESSION_MS / 2 + clients.random_u64() % (2 * SESSION_MS);
        world.pass(&clients, pause);
        let kinds = [CrashKind::ProcessKilled, CrashKind::PowerLost];
        broker.crash(kinds[(clients.random_u64() % 2) as usize]);
        broker = world.boot();
    }
    stop.set(true);
    world.run(&clients, async {
        while done.get() < WRITERS {
            clients.sleep_until(clients.now().after_ms(10)).await;
        }
        check(&clients, &kept).await;
    });
    world.check_strays();
    kept.borrow().len()
}

#[test]
fn what_was_acknowledged_in_new_topics_survives_every_life() {
    for_each_seed(12, |seed| {
        let topics = run(seed, 1 + (seed % 2) as usize);
        assert!(topics > 0, "topics were written to");
    });
}

/// A client may go anywhere as soon as a topic's creation was answered.
#[test]
fn a_topic_that_was_created_is_served_by_every_shard_at_once() {
    for_each_seed(12, |seed| {
        let world = World::new(seed, 2);
        let clients = world.simulation.boot("clients");
        let _broker = world.boot();
        world.run(&clients, async {
            for number in 0..10 {
                let topic = format!("topic-{number}");
                let mut creator = Client::new(clients.clone());
                creator.create_topic(&topic, 4).await;
                for partition in 0..4 {
                    // Each on a connection of its own, which may come to be served by another shard.
                    let mut client = Client::new(clients.clone());
                    let answer = client.try_produce(&topic, partition, b"first").await;
                    assert_eq!(answer, Some((ErrorCode::None, 0)), "{topic}-{partition}");
                }
            }
        });
    });
}

/// Without the quorum what was committed is read on, by a new process too, which appends nothing before it is registered.
#[test]
fn without_a_majority_a_broker_serves_on_and_a_new_process_only_reads() {
    for_each_seed(12, |seed| {
        let world = World::new(seed, 2);
        let clients = world.simulation.boot("clients");
        let broker = world.boot();
        let mut client = Client::new(clients.clone());
        world.run(&clients, client.create_topic("topic", 1));
        assert_eq!(world.run(&clients, client.produce("topic", 0, b"one")), 0);
        world.control.borrow_mut().set_available(false);
        world.pass(&clients, 5 * SESSION_MS);
        let answer = world.run(&clients, client.try_produce("topic", 0, b"two"));
        assert_eq!(
            answer,
            Some((ErrorCode::None, 1)),
            "the outage costs nothing"
        );

        broker.crash(CrashKind::ProcessKilled);
        let _broker = world.boot();
        let read = world.run(&clients, client.fetch_all("topic", 0));
        assert_eq!(read.len(), 2, "what was committed is read");
        let answer = world.run(&clients, client.try_produce("topic", 0, b"three"));
        let refused = Some((ErrorCode::NotLeaderOrFollower, -1));
        assert_eq!(answer, refused, "not registered, so not leading");

        world.control.borrow_mut().set_available(true);
        assert_eq!(world.run(&clients, client.produce("topic", 0, b"three")), 2);
    });
}
