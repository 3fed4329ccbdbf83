//! Metadata: the brokers, and which of them lead the partitions of the topics asked for.

use super::describe_cluster::advertised_controller;
use super::{authorized_operations, auto_create, new_topics};
use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::pace::Pace;
use crate::ready;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::ids::{BrokerId, TopicId};
use control_api::image::{BrokerRecord, MetadataImage, PartitionRecord, TopicRecord};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use wire::messages::metadata::{
    MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
    MetadataResponseTopic,
};
use wire::{Array, ErrorCode, Uuid};

/// The leader of a partition that has none.
const NO_LEADER: i32 = -1;

/// How long an answer waits for logs that are being opened, before it says of their partitions that nobody leads them yet.
const READY_WAIT_MS: u64 = 300;

/// Which topics a client asks for, each once.
#[derive(Debug, PartialEq)]
enum Wanted<'a> {
    All,
    Named(Vec<&'a str>),
    /// By id, as from version 12 on.
    Identified(Vec<TopicId>),
    /// Ids or nulls in a version that has no meaning for them yet.
    Invalid(Vec<&'a str>),
}

/// What is known of a topic, or what is wrong with it.
struct TopicAnswer<'a> {
    error: ErrorCode,
    name: Option<&'a str>,
    id: TopicId,
    partitions: Vec<PartitionAnswer>,
}

struct PartitionAnswer {
    error: ErrorCode,
    number: i32,
    leader: i32,
    leader_epoch: i32,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    offline: Vec<i32>,
}

impl TopicAnswer<'_> {
    fn is_led_by(&self, broker: BrokerId) -> bool {
        let mut partitions = self.partitions.iter();
        partitions.any(|partition| partition.leader == broker.0)
    }

    /// Makes the client ask again instead of going to a leader that cannot serve it yet.
    fn hide_leader(&mut self, broker: BrokerId) {
        let partitions = self.partitions.iter_mut();
        for partition in partitions.filter(|partition| partition.leader == broker.0) {
            partition.leader = NO_LEADER;
            partition.error = ErrorCode::LeaderNotAvailable;
        }
    }
}

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &MetadataRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let mut pace = Pace::default();
    let wanted = wanted(request, to.version, &mut pace).await;
    let errors = match &wanted {
        Wanted::Named(names) if request.allow_auto_topic_creation => {
            create_missing(shard, names, &mut pace).await
        }
        Wanted::All | Wanted::Named(_) | Wanted::Identified(_) | Wanted::Invalid(_) => {
            HashMap::new()
        }
    };
    let image = shard.image();
    let mut topics = topic_answers(&image, &wanted, &errors, to.version, &mut pace).await;
    let led = |topic: &&TopicAnswer<'_>| topic.is_led_by(shard.broker);
    let led_here = topics.iter().filter(led).map(|topic| topic.id);
    let not_ready = ready::on_every_shard(shard, led_here, READY_WAIT_MS).await;
    let late = |topic: &&mut TopicAnswer<'_>| not_ready.contains(&topic.id);
    for topic in topics.iter_mut().filter(late) {
        topic.hide_leader(shard.broker);
    }
    let mut partitions: Vec<Vec<MetadataResponsePartition<'_>>> = Vec::with_capacity(topics.len());
    for topic in &topics {
        pace.steps(1 + topic.partitions.len()).await;
        partitions.push(topic.partitions.iter().map(partition_response).collect());
    }
    let operations = authorized_operations::of_topic(request.include_topic_authorized_operations);
    let mut answers: Vec<MetadataResponseTopic<'_>> = Vec::with_capacity(topics.len());
    for (topic, partitions) in topics.iter().zip(&partitions) {
        pace.step().await;
        answers.push(MetadataResponseTopic {
            error_code: topic.error as i16,
            name: topic.name,
            topic_id: Uuid(topic.id.0),
            is_internal: false,
            partitions: Array::from(partitions),
            topic_authorized_operations: operations,
        });
    }
    let brokers: Vec<MetadataResponseBroker<'_>> =
        image.live_brokers().map(broker_response).collect();
    let asked = request.include_cluster_authorized_operations;
    let response = MetadataResponse {
        brokers: Array::from(&brokers),
        cluster_id: Some(&image.cluster_id),
        controller_id: advertised_controller(&image),
        topics: Array::from(&answers),
        cluster_authorized_operations: authorized_operations::of_cluster(asked),
        ..Default::default()
    };
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await?;
    drop(answers);
    pace.let_go(partitions, 1).await;
    pace.let_go(topics, 1).await;
    Ok(())
}

