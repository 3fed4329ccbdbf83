//! Connections on which little or nothing moves: a client may be as slow as it likes, and one that has vanished is let go.

use dataplane::io::Io;
use millrace_tests::sim::{CrashKind, SimIo};
use wire::Array;
use wire::messages::AnyRequest;
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};

use super::broker::CONNECTIONS_IDLE_MS_MAX;
use super::client::{Client, FETCH_VERSION, fetched};
use super::{TOPIC, World};

const RECORDS: usize = 30;
const RECORD_BYTES: usize = 50_000;
const MINUTE_MS: u64 = 60_000;

/// 1.5 MB in one partition.
async fn fill(clients: &SimIo) {
    let mut client = Client::new(clients.clone());
    for _ in 0..RECORDS {
        client.produce(TOPIC, 0, &[b'r'; RECORD_BYTES]).await;
    }
}

/// Records of an answer that is several times as long as what a simulated connection holds on its way.
fn is_long(answer: Option<usize>) -> bool {
    answer.is_some_and(|records| records * RECORD_BYTES > 900_000)
}

/// Asks for the whole partition and takes the answer with a pause before each piece; the number of records, or `None` if the broker
/// ended the connection.
async fn fetch_slowly(clients: &SimIo, pause_ms: u64) -> Option<usize> {
    let mut client = Client::new(clients.clone());
    let partitions = [FetchPartition {
        partition_max_bytes: i32::MAX,
        ..Default::default()
    }];
    let topics = [FetchTopic {
        topic: TOPIC,
        partitions: Array::from(&partitions),
        ..Default::default()
    }];
    let request = FetchRequest {
        max_wait_ms: 50,
        min_bytes: 1,
        topics: Array::from(&topics),
        ..Default::default()
    };
    client
        .send_only(AnyRequest::Fetch(request), FETCH_VERSION)
        .await?;
    let answer = client.answer(pause_ms).await?;
    Some(fetched(&answer, 0).len())
}

fn run(seed: u64, pause_ms: u64) -> Option<usize> {
    let world = World::new(seed, 1);
    let clients = world.simulation.boot("clients");
    let _broker = world.boot();
    let read = clients.run(async {
        fill(&clients).await;
        fetch_slowly(&clients, pause_ms).await
    });
    read.unwrap()
}

/// It was cut off 30 s after the send had begun, however much it had taken by then.
#[test]
fn a_reader_that_takes_a_piece_in_a_while_gets_all_of_its_answer() {
    for seed in 0..3 {
        assert!(is_long(run(seed, 20_000)), "seed {seed}");
    }
}

#[test]
fn a_reader_may_pause_for_as_long_as_a_connection_may_be_idle() {
    let pause_ms = CONNECTIONS_IDLE_MS_MAX - 2 * MINUTE_MS;
    assert!(is_long(run(1, pause_ms)));
}

#[test]
fn a_reader_that_takes_nothing_is_let_go() {
    assert_eq!(run(1, CONNECTIONS_IDLE_MS_MAX + 2 * MINUTE_MS), None);
}

/// Their hosts are gone without a word, some in the middle of a frame or of an answer.
#[test]
fn connections_of_clients_that_vanished_go_and_those_in_use_stay() {
    let world = World::new(1, 2);
    let clients = world.simulation.boot("clients");
    let _broker = world.boot();
    clients
        .run(async {
            fill(&clients).await;
            let mut silent = Vec::new();
            for bytes in [0, 3, 100] {
                let mut client = Client::new(clients.clone());
                let socket = client.connected().await.unwrap();
                client.send_bytes(&socket, vec![0; bytes]).await.unwrap();
                silent.push((client, socket));
            }
            let mut busy = Client::new(clients.clone());
            for _ in 0..CONNECTIONS_IDLE_MS_MAX / MINUTE_MS + 2 {
                busy.produce(TOPIC, 0, b"still here").await;
                clients.sleep_until(clients.now().after_ms(MINUTE_MS)).await;
            }
            for (_, socket) in &silent {
                let end = clients.receive(socket).await;
                // In order, or by a reset where something was still unread.
                assert!(end.map_or(0, |bytes| bytes.len()) == 0, "closed");
            }
            let socket = busy.connected().await.unwrap();
            let before = clients.moved_bytes(&socket);
            busy.produce(TOPIC, 0, b"the same connection").await;
            assert!(clients.moved_bytes(&socket) > before);
        })
        .unwrap();
    world.simulation.crash("broker", CrashKind::ProcessKilled);
}
