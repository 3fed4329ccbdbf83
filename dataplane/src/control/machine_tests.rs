//! The control link's decisions, one by one.

use super::super::image_copy::DOUBT_PAUSE_MS;
use super::*;
use crate::message::Changed;
use control_api::ids::{LeaderEpoch, PartitionEpoch, TopicId};
use control_api::image::{BrokerRecord, MetadataEvent, PartitionRecord, TopicRecord};
use std::collections::BTreeMap;

const BROKER: BrokerId = BrokerId(1);
const OURS: Incarnation = Incarnation([1; 16]);
const TOPIC: TopicId = TopicId([7; 16]);
const LEASE_MS: u32 = 500;

/// A machine, its clock, and what it asked for that no test has looked at yet.
struct Link {
    machine: Machine,
    now: Instant,
    effects: Vec<Effect>,
}

impl Link {
    fn new(stored: MetadataImage) -> Link {
        let now = Instant(0).after_ms(1_000_000);
        let machine = Machine::new(BROKER, OURS, stored, 1, now);
        let mut link = Link {
            machine,
            now,
            effects: Vec::new(),
        };
        link.tell(Event::Turn);
        link
    }

    /// One that is registered at index 10 and in service at 12.
    fn in_service() -> Link {
        let mut link = Link::new(MetadataImage::default());
        link.tell(Event::Registered(Ok(BrokerEpoch(10))));
        link.tell(delta(
            12,
            vec![MetadataEvent::BrokerChanged(record(OURS, 10))],
        ));
        link.tell(Event::Published(12));
        link.beaten(12);
        link.pass(TURN_MS);
        link
    }

    fn tell(&mut self, event: Event) {
        let effects = self.machine.step(self.now, event);
        self.effects.extend(effects);
    }

    /// Time passes, and the machine runs.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(TURN_MS) {
            self.stop_for(TURN_MS);
            self.tell(Event::Turn);
        }
    }

    /// Time passes, and the machine does not run.
    fn stop_for(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
    }

    /// A heartbeat that is sent now is answered at once.
    fn beaten(&mut self, metadata_index: u64) {
        self.beaten_after(self.now, metadata_index);
    }

    fn beaten_after(&mut self, sent: Instant, metadata_index: u64) {
        self.tell(Event::Beat {
            sent,
            goodbye: false,
            answer: Ok(Beaten {
                fenced: false,
                may_shut_down: false,
                metadata_index,
                lease_ms: LEASE_MS,
            }),
        });
    }

    fn unanswered(&mut self) {
        self.tell(Event::Beat {
            sent: self.now,
            goodbye: false,
            answer: Err(Failure::Unreachable),
        });
    }

    fn refuse(&mut self, error: ControlError) {
        self.tell(Event::Registered(Err(Failure::Refused(error))));
    }

    fn may_append(&self) -> bool {
        let mut effects = self.effects.iter().rev();
        let end = effects.find_map(|effect| match effect {
            Effect::LeaseUntil(end) => Some(*end),
            _ => None,
        });
        end.is_some_and(|end| self.now < end)
    }

    fn asked_for(&mut self, wanted: impl Fn(&Effect) -> bool) -> bool {
        std::mem::take(&mut self.effects).iter().any(wanted)
    }

    fn has_ended(&mut self) -> Option<Result<(), String>> {
        let mut effects = std::mem::take(&mut self.effects).into_iter();
        effects.find_map(|effect| match effect {
            Effect::End(result) => Some(result),
            _ => None,
        })
    }
}

fn record(incarnation: Incarnation, epoch: u64) -> BrokerRecord {
    BrokerRecord {
        id: BROKER,
        epoch: BrokerEpoch(epoch),
        incarnation,
        host: "localhost".into(),
        port: 9092,
        rack: None,
        version: String::new(),
        fenced: false,
        shutting_down: false,
        levels: control_api::level::Levels::supported(),
    }
}

