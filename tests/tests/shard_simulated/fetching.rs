//! Fetches against real shards: what answers may keep in memory and for how long, and when a parked fetch is answered.

use std::cell::RefCell;
use std::rc::Rc;

use control_api::ids::TopicId;
use dataplane::answer_memory::ReadPermit;
use dataplane::io::Io;
use dataplane::limits::TAIL_BUFFER_BYTES;
use dataplane::mesh::ShardId;
use dataplane::message::Message;
use dataplane::routes::shard_of;
use millrace_tests::sim::{FileFault, SimIo, Simulation};
use wire::messages::AnyRequest;
use wire::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use wire::messages::delete_topics::DeleteTopicsRequest;
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use wire::{ApiKey, Array, ErrorCode, Uuid};

use super::broker::{RunningShards, start_broker};
use super::client::{Client, answer_reader};
use super::control::ControlPlane;
use super::{PARTITIONS, TOPIC};

const BY_NAME: i16 = 12;
const BY_ID: i16 = 13;
const TOPIC_ID: TopicId = TopicId([7; 16]);

/// What every client library asks for unless it is told otherwise.
const FETCH_MAX_BYTES: i32 = 52_428_800;
const MAX_PARTITION_FETCH_BYTES: i32 = 1_048_576;

const RECORD_BYTES: usize = 100_000;

/// What may be pinned with the 32 buffers that a simulated shard has.
const PINNED_BYTES_MAX: usize = 16 * TAIL_BUFFER_BYTES;

struct Broker {
    simulation: Simulation,
    control: Rc<RefCell<ControlPlane>>,
    io: SimIo,
    shards: RunningShards,
}

/// What a fetch asks for; the rest is as client libraries have it.
#[derive(Clone, Copy)]
struct Ask {
    version: i16,
    partitions: i32,
    partition_bytes: i32,
    offset: i64,
    bytes_min: i32,
    wait_ms: i32,
    /// Id and epoch of a fetch session; one that goes on names no partitions.
    session: (i32, i32),
}

impl Default for Ask {
    fn default() -> Ask {
        Ask {
            version: BY_NAME,
            partitions: PARTITIONS,
            partition_bytes: MAX_PARTITION_FETCH_BYTES,
            offset: 0,
            bytes_min: 1,
            wait_ms: 500,
            session: (0, -1),
        }
    }
}

/// What came back, of all partitions.
struct Answer {
    bytes: usize,
    session: i32,
    errors: Vec<ErrorCode>,
    after_ms: u64,
}

impl Broker {
    /// One life of a broker on which every partition has `records` records, and what runs beside it.
    fn with_records(seed: u64, shards: usize, records: usize) -> Broker {
        let simulation = Simulation::seeded(seed);
        let mut control = ControlPlane::new();
        control.create_topic(TOPIC, PARTITIONS);
        let io = simulation.boot("broker");
        let control = Rc::new(RefCell::new(control));
        let shards = start_broker(&io, shards, &control);
        let clients = simulation.boot("clients");
        let broker = Broker {
            simulation,
            control,
            io: clients,
            shards,
        };
        broker.run(async |io| {
            let mut client = Client::new(io);
            for partition in 0..PARTITIONS {
                for _ in 0..records {
                    client
                        .produce(TOPIC, partition, &[b'v'; RECORD_BYTES])
                        .await;
                }
            }
        });
        broker
    }

    fn run<T>(&self, test: impl AsyncFnOnce(SimIo) -> T) -> T {
        self.io.run(test(self.io.clone())).unwrap()
    }

    fn pinned_bytes(&self, shard: ShardId) -> usize {
        self.shards.borrow()[shard.0]
            .shard
            .answer_memory
            .pinned_bytes()
    }

