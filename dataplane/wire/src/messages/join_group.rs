//! JoinGroup (API 11): a member enters a rebalance of its group.

use crate::schema::messages;
use crate::Array;

messages! {
    JoinGroup: JoinGroupRequest<'a> => JoinGroupResponse<'a>;

    struct JoinGroupRequest<'a> {
        group_id: &'a str,
        session_timeout_ms: i32,
        rebalance_timeout_ms: i32 [1..] ignorable = -1,
        member_id: &'a str,
        group_instance_id: Option<&'a str> [5..],
        protocol_type: &'a str,
        protocols: Array<'a, JoinGroupRequestProtocol<'a>>,
        reason: Option<&'a str> [8..] ignorable,
    }

    struct JoinGroupRequestProtocol<'a> {
        name: &'a str,
        metadata: &'a [u8],
    }

    struct JoinGroupResponse<'a> {
        throttle_time_ms: i32 [2..] ignorable,
        error_code: i16,
        generation_id: i32 = -1,
        protocol_type: Option<&'a str> [7..] ignorable,
        protocol_name: Option<&'a str> [0.., null 7..] = Some(""),
        leader: &'a str,
        skip_assignment: bool [9..],
        member_id: &'a str,
        members: Array<'a, JoinGroupResponseMember<'a>>,
    }

    struct JoinGroupResponseMember<'a> {
        member_id: &'a str,
        group_instance_id: Option<&'a str> [5..] ignorable,
        metadata: &'a [u8],
    }
}
