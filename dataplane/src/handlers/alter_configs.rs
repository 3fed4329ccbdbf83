//! AlterConfigs: replaces the whole configuration of topics or of this broker. What is not named goes back to its default.

use super::admin::outcome;
use super::config_changes::{self, SET, Setting, Wanted};
use crate::dispatch::{RequestError, respond};
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use wire::Array;
use wire::messages::alter_configs::{
    AlterConfigsRequest, AlterConfigsResourceResponse, AlterConfigsResponse,
};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &AlterConfigsRequest<'_>,
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
                operation: SET,
                value: config.value,
            })
            .collect(),
        replace_all: true,
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
    let response = AlterConfigsResponse {
        responses: Array::from(&responses),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}
