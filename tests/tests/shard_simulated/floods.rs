//! Requests that ask for very much at once: each is answered, and nobody else waits for ever.

use dataplane::io::Io;
use dataplane::limits::{APPEND_CALLS_MAX, PRODUCE_ELEMENTS_MAX};
use dataplane::select;
use millrace_tests::sim::SimIo;
use wire::messages::AnyRequest;
use wire::messages::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use wire::{ApiKey, Array, BatchBuilder, Records};

use super::client::{Client, answer_reader};
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
