//! Topics that come into being because a client asks for their metadata.

use super::configs_of_broker;
use super::new_topics;
use crate::io::Io;
use crate::pace::Pace;
use crate::select;
use crate::shard::Shard;
use control_api::message::{ControlError, NewTopic, Request, Response};
use control_api::topic_config::broker_value;
use std::collections::{BTreeMap, HashMap};
use wire::ErrorCode;

/// How long the answer waits for the control plane. A client that gets no leader asks again soon, and the request made here
/// goes on meanwhile; while there is no majority, the topics that do exist are to be answered without much delay.
const CREATE_WAIT_MS: u64 = 300;

/// How long the answer waits for this broker to know the new topics, so that it can name their partitions at once. Kafka
/// answers without waiting and makes the client ask again.
const CREATED_WAIT_MS: u64 = 500;

/// Topics that one request may bring into being; the others are created when the client asks again.
const CREATED_TOPICS_MAX: usize = 1_000;

/// `auto.create.topics.enable`.
pub(super) fn is_enabled<I: Io>(shard: &Shard<I>) -> bool {
    let configs = configs_of_broker(&shard.image(), shard.broker);
    broker_value(&configs, "auto.create.topics.enable") == "true"
}

/// Creates topics with the defaults of the cluster, and says what to answer for each of those that are still unknown then.
pub(super) async fn create<'a, I: Io>(
    shard: &Shard<I>,
    names: &[&'a str],
    pace: &mut Pace,
) -> HashMap<&'a str, ErrorCode> {
    let mut asked = Vec::new();
    let mut errors: HashMap<&str, ErrorCode> = HashMap::with_capacity(names.len());
    for name in names.iter().copied() {
        pace.step().await;
        if !new_topics::is_topic_name(name) {
            errors.insert(name, ErrorCode::InvalidTopicException);
        } else if asked.len() == CREATED_TOPICS_MAX {
            errors.insert(name, ErrorCode::LeaderNotAvailable);
        } else {
            asked.push(name);
        }
    }
    if asked.is_empty() {
        return errors;
    }
    let image = shard.image();
    let topics = asked.iter().map(|name| NewTopic {
        name: (*name).to_owned(),
        id: new_topics::topic_id(|| shard.io.random_u64()),
        partitions: new_topics::default_partitions(&image, shard.broker),
        replication_factor: -1,
        assignment: Vec::new(),
        configs: BTreeMap::new(),
    });
    let request = Request::CreateTopics {
        topics: topics.collect(),
        validate_only: false,
    };
    let failed: HashMap<&str, ErrorCode> = match ask_in_time(shard, request).await {
        Ok(Response::Topics(results)) if results.len() == asked.len() => {
            let failed = asked.iter().zip(results);
            failed
                .filter_map(|(name, result)| Some((*name, failure(&result.err()?)?)))
                .collect()
        }
        Ok(_) => every(&asked, &ControlError::UnsupportedVersion),
        Err(error) => every(&asked, &error),
    };
    let created: Vec<&str> = asked
        .iter()
        .filter(|name| !failed.contains_key(**name))
        .copied()
        .collect();
    let known = |image: &control_api::image::MetadataImage| {
        let mut created = created.iter();
        created.all(|name| image.topic_ids.contains_key(*name))
    };
    shard.wait_for_image(CREATED_WAIT_MS, known).await;
    errors.extend(failed);
    // Only looked at if the topic is still unknown.
    let late = ErrorCode::LeaderNotAvailable;
    errors.extend(created.iter().map(|name| (*name, late)));
    errors
}

async fn ask_in_time<I: Io>(shard: &Shard<I>, request: Request) -> Result<Response, ControlError> {
    let mut answer = Err(ControlError::Unavailable);
    let asking = async { answer = shard.ask_control(request).await };
    let timeout = shard
        .io
        .sleep_until(shard.io.now().after_ms(CREATE_WAIT_MS));
    select::first(asking, timeout).await;
    answer
}

fn every<'a>(names: &[&'a str], error: &ControlError) -> HashMap<&'a str, ErrorCode> {
    let code = failure(error);
    let failed = names.iter().filter_map(|name| Some((*name, code?)));
    failed.collect()
}

/// What a client is told about a topic that could not be created; `None` if it was created by someone else a moment ago.
/// LEADER_NOT_AVAILABLE makes it ask again soon.
fn failure(error: &ControlError) -> Option<ErrorCode> {
    Some(match error {
        ControlError::TopicExists => return None,
        ControlError::Unavailable | ControlError::NotLeader { .. } => ErrorCode::LeaderNotAvailable,
        ControlError::InvalidTopic(_) => ErrorCode::InvalidTopicException,
        ControlError::InvalidReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
        ControlError::UnknownTopic
        | ControlError::InvalidPartitions(_)
        | ControlError::InvalidAssignment(_)
        | ControlError::InvalidConfig(_)
        | ControlError::InvalidRequest(_)
        | ControlError::DuplicateBroker
        | ControlError::StaleBrokerEpoch
        | ControlError::UnknownBroker
        | ControlError::WrongCluster(_)
        | ControlError::FencedCommit
        | ControlError::UnsupportedVersion
        | ControlError::UnknownGroup
        | ControlError::LimitReached(_)
        | ControlError::UnsupportedLevel(_) => ErrorCode::UnknownTopicOrPartition,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_makes_the_client_ask_again() {
        let again = Some(ErrorCode::LeaderNotAvailable);
        assert_eq!(failure(&ControlError::Unavailable), again);
        let refused = ControlError::InvalidTopic("collides".to_owned());
        let invalid = Some(ErrorCode::InvalidTopicException);
        assert_eq!(failure(&refused), invalid);
        assert_eq!(failure(&ControlError::TopicExists), None);
    }
}
