//! FindCoordinator (API 10): which broker coordinates a group or transactional id. Version 4 asks for many keys at once (KIP-699).

use crate::schema::messages;
use crate::Array;

messages! {
    FindCoordinator: FindCoordinatorRequest<'a> => FindCoordinatorResponse<'a>;

    struct FindCoordinatorRequest<'a> {
        key: &'a str [0..=3],
        key_type: i8 [1..],
        coordinator_keys: Array<'a, &'a str> [4..],
    }

    struct FindCoordinatorResponse<'a> {
        throttle_time_ms: i32 [1..] ignorable,
        error_code: i16 [0..=3],
        error_message: Option<&'a str> [1..=3] ignorable = Some(""),
        node_id: i32 [0..=3],
        host: &'a str [0..=3],
        port: i32 [0..=3],
        coordinators: Array<'a, Coordinator<'a>> [4..],
    }

    struct Coordinator<'a> {
        key: &'a str,
        node_id: i32,
        host: &'a str,
        port: i32,
        error_code: i16,
        error_message: Option<&'a str> = Some(""),
    }
}
