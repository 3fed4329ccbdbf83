//! ListGroups (API 16): the groups that a broker coordinates.

use crate::schema::messages;
use crate::Array;

messages! {
    ListGroups: ListGroupsRequest<'a> => ListGroupsResponse<'a>;

    struct ListGroupsRequest<'a> {
        states_filter: Array<'a, &'a str> [4..],
        types_filter: Array<'a, &'a str> [5..],
    }

    struct ListGroupsResponse<'a> {
        throttle_time_ms: i32 [1..] ignorable,
        error_code: i16,
        groups: Array<'a, ListedGroup<'a>>,
    }

    struct ListedGroup<'a> {
        group_id: &'a str,
        protocol_type: &'a str,
        group_state: &'a str [4..] ignorable,
        group_type: &'a str [5..] ignorable,
    }
}
