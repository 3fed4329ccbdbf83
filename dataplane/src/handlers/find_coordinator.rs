//! FindCoordinator: which broker coordinates a group.

use crate::coordinators;
use crate::dispatch::{RequestError, respond, respond_in_turns};
use crate::io::{Gather, Io};
use crate::pace::Pace;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::image::MetadataImage;
use wire::messages::find_coordinator::{
    Coordinator, FindCoordinatorRequest, FindCoordinatorResponse,
};
use wire::{Array, ErrorCode};

/// What a key names.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

const NO_TRANSACTIONS: &str = "Transactions are not available on this cluster.";

/// In this version, the one that librdkafka speaks, a client asks again without end after any error but one of authorization, and shows
/// the message of that.
const ASKS_ON_VERSION: i16 = 2;

/// The first version that asks for several keys.
const BATCHED_VERSION: i16 = 4;

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &FindCoordinatorRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let image = shard.image();
    if to.version >= BATCHED_VERSION {
        let mut pace = Pace::default();
        let mut coordinators = Vec::with_capacity(request.coordinator_keys.len());
        for key in &request.coordinator_keys {
            pace.step().await;
            coordinators.push(find(&image, to.version, request.key_type, key));
        }
        let response = FindCoordinatorResponse {
            coordinators: Array::from(&coordinators),
            ..Default::default()
        };
        return respond_in_turns(answer, to, async |writer, version| {
            response.encode_in_turns(writer, version).await
        })
        .await;
    }
    let found = find(&image, to.version, request.key_type, request.key);
    let response = FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

fn find<'a>(image: &'a MetadataImage, version: i16, key_type: i8, key: &'a str) -> Coordinator<'a> {
    let coordinator = match key_type {
        GROUP => coordinators::coordinator_of(image, key).ok_or((
            ErrorCode::CoordinatorNotAvailable,
            "The coordinator is not available.",
        )),
        TRANSACTION if version == ASKS_ON_VERSION => Err((
            ErrorCode::TransactionalIdAuthorizationFailed,
            NO_TRANSACTIONS,
        )),
        // The Java client shows the message, and others the code, which after an error of authorization would read as a missing permission.
        TRANSACTION => Err((ErrorCode::UnsupportedVersion, NO_TRANSACTIONS)),
        // Share groups among them, for which Kafka's answer is the same where they are not enabled.
        _ => Err((
            ErrorCode::InvalidRequest,
            "This type of coordinator is not available on this cluster.",
        )),
    };
    match coordinator {
        Ok(coordinator) => Coordinator {
            key,
            node_id: coordinator.broker.id.0,
            host: &coordinator.broker.host,
            port: i32::from(coordinator.broker.port),
            error_code: ErrorCode::None as i16,
            error_message: None,
        },
        Err((code, message)) => Coordinator {
            key,
            node_id: -1,
            host: "",
            port: -1,
            error_code: code as i16,
            error_message: Some(message),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_without_a_coordinator_is_asked_for_again_and_the_rest_is_final() {
        let image = MetadataImage::default();
        for version in 0..=6 {
            let code = |key_type| find(&image, version, key_type, "key").error_code;
            assert_eq!(code(GROUP), ErrorCode::CoordinatorNotAvailable as i16);
            for other in [2, 3, -1] {
                assert_eq!(code(other), ErrorCode::InvalidRequest as i16);
            }
        }
    }

    #[test]
    fn a_transactional_id_is_refused_in_words_and_by_what_ends_each_clients_questions() {
        let image = MetadataImage::default();
        let found = |version| find(&image, version, TRANSACTION, "id");
        for version in 0..=6 {
            let code = match version {
                ASKS_ON_VERSION => ErrorCode::TransactionalIdAuthorizationFailed,
                _ => ErrorCode::UnsupportedVersion,
            };
            assert_eq!(found(version).error_code, code as i16);
            assert_eq!(found(version).error_message, Some(NO_TRANSACTIONS));
        }
    }

    #[test]
    fn nowhere_is_written_as_kafka_writes_it() {
        let image = MetadataImage::default();
        let nowhere = find(&image, 0, GROUP, "key");
        assert_eq!((nowhere.node_id, nowhere.host, nowhere.port), (-1, "", -1));
        assert_eq!(nowhere.key, "key");
    }
}
