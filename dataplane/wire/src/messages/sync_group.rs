//! SyncGroup (API 14): a member fetches its assignment, the leader brings them all.

use crate::schema::messages;
use crate::Array;

messages! {
    SyncGroup: SyncGroupRequest<'a> => SyncGroupResponse<'a>;

    struct SyncGroupRequest<'a> {
        group_id: &'a str,
        generation_id: i32,
        member_id: &'a str,
        group_instance_id: Option<&'a str> [3..],
        protocol_type: Option<&'a str> [5..] ignorable,
        protocol_name: Option<&'a str> [5..] ignorable,
        assignments: Array<'a, SyncGroupRequestAssignment<'a>>,
    }

    struct SyncGroupRequestAssignment<'a> {
        member_id: &'a str,
        assignment: &'a [u8],
    }

    struct SyncGroupResponse<'a> {
        throttle_time_ms: i32 [1..] ignorable,
        error_code: i16,
        protocol_type: Option<&'a str> [5..] ignorable,
        protocol_name: Option<&'a str> [5..] ignorable,
        assignment: &'a [u8],
    }
}