fn topic() -> TopicRecord {
    TopicRecord {
        id: TOPIC,
        name: "t".into(),
        partitions: vec![PartitionRecord {
            replicas: vec![BROKER],
            in_sync: vec![BROKER],
            leader: Some(BROKER),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
        }],
        configs: Default::default(),
    }
}

fn at(index: u64) -> Position {
    Position { term: 1, index }
}

fn delta(index: u64, events: Vec<MetadataEvent>) -> Event {
    let at = at(index);
    Event::Update(MetadataUpdate::Delta { at, events })
}

fn keep_alive(index: u64, digest: u64) -> Event {
    let at = at(index);
    Event::Update(MetadataUpdate::KeepAlive { at, digest })
}

fn image_at(index: u64) -> MetadataImage {
    MetadataImage {
        index,
        term: 1,
        ..MetadataImage::default()
    }
}

#[test]
fn metadata_is_complete_once_it_has_reached_the_registration() {
    let mut link = Link::new(image_at(3));
    assert!(!link.machine.publication().complete);
    link.tell(Event::Registered(Ok(BrokerEpoch(10))));
    // Changes that were made before the process was registered arrive one by one.
    for index in 4..10 {
        link.tell(delta(index, vec![MetadataEvent::NextProducerId(1)]));
        assert!(!link.machine.publication().complete, "at index {index}");
    }
    link.tell(delta(10, Vec::new()));
    assert!(link.machine.publication().complete);
}

#[test]
fn only_a_deletion_that_was_seen_deletes() {
    let mut link = Link::in_service();
    link.tell(delta(13, vec![MetadataEvent::TopicCreated(topic())]));
    link.tell(delta(14, vec![MetadataEvent::TopicDeleted(TOPIC)]));
    assert_eq!(link.machine.publication().deleted, [TOPIC]);
    assert!(link.machine.publication().deleted.is_empty(), "said once");

    link.tell(delta(15, vec![MetadataEvent::TopicCreated(topic())]));
    link.tell(Event::Update(MetadataUpdate::Snapshot(image_at(20))));
    let publication = link.machine.publication();
    assert!(publication.image.topics.is_empty());
    assert!(
        publication.deleted.is_empty(),
        "a snapshot says nothing of why"
    );
}

/// Otherwise each change costs every shard a look at every topic.
#[test]
fn a_change_names_the_topics_that_it_is_about() {
    let mut link = Link::in_service();
    assert_eq!(link.machine.publication().changed, Changed::Everything);
    let configs = BTreeMap::new();
    let topic_configs = MetadataEvent::TopicConfigsChanged {
        topic: TOPIC,
        configs: configs.clone(),
    };
    link.tell(delta(13, vec![MetadataEvent::TopicCreated(topic())]));
    link.tell(delta(14, vec![MetadataEvent::NextProducerId(7)]));
    link.tell(delta(15, vec![topic_configs.clone()]));
    let twice = Changed::Topics(vec![TOPIC, TOPIC]);
    assert_eq!(link.machine.publication().changed, twice);
    let nothing = Changed::Topics(vec![]);
    assert_eq!(link.machine.publication().changed, nothing, "said once");

    // Its configs are the defaults of every topic, whatever comes afterwards.
    let of_brokers = MetadataEvent::BrokerConfigsChanged {
        broker: None,
        configs,
    };
    link.tell(delta(16, vec![of_brokers]));
    link.tell(delta(17, vec![topic_configs]));
    assert_eq!(link.machine.publication().changed, Changed::Everything);
    link.tell(Event::Update(MetadataUpdate::Snapshot(image_at(20))));
    assert_eq!(link.machine.publication().changed, Changed::Everything);
}

