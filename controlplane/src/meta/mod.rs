//! The `meta` state machine: brokers, topics, partitions, configs, coordinators.
//!
//! Pure: no clock, no randomness, no I/O. A command at a log index turns the same state into the same state everywhere, and
//! the events it answers with turn any copy of the image into the same image. Raft calls [`MetaState::apply`]; so may a
//! simulator.

mod brokers;
mod configs;
mod coordinators;
mod election;
mod placement;
mod topics;

pub use configs::{find as find_configs, items as config_items};
pub use topics::check_name as check_topic_name;

use crate::command::MetaCommand;
use crate::rules::Rules;
use control_api::formats;
use control_api::ids::Position;
use control_api::image::{MetadataEvent, MetadataImage};
use control_api::level::Level;
use control_api::message::{ControlError, Response};
use rkyv::{Archive, Deserialize, Serialize};

/// All that the `meta` log has come to.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default)]
pub struct MetaState {
    image: MetadataImage,
    /// The image's, kept up to date. Not stored, so that it cannot be taken for that of something that was read differently.
    #[rkyv(with = rkyv::with::Skip)]
    digest: u64,
    /// Of all topics together. Kept up to date and not stored either.
    #[rkyv(with = rkyv::with::Skip)]
    partition_count: usize,
}

formats! { struct MetaState: 225 }

/// The other fields follow from the image.
impl PartialEq for MetaState {
    fn eq(&self, other: &Self) -> bool {
        self.image == other.image
    }
}

impl MetaState {
    pub(crate) fn of(image: MetadataImage) -> Self {
        let topics = image.topics.values();
        MetaState {
            digest: image.digest(),
            partition_count: topics.map(|topic| topic.partitions.len()).sum(),
            image,
        }
    }

    /// After it was read: what is not stored.
    pub(crate) fn completed(self) -> Self {
        MetaState::of(self.image)
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn image(&self) -> &MetadataImage {
        &self.image
    }

    /// Which commands may be in the log; 0 until the first command.
    pub fn feature_level(&self) -> Level {
        self.image.feature_level
    }

    /// `at` is the command's place in the log and must grow.
    pub fn apply(&mut self, at: Position, command: &MetaCommand) -> (Response, Vec<MetadataEvent>) {
        let bootstrapped = !self.image.cluster_id.is_empty();
        if !bootstrapped && !matches!(command, MetaCommand::Bootstrap { .. }) {
            return (Response::Error(ControlError::Unavailable), Vec::new());
        }
        let mut change = Change {
            at,
            rules: Rules::of(self.image.feature_level),
            image: &mut self.image,
            digest: &mut self.digest,
            partition_count: &mut self.partition_count,
            events: Vec::new(),
        };
        let response = match command {
            MetaCommand::Bootstrap {
                cluster_id,
                feature_level,
            } if !bootstrapped => {
                change.push(MetadataEvent::ClusterIdSet(cluster_id.clone()));
                change.push(MetadataEvent::FeatureLevelSet(*feature_level));
                Response::Done(vec![Ok(())])
            }
            MetaCommand::Bootstrap { .. } => Response::Done(vec![Ok(())]),
            MetaCommand::RegisterBroker(registration) => {
                or_error(brokers::register(&mut change, registration))
            }
            MetaCommand::FenceBroker(broker) => done(brokers::fence(&mut change, *broker)),
            MetaCommand::UnfenceBroker(broker) => done(brokers::unfence(&mut change, *broker)),
            MetaCommand::ShutDownBroker(broker) => done(brokers::shut_down(&mut change, *broker)),
            MetaCommand::CreateTopics(new) => Response::Topics(
                new.iter()
                    .map(|new| topics::create(&mut change, new))
                    .collect(),
            ),
            MetaCommand::DeleteTopics(ids) => Response::Topics(
                ids.iter()
                    .map(|id| topics::delete(&mut change, *id))
                    .collect(),
            ),
            MetaCommand::CreatePartitions(new) => Response::Topics(
                new.iter()
                    .map(|new| topics::extend(&mut change, new))
                    .collect(),
            ),
            MetaCommand::AlterConfigs {
                changes,
                list_defaults,
            } => Response::Done(
                changes
                    .iter()
                    .map(|one| configs::alter(&mut change, one, list_defaults))
                    .collect(),
            ),
            MetaCommand::AllocateProducerIds(broker) => {
                or_error(brokers::allocate_producer_ids(&mut change, *broker))
            }
            MetaCommand::RaiseFeatureLevel(level) => done(raise(&mut change, *level)),
            MetaCommand::UnregisterBroker(broker) => {
                done(brokers::unregister(&mut change, *broker))
            }
        };
        let events = change.events;
        (response, events)
    }

    /// What a command would answer, without its taking place.
    pub fn validate(&self, command: &MetaCommand) -> Response {
        let mut copy = self.clone();
        let at = Position {
            term: self.image.term,
            index: self.image.index + 1,
        };
        copy.apply(at, command).0
    }
}

/// A change under way: each event takes effect on the image as it is recorded, so later steps see earlier ones.
struct Change<'a> {
    at: Position,
    rules: &'static Rules,
    image: &'a mut MetadataImage,
    digest: &'a mut u64,
    partition_count: &'a mut usize,
    events: Vec<MetadataEvent>,
}

