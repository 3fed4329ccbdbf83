//! A broker whose disk is full: what producers are told, when, and what an operator sees of it.

use std::cell::RefCell;
use std::rc::Rc;

use dataplane::io::Io;
use dataplane::select;
use millrace_tests::sim::{SimIo, Simulation};
use wire::ErrorCode;

use super::broker::{RunningShards, start_broker};
use super::client::Client;
use super::control::ControlPlane;
use super::{PARTITIONS, TOPIC};

const BROKER: &str = "broker";
static VALUE: [u8; 500_000] = [b'v'; 500_000];
/// From the end of a request's time to its answer, at most.
const LATE_MS_MAX: u64 = 250;
/// Gauges are set once a second.
const SHOWN_MS: u64 = 1_100;

struct Broker {
    simulation: Simulation,
    shards: RunningShards,
    clients: SimIo,
}

impl Broker {
    fn start(seed: u64, shards: usize) -> Broker {
        let simulation = Simulation::seeded(seed);
        let mut control = ControlPlane::new();
        control.create_topic(TOPIC, PARTITIONS);
        let io = simulation.boot(BROKER);
        let shards = start_broker(&io, shards, &Rc::new(RefCell::new(control)));
        let clients = simulation.boot("clients");
        Broker {
            simulation,
            shards,
            clients,
        }
    }

    fn set_disk_is_full(&self, full: bool) {
        let bytes = if full { 1 } else { 1 << 40 };
        self.simulation.set_disk_bytes(BROKER, bytes);
    }

    /// Produces to a partition and returns the answer, and how long it took.
    async fn produce(&self, partition: i32, timeout_ms: i32) -> (ErrorCode, i64, u64) {
        let begun = self.clients.now();
        let mut client = Client::new(self.clients.clone());
        let answer = client.produce_within(TOPIC, partition, &VALUE, timeout_ms);
        let patience = begun.after_ms(2 * timeout_ms as u64);
        let answer = select::until(&self.clients, patience, answer).await;
        let (error, offset) = answer.flatten().expect("an answer in time");
        let after_ms = self.clients.now().nanos_since(begun) / 1_000_000;
        (error, offset, after_ms)
    }

    /// What all shards show together.
    async fn stalled_partitions(&self) -> i64 {
        self.pause(SHOWN_MS).await;
        let shards = self.shards.borrow();
        let shown = shards.iter().map(|running| {
            let stalled = &running.shard.metrics.families.stalled_partitions;
            let label = running.shard.id.0.to_string();
            stalled.with_label_values(&[&label]).get()
        });
        shown.sum()
    }

    async fn pause(&self, ms: u64) {
        let io = &self.clients;
        io.sleep_until(io.now().after_ms(ms)).await;
    }
}

/// Of this shard and of another one, to which a batch hops.
#[test]
fn a_producer_waits_for_room_as_long_as_its_request_says() {
    for (seed, shards) in [(1, 1), (2, 2), (3, 2)] {
        let broker = Rc::new(Broker::start(seed, shards));
        let io = broker.clients.clone();
        let test = async {
            let mut client = Client::new(io.clone());
            for partition in 0..PARTITIONS {
                client.produce(TOPIC, partition, b"first").await;
            }
            assert_eq!(broker.stalled_partitions().await, 0);
            broker.set_disk_is_full(true);
            for (partition, timeout_ms) in [(0, 400), (1, 6_000)] {
                let (error, _, after_ms) = broker.produce(partition, timeout_ms).await;
                assert_eq!(error, ErrorCode::RequestTimedOut);
                let late_ms = after_ms.checked_sub(timeout_ms as u64);
                assert!(
                    late_ms.is_some_and(|late_ms| late_ms <= LATE_MS_MAX),
                    "after {after_ms} ms instead of {timeout_ms}"
                );
            }
            assert_eq!(broker.stalled_partitions().await, 2);
            let (error, _, after_ms) = broker.produce(1, 6_000).await;
            assert_eq!(error, ErrorCode::KafkaStorageError);
            assert!(after_ms <= LATE_MS_MAX, "{after_ms}");
            // Longer than until the partition is stalled.
            let freeing = Rc::clone(&broker);
            io.spawn(async move {
                freeing.pause(4_000).await;
                freeing.set_disk_is_full(false);
            });
            let (error, offset, after_ms) = broker.produce(2, 60_000).await;
            assert_eq!((error, offset), (ErrorCode::None, 1));
            assert!((4_000..4_500).contains(&after_ms), "{after_ms}");
            assert_eq!(broker.stalled_partitions().await, 0);
            // What was told to be in doubt was written all the same.
            for partition in 0..3 {
                let next = client.produce(TOPIC, partition, b"last").await;
                assert_eq!(next, 2, "partition {partition}");
            }
        };
        io.run(test).unwrap();
    }
}