#[test]
fn what_comes_again_changes_nothing() {
    let mut link = Link::in_service();
    link.tell(delta(13, vec![MetadataEvent::TopicCreated(topic())]));
    link.tell(delta(14, vec![MetadataEvent::TopicDeleted(TOPIC)]));
    link.machine.publication();
    link.tell(delta(13, vec![MetadataEvent::TopicCreated(topic())]));
    link.tell(Event::Update(MetadataUpdate::Snapshot(image_at(5))));
    assert_eq!(link.machine.image().index, 14);
    assert!(link.machine.image().topics.is_empty());
}

#[test]
fn a_stored_image_of_an_earlier_process_does_not_make_this_one_registered() {
    let earlier = Incarnation([9; 16]);
    let mut stored = image_at(3);
    stored.brokers.insert(BROKER, record(earlier, 2));
    let mut link = Link::new(stored);
    assert!(!link.machine.publication().registered);
    link.tell(Event::Registered(Ok(BrokerEpoch(10))));
    assert!(!link.machine.publication().registered);
    link.tell(delta(
        12,
        vec![MetadataEvent::BrokerChanged(record(OURS, 10))],
    ));
    assert!(link.machine.publication().registered);
}

#[test]
fn a_lease_begins_with_an_answer_and_with_the_metadata_of_that_moment() {
    let mut link = Link::new(MetadataImage::default());
    link.tell(Event::Registered(Ok(BrokerEpoch(10))));
    link.pass(100);
    link.beaten(12);
    link.pass(100);
    assert!(!link.may_append(), "the shards do not have index 12 yet");
    link.tell(Event::Published(11));
    link.pass(100);
    assert!(!link.may_append());
    link.tell(Event::Published(12));
    assert!(link.may_append());
}

#[test]
fn heartbeats_that_nobody_answers_end_nothing() {
    let mut link = Link::in_service();
    for _ in 0..100 {
        assert!(link.may_append());
        link.unanswered();
        link.pass(200);
    }
}

#[test]
fn a_process_that_was_stopped_appends_only_after_a_new_answer() {
    let mut link = Link::in_service();
    link.stop_for(u64::from(LEASE_MS) - 1);
    assert!(link.may_append());
    link.stop_for(2);
    assert!(!link.may_append(), "its lease ran out while it was stopped");
    // The answer to a heartbeat that it sent before says nothing of now.
    link.beaten_after(Instant(link.now.0 - 600_000_000), 12);
    assert!(!link.may_append());
    link.pass(1_000);
    assert!(!link.may_append());
    link.unanswered();
    link.pass(1_000);
    assert!(!link.may_append(), "without an answer it stays so");
    link.beaten(15);
    link.pass(100);
    assert!(
        !link.may_append(),
        "it does not know what happened meanwhile"
    );
    link.tell(Event::Published(15));
    assert!(link.may_append());
}

#[test]
fn a_process_that_is_superseded_stops_and_says_why() {
    let by_answer = Event::Beat {
        sent: Instant(0),
        goodbye: false,
        answer: Err(Failure::Refused(ControlError::StaleBrokerEpoch)),
    };
    let other = record(Incarnation([2; 16]), 20);
    let by_metadata = delta(20, vec![MetadataEvent::BrokerChanged(other)]);
    for event in [by_answer, by_metadata] {
        let mut link = Link::in_service();
        assert!(link.may_append());
        link.tell(event);
        assert!(!link.may_append());
        assert!(link.asked_for(|effect| matches!(effect, Effect::StopShards)));
        // Whatever still arrives does not bring it back.
        link.beaten(12);
        link.pass(1_000);
        assert!(!link.may_append());
        link.tell(Event::ShardStopped);
        let ended = link.has_ended();
        assert!(matches!(ended, Some(Err(_))), "{ended:?}");
    }
}

