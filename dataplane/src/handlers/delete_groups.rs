//! DeleteGroups: removes groups and all that they have committed.

use super::groups::{self, Deletion};
use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::limits::ADMIN_ITEMS_MAX;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::image::MetadataImage;
use std::collections::HashSet;
use wire::messages::delete_groups::{
    DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse,
};
use wire::{Array, ErrorCode};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &DeleteGroupsRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    // As in Kafka, a group is deleted once however often it is named.
    let mut seen = HashSet::new();
    let names = request.groups_names.iter();
    let names: Vec<&str> = names.filter(|name| seen.insert(*name)).collect();
    let results = delete(shard, &shard.image(), &names).await;
    let results: Vec<DeletableGroupResult<'_>> = names
        .iter()
        .zip(results)
        .map(|(name, error)| DeletableGroupResult {
            group_id: name,
            error_code: error as i16,
        })
        .collect();
    let response = DeleteGroupsResponse {
        results: Array::from(&results),
        ..Default::default()
    };
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await
}

/// One result per name. No group has members yet, so none is refused with NON_EMPTY_GROUP.
async fn delete<I: Io>(shard: &Shard<I>, image: &MetadataImage, names: &[&str]) -> Vec<ErrorCode> {
    if names.len() > ADMIN_ITEMS_MAX {
        return vec![ErrorCode::PolicyViolation; names.len()];
    }
    let mut results = vec![ErrorCode::None; names.len()];
    let mut deletions = Vec::new();
    for (place, name) in names.iter().enumerate() {
        match groups::check_coordinator(image, shard.broker, name) {
            Ok(coordinator_epoch) => deletions.push(Deletion {
                place,
                group: (*name).to_owned(),
                coordinator_epoch,
            }),
            Err(error) => results[place] = error,
        }
    }
    for (place, error) in groups::delete(shard, deletions).await {
        results[place] = error;
    }
    results
}