async fn wanted<'a>(request: &MetadataRequest<'a>, version: i16, pace: &mut Pace) -> Wanted<'a> {
    let Some(topics) = &request.topics else {
        return Wanted::All;
    };
    if version == 0 && topics.is_empty() {
        return Wanted::All;
    }
    let (mut by_id, mut nameless) = (false, false);
    for topic in topics {
        pace.step().await;
        by_id |= topic.topic_id != Uuid::ZERO;
        nameless |= topic.name.is_none();
    }
    if version < 12 && (by_id || nameless) {
        let names = topics.iter().map(|topic| topic.name.unwrap_or_default());
        return Wanted::Invalid(names.collect());
    }
    if by_id || nameless {
        let ids = topics.iter().map(|topic| TopicId(topic.topic_id.0));
        return Wanted::Identified(each_once(ids, pace).await);
    }
    let names = topics.iter().filter_map(|topic| topic.name);
    Wanted::Named(each_once(names, pace).await)
}

async fn each_once<T: Copy + Eq + Hash>(items: impl Iterator<Item = T>, pace: &mut Pace) -> Vec<T> {
    // Made as large as they may become: to grow a large one takes long.
    let (_, most) = items.size_hint();
    let mut seen = HashSet::with_capacity(most.unwrap_or(0));
    let mut once = Vec::with_capacity(most.unwrap_or(0));
    for item in items {
        pace.step().await;
        if seen.insert(item) {
            once.push(item);
        }
    }
    once
}

/// Creates the topics that do not exist, if the configuration allows it.
async fn create_missing<'a, I: Io>(
    shard: &Shard<I>,
    names: &[&'a str],
    pace: &mut Pace,
) -> HashMap<&'a str, ErrorCode> {
    let image = shard.image();
    let mut missing: Vec<&str> = Vec::new();
    for name in names.iter().copied() {
        pace.step().await;
        if !image.topic_ids.contains_key(name) {
            missing.push(name);
        }
    }
    if missing.is_empty() || !auto_create::is_enabled(shard) {
        return HashMap::new();
    }
    auto_create::create(shard, &missing, pace).await
}

/// `errors` say why a topic could not be created.
async fn topic_answers<'a>(
    image: &'a MetadataImage,
    wanted: &Wanted<'a>,
    errors: &HashMap<&str, ErrorCode>,
    version: i16,
    pace: &mut Pace,
) -> Vec<TopicAnswer<'a>> {
    let known = |topic: &'a TopicRecord| topic_answer(image, topic, version);
    match wanted {
        Wanted::All => paced(image.topics.values().map(known), pace).await,
        Wanted::Named(names) => {
            let topics = names.iter().map(|name| match image.topic(name) {
                Some(topic) => known(topic),
                None => failed(unknown_name(name, errors), Some(name), TopicId::ZERO),
            });
            paced(topics, pace).await
        }
        Wanted::Identified(ids) => {
            let topics = ids.iter().map(|id| match image.topics.get(id) {
                Some(topic) => known(topic),
                None => failed(ErrorCode::UnknownTopicId, None, *id),
            });
            paced(topics, pace).await
        }
        Wanted::Invalid(names) => {
            let topics = names.iter();
            let topics =
                topics.map(|name| failed(ErrorCode::InvalidRequest, Some(name), TopicId::ZERO));
            paced(topics, pace).await
        }
    }
}

/// All answers; other tasks have their turn between them, each partition being a step.
async fn paced<'a>(
    answers: impl Iterator<Item = TopicAnswer<'a>>,
    pace: &mut Pace,
) -> Vec<TopicAnswer<'a>> {
    let mut made = Vec::with_capacity(answers.size_hint().0);
    for answer in answers {
        pace.steps(1 + answer.partitions.len()).await;
        made.push(answer);
    }
    made
}