#[test]
fn a_process_waits_for_its_predecessors_session_and_not_for_ever() {
    let mut link = Link::new(MetadataImage::default());
    for _ in 0..8 {
        link.refuse(ControlError::DuplicateBroker);
        link.pass(1_000);
    }
    assert!(link.asked_for(|effect| matches!(effect, Effect::Register)));
    // A controller without a majority cannot tell.
    link.refuse(ControlError::Unavailable);
    for _ in 0..11 {
        assert_eq!(link.has_ended(), None);
        link.refuse(ControlError::DuplicateBroker);
        link.pass(1_000);
    }
    link.tell(Event::ShardStopped);
    assert!(matches!(link.has_ended(), Some(Err(_))));
}

#[test]
fn another_clusters_controllers_end_it_at_once() {
    let mut link = Link::new(MetadataImage::default());
    link.refuse(ControlError::WrongCluster("ours".into()));
    link.tell(Event::ShardStopped);
    let ended = link.has_ended();
    assert!(ended.is_some_and(|result| result.is_err_and(|reason| reason.contains("ours"))));
}

#[test]
fn a_controller_that_lags_behind_is_left() {
    let mut link = Link::in_service();
    link.beaten(40);
    link.effects.clear();
    link.pass(BEHIND_MS_MAX - 2 * TURN_MS);
    assert!(!link.asked_for(|effect| matches!(effect, Effect::Watch(_))));
    link.pass(4 * TURN_MS);
    assert!(link.asked_for(|effect| matches!(effect, Effect::Watch(Position { index: 12, .. }))));
}

#[test]
fn the_image_is_stored_soon_and_not_too_often() {
    let mut link = Link::in_service();
    link.pass(STORE_PAUSE_MS);
    assert!(link.asked_for(|effect| matches!(effect, Effect::Store(image) if image.index == 12)));
    link.tell(delta(13, vec![MetadataEvent::NextProducerId(1)]));
    link.pass(STORE_PAUSE_MS);
    let stores = |effect: &Effect| matches!(effect, Effect::Store(_));
    assert!(!link.asked_for(stores), "one at a time");
    link.tell(Event::Stored(None));
    link.pass(STORE_PAUSE_MS);
    assert!(link.asked_for(stores), "a failure is tried again");
    link.tell(Event::Stored(Some(13)));
    link.pass(STORE_PAUSE_MS * 4);
    assert!(!link.asked_for(stores), "nothing has changed");
}

#[test]
fn a_shutdown_moves_leaderships_first_and_says_goodbye_last() {
    let mut link = Link::in_service();
    link.tell(Event::WantsShutdown);
    link.pass(200);
    let wants = |effect: &Effect| matches!(effect, Effect::Beat(beat) if beat.wants_shutdown);
    assert!(link.asked_for(wants));
    link.tell(Event::Beat {
        sent: link.now,
        goodbye: false,
        answer: Ok(Beaten {
            fenced: false,
            may_shut_down: true,
            metadata_index: 12,
            lease_ms: LEASE_MS,
        }),
    });
    assert!(link.may_append(), "what is under way is acknowledged");
    assert!(link.asked_for(|effect| matches!(effect, Effect::StopShards)));
    link.tell(Event::ShardStopped);
    assert!(link.asked_for(|effect| matches!(effect, Effect::Beat(beat) if beat.goodbye)));
    link.tell(Event::Beat {
        sent: link.now,
        goodbye: true,
        answer: Err(Failure::Unreachable),
    });
    assert_eq!(link.has_ended(), Some(Ok(())));
}

fn watches_from(index: u64) -> impl Fn(&Effect) -> bool {
    move |effect| matches!(effect, Effect::Watch(from) if from.index == index)
}

