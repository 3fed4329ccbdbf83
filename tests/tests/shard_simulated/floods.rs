//! Requests that ask for very much at once: each is answered, and nobody else waits for ever.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use control_api::ids::TopicId;
use dataplane::calls::{Call, Calls};
use dataplane::io::Io;
use dataplane::lease::Lease;
use dataplane::limits::{
    APPEND_CALLS_MAX, PRODUCE_BATCH_BYTES_MIN, PRODUCE_ELEMENTS_MAX, REQUEST_BYTES_PER_TURN_MAX,
};
use dataplane::log::{LogShared, SpareSegments};
use dataplane::mesh::{ShardId, inbox};
use dataplane::message::Message;
use dataplane::metrics::Metrics;
use dataplane::partition_request::{PartitionKey, PartitionRequest};
use dataplane::select;
use dataplane::shard::{Shard, ShardParts};
use millrace_tests::sim::SimIo;
use wire::messages::AnyRequest;
use wire::messages::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use wire::{ApiKey, Array, BatchBuilder, Records};

use super::broker::{BROKER, DATA, TAIL_BUFFERS};
use super::client::{Client, answer_reader};
use super::slow_disk::frame;
use super::{PARTITIONS, TOPIC, World};

const PRODUCE_VERSION: i16 = 12;

/// Produces so many batches of one record in one request, to all partitions in turn; how many were taken, or `None` after a minute.
async fn produce_many(io: &SimIo, client: &mut Client, batches: usize) -> Option<usize> {
    let now = io.wall_clock_ms();
    let mut builder = BatchBuilder::new(now);
    builder.record(now, None, Some(b"v"), &[]);
    let batch = builder.build();
    let partitions: Vec<PartitionProduceData<'_>> = (0..PARTITIONS)
        .cycle()
        .take(batches)
        .map(|index| PartitionProduceData {
            index,
            records: Some(Records::from_slice(&batch)),
        })
        .collect();
    let topics = [TopicProduceData {
        name: TOPIC,
        partition_data: Array::from(&partitions),
        ..Default::default()
    }];
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 10_000,
        topic_data: Array::from(&topics),
        ..Default::default()
    };
    let exchange = client.exchange(AnyRequest::Produce(request), PRODUCE_VERSION);
    let deadline = io.now().after_ms(60_000);
    let answer = select::until(io, deadline, exchange).await??;
    let mut reader = answer_reader(&answer, ApiKey::Produce, PRODUCE_VERSION);
    let response = ProduceResponse::decode(&mut reader, PRODUCE_VERSION).unwrap();
    let topic = response.responses.iter().next()?;
    let taken = topic.partition_responses.iter();
    Some(taken.filter(|outcome| outcome.error_code == 0).count())
}

/// Such a request waited for calls that it held itself, and every producer behind it waited with it until the broker was started anew.
#[test]
fn a_request_of_more_batches_than_calls_may_be_open_is_answered_and_others_go_on() {
    const BATCHES: usize = PRODUCE_ELEMENTS_MAX / 4 * 3;
    const _: () = assert!(BATCHES / 4 > APPEND_CALLS_MAX);
    let world = World::new(11, 2);
    let _broker = world.boot();
    let clients = world.simulation.boot("clients");
    let io = clients.clone();
    world.run(&clients, async move {
        // Connections take turns over the shards.
        let mut producers = [Client::new(io.clone()), Client::new(io.clone())];
        for producer in &mut producers {
            producer.produce(TOPIC, 0, b"first").await;
        }
        for producer in &mut producers {
            let taken = produce_many(&io, producer, BATCHES).await;
            assert_eq!(taken, Some(BATCHES));
        }
        for partition in 0..PARTITIONS {
            for producer in &mut producers {
                producer.produce(TOPIC, partition, b"last").await;
            }
        }
    });
}

/// A shard that answers faster than the one that asked takes its answers: each waits for room, and none is lost.
#[test]
fn replies_that_find_an_inbox_full_arrive_once_there_is_room() {
    const REPLIES: usize = 300;
    let world = World::new(12, 1);
    let io = world.simulation.boot("broker");
    let (own, requests) = inbox();
    let (asker, replies) = inbox();
    let (control, _from_shard) = inbox();
    let shard = Shard::new(ShardParts {
        id: ShardId(0),
        broker: BROKER,
        data: DATA.into(),
        io: io.clone(),
        peers: vec![own.clone(), asker.clone()],
        control,
        loads: (0..2).map(|_| AtomicUsize::new(0)).collect(),
        reached: (0..2).map(|_| AtomicU64::new(0)).collect(),
        lease: Lease::default(),
        metrics: Metrics::new().unwrap(),
        opening: Arc::default(),
        log_shared: LogShared::new(Vec::new(), SpareSegments::new(DATA.into(), 0, 64 * 1024)),
        tail_buffers: TAIL_BUFFERS,
        connections_idle_ms_max: None,
    });
    io.spawn(async move { shard.run(requests).await });
    while asker.try_send(Message::Stop).is_ok() {}
    let calls = Rc::new(Calls::<()>::default());
    let asked: Vec<_> = (0..REPLIES).map(|_| calls.open().unwrap()).collect();
    for call in &asked {
        let request = PartitionRequest::EpochEnd {
            key: PartitionKey {
                topic: TopicId([7; 16]),
                partition: 0,
            },
            current_leader_epoch: 0,
            epoch: 0,
        };
        let request = Message::Request {
            from: ShardId(1),
            call: call.id(),
            request,
        };
        assert!(own.try_send(request).is_ok());
    }
    world.pass(&io, 50);
    while let Some(message) = replies.try_receive() {
        assert!(matches!(message, Message::Stop), "there was no room");
    }
    world.pass(&io, REPLIES as u64);
    let mut answered = Vec::new();
    while let Some(message) = replies.try_receive() {
        let Message::Reply { call, .. } = message else {
            panic!("a shard that was asked replies");
        };
        answered.push(call);
    }
    let asked: Vec<_> = asked.iter().map(Call::id).collect();
    assert_eq!(answered.len(), asked.len());
    assert!(asked.iter().all(|call| answered.contains(call)));
}

/// All that had arrived of them was begun in one go, since there is no answer to wait for: thousands, while everybody else waited.
#[test]
fn a_burst_of_small_requests_gives_way_again_and_again() {
    const REQUESTS: usize = 500;
    let world = World::new(1, 1);
    let clients = world.simulation.boot("clients");
    let broker = world.boot();
    world.run(&clients, async {
        let mut producer = Client::new(clients.clone());
        producer.produce(TOPIC, 0, b"first").await;
        let burst = frame(&clients, 0, b"v", 0).repeat(REQUESTS);
        let socket = producer.connected().await.unwrap();
        // So that all of it is there when it is looked at.
        broker.stop();
        producer.send_bytes(&socket, burst).await.unwrap();
        clients.sleep_until(clients.now().after_ms(100)).await;
        broker.go_on();
        clients.sleep_until(clients.now().after_ms(1)).await;
    });
    let turns = REQUESTS * PRODUCE_BATCH_BYTES_MIN / REQUEST_BYTES_PER_TURN_MAX;
    assert!(world.turns_at_once() >= turns, "{}", world.turns_at_once());
}
