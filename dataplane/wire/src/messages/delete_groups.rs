//! DeleteGroups (API 42): delete groups and their offsets.

use crate::schema::messages;
use crate::Array;

messages! {
    DeleteGroups: DeleteGroupsRequest<'a> => DeleteGroupsResponse<'a>;

    struct DeleteGroupsRequest<'a> {
        groups_names: Array<'a, &'a str>,
    }

    struct DeleteGroupsResponse<'a> {
        throttle_time_ms: i32,
        results: Array<'a, DeletableGroupResult<'a>>,
    }

    struct DeletableGroupResult<'a> {
        group_id: &'a str,
        error_code: i16,
    }
}
