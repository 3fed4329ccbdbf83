//! Requests that name very much: how many of them are looked at together, and who has his turn meanwhile.

use std::cell::RefCell;
use std::rc::Rc;

use dataplane::io::Io;
use dataplane::limits::STEPS_PER_TURN_MAX;
use wire::messages::AnyRequest;
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use wire::{Array, ErrorCode};

use super::client::{Client, FETCH_VERSION, fetched};
use super::{TOPIC, World};

const NAMED: usize = 200_000;

/// Fetches the end of a partition, which it names again and again, and finds nothing there.
async fn fetch(client: &mut Client, max_wait_ms: i32) {
    let partition = FetchPartition {
        fetch_offset: 1,
        partition_max_bytes: 1,
        ..Default::default()
    };
    let partitions = vec![partition; NAMED];
    let topics = [FetchTopic {
        topic: TOPIC,
        partitions: Array::from(&partitions[..]),
        ..Default::default()
    }];
    let request = AnyRequest::Fetch(FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        topics: Array::from(&topics),
        ..Default::default()
    });
    let answer = client.exchange(request, FETCH_VERSION).await.unwrap();
    assert!(fetched(&answer, 1).is_empty());
}

/// What they come to is counted until they are answered, and there is room for two; a small one is served all the time.
#[test]
fn very_long_fetches_are_parked_two_at_a_time() {
    const FETCHES: usize = 5;
    const WAIT_MS: u64 = 1000;
    let world = World::new(1, 1);
    let clients = world.simulation.boot("clients");
    let _broker = world.boot();
    let answered = Rc::new(RefCell::new(Vec::new()));
    world.run(&clients, async {
        let mut honest = Client::new(clients.clone());
        honest.produce(TOPIC, 0, b"first").await;
        let begun = clients.now();
        for _ in 0..FETCHES {
            let (io, answered) = (clients.clone(), answered.clone());
            clients.spawn(async move {
                fetch(&mut Client::new(io.clone()), WAIT_MS as i32).await;
                let waits = io.now().nanos_since(begun) / (WAIT_MS * 1_000_000);
                answered.borrow_mut().push(waits);
            });
        }
        while answered.borrow().len() < FETCHES {
            let asked = clients.now();
            let (error, _) = honest.try_produce(TOPIC, 1, b"more").await.unwrap();
            assert_eq!(error, ErrorCode::None);
            assert!(clients.now().nanos_since(asked) < WAIT_MS * 1_000_000 / 2);
            clients.sleep_until(clients.now().after_ms(50)).await;
        }
    });
    assert_eq!(*answered.borrow(), [1, 1, 2, 2, 3]);
}

/// The simulated world's tasks take no time, but it sees how often one comes back for more at a moment.
#[test]
fn a_very_long_fetch_gives_way_again_and_again() {
    let world = World::new(1, 1);
    let clients = world.simulation.boot("clients");
    let _broker = world.boot();
    world.run(&clients, async {
        let mut client = Client::new(clients.clone());
        client.produce(TOPIC, 0, b"first").await;
        fetch(&mut client, 0).await;
    });
    let most = world.turns_at_once();
    // The world remembers the last 256 events.
    let whole = NAMED / STEPS_PER_TURN_MAX;
    assert!(most > whole / 8, "{most} turns of {whole} are remembered");
}
