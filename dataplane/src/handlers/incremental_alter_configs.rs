//! IncrementalAlterConfigs: sets, deletes, appends to or subtracts from single keys of topics or of this broker (KIP-339).

use super::admin::outcome;
use super::config_changes::{self, Setting, Wanted};
use crate::dispatch::{RequestError, respond};
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use wire::Array;
use wire::messages::incremental_alter_configs::{
    AlterConfigsResourceResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &IncrementalAlterConfigsRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let wanted = request.resources.iter().map(|resource| Wanted {
        resource_type: resource.resource_type,
        resource_name: resource.resource_name,
        settings: resource
            .configs
            .iter()
            .map(|config| Setting {
                name: config.name,
                operation: config.config_operation,
                value: config.value,
            })
            .collect(),
        replace_all: false,
    });
    let wanted: Vec<Wanted<'_>> = wanted.collect();
    let results = config_changes::alter(shard, &wanted, request.validate_only).await;
    let responses = wanted.iter().zip(&results).map(|(wanted, result)| {
        let (error_code, error_message) = outcome(result);
        AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: wanted.resource_type,
            resource_name: wanted.resource_name,
        }
    });
    let responses: Vec<_> = responses.collect();
    let response = IncrementalAlterConfigsResponse {
        responses: Array::from(&responses),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}
