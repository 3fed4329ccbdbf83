//! AddRaftVoter (API 80): has a controller vote on the metadata (KIP-853).

use crate::schema::messages;
use crate::{Array, Uuid};

messages! {
    AddRaftVoter: AddRaftVoterRequest<'a> => AddRaftVoterResponse<'a>;

    struct AddRaftVoterRequest<'a> {
        cluster_id: Option<&'a str> = Some(""),
        timeout_ms: i32,
        voter_id: i32,
        voter_directory_id: Uuid,
        listeners: Array<'a, Listener<'a>>,
    }

    struct Listener<'a> {
        name: &'a str,
        host: &'a str,
        port: u16,
    }

    struct AddRaftVoterResponse<'a> {
        throttle_time_ms: i32,
        error_code: i16,
        error_message: Option<&'a str> = Some(""),
    }
}
