//! ListGroups: the groups that this broker coordinates.
//!
//! All that is known of a group so far is what it has committed: no group has members, so each is of the classic type, without
//! a protocol, and Empty, as Kafka says of groups of simple consumers.

use super::groups::{CLASSIC, EMPTY};
use super::groups::{check_coordinator, error_code};
use crate::dispatch::{RequestError, respond_in_turns};
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::image::MetadataImage;
use control_api::message::{Request, Response};
use wire::messages::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};
use wire::{Array, ErrorCode};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &ListGroupsRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let wanted =
        asks_for(&request.states_filter, EMPTY) && asks_for(&request.types_filter, CLASSIC);
    let names = match wanted {
        true => coordinated(shard, &shard.image()).await,
        false => Ok(Vec::new()),
    };
    let (names, error) = match names {
        Ok(names) => (names, ErrorCode::None),
        Err(error) => (Vec::new(), error),
    };
    let listed: Vec<ListedGroup<'_>> = names
        .iter()
        .map(|name| ListedGroup {
            group_id: name,
            protocol_type: "",
            group_state: EMPTY,
            group_type: CLASSIC,
        })
        .collect();
    let response = ListGroupsResponse {
        error_code: error as i16,
        groups: Array::from(&listed),
        ..Default::default()
    };
    respond_in_turns(answer, to, async |writer, version| {
        response.encode_in_turns(writer, version).await
    })
    .await
}

/// An empty filter asks for all; capitals make no difference.
fn asks_for(filter: &Array<'_, &str>, value: &str) -> bool {
    let mut filter = filter.iter();
    filter.len() == 0 || filter.any(|wanted| wanted.eq_ignore_ascii_case(value))
}

async fn coordinated<I: Io>(
    shard: &Shard<I>,
    image: &MetadataImage,
) -> Result<Vec<String>, ErrorCode> {
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let groups = match shard.ask_control(Request::ListGroups { after }).await {
            Ok(Response::Groups(groups)) => groups,
            Ok(_) => return Err(ErrorCode::UnsupportedVersion),
            Err(error) => return Err(error_code(&error)),
        };
        let Some(last) = groups.last() else {
            return Ok(names);
        };
        after = Some(last.name.clone());
        let own = groups.into_iter().map(|group| group.name);
        names.extend(own.filter(|name| check_coordinator(image, shard.broker, name).is_ok()));
    }
}