fn unknown_name(name: &str, errors: &HashMap<&str, ErrorCode>) -> ErrorCode {
    match errors.get(name) {
        Some(code) => *code,
        None if new_topics::is_topic_name(name) => ErrorCode::UnknownTopicOrPartition,
        None => ErrorCode::InvalidTopicException,
    }
}

fn failed(error: ErrorCode, name: Option<&str>, id: TopicId) -> TopicAnswer<'_> {
    TopicAnswer {
        error,
        name,
        id,
        partitions: Vec::new(),
    }
}

fn topic_answer<'a>(
    image: &MetadataImage,
    topic: &'a TopicRecord,
    version: i16,
) -> TopicAnswer<'a> {
    let partitions = (0..).zip(&topic.partitions);
    let partitions =
        partitions.map(|(number, record)| partition_answer(image, number, record, version));
    TopicAnswer {
        error: ErrorCode::None,
        name: Some(&topic.name),
        id: topic.id,
        partitions: partitions.collect(),
    }
}

fn partition_answer(
    image: &MetadataImage,
    number: i32,
    record: &PartitionRecord,
    version: i16,
) -> PartitionAnswer {
    let is_live = |id: &BrokerId| image.brokers.get(id).is_some_and(|broker| !broker.fenced);
    // Version 0 has no list of offline replicas: it names only those that a client can reach, and says so by an error.
    let shown = |id: &&BrokerId| version > 0 || is_live(id);
    let numbers =
        |ids: &[BrokerId]| -> Vec<i32> { ids.iter().filter(shown).map(|id| id.0).collect() };
    let replicas = numbers(&record.replicas);
    let in_sync = numbers(&record.in_sync);
    let hidden = replicas.len() < record.replicas.len() || in_sync.len() < record.in_sync.len();
    let leader = record.leader.filter(is_live);
    let error = match leader {
        None => ErrorCode::LeaderNotAvailable,
        Some(_) if hidden => ErrorCode::ReplicaNotAvailable,
        Some(_) => ErrorCode::None,
    };
    let offline = record.replicas.iter().filter(|id| !is_live(id));
    PartitionAnswer {
        error,
        number,
        leader: leader.map_or(NO_LEADER, |leader| leader.0),
        leader_epoch: record.leader_epoch.0,
        replicas,
        in_sync,
        offline: offline.map(|id| id.0).collect(),
    }
}

fn partition_response(partition: &PartitionAnswer) -> MetadataResponsePartition<'_> {
    MetadataResponsePartition {
        error_code: partition.error as i16,
        partition_index: partition.number,
        leader_id: partition.leader,
        leader_epoch: partition.leader_epoch,
        replica_nodes: Array::from(&partition.replicas),
        isr_nodes: Array::from(&partition.in_sync),
        offline_replicas: Array::from(&partition.offline),
    }
}

