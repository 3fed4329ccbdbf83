//! What the handlers of requests about groups share: whether this broker coordinates a group, questions to the control plane
//! about many of them, and what a client is told.

use crate::coordinators;
use crate::errors::control_error_code;
use crate::io::Io;
use crate::shard::Shard;
use control_api::ids::BrokerId;
use control_api::image::MetadataImage;
use control_api::message::{ControlError, Request, Response};
use wire::ErrorCode;

/// Bytes of names that one question carries; more become several.
const QUESTION_BYTES_MAX: usize = 256 * 1024;

/// Names of a group's states and type, as the protocol has them.
pub(super) const EMPTY: &str = "Empty";
pub(super) const DEAD: &str = "Dead";
pub(super) const CLASSIC: &str = "classic";

/// A group to delete, and where the result belongs.
pub(super) struct Deletion {
    pub(super) place: usize,
    pub(super) group: String,
    pub(super) coordinator_epoch: i32,
}

/// The epoch under which this broker coordinates a group, if it does.
pub(super) fn check_coordinator(
    image: &MetadataImage,
    broker: BrokerId,
    group: &str,
) -> Result<i32, ErrorCode> {
    match coordinators::coordinator_of(image, group) {
        Some(coordinator) if coordinator.broker.id == broker => Ok(coordinator.epoch),
        Some(_) => Err(ErrorCode::NotCoordinator),
        None => Err(ErrorCode::CoordinatorNotAvailable),
    }
}

/// What a client of a group is told. It looks the coordinator up again and tries again after either of the first two.
pub(super) fn error_code(error: &ControlError) -> ErrorCode {
    match error {
        ControlError::Unavailable | ControlError::NotLeader { .. } => {
            ErrorCode::CoordinatorNotAvailable
        }
        // Without generations only a later coordinator's epoch can be in the way.
        ControlError::FencedCommit => ErrorCode::NotCoordinator,
        other => control_error_code(other),
    }
}

/// Deletes groups and answers with those that were not, by place.
pub(super) async fn delete<I: Io>(
    shard: &Shard<I>,
    deletions: Vec<Deletion>,
) -> Vec<(usize, ErrorCode)> {
    let mut failed = Vec::new();
    for part in portions(deletions, |deletion| deletion.group.len()) {
        let places: Vec<usize> = part.iter().map(|deletion| deletion.place).collect();
        let groups = part.into_iter();
        let groups = groups.map(|deletion| (deletion.group, deletion.coordinator_epoch));
        let request = Request::DeleteGroups {
            groups: groups.collect(),
        };
        let results = ask_each(shard, request, places.len()).await;
        let results = places.into_iter().zip(results);
        failed.extend(results.filter_map(|(place, result)| Some((place, result.err()?))));
    }
    failed
}

/// Asks about `items` groups. What is wrong with the whole question is wrong with each of them.
pub(super) async fn ask_each<I: Io>(
    shard: &Shard<I>,
    request: Request,
    items: usize,
) -> Vec<Result<(), ErrorCode>> {
    let results = match shard.ask_control(request).await {
        Ok(Response::Done(results)) if results.len() == items => results,
        // Only a controller of another version answers with anything else.
        Ok(_) => vec![Err(ControlError::UnsupportedVersion); items],
        Err(error) => vec![Err(error); items],
    };
    let results = results.into_iter();
    results
        .map(|result| result.map_err(|error| error_code(&error)))
        .collect()
}

/// Cuts a list so that each part's names come to about [`QUESTION_BYTES_MAX`] at most.
pub(super) fn portions<T>(items: Vec<T>, bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    /// What each takes beside its name, generously.
    const ITEM_BYTES: usize = 64;
    let mut portions: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let needed = ITEM_BYTES + bytes(&item);
        match portions.last_mut().filter(|_| needed <= room) {
            Some(portion) => portion.push(item),
            None => {
                portions.push(vec![item]);
                room = QUESTION_BYTES_MAX;
            }
        }
        room = room.saturating_sub(needed);
    }
    portions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_for_in_order_and_some_at_a_time() {
        let names: Vec<String> = (0..3000)
            .map(|number| format!("{number:0>200}"))
            .chain(["x".repeat(QUESTION_BYTES_MAX * 2), "last".to_owned()])
            .collect();
        let parts = portions(names.clone(), String::len);
        assert!(parts.len() > 2);
        assert_eq!(parts.concat(), names);
        let small = parts.iter().filter(|part| part.len() > 1);
        for part in small {
            let bytes: usize = part.iter().map(String::len).sum();
            assert!(bytes <= QUESTION_BYTES_MAX);
        }
    }
}
