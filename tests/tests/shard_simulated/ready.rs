//! What a client was told that it is done is known to every shard: whichever one its next request comes to acts on it.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use dataplane::io::Io;
use millrace_tests::sim::SimIo;
use wire::messages::AnyRequest;
use wire::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
};
use wire::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use wire::{ApiKey, Array, ErrorCode};

use super::client::{Client, answer_reader};
use super::{TOPIC, World};

const SHARDS: usize = 3;
const SEEDS: u64 = 20;
const NEW: &str = "new";

const CREATE_PARTITIONS_VERSION: i16 = 1;
const ALTER_VERSION: i16 = 0;
const METADATA_VERSION: i16 = 9;

/// The number of a topic among the resources that have a configuration, and that of setting a key.
const TOPIC_RESOURCE: i8 = 2;
const SET: i8 = 0;

/// A client on each shard, in no particular order.
struct Everywhere(Vec<Client>);

impl Everywhere {
    async fn connect(clients: &SimIo) -> Everywhere {
        let mut everywhere = Vec::new();
        for _ in 0..SHARDS {
            let mut client = Client::new(clients.clone());
            // Served, so that the next one is given to another shard.
            client.produce(TOPIC, 0, b"here").await;
            everywhere.push(client);
        }
        Everywhere(everywhere)
    }

    /// What a record for each of the partitions is answered by each shard; all of them are asked at once.
    async fn produce(
        self,
        clients: &SimIo,
        topic: &'static str,
        partitions: i32,
        value: &'static [u8],
    ) -> Vec<ErrorCode> {
        let errors = Rc::new(RefCell::new(Vec::new()));
        for (first, mut client) in (0..).zip(self.0) {
            let errors = errors.clone();
            clients.spawn(async move {
                for turn in 0..partitions {
                    let partition = (first + turn) % partitions;
                    let answer = client.try_produce(topic, partition, value).await;
                    errors.borrow_mut().push(answer.unwrap().0);
                }
            });
        }
        while errors.borrow().len() < SHARDS * partitions as usize {
            clients.sleep_until(clients.now().after_ms(1)).await;
        }
        errors.take()
    }
}

/// Runs a test in a world of its own for each seed; every shard gets to be the one that is asked for the change.
fn for_each_seed<F: Future>(test: impl Fn(SimIo, usize) -> F) {
    for seed in 0..SEEDS {
        let world = World::new(seed, SHARDS);
        let clients = world.simulation.boot("clients");
        let _broker = world.boot();
        world.run(&clients, test(clients.clone(), seed as usize % SHARDS));
    }
}

fn assert_all(errors: &[ErrorCode], expected: ErrorCode) {
    assert!(
        !errors.is_empty() && errors.iter().all(|error| *error == expected),
        "{errors:?}"
    );
}

#[test]
fn a_topic_that_was_created_is_served_by_every_shard() {
    for_each_seed(async |clients, asked| {
        let mut everywhere = Everywhere::connect(&clients).await;
        let created = everywhere.0[asked].try_create_topic(NEW, 4).await;
        assert_eq!(created, Some(ErrorCode::None));
        let errors = everywhere.produce(&clients, NEW, 4, b"first").await;
        assert_all(&errors, ErrorCode::None);
    });
}

#[test]
fn partitions_that_were_added_are_served_by_every_shard() {
    for_each_seed(async |clients, asked| {
        let mut everywhere = Everywhere::connect(&clients).await;
        let topics = [CreatePartitionsTopic {
            name: TOPIC,
            count: 9,
            assignments: None,
        }];
        let request = AnyRequest::CreatePartitions(CreatePartitionsRequest {
            topics: Array::from(&topics),
            timeout_ms: 5_000,
            validate_only: false,
        });
        let client = &mut everywhere.0[asked];
        let answer = client.exchange(request, CREATE_PARTITIONS_VERSION).await;
        let answer = answer.unwrap();
        let mut reader =
            answer_reader(&answer, ApiKey::CreatePartitions, CREATE_PARTITIONS_VERSION);
        let response =
            CreatePartitionsResponse::decode(&mut reader, CREATE_PARTITIONS_VERSION).unwrap();
        assert!(response.results.iter().all(|topic| topic.error_code == 0));
        let errors = everywhere.produce(&clients, TOPIC, 9, b"first").await;
        assert_all(&errors, ErrorCode::None);
    });
}

#[test]
fn a_topic_that_came_into_being_by_being_asked_for_is_served_by_every_shard() {
    for_each_seed(async |clients, asked| {
        let mut everywhere = Everywhere::connect(&clients).await;
        let topics = [MetadataRequestTopic {
            name: Some(NEW),
            ..Default::default()
        }];
        let request = AnyRequest::Metadata(MetadataRequest {
            topics: Some(Array::from(&topics)),
            ..Default::default()
        });
        let client = &mut everywhere.0[asked];
        let answer = client.exchange(request, METADATA_VERSION).await.unwrap();
        let mut reader = answer_reader(&answer, ApiKey::Metadata, METADATA_VERSION);
        let response = MetadataResponse::decode(&mut reader, METADATA_VERSION).unwrap();
        let topic = response.topics.iter().next().unwrap();
        assert_eq!((topic.error_code, topic.partitions.len()), (0, 1));
        let errors = everywhere.produce(&clients, NEW, 1, b"first").await;
        assert_all(&errors, ErrorCode::None);
    });
}

#[test]
fn a_topic_that_was_deleted_is_gone_from_every_shard() {
    for_each_seed(async |clients, asked| {
        let mut everywhere = Everywhere::connect(&clients).await;
        let deleted = everywhere.0[asked].try_delete_topic(TOPIC).await;
        assert_eq!(deleted, Some(ErrorCode::None));
        let errors = everywhere.produce(&clients, TOPIC, 1, b"too late").await;
        assert_all(&errors, ErrorCode::UnknownTopicOrPartition);
    });
}

#[test]
fn a_configuration_that_was_changed_holds_on_every_shard() {
    for_each_seed(async |clients, asked| {
        let mut everywhere = Everywhere::connect(&clients).await;
        let configs = [AlterableConfig {
            name: "max.message.bytes",
            config_operation: SET,
            value: Some("500"),
        }];
        let resources = [AlterConfigsResource {
            resource_type: TOPIC_RESOURCE,
            resource_name: TOPIC,
            configs: Array::from(&configs),
        }];
        let request = AnyRequest::IncrementalAlterConfigs(IncrementalAlterConfigsRequest {
            resources: Array::from(&resources),
            validate_only: false,
        });
        let client = &mut everywhere.0[asked];
        let answer = client.exchange(request, ALTER_VERSION).await.unwrap();
        let mut reader = answer_reader(&answer, ApiKey::IncrementalAlterConfigs, ALTER_VERSION);
        let response = IncrementalAlterConfigsResponse::decode(&mut reader, ALTER_VERSION).unwrap();
        assert!(response.responses.iter().all(|topic| topic.error_code == 0));
        let errors = everywhere.produce(&clients, TOPIC, 4, &[b'v'; 1000]).await;
        assert_all(&errors, ErrorCode::MessageTooLarge);
    });
}