fn broker_response(broker: &BrokerRecord) -> MetadataResponseBroker<'_> {
    MetadataResponseBroker {
        node_id: broker.id.0,
        host: &broker.host,
        port: i32::from(broker.port),
        rack: broker.rack.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::ids::{BrokerEpoch, Incarnation, LeaderEpoch, PartitionEpoch};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use wire::messages::metadata::MetadataRequestTopic;

    const TOPIC: TopicId = TopicId([7; 16]);

    fn broker(id: i32, fenced: bool) -> BrokerRecord {
        BrokerRecord {
            id: BrokerId(id),
            epoch: BrokerEpoch(1),
            incarnation: Incarnation([0; 16]),
            host: "localhost".to_owned(),
            port: 9092,
            rack: None,
            version: String::new(),
            fenced,
            shutting_down: false,
            levels: control_api::level::Levels::supported(),
        }
    }

    /// What a short loop comes to: it gives way to nobody.
    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(future).poll(&mut context) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("nothing is waited for here"),
        }
    }

    /// Broker 1 lives, broker 2 is fenced; one topic on both.
    fn image(leader: Option<i32>) -> MetadataImage {
        let mut image = MetadataImage::default();
        for broker in [broker(1, false), broker(2, true)] {
            image.brokers.insert(broker.id, broker);
        }
        let partition = PartitionRecord {
            replicas: vec![BrokerId(1), BrokerId(2)],
            in_sync: vec![BrokerId(1)],
            leader: leader.map(BrokerId),
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(4),
        };
        let topic = TopicRecord {
            id: TOPIC,
            name: "t".to_owned(),
            partitions: vec![partition],
            configs: Default::default(),
        };
        image.topic_ids.insert("t".to_owned(), TOPIC);
        image.topics.insert(TOPIC, topic);
        image
    }

    fn asked(topics: &[MetadataRequestTopic<'static>], version: i16) -> Wanted<'static> {
        // Leaked so that the answers may borrow it.
        let topics: &'static [_] = Box::leak(topics.to_vec().into_boxed_slice());
        let request = MetadataRequest {
            topics: Some(Array::from(topics)),
            ..Default::default()
        };
        now(wanted(&request, version, &mut Pace::default()))
    }

    fn named(name: &'static str) -> MetadataRequestTopic<'static> {
        MetadataRequestTopic {
            topic_id: Uuid::ZERO,
            name: Some(name),
        }
    }

    #[test]
    fn an_empty_list_means_all_topics_in_version_0_only() {
        assert_eq!(asked(&[], 0), Wanted::All);
        assert_eq!(asked(&[], 1), Wanted::Named(Vec::new()));
    }

    #[test]
    fn a_name_given_twice_is_answered_once() {
        let wanted = asked(&[named("a"), named("b"), named("a")], 1);
        assert_eq!(wanted, Wanted::Named(vec!["a", "b"]));
    }

    #[test]
    fn ids_count_from_version_12_on() {
        let by_id = MetadataRequestTopic {
            topic_id: Uuid(TOPIC.0),
            name: None,
        };
        let by_id = [by_id];
        assert_eq!(asked(&by_id, 12), Wanted::Identified(vec![TOPIC]));
        assert_eq!(asked(&by_id, 10), Wanted::Invalid(vec![""]));
    }

    #[test]
    fn unknown_topics_are_told_apart() {
        let image = image(Some(1));
        let errors = HashMap::from([("late", ErrorCode::LeaderNotAvailable)]);
        let code = |wanted: &Wanted<'_>| {
            let mut pace = Pace::default();
            now(topic_answers(&image, wanted, &errors, 12, &mut pace))[0].error
        };
        let name = |name| code(&Wanted::Named(vec![name]));
        assert_eq!(name("t"), ErrorCode::None);
        assert_eq!(name("none"), ErrorCode::UnknownTopicOrPartition);
        assert_eq!(name("late"), ErrorCode::LeaderNotAvailable);
        assert_eq!(name("bad name"), ErrorCode::InvalidTopicException);
        let id = Wanted::Identified(vec![TopicId([1; 16])]);
        assert_eq!(code(&id), ErrorCode::UnknownTopicId);
    }

    #[test]
    fn a_replica_on_a_fenced_broker_is_offline() {
        let image = image(Some(1));
        let partition = partition_answer(&image, 0, &image.topics[&TOPIC].partitions[0], 9);
        assert_eq!(partition.error, ErrorCode::None);
        assert_eq!((partition.leader, partition.leader_epoch), (1, 3));
        assert_eq!(
            (partition.replicas, partition.offline),
            (vec![1, 2], vec![2])
        );
    }

    #[test]
    fn version_0_leaves_out_replicas_that_cannot_be_reached() {
        let image = image(Some(1));
        let partition = partition_answer(&image, 0, &image.topics[&TOPIC].partitions[0], 0);
        assert_eq!(partition.error, ErrorCode::ReplicaNotAvailable);
        assert_eq!(partition.replicas, [1]);
    }

    #[test]
    fn a_partition_that_no_live_broker_leads_has_no_leader() {
        for leader in [None, Some(2)] {
            let image = image(leader);
            let partition = partition_answer(&image, 0, &image.topics[&TOPIC].partitions[0], 9);
            assert_eq!(partition.error, ErrorCode::LeaderNotAvailable);
            assert_eq!(partition.leader, NO_LEADER);
        }
    }
}
