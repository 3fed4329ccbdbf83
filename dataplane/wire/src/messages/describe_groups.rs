//! DescribeGroups (API 15): state and members of groups.

use crate::schema::messages;
use crate::Array;

messages! {
    DescribeGroups: DescribeGroupsRequest<'a> => DescribeGroupsResponse<'a>;

    struct DescribeGroupsRequest<'a> {
        groups: Array<'a, &'a str>,
        include_authorized_operations: bool [3..],
    }

    struct DescribeGroupsResponse<'a> {
        throttle_time_ms: i32 [1..] ignorable,
        groups: Array<'a, DescribedGroup<'a>>,
    }

    struct DescribedGroup<'a> {
        error_code: i16,
        error_message: Option<&'a str> [6..],
        group_id: &'a str,
        group_state: &'a str,
        protocol_type: &'a str,
        protocol_data: &'a str,
        members: Array<'a, DescribedGroupMember<'a>>,
        authorized_operations: i32 [3..] = -2147483648,
    }

    struct DescribedGroupMember<'a> {
        member_id: &'a str,
        group_instance_id: Option<&'a str> [4..] ignorable,
        client_id: &'a str,
        client_host: &'a str,
        member_metadata: &'a [u8],
        member_assignment: &'a [u8],
    }
}