impl Change<'_> {
    fn push(&mut self, event: MetadataEvent) {
        let before = self.partitions_touched_by(&event);
        let growth = self.image.apply(self.at, std::slice::from_ref(&event));
        let after = self.partitions_touched_by(&event);
        *self.digest = self.digest.wrapping_add(growth);
        *self.partition_count = *self.partition_count + after - before;
        self.events.push(event);
    }

    /// How many partitions the topic has that an event makes longer, makes or removes; 0 for other events.
    fn partitions_touched_by(&self, event: &MetadataEvent) -> usize {
        let topic = match event {
            MetadataEvent::TopicCreated(topic) => &topic.id,
            MetadataEvent::TopicDeleted(topic) => topic,
            MetadataEvent::PartitionsAdded { topic, .. } => topic,
            MetadataEvent::ClusterIdSet(_)
            | MetadataEvent::BrokerChanged(_)
            | MetadataEvent::BrokerRemoved(_)
            | MetadataEvent::PartitionChanged { .. }
            | MetadataEvent::TopicConfigsChanged { .. }
            | MetadataEvent::BrokerConfigsChanged { .. }
            | MetadataEvent::CoordinatorChanged { .. }
            | MetadataEvent::NextProducerId(_)
            | MetadataEvent::FeatureLevelSet(_) => return 0,
        };
        let topic = self.image.topics.get(topic);
        topic.map_or(0, |topic| topic.partitions.len())
    }
}

/// Repeated, it changes nothing. It is never lowered, because what was written since could not be read any more.
fn raise(change: &mut Change, level: Level) -> Result<(), ControlError> {
    let current = change.image.feature_level;
    if level == current {
        return Ok(());
    }
    if level < current {
        return Err(ControlError::UnsupportedLevel(format!(
            "the feature level is {current} and cannot be lowered"
        )));
    }
    let mut brokers = change.image.brokers.values();
    if let Some(other) = brokers.find(|broker| !broker.levels.contain(level)) {
        return Err(ControlError::UnsupportedLevel(format!(
            "broker {} supports feature levels {}, not {level}",
            other.id, other.levels
        )));
    }
    change.push(MetadataEvent::FeatureLevelSet(level));
    Ok(())
}

fn or_error(result: Result<Response, ControlError>) -> Response {
    result.unwrap_or_else(Response::Error)
}

fn done(result: Result<(), ControlError>) -> Response {
    or_error(result.map(|()| Response::Done(vec![Ok(())])))
}

#[cfg(test)]
mod tests;
