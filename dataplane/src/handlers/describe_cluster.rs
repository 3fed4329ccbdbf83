//! DescribeCluster: the cluster's id and its brokers (KIP-700).

use super::authorized_operations;
use crate::dispatch::{RequestError, respond};
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::image::{BrokerRecord, MetadataImage};
use wire::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};
use wire::{Array, ErrorCode};

/// The kinds of endpoints that a client may think it asks (KIP-919).
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &DescribeClusterRequest,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    if let Some((code, message)) = wrong_endpoint(request.endpoint_type) {
        let response = DescribeClusterResponse {
            error_code: code as i16,
            error_message: Some(&message),
            ..Default::default()
        };
        return respond(answer, to, |writer, version| {
            response.encode(writer, version)
        });
    }
    let image = shard.image();
    let brokers: Vec<DescribeClusterBroker<'_>> = image
        .brokers
        .values()
        .filter(|broker| request.include_fenced_brokers || !broker.fenced)
        .map(broker_answer)
        .collect();
    let asked = request.include_cluster_authorized_operations;
    let response = DescribeClusterResponse {
        cluster_id: &image.cluster_id,
        controller_id: advertised_controller(&image),
        brokers: Array::from(&brokers),
        cluster_authorized_operations: authorized_operations::of_cluster(asked),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

/// The broker that clients send what is meant for a controller to, or -1. Every broker passes such requests on to the
/// control plane, so any live one will do.
pub(super) fn advertised_controller(image: &MetadataImage) -> i32 {
    image.live_brokers().next().map_or(-1, |broker| broker.id.0)
}

fn wrong_endpoint(endpoint_type: i8) -> Option<(ErrorCode, String)> {
    match endpoint_type {
        BROKERS => None,
        CONTROLLERS => Some((
            ErrorCode::MismatchedEndpointType,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER".to_owned(),
        )),
        other => Some((
            ErrorCode::UnsupportedEndpointType,
            format!("Unsupported endpoint type {other}"),
        )),
    }
}

fn broker_answer(broker: &BrokerRecord) -> DescribeClusterBroker<'_> {
    DescribeClusterBroker {
        broker_id: broker.id.0,
        host: &broker.host,
        port: i32::from(broker.port),
        rack: broker.rack.as_deref(),
        is_fenced: broker.fenced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_endpoint_of_brokers_is_described() {
        let code = |endpoint_type| wrong_endpoint(endpoint_type).map(|(code, _)| code);
        assert_eq!(code(BROKERS), None);
        assert_eq!(code(CONTROLLERS), Some(ErrorCode::MismatchedEndpointType));
        assert_eq!(code(0), Some(ErrorCode::UnsupportedEndpointType));
    }
}
