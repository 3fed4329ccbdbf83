//! The `meta` state machine, command by command.

use super::*;
use crate::command::RegisteredBroker;
use control_api::ids::{BrokerEpoch, BrokerId, Incarnation, LeaderEpoch, TopicId};
use control_api::image::{COORDINATOR_SHARDS, PartitionRecord, TopicRecord};
use control_api::level::Levels;
use control_api::message::{BrokerRegistration, NewPartitions, NewTopic};
use std::collections::BTreeMap;

/// Applies commands at growing indexes and checks after each that the events alone rebuild the image.
#[derive(Default)]
struct Cluster {
    state: MetaState,
    copy: MetadataImage,
    copy_digest: u64,
    index: u64,
}

impl Cluster {
    fn with_brokers(count: i32) -> Self {
        let mut cluster = Cluster::default();
        cluster.run(MetaCommand::Bootstrap {
            cluster_id: "cluster".into(),
            feature_level: Level::FIRST,
        });
        for id in 1..=count {
            let broker = cluster.register(id, 1).unwrap();
            cluster.run(MetaCommand::UnfenceBroker(broker));
        }
        cluster
    }

    fn run(&mut self, command: MetaCommand) -> Response {
        self.index += 1;
        // A new leader now and then.
        let at = Position {
            term: 1 + self.index / 4,
            index: self.index,
        };
        let (response, events) = self.state.apply(at, &command);
        if !events.is_empty() {
            let growth = self.copy.apply(at, &events);
            self.copy_digest = self.copy_digest.wrapping_add(growth);
        }
        let digest = self.state.image().digest();
        assert_eq!(self.state.digest(), digest, "kept up with {command:?}");
        assert_eq!(self.copy_digest, digest, "by whoever has the events");
        let counted = MetaState::of(self.copy.clone()).partition_count;
        assert_eq!(self.state.partition_count, counted, "after {command:?}");
        assert_eq!(
            self.state.image(),
            &self.copy,
            "the events tell all of {command:?}"
        );
        response
    }

