//! UnregisterBroker: has the controllers forget a broker that is gone for good (KIP-500).

use super::admin::{self, Refusal, outcome};
use crate::dispatch::{RequestError, respond};
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::ids::BrokerId;
use control_api::image::MetadataImage;
use control_api::message::Request;
use wire::messages::unregister_broker::{UnregisterBrokerRequest, UnregisterBrokerResponse};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &UnregisterBrokerRequest,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let broker = BrokerId(request.broker_id);
    let mut answers = admin::ask_done(shard, Request::UnregisterBroker { broker }, 1).await;
    let result = answers.remove(0).map_err(Refusal::from);
    if result.is_ok() {
        let forgotten = |image: &MetadataImage| !image.brokers.contains_key(&broker);
        // The request names no time.
        admin::catch_up(shard, 0, forgotten).await;
    }
    let (error_code, error_message) = outcome(&result);
    let response = UnregisterBrokerResponse {
        error_code,
        error_message,
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}
