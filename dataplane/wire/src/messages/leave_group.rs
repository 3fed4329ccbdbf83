//! LeaveGroup (API 13): members leave their group. Version 3 takes many at once (KIP-345).

use crate::schema::messages;
use crate::Array;

messages! {
    LeaveGroup: LeaveGroupRequest<'a> => LeaveGroupResponse<'a>;

    struct LeaveGroupRequest<'a> {
        group_id: &'a str,
        member_id: &'a str [0..=2],
        members: Array<'a, MemberIdentity<'a>> [3..],
    }

    struct MemberIdentity<'a> {
        member_id: &'a str,
        group_instance_id: Option<&'a str>,
        reason: Option<&'a str> [5..] ignorable,
    }

    struct LeaveGroupResponse<'a> {
        throttle_time_ms: i32 [1..] ignorable,
        error_code: i16,
        members: Array<'a, MemberResponse<'a>> [3..],
    }

    struct MemberResponse<'a> {
        member_id: &'a str,
        group_instance_id: Option<&'a str> = Some(""),
        error_code: i16,
    }
}
