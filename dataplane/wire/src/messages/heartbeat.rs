//! Heartbeat (API 12): a member says that it is alive.

use crate::schema::messages;

messages! {
    Heartbeat: HeartbeatRequest<'a> => HeartbeatResponse;

    struct HeartbeatRequest<'a> {
        group_id: &'a str,
        generation_id: i32,
        member_id: &'a str,
        group_instance_id: Option<&'a str> [3..],
    }

    struct HeartbeatResponse {
        throttle_time_ms: i32 [1..] ignorable,
        error_code: i16,
    }
}
