//! What the handlers of administrative requests share: refusals with a text for the client, questions to the control plane
//! with one result per item, and letting this broker's own metadata catch up with a change.

use crate::errors::control_error_code;
use crate::io::Io;
use crate::ready;
use crate::shard::Shard;
use control_api::ids::TopicId;
use control_api::image::{MetadataImage, TopicRecord};
use control_api::message::{ControlError, Request, Response};
use wire::ErrorCode;

/// How long a change that is made may keep its answer waiting until this broker has seen it. Answered sooner than that, a
/// client could be told by its next request that what it created does not exist.
/// A client that says that it does not want to wait is made to wait the minimum, which is far more than it usually takes.
const CATCH_UP_MS_MIN: u64 = 500;
const CATCH_UP_MS_MAX: u64 = 5_000;

/// How long a topic that this broker does not know may take to become known: it may have been created through another
/// broker a moment ago.
const UNKNOWN_TOPIC_WAIT_MS: u64 = 200;

/// How long a change may take to be known to every shard, and new partitions to be led.
const READY_WAIT_MS: u64 = 2_000;

/// Texts often quote the client, whose names may be longer than a response's strings can be.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Why one item of a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        while message.len() > MESSAGE_BYTES_MAX {
            message.pop();
        }
        Refusal { code, message }
    }

    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Refusal::new(ErrorCode::InvalidRequest, message)
    }

    pub(super) fn unknown_topic() -> Self {
        Refusal::from(ControlError::UnknownTopic)
    }

    /// For every item of a request with more than `ADMIN_ITEMS_MAX`.
    pub(super) fn too_many_items() -> Self {
        Refusal::new(
            ErrorCode::PolicyViolation,
            "Unable to perform excessively large batch operation.",
        )
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let message = match &error {
            ControlError::UnknownTopic => "This server does not host this topic-partition.".into(),
            other => other.to_string(),
        };
        Refusal::new(control_error_code(&error), message)
    }
}

/// A result's error code and text, as responses carry them.
pub(super) fn outcome<T>(result: &Result<T, Refusal>) -> (i16, Option<&str>) {
    match result {
        Ok(_) => (ErrorCode::None as i16, None),
        Err(refusal) => (refusal.code as i16, Some(&refusal.message)),
    }
}

/// Splits the items that are to be asked for from the refusals; [`merge`] puts the answers where the items were.
pub(super) fn split<P>(
    planned: impl IntoIterator<Item = Result<P, Refusal>>,
) -> (Vec<P>, Vec<Result<(), Refusal>>) {
    let mut asked = Vec::new();
    let verdicts = planned.into_iter();
    let verdicts = verdicts
        .map(|plan| plan.map(|item| asked.push(item)))
        .collect();
    (asked, verdicts)
}

/// One result per item of the request, in its order.
pub(super) fn merge<T>(
    verdicts: Vec<Result<(), Refusal>>,
    answers: Vec<Result<T, ControlError>>,
) -> Vec<Result<T, Refusal>> {
    let mut answers = answers.into_iter();
    let results = verdicts.into_iter().map(|verdict| {
        verdict?;
        let answer = answers.next().expect("every item asked for has an answer");
        answer.map_err(Refusal::from)
    });
    results.collect()
}

/// Asks for `items` topics to be changed. What is wrong with the whole call is wrong with each of them.
pub(super) async fn ask_topics<I: Io>(
    shard: &Shard<I>,
    request: Request,
    items: usize,
) -> Vec<Result<TopicRecord, ControlError>> {
    if items == 0 {
        return Vec::new();
    }
    let error = match shard.ask_control(request).await {
        Ok(Response::Topics(results)) if results.len() == items => return results,
        // Only a controller of another version answers with anything else.
        Ok(_) => ControlError::UnsupportedVersion,
        Err(error) => error,
    };
    vec![Err(error); items]
}

/// As [`ask_topics`], for changes that are answered with nothing but whether they were made.
pub(super) async fn ask_done<I: Io>(
    shard: &Shard<I>,
    request: Request,
    items: usize,
) -> Vec<Result<(), ControlError>> {
    if items == 0 {
        return Vec::new();
    }
    let error = match shard.ask_control(request).await {
        Ok(Response::Done(results)) if results.len() == items => return results,
        Ok(_) => ControlError::UnsupportedVersion,
        Err(error) => error,
    };
    vec![Err(error); items]
}

/// Waits until this broker has seen a change that was made, at most about as long as the client waits.
pub(super) async fn catch_up<I: Io>(
    shard: &Shard<I>,
    timeout_ms: i32,
    seen: impl Fn(&MetadataImage) -> bool,
) {
    let timeout_ms = u64::try_from(timeout_ms).unwrap_or(0);
    let timeout_ms = timeout_ms.clamp(CATCH_UP_MS_MIN, CATCH_UP_MS_MAX);
    shard.wait_for_image(timeout_ms, seen).await;
}

/// Waits until every shard has seen what this one has, and serves what it is to lead of these topics: a client hears of the leader
/// as soon as a topic exists and goes there at once, while logs are still being made.
pub(super) async fn wait_until_ready<I: Io>(
    shard: &Shard<I>,
    topics: impl Iterator<Item = TopicId>,
) {
    ready::on_every_shard(shard, topics, READY_WAIT_MS).await;
}

/// Waits a moment for topics that this broker does not know yet.
pub(super) async fn wait_for_topics<I: Io>(shard: &Shard<I>, names: &[&str]) {
    let known = |image: &MetadataImage| {
        let mut names = names.iter();
        names.all(|name| image.topic_ids.contains_key(*name))
    };
    shard.wait_for_image(UNKNOWN_TOPIC_WAIT_MS, known).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_in_the_places_of_their_items() {
        let refused = || Refusal::invalid_request("no");
        let (asked, verdicts) = split([Ok('a'), Err(refused()), Ok('c')]);
        assert_eq!(asked, ['a', 'c']);
        let merged = merge(verdicts, vec![Ok(1), Err(ControlError::UnknownTopic)]);
        assert_eq!(
            merged,
            [Ok(1), Err(refused()), Err(Refusal::unknown_topic())]
        );
    }

    #[test]
    fn a_text_that_quotes_a_long_name_is_cut_between_characters() {
        let refusal = Refusal::invalid_request("é".repeat(40_000) + "x");
        assert_eq!(refusal.message, "é".repeat(MESSAGE_BYTES_MAX / 2));
        let odd = Refusal::invalid_request("x".to_owned() + &"é".repeat(40_000));
        assert_eq!(odd.message.len(), MESSAGE_BYTES_MAX - 1);
    }

    #[test]
    fn a_success_has_no_text() {
        assert_eq!(outcome(&Ok(())), (0, None));
        let refusal: Result<(), _> = Err(Refusal::invalid_request("why"));
        assert_eq!(outcome(&refusal), (42, Some("why")));
    }
}
