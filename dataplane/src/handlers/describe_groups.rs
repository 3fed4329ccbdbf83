//! DescribeGroups: state and members of groups. No group has members so far, so one that has committed anything is Empty and
//! any other is Dead.

use super::authorized_operations;
use super::groups::{DEAD, EMPTY};
use super::groups::{ask_each, check_coordinator, portions};
use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::limits::ADMIN_ITEMS_MAX;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::message::Request;
use wire::messages::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup,
};
use wire::{Array, ErrorCode};

/// The first version in which a group that does not exist is an error (KIP-1043).
const NOT_FOUND_VERSION: i16 = 6;

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &DescribeGroupsRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let names: Vec<&str> = request.groups.iter().collect();
    let found = find(shard, &names).await;
    let texts: Vec<String> = names.iter().map(|name| not_found(name)).collect();
    let groups = names.iter().zip(found).zip(&texts);
    let groups = groups.map(|((name, found), text)| {
        let described = DescribedGroup {
            group_id: name,
            authorized_operations: authorized_operations::of_group(
                request.include_authorized_operations,
            ),
            ..Default::default()
        };
        match found {
            Ok(()) => DescribedGroup {
                group_state: EMPTY,
                ..described
            },
            Err(ErrorCode::GroupIdNotFound) if to.version < NOT_FOUND_VERSION => DescribedGroup {
                group_state: DEAD,
                ..described
            },
            Err(ErrorCode::GroupIdNotFound) => DescribedGroup {
                error_code: ErrorCode::GroupIdNotFound as i16,
                error_message: Some(text),
                group_state: DEAD,
                ..described
            },
            Err(error) => DescribedGroup {
                error_code: error as i16,
                group_id: name,
                ..Default::default()
            },
        }
    });
    let groups: Vec<DescribedGroup<'_>> = groups.collect();
    let response = DescribeGroupsResponse {
        groups: Array::from(&groups),
        ..Default::default()
    };
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await
}

/// Kafka's text, for names that a text can hold.
fn not_found(name: &str) -> String {
    const NAME_BYTES_MAX: usize = 1024;
    match name.len() <= NAME_BYTES_MAX {
        true => format!("Group {name} not found."),
        false => "The group was not found.".to_owned(),
    }
}

async fn find<I: Io>(shard: &Shard<I>, names: &[&str]) -> Vec<Result<(), ErrorCode>> {
    if names.len() > ADMIN_ITEMS_MAX {
        return vec![Err(ErrorCode::PolicyViolation); names.len()];
    }
    let image = shard.image();
    let own = names.iter();
    let own = own.map(|name| check_coordinator(&image, shard.broker, name).map(|_| ()));
    let mut found: Vec<Result<(), ErrorCode>> = own.collect();
    let places = (0..names.len()).filter(|place| found[*place].is_ok());
    let places: Vec<usize> = places.collect();
    for part in portions(places, |place| names[*place].len()) {
        let groups = part.iter().map(|place| names[*place].to_owned());
        let request = Request::FindGroups {
            groups: groups.collect(),
        };
        let results = ask_each(shard, request, part.len()).await;
        part.iter()
            .zip(results)
            .for_each(|(place, result)| found[*place] = result);
    }
    found
}