#[test]
fn an_image_that_is_not_the_controllers_is_replaced_by_a_snapshot() {
    let mut link = Link::in_service();
    link.effects.clear();
    let digest = link.machine.image().digest();
    link.tell(keep_alive(12, digest));
    link.tell(keep_alive(20, digest));
    assert_eq!(link.machine.image().position(), at(20));
    link.tell(delta(21, vec![MetadataEvent::TopicCreated(topic())]));
    let digest = link.machine.image().digest();
    link.tell(keep_alive(21, digest));
    // Of another place it says nothing.
    link.tell(keep_alive(19, digest + 1));
    assert_eq!(link.machine.view().divergences, 0);
    assert!(!link.asked_for(|effect| matches!(effect, Effect::Watch(_))));

    link.tell(keep_alive(21, digest + 1));
    assert!(link.asked_for(watches_from(0)));
    assert_eq!(link.machine.view().divergences, 1);
    // From a controller that has not come so far yet it is not taken.
    link.tell(Event::Update(MetadataUpdate::Snapshot(image_at(20))));
    link.pass(WATCH_PAUSE_MS);
    assert!(link.asked_for(watches_from(0)), "still in doubt");
    let mut theirs = image_at(21);
    theirs.next_producer_id = 5;
    let digest = theirs.digest();
    link.tell(Event::Update(MetadataUpdate::Snapshot(theirs.clone())));
    assert!(link.asked_for(|effect| matches!(effect, Effect::Publish)));
    assert_eq!(**link.machine.image(), theirs);
    link.tell(keep_alive(22, digest));
    link.tell(Event::StreamEnded);
    link.pass(WATCH_PAUSE_MS);
    assert!(link.asked_for(watches_from(22)), "in doubt no more");
    assert_eq!(link.machine.view().divergences, 1);
}

#[test]
fn snapshots_that_mend_nothing_are_not_taken_all_the_time() {
    let mut link = Link::in_service();
    link.effects.clear();
    let mut snapshots = 0;
    for _ in 0..DOUBT_PAUSE_MS / 250 {
        let (index, digest) = (
            link.machine.image().index,
            link.machine.image().digest() + 1,
        );
        link.tell(keep_alive(index, digest));
        if link.asked_for(watches_from(0)) {
            snapshots += 1;
            link.tell(Event::Update(MetadataUpdate::Snapshot(image_at(index))));
        }
        link.pass(250);
    }
    assert_eq!(snapshots, 1);
}

#[test]
fn an_image_of_another_log_is_replaced_whatever_its_index_and_completes_nothing() {
    let mut stored = image_at(1_000);
    stored.topic_ids.insert("lost".into(), TOPIC);
    stored.topics.insert(TOPIC, topic());
    let mut link = Link::new(stored);
    link.tell(Event::Registered(Ok(BrokerEpoch(58))));
    assert!(
        !link.machine.publication().complete,
        "an index of another log says nothing"
    );
    link.tell(Event::Update(MetadataUpdate::Replacement(image_at(55))));
    let publication = link.machine.publication();
    assert!(publication.image.topics.is_empty() && publication.deleted.is_empty());
    assert!(!publication.complete, "not up to its registration yet");
    assert_eq!(link.machine.view().divergences, 1);
    link.tell(delta(58, Vec::new()));
    assert!(link.machine.publication().complete);
}

#[test]
fn how_it_stands_can_be_seen() {
    let link = Link::new(MetadataImage::default());
    let joining = link.machine.view();
    assert!(!joining.registered && joining.fenced && !joining.reachable);
    let mut link = Link::in_service();
    let serving = View {
        registered: true,
        fenced: false,
        reachable: true,
        metadata_index: 12,
        metadata_lag: 0,
        divergences: 0,
    };
    assert_eq!(link.machine.view(), serving);
    link.beaten(20);
    assert_eq!(link.machine.view().metadata_lag, 8);
    link.tell(Event::Published(20));
    assert_eq!(link.machine.view().metadata_lag, 0);
    link.unanswered();
    assert!(!link.machine.view().reachable);
    let mut fenced = record(OURS, 10);
    fenced.fenced = true;
    link.tell(delta(21, vec![MetadataEvent::BrokerChanged(fenced)]));
    assert!(link.machine.view().fenced);
}
