//! Where the time of requests goes, by `millrace_request_seconds`: the stages of an API add up to its total, whatever waits for what.

use std::collections::BTreeMap;

use dataplane::io::Io;
use millrace_tests::sim::SimIo;
use wire::ApiKey;
use wire::Array;
use wire::messages::AnyRequest;
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use wire::messages::metadata::MetadataRequest;

use super::broker::Process;
use super::client::{Client, FETCH_VERSION};
use super::slow_disk::frame;
use super::{PARTITIONS, TOPIC, World};

const SHARDS: usize = 2;
const METADATA_VERSION: i16 = 9;
const FETCH_WAIT_MS: i32 = 50;

/// Seconds by API and stage, and how many requests they are of.
type Seconds = BTreeMap<(String, String), (f64, u64)>;

/// A client has its answer before the broker knows that it was sent, and has counted that.
async fn seconds(io: &SimIo, process: &Process) -> Seconds {
    io.sleep_until(io.now().after_ms(1_000)).await;
    let shards = process.shards.borrow();
    shards
        .iter()
        .for_each(|running| running.shard.metrics.flush());
    let families = shards[0].shard.metrics.families.registry.gather();
    let family = families
        .iter()
        .find(|family| family.name() == "millrace_request_seconds")
        .unwrap();
    let metrics = family.get_metric().iter();
    metrics
        .map(|metric| {
            let label = |name| {
                let mut labels = metric.get_label().iter();
                labels.find(|label| label.name() == name).unwrap().value()
            };
            let key = (label("api").to_owned(), label("stage").to_owned());
            let histogram = metric.get_histogram();
            let counted = histogram.get_sample_count();
            (key, (histogram.get_sample_sum(), counted))
        })
        .collect()
}

fn of(seconds: &Seconds, api: ApiKey, stage: &str) -> f64 {
    counted(seconds, api, stage).0
}

fn counted(seconds: &Seconds, api: ApiKey, stage: &str) -> (f64, u64) {
    let key = (api.api().name.to_owned(), stage.to_owned());
    seconds.get(&key).copied().unwrap_or_default()
}

/// What was counted since `before`, whose stages must add up.
async fn add_up(io: &SimIo, process: &Process, before: &Seconds) -> Seconds {
    let mut since = seconds(io, process).await;
    for (key, (seconds, requests)) in before {
        let since = since.get_mut(key).unwrap();
        *since = (since.0 - seconds, since.1 - requests);
    }
    for api in [ApiKey::Produce, ApiKey::Fetch, ApiKey::Metadata] {
        let total = of(&since, api, "total");
        let stages = ["queue", "hop", "append", "flush", "send"];
        let sum: f64 = stages.iter().map(|stage| of(&since, api, stage)).sum();
        assert!(
            (sum - total).abs() < 1e-9,
            "the stages of {api:?} come to {sum} of {total} s: {since:?}"
        );
        // Every request is in all of them that it went through.
        let requests = counted(&since, api, "total").1;
        for stage in ["queue", "append"] {
            let (_, of_stage) = counted(&since, api, stage);
            assert_eq!(of_stage, requests, "{stage} of {api:?}: {since:?}");
        }
    }
    since
}

/// Waits for data that never comes.
async fn send_fetch(client: &mut Client, partition: i32, log_end: i64) {
    let partitions = [FetchPartition {
        partition,
        fetch_offset: log_end,
        partition_max_bytes: 1,
        ..Default::default()
    }];
    let topics = [FetchTopic {
        topic: TOPIC,
        partitions: Array::from(&partitions),
        ..Default::default()
    }];
    let request = FetchRequest {
        max_wait_ms: FETCH_WAIT_MS,
        min_bytes: 1,
        max_bytes: 1,
        topics: Array::from(&topics),
        ..Default::default()
    };
    let request = AnyRequest::Fetch(request);
    client.send_only(request, FETCH_VERSION).await.unwrap();
}

/// A client on each shard, both of which have produced.
async fn connect(io: &SimIo) -> [Client; SHARDS] {
    // Connections take turns over the shards.
    let mut clients = [Client::new(io.clone()), Client::new(io.clone())];
    for client in &mut clients {
        client.produce(TOPIC, 0, b"first").await;
    }
    clients
}

/// The wait of a batch on its way to another shard was counted twice, as its hop and as its flush.
#[test]
fn the_stages_of_local_and_hopped_produce_add_up_to_the_whole() {
    let world = World::new(3, SHARDS);
    let io = world.simulation.boot("clients");
    let (_broker, process) = world.boot_process("broker", super::PORT);
    world.run(&io, async {
        let mut clients = connect(&io).await;
        world.simulation.slow_disk("broker", 100);
        for partition in 0..PARTITIONS {
            // To each partition one of the two is on its shard, and the other is not.
            let mut waits = Vec::new();
            for client in &mut clients {
                let before = seconds(&io, &process).await;
                client.produce(TOPIC, partition, b"value").await;
                let since = add_up(&io, &process, &before).await;
                waits.push((
                    of(&since, ApiKey::Produce, "flush"),
                    of(&since, ApiKey::Produce, "hop"),
                ));
            }
            let [one, other] = waits[..] else { panic!() };
            let (local, hopped) = if one.1 == 0.0 {
                (one, other)
            } else {
                (other, one)
            };
            assert!(local.0 > 0.0 && local.1 == 0.0, "{waits:?}");
            assert!(hopped.0 == 0.0 && hopped.1 > 0.0, "{waits:?}");
        }
    });
}

/// What other requests waited for the answers before theirs was counted nowhere, and produce requests without an answer in no total.
#[test]
fn the_stages_of_requests_behind_others_add_up_to_the_whole() {
    let world = World::new(4, SHARDS);
    let io = world.simulation.boot("clients");
    let (_broker, process) = world.boot_process("broker", super::PORT);
    world.run(&io, async {
        for (mut client, log_end) in connect(&io).await.into_iter().zip([2, 5]) {
            world.simulation.slow_disk("broker", 100);
            let before = seconds(&io, &process).await;
            let mut frames = frame(&io, 1, b"value", -1);
            frames.extend(frame(&io, 1, b"value", -1));
            let socket = client.connected().await.unwrap();
            client.send_bytes(&socket, frames).await.unwrap();
            send_fetch(&mut client, 1, log_end).await;
            let unanswered = frame(&io, 1, b"value", 0);
            client.send_bytes(&socket, unanswered).await.unwrap();
            let metadata = AnyRequest::Metadata(MetadataRequest::default());
            client.send_only(metadata, METADATA_VERSION).await.unwrap();
            io.sleep_until(io.now().after_ms(10_000)).await;
            client.leave();
            let since = add_up(&io, &process, &before).await;
            assert!(of(&since, ApiKey::Metadata, "total") > 0.0);
            assert!(of(&since, ApiKey::Fetch, "total") > 0.0);
            assert!(of(&since, ApiKey::Metadata, "queue") > 0.0);
        }
    });
}