    fn register(&mut self, id: i32, process: u8) -> Result<RegisteredBroker, ControlError> {
        match self.run(MetaCommand::RegisterBroker(registration(id, process))) {
            Response::Registered { epoch, .. } => Ok(RegisteredBroker {
                id: BrokerId(id),
                epoch,
            }),
            Response::Error(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn broker(&self, id: i32) -> RegisteredBroker {
        let epoch = self.state.image().brokers[&BrokerId(id)].epoch;
        RegisteredBroker {
            id: BrokerId(id),
            epoch,
        }
    }

    fn create(&mut self, topic: NewTopic) -> Result<TopicRecord, ControlError> {
        one(self.run(MetaCommand::CreateTopics(vec![topic])))
    }

    fn partition(&self, topic: &str, partition: usize) -> &PartitionRecord {
        &self.state.image().topic(topic).unwrap().partitions[partition]
    }

    fn leaders(&self, topic: &str) -> Vec<Option<i32>> {
        let partitions = &self.state.image().topic(topic).unwrap().partitions;
        partitions
            .iter()
            .map(|one| one.leader.map(|id| id.0))
            .collect()
    }

    fn coordinated_by(&self, id: i32) -> usize {
        let shards = self.state.image().coordinators.iter();
        shards
            .filter(|shard| shard.owner == Some(BrokerId(id)))
            .count()
    }
}

fn one(response: Response) -> Result<TopicRecord, ControlError> {
    match response {
        Response::Topics(mut topics) => topics.remove(0),
        other => panic!("{other:?}"),
    }
}

fn registration(id: i32, process: u8) -> BrokerRegistration {
    BrokerRegistration {
        id: BrokerId(id),
        incarnation: Incarnation([process; 16]),
        host: "localhost".into(),
        port: 9092,
        rack: None,
        version: String::new(),
        cluster_id: String::new(),
        levels: Levels::supported(),
    }
}

fn topic(name: &str, partitions: i32) -> NewTopic {
    let mut id = [9; 16];
    id.iter_mut()
        .zip(name.bytes())
        .for_each(|(slot, byte)| *slot = byte);
    NewTopic {
        name: name.into(),
        id: TopicId(id),
        partitions,
        replication_factor: 1,
        assignment: Vec::new(),
        configs: BTreeMap::new(),
    }
}

#[test]
fn nothing_is_accepted_before_the_bootstrap_and_a_second_one_changes_nothing() {
    let mut cluster = Cluster::default();
    assert_eq!(cluster.register(1, 1), Err(ControlError::Unavailable));
    let bootstrap = |id: &str| MetaCommand::Bootstrap {
        cluster_id: id.into(),
        feature_level: Level::FIRST,
    };
    cluster.run(bootstrap("first"));
    cluster.run(bootstrap("second"));
    assert_eq!(cluster.state.image().cluster_id, "first");
    assert_eq!(cluster.state.feature_level(), Level::FIRST);
}

#[test]
fn a_registration_takes_its_log_index_as_epoch_and_comes_fenced() {
    let mut cluster = Cluster::with_brokers(0);
    let broker = cluster.register(1, 1).unwrap();
    assert_eq!(broker.epoch, BrokerEpoch(cluster.index));
    assert!(cluster.state.image().brokers[&BrokerId(1)].fenced);
    assert_eq!(
        cluster.register(1, 1),
        Ok(broker),
        "the same process keeps its epoch"
    );
}

/// A process appends under the epochs that it was given: those of its predecessors must all be lower.
#[test]
fn each_process_of_a_broker_leads_under_higher_epochs_than_the_one_before() {
    let mut cluster = Cluster::with_brokers(2);
    cluster.create(topic("t", 4)).unwrap();
    let mut highest = [-1; 4];
    for process in 2..6 {
        let led: Vec<(usize, i32)> = (0..4)
            .map(|number| (number, cluster.partition("t", number)))
            .filter(|(_, record)| record.leader == Some(BrokerId(1)))
            .map(|(number, record)| (number, record.leader_epoch.0))
            .collect();
        assert!(!led.is_empty());
        for (number, epoch) in led {
            assert!(
                epoch > highest[number],
                "process {process}, partition {number}"
            );
            highest[number] = epoch;
        }
        let old = cluster.broker(1);
        // One that wants to stop leads until it is gone, and one that comes back is not in service yet.
        if process % 2 == 0 {
            cluster.run(MetaCommand::ShutDownBroker(old));
        }
        cluster.run(MetaCommand::FenceBroker(old));
        let new = cluster.register(1, process).unwrap();
        let leads = cluster.leaders("t").contains(&Some(1));
        assert!(!leads, "nothing is led before the process is in service");
        cluster.run(MetaCommand::UnfenceBroker(new));
    }
}

#[test]
fn a_second_process_is_refused_until_the_first_is_fenced() {
    let mut cluster = Cluster::with_brokers(1);
    assert_eq!(cluster.register(1, 2), Err(ControlError::DuplicateBroker));
    let old = cluster.broker(1);
    cluster.run(MetaCommand::FenceBroker(old));
    let new = cluster.register(1, 2).unwrap();
    assert!(new.epoch > old.epoch);
    let stale = Response::Error(ControlError::StaleBrokerEpoch);
    assert_eq!(cluster.run(MetaCommand::UnfenceBroker(old)), stale);
}

#[test]
fn a_broker_of_another_cluster_or_without_an_address_is_refused() {
    let mut cluster = Cluster::with_brokers(0);
    let other = BrokerRegistration {
        cluster_id: "other".into(),
        ..registration(1, 1)
    };
    let wrong = Response::Error(ControlError::WrongCluster("other".into()));
    assert_eq!(cluster.run(MetaCommand::RegisterBroker(other)), wrong);
    for bad in [
        BrokerRegistration {
            port: 0,
            ..registration(1, 1)
        },
        BrokerRegistration {
            host: String::new(),
            ..registration(1, 1)
        },
        registration(-1, 1),
    ] {
        let response = cluster.run(MetaCommand::RegisterBroker(bad));
        assert!(matches!(
            response,
            Response::Error(ControlError::InvalidRequest(_))
        ));
    }
}

#[test]
fn topics_spread_their_leaders_over_the_live_brokers() {
    let mut cluster = Cluster::with_brokers(3);
    for name in ["a", "b", "c"] {
        cluster.create(topic(name, 4)).unwrap();
    }
    let mut led = BTreeMap::new();
    for name in ["a", "b", "c"] {
        cluster
            .leaders(name)
            .into_iter()
            .for_each(|leader| *led.entry(leader).or_insert(0) += 1);
    }
    assert_eq!(
        led,
        BTreeMap::from([(Some(1), 4), (Some(2), 4), (Some(3), 4)])
    );
}

#[test]
fn creating_again_with_the_same_id_is_the_same_success() {
    let mut cluster = Cluster::with_brokers(1);
    let first = cluster.create(topic("orders", 2)).unwrap();
    assert_eq!(cluster.create(topic("orders", 2)), Ok(first));
    let other = NewTopic {
        id: TopicId([77; 16]),
        ..topic("orders", 2)
    };
    assert_eq!(cluster.create(other), Err(ControlError::TopicExists));
}

#[test]
fn bad_names_are_refused_as_kafka_does() {
    let mut cluster = Cluster::with_brokers(1);
    cluster.create(topic("a.b", 1)).unwrap();
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a b", "naïve", "a/b", "a_b", &long] {
        let result = cluster.create(topic(name, 1));
        assert!(
            matches!(result, Err(ControlError::InvalidTopic(_))),
            "{name}: {result:?}"
        );
    }
    for name in ["a-b", "A_c.d-9", &long[..249]] {
        assert!(cluster.create(topic(name, 1)).is_ok(), "{name}");
    }
}

#[test]
fn impossible_partitions_and_replication_factors_are_refused() {
    let mut cluster = Cluster::with_brokers(2);
    for partitions in [0, -2, i32::MIN, i32::MAX, 10_001] {
        let result = cluster.create(topic("t", partitions));
        assert!(
            matches!(result, Err(ControlError::InvalidPartitions(_))),
            "{partitions}"
        );
    }
    for replication_factor in [0, -2, 2, 3, i16::MAX] {
        let new = NewTopic {
            replication_factor,
            ..topic("t", 1)
        };
        let result = cluster.create(new);
        assert!(
            matches!(result, Err(ControlError::InvalidReplicationFactor(_))),
            "{replication_factor}: {result:?}"
        );
    }
}

#[test]
fn no_topic_can_be_placed_while_every_broker_is_fenced() {
    let mut cluster = Cluster::with_brokers(1);
    let broker = cluster.broker(1);
    cluster.run(MetaCommand::FenceBroker(broker));
    let result = cluster.create(topic("t", 1));
    assert!(
        matches!(result, Err(ControlError::InvalidReplicationFactor(_))),
        "{result:?}"
    );
}

#[test]
fn an_explicit_assignment_is_followed_or_refused() {
    let mut cluster = Cluster::with_brokers(2);
    let with = |assignment: &[&[i32]]| {
        let brokers = |ids: &&[i32]| ids.iter().map(|id| BrokerId(*id)).collect();
        NewTopic {
            assignment: assignment.iter().map(brokers).collect(),
            ..topic("t", -1)
        }
    };
    for bad in [&[&[7][..]][..], &[&[]], &[&[1, 1]]] {
        let result = cluster.create(with(bad));
        assert!(
            matches!(result, Err(ControlError::InvalidAssignment(_))),
            "{bad:?}"
        );
    }
    cluster.create(with(&[&[2], &[2], &[1]])).unwrap();
    assert_eq!(cluster.leaders("t"), [Some(2), Some(2), Some(1)]);
}

#[test]
fn partitions_are_only_ever_added() {
    let mut cluster = Cluster::with_brokers(2);
    let id = cluster.create(topic("t", 2)).unwrap().id;
    let mut extend = |count| {
        one(
            cluster.run(MetaCommand::CreatePartitions(vec![NewPartitions {
                topic: id,
                count,
                assignment: Vec::new(),
            }])),
        )
    };
    for count in [i32::MIN, 0, 1, 2] {
        assert!(
            matches!(extend(count), Err(ControlError::InvalidPartitions(_))),
            "{count}"
        );
    }
    assert_eq!(extend(5).unwrap().partitions.len(), 5);
    assert_eq!(cluster.leaders("t").len(), 5);
}

#[test]
fn a_deleted_topic_is_gone_and_its_name_free() {
    let mut cluster = Cluster::with_brokers(1);
    let id = cluster.create(topic("t", 1)).unwrap().id;
    assert_eq!(
        one(cluster.run(MetaCommand::DeleteTopics(vec![id])))
            .unwrap()
            .id,
        id
    );
    let again = one(cluster.run(MetaCommand::DeleteTopics(vec![id])));
    assert_eq!(again, Err(ControlError::UnknownTopic));
    let other = NewTopic {
        id: TopicId([5; 16]),
        ..topic("t", 1)
    };
    assert!(cluster.create(other).is_ok());
}

#[test]
fn a_fenced_brokers_partitions_lose_their_leader_and_get_it_back() {
    let mut cluster = Cluster::with_brokers(2);
    cluster.create(topic("t", 2)).unwrap();
    let broker = cluster.broker(1);
    cluster.run(MetaCommand::FenceBroker(broker));
    assert_eq!(cluster.leaders("t"), [None, Some(2)]);
    let fenced = cluster.partition("t", 0);
    assert_eq!(
        (fenced.leader_epoch, &fenced.in_sync[..]),
        (LeaderEpoch(1), &[BrokerId(1)][..])
    );
    let broker = cluster.register(1, 2).unwrap();
    cluster.run(MetaCommand::UnfenceBroker(broker));
    assert_eq!(cluster.leaders("t"), [Some(1), Some(2)]);
    assert_eq!(cluster.partition("t", 0).leader_epoch, LeaderEpoch(2));
    assert_eq!(
        cluster.partition("t", 1).leader_epoch,
        LeaderEpoch(0),
        "untouched"
    );
}

#[test]
fn a_broker_that_shuts_down_keeps_what_only_it_can_lead_and_gets_nothing_new() {
    let mut cluster = Cluster::with_brokers(2);
    cluster.create(topic("t", 2)).unwrap();
    let broker = cluster.broker(1);
    cluster.run(MetaCommand::ShutDownBroker(broker));
    assert_eq!(cluster.leaders("t"), [Some(1), Some(2)]);
    assert_eq!(cluster.coordinated_by(1), 0);
    cluster.create(topic("u", 3)).unwrap();
    assert_eq!(cluster.leaders("u"), [Some(2); 3]);
}

#[test]
fn coordinators_follow_the_live_brokers_and_raise_their_epochs() {
    let shards = COORDINATOR_SHARDS as usize;
    let mut cluster = Cluster::with_brokers(3);
    for id in 1..=3 {
        assert!((shards / 3..=shards.div_ceil(3)).contains(&cluster.coordinated_by(id)));
    }
    let before = cluster.state.image().coordinators.clone();
    let broker = cluster.broker(2);
    cluster.run(MetaCommand::FenceBroker(broker));
    for (old, new) in before.iter().zip(&cluster.state.image().coordinators) {
        let moved = old.owner == Some(BrokerId(2));
        assert_eq!(new.owner != old.owner, moved, "only what must move does");
        assert_eq!(new.epoch, old.epoch + i32::from(moved));
    }
    for id in [1, 3] {
        let broker = cluster.broker(id);
        cluster.run(MetaCommand::FenceBroker(broker));
    }
    assert!(
        cluster
            .state
            .image()
            .coordinators
            .iter()
            .all(|shard| shard.owner.is_none())
    );
}

#[test]
fn producer_ids_come_in_blocks_that_never_overlap() {
    let mut cluster = Cluster::with_brokers(2);
    let mut blocks = Vec::new();
    for id in [1, 2, 1] {
        let broker = cluster.broker(id);
        match cluster.run(MetaCommand::AllocateProducerIds(broker)) {
            Response::ProducerIds { first, count } => blocks.push((first, count)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(blocks, [(0, 1_000), (1_000, 1_000), (2_000, 1_000)]);
}

#[test]
fn validating_answers_as_the_command_would_and_changes_nothing() {
    let mut cluster = Cluster::with_brokers(1);
    let command = MetaCommand::CreateTopics(vec![topic("t", 2), topic("t", 0)]);
    let before = cluster.state.clone();
    let validated = cluster.state.validate(&command);
    assert_eq!(cluster.state, before);
    assert_eq!(validated, cluster.run(command));
}

#[test]
fn the_level_is_raised_once_every_broker_supports_it_and_never_lowered() {
    let up_to = |level| Levels {
        min: Level(1),
        max: Level(level),
    };
    let mut cluster = Cluster::with_brokers(1);
    let older = |process| BrokerRegistration {
        levels: up_to(1),
        ..registration(1, process)
    };
    let raise = |cluster: &mut Cluster, level| match cluster
        .run(MetaCommand::RaiseFeatureLevel(Level(level)))
    {
        Response::Done(results) => results.into_iter().collect::<Result<(), _>>(),
        Response::Error(error) => Err(error),
        other => panic!("{other:?}"),
    };
    let refused = |text: &str| Err(ControlError::UnsupportedLevel(text.to_owned()));
    // The broker that counts is registered, whether it lives or not.
    let old = cluster.broker(1);
    cluster.run(MetaCommand::FenceBroker(old));
    cluster.run(MetaCommand::RegisterBroker(older(2)));
    assert_eq!(
        raise(&mut cluster, 2),
        refused("broker 1 supports feature levels 1 to 1, not 2")
    );
    assert_eq!(raise(&mut cluster, 1), Ok(()));
    let newer = BrokerRegistration {
        levels: up_to(2),
        ..registration(1, 3)
    };
    cluster.run(MetaCommand::RegisterBroker(newer));
    assert_eq!(raise(&mut cluster, 2), Ok(()));
    assert_eq!(cluster.state.feature_level(), Level(2));
    assert_eq!(raise(&mut cluster, 2), Ok(()));
    assert_eq!(
        raise(&mut cluster, 1),
        refused("the feature level is 2 and cannot be lowered")
    );
    assert_eq!(
        cluster.run(MetaCommand::RegisterBroker(older(4))),
        Response::Error(ControlError::UnsupportedLevel(
            "the cluster is at feature level 2, and the broker supports levels 1 to 1".into()
        ))
    );
}

/// One that never returns must not keep the level down for ever, and what only it has is not lost with its record.
#[test]
fn a_broker_that_is_gone_is_forgotten_and_leads_again_if_it_comes_back() {
    let mut cluster = Cluster::with_brokers(2);
    cluster.create(topic("t", 4)).unwrap();
    let gone = cluster.broker(1);
    let forget = MetaCommand::UnregisterBroker(gone);
    assert!(matches!(
        cluster.run(forget.clone()),
        Response::Error(ControlError::InvalidRequest(_))
    ));
    cluster.run(MetaCommand::FenceBroker(gone));
    assert_eq!(cluster.run(forget.clone()), Response::Done(vec![Ok(())]));
    assert!(!cluster.state.image().brokers.contains_key(&BrokerId(1)));
    let offline = |cluster: &Cluster| {
        cluster
            .leaders("t")
            .iter()
            .filter(|one| one.is_none())
            .count()
    };
    assert_eq!(offline(&cluster), 2);
    let kept = |cluster: &Cluster| cluster.partition("t", 0).replicas.clone();
    assert_eq!(kept(&cluster), [BrokerId(1)]);
    // Repeated, it is no other broker's end.
    let unknown = Response::Error(ControlError::UnknownBroker);
    assert_eq!(cluster.run(forget.clone()), unknown);
    let back = cluster.register(1, 2).unwrap();
    let stale = Response::Error(ControlError::StaleBrokerEpoch);
    assert_eq!(cluster.run(forget), stale);
    let epoch = cluster.partition("t", 0).leader_epoch;
    cluster.run(MetaCommand::UnfenceBroker(back));
    assert_eq!(offline(&cluster), 0);
    assert!(cluster.partition("t", 0).leader_epoch > epoch);
}