    /// All that answers of a shard may still keep: first what is pinned, buffer by buffer, then what is copied.
    fn take_memory(&self, shard: ShardId) -> Vec<ReadPermit> {
        let memory = &self.shards.borrow()[shard.0].shard.answer_memory;
        let mut taken: Vec<ReadPermit> = (0..PINNED_BYTES_MAX / TAIL_BUFFER_BYTES)
            .filter_map(|_| memory.permit(0))
            .collect();
        let rest = std::iter::from_fn(|| memory.permit(PINNED_BYTES_MAX));
        taken.extend(rest.take_while(|permit| permit.bytes_max > 0));
        taken
    }

    fn all_pinned_bytes(&self) -> usize {
        let shards = self.shards.borrow().len();
        (0..shards)
            .map(|shard| self.pinned_bytes(ShardId(shard)))
            .sum()
    }
}

/// Calls `take` with a fetch of the first partitions.
async fn with_request<T>(ask: Ask, take: impl AsyncFnOnce(AnyRequest<'_>) -> T) -> T {
    let partitions: Vec<FetchPartition> = (0..ask.partitions)
        .map(|partition| FetchPartition {
            partition,
            fetch_offset: ask.offset,
            partition_max_bytes: ask.partition_bytes,
            ..Default::default()
        })
        .collect();
    let topics = [FetchTopic {
        topic: TOPIC,
        topic_id: Uuid(TOPIC_ID.0),
        partitions: Array::from(&partitions[..]),
    }];
    let (session_id, session_epoch) = ask.session;
    let named = if session_epoch > 0 { 0 } else { 1 };
    let request = FetchRequest {
        session_id,
        session_epoch,
        max_wait_ms: ask.wait_ms,
        min_bytes: ask.bytes_min,
        max_bytes: FETCH_MAX_BYTES,
        topics: Array::from(&topics[..named]),
        ..Default::default()
    };
    take(AnyRequest::Fetch(request)).await
}

/// Fetches and reads the answer.
async fn fetch(io: &SimIo, client: &mut Client, ask: Ask) -> Answer {
    let begun = io.now();
    let bytes = with_request(ask, async |request| {
        client.exchange(request, ask.version).await
    });
    let bytes = bytes.await.unwrap();
    let after_ms = io.now().nanos_since(begun) / 1_000_000;
    let mut reader = answer_reader(&bytes, ApiKey::Fetch, ask.version);
    let response = FetchResponse::decode(&mut reader, ask.version).unwrap();
    let mut answer = Answer {
        bytes: 0,
        session: response.session_id,
        errors: Vec::new(),
        after_ms,
    };
    for topic in response.responses.iter() {
        for partition in topic.partitions.iter() {
            answer.bytes += partition.records.map_or(0, |records| records.len());
            answer
                .errors
                .push(ErrorCode::from_i16(partition.error_code).unwrap());
        }
    }
    answer
}

/// Fetches and reads nothing of the answer.
async fn fetch_and_stall(io: &SimIo, client: &mut Client, ask: Ask) {
    with_request(ask, async |request| {
        client.send_only(request, ask.version).await
    })
    .await
    .unwrap();
    pause(io, 100).await;
}

async fn pause(io: &SimIo, ms: u64) {
    io.sleep_until(io.now().after_ms(ms)).await;
}

/// A large answer that is being sent, or small ones that wait behind it.
#[test]
fn what_queued_answers_pin_is_given_back_when_the_client_goes() {
    let small = Ask {
        partitions: 1,
        partition_bytes: 1,
        ..Ask::default()
    };
    for (seed, shards) in [(1, 1), (2, 2), (3, 2)] {
        let broker = Broker::with_records(seed, shards, 20);
        broker.run(async |io| {
            for (ask, fetches) in [(Ask::default(), 3), (small, 8)].repeat(2) {
                let mut client = Client::new(io.clone());
                for _ in 0..fetches {
                    fetch_and_stall(&io, &mut client, ask).await;
                }
                // One that is sent pins one buffer if it is small.
                assert!(broker.all_pinned_bytes() > 2 * TAIL_BUFFER_BYTES);
                client.leave();
                pause(&io, 500).await;
                assert_eq!(broker.all_pinned_bytes(), 0, "seed {seed}");
            }
        });
    }
}

#[test]
fn a_connection_that_took_its_answer_keeps_nothing_of_it() {
    let broker = Broker::with_records(4, 2, 20);
    broker.run(async |io| {
        let mut client = Client::new(io.clone());
        let answer = fetch(&io, &mut client, Ask::default()).await;
        assert!(answer.bytes > 0);
        pause(&io, 100).await;
        assert_eq!(broker.all_pinned_bytes(), 0);
    });
}

#[test]
fn a_pin_belongs_to_the_shard_whose_memory_it_pins() {
    let holder = shard_of(TOPIC_ID, 0, 2);
    let broker = Broker::with_records(5, 2, 20);
    broker.run(async |io| {
        // Connections take turns over the shards, so one of two hops.
        let mut clients = [Client::new(io.clone()), Client::new(io.clone())];
        let ask = Ask {
            partitions: 1,
            ..Ask::default()
        };
        for client in &mut clients {
            fetch_and_stall(&io, client, ask).await;
        }
        assert!(broker.pinned_bytes(holder) > 2 * 800_000);
        assert_eq!(broker.pinned_bytes(ShardId(1 - holder.0)), 0);
    });
}

#[test]
fn an_answer_carries_what_client_defaults_ask_for() {
    for shards in [1, 2] {
        let broker = Broker::with_records(6, shards, 20);
        broker.run(async |io| {
            let answer = fetch(&io, &mut Client::new(io.clone()), Ask::default()).await;
            // Half of what may be pinned, of each shard; 1 MiB is what is copied once nothing may be pinned.
            assert!(answer.bytes > 1_500_000 * shards, "{} bytes", answer.bytes);
        });
    }
}

/// Its client would take as much as clients take by default.
#[test]
fn an_answer_keeps_what_it_carries_from_others_and_no_more() {
    for shards in [1, 2] {
        let broker = Broker::with_records(14, shards, 1);
        broker.run(async |io| {
            let mut client = Client::new(io.clone());
            fetch_and_stall(&io, &mut client, Ask::default()).await;
            let pinned = broker.all_pinned_bytes();
            let carried = PARTITIONS as usize * TAIL_BUFFER_BYTES;
            assert!((1..=carried).contains(&pinned), "{pinned} bytes are pinned");
        });
    }
}

#[test]
fn clients_that_do_not_read_pin_no_more_than_the_bound_and_others_go_on() {
    for (seed, shards) in [(7, 1), (8, 2)] {
        let broker = Broker::with_records(seed, shards, 20);
        broker.run(async |io| {
            let mut stalled: Vec<Client> = (0..200).map(|_| Client::new(io.clone())).collect();
            for client in &mut stalled {
                fetch_and_stall(&io, client, Ask::default()).await;
                let pinned = broker.all_pinned_bytes();
                assert!(
                    pinned <= shards * PINNED_BYTES_MAX,
                    "{pinned} bytes are pinned"
                );
            }
            let answer = fetch(&io, &mut Client::new(io.clone()), Ask::default()).await;
            assert!(answer.bytes >= RECORD_BYTES, "{} bytes", answer.bytes);
            assert!(answer.after_ms < 400, "{} ms", answer.after_ms);
            let mut producer = Client::new(io.clone());
            producer.produce(TOPIC, 0, &[b'v'; RECORD_BYTES]).await;
        });
    }
}

#[test]
fn a_client_that_takes_nothing_is_let_go_once_others_wait_for_its_memory() {
    for shards in [1, 2] {
        let broker = Broker::with_records(12, shards, 20);
        broker.run(async |io| {
            let mut stalled = Client::new(io.clone());
            fetch_and_stall(&io, &mut stalled, Ask::default()).await;
            let pinned = broker.all_pinned_bytes();
            // As thousands of others would, that do read, if slowly.
            let held: Vec<ReadPermit> = (0..shards)
                .flat_map(|shard| broker.take_memory(ShardId(shard)))
                .collect();
            let mut honest = Client::new(io.clone());
            let ask = Ask {
                wait_ms: 30_000,
                ..Ask::default()
            };
            let answer = fetch(&io, &mut honest, ask).await;
            let after_ms = answer.after_ms;
            assert!(answer.bytes > 0, "nothing in {after_ms} ms");
            assert!((4000..8000).contains(&after_ms), "{after_ms} ms");
            drop(held);
            assert!(pinned > 0 && broker.all_pinned_bytes() == 0);
        });
    }
}

#[test]
fn an_answer_that_can_carry_no_more_does_not_wait_for_more() {
    let partition_bytes = 350_000;
    for shards in [1, 2] {
        let broker = Broker::with_records(9, shards, 20);
        broker.run(async |io| {
            let mut client = Client::new(io.clone());
            for partitions in [1, PARTITIONS] {
                let ask = Ask {
                    partitions,
                    partition_bytes,
                    bytes_min: FETCH_MAX_BYTES,
                    wait_ms: 30_000,
                    ..Ask::default()
                };
                let answer = fetch(&io, &mut client, ask).await;
                assert!(
                    answer.bytes > 300_000 * partitions as usize,
                    "{} bytes",
                    answer.bytes
                );
                assert!(answer.after_ms < 1000, "{} ms", answer.after_ms);
            }
        });
    }
}

#[test]
fn a_fetch_waits_for_as_much_as_it_can_carry() {
    let broker = Broker::with_records(10, 2, 1);
    broker.run(async |io| {
        let mut client = Client::new(io.clone());
        let ask = Ask {
            partitions: 1,
            bytes_min: 2 * RECORD_BYTES as i32,
            wait_ms: 300,
            ..Ask::default()
        };
        let answer = fetch(&io, &mut client, ask).await;
        assert!((RECORD_BYTES..2 * RECORD_BYTES).contains(&answer.bytes));
        assert!(answer.after_ms >= 300, "{} ms", answer.after_ms);
    });
}

/// Parks a fetch of one partition at its end, does something to the partition a second later, and expects this error at once.
fn parked_until(
    shard_counts: &[usize],
    version: i16,
    error: ErrorCode,
    happens: impl AsyncFn(Rc<Broker>, Client) + Copy + 'static,
) {
    for &shards in shard_counts {
        let broker = Rc::new(Broker::with_records(11, shards, 1));
        let event = Rc::clone(&broker);
        broker.run(async |io| {
            let client = Client::new(io.clone());
            io.spawn(async move {
                pause(&event.io, 1000).await;
                happens(Rc::clone(&event), client).await;
            });
            let ask = Ask {
                version,
                partitions: 1,
                offset: 1,
                wait_ms: 30_000,
                ..Ask::default()
            };
            let answer = fetch(&io, &mut Client::new(io.clone()), ask).await;
            assert_eq!(answer.errors, [error], "version {version}");
            let after_ms = answer.after_ms;
            assert!((1000..2000).contains(&after_ms), "{after_ms} ms");
        });
    }
}

async fn delete_topic(mut client: Client) {
    let names = [TOPIC];
    let request = DeleteTopicsRequest {
        topic_names: Array::from(&names),
        timeout_ms: 5000,
        ..Default::default()
    };
    client.exchange(AnyRequest::DeleteTopics(request), 5).await;
}

/// A consumer of busy and of quiet partitions left a waiter with each answer on the shard of the quiet ones, until its time was over.
#[test]
fn an_answered_fetch_waits_on_no_shard_any_more() {
    let broker = Broker::with_records(13, 2, 1);
    let parked = || -> Vec<usize> {
        let shards = broker.shards.borrow();
        let parked = shards.iter().map(|running| running.shard.parked_fetches());
        parked.collect()
    };
    let ask = Ask {
        wait_ms: 30_000,
        offset: 1,
        ..Ask::default()
    };
    broker.run(async |io| {
        // Connections take turns over the shards.
        let mut consumers = [Client::new(io.clone()), Client::new(io.clone())];
        for consumer in &mut consumers {
            fetch_and_stall(&io, consumer, ask).await;
        }
        assert!(parked().iter().all(|parked| *parked > 0), "{:?}", parked());
        Client::new(io.clone()).produce(TOPIC, 0, b"v").await;
        for consumer in &mut consumers {
            consumer.answer(0).await.unwrap();
        }
        pause(&io, 100).await;
        assert_eq!(parked(), [0, 0]);
    });
}

#[test]
fn a_fetch_parked_on_a_topic_that_is_deleted_is_answered_at_once() {
    for (version, error) in [
        (BY_NAME, ErrorCode::UnknownTopicOrPartition),
        (BY_ID, ErrorCode::UnknownTopicId),
    ] {
        parked_until(&[1, 2], version, error, async |_, client| {
            delete_topic(client).await
        });
    }
}

/// It names nothing, so the session has to know what it waits for.
#[test]
fn an_incremental_fetch_parked_on_a_topic_that_is_deleted_is_answered_at_once() {
    for (version, error) in [
        (BY_NAME, ErrorCode::UnknownTopicOrPartition),
        (BY_ID, ErrorCode::UnknownTopicId),
    ] {
        for shards in [1, 2] {
            let broker = Broker::with_records(13, shards, 1);
            broker.run(async |io| {
                let mut client = Client::new(io.clone());
                let first = Ask {
                    version,
                    offset: 1,
                    wait_ms: 0,
                    session: (0, 0),
                    ..Ask::default()
                };
                let session = fetch(&io, &mut client, first).await.session;
                assert!(session > 0);
                let other = Client::new(io.clone());
                let later = io.clone();
                io.spawn(async move {
                    pause(&later, 1000).await;
                    delete_topic(other).await;
                });
                let next = Ask {
                    wait_ms: 30_000,
                    session: (session, 1),
                    ..first
                };
                let answer = fetch(&io, &mut client, next).await;
                assert_eq!(answer.errors, [error; PARTITIONS as usize]);
                let after_ms = answer.after_ms;
                assert!((1000..2000).contains(&after_ms), "{after_ms} ms");
            });
        }
    }
}

#[test]
fn a_fetch_parked_on_a_partition_that_is_led_elsewhere_is_answered_at_once() {
    let error = ErrorCode::NotLeaderOrFollower;
    parked_until(&[1, 2], BY_ID, error, async |broker, mut client| {
        broker.control.borrow_mut().fence_broker();
        // Whoever asks for a change makes the metadata known.
        let topics = [CreatableTopic {
            name: "another",
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        }];
        let request = CreateTopicsRequest {
            topics: Array::from(&topics[..]),
            timeout_ms: 1000,
            ..Default::default()
        };
        client.exchange(AnyRequest::CreateTopics(request), 5).await;
    });
}

#[test]
fn a_fetch_parked_on_a_partition_whose_log_fails_is_answered_at_once() {
    let error = ErrorCode::KafkaStorageError;
    parked_until(&[1, 2], BY_ID, error, async |broker, mut client| {
        let log = "0/00000000000000000000.log";
        broker.simulation.fail_once(FileFault::WriteError, log, 0);
        client.try_produce(TOPIC, 0, b"lost").await;
    });
}

#[test]
fn a_parked_fetch_is_answered_at_once_when_the_broker_stops() {
    // A shard that has stopped hears no more of another; what waits for that ends with the process.
    parked_until(&[1], BY_ID, ErrorCode::None, async |broker, _| {
        for running in broker.shards.borrow().iter() {
            assert!(running.inbox.try_send(Message::Stop).is_ok());
        }
    });
}
