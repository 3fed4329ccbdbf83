//! RemoveRaftVoter (API 81): takes a controller out of those that vote on the metadata (KIP-853).

use crate::schema::messages;
use crate::Uuid;

messages! {
    RemoveRaftVoter: RemoveRaftVoterRequest<'a> => RemoveRaftVoterResponse<'a>;

    struct RemoveRaftVoterRequest<'a> {
        cluster_id: Option<&'a str> = Some(""),
        voter_id: i32,
        voter_directory_id: Uuid,
    }

    struct RemoveRaftVoterResponse<'a> {
        throttle_time_ms: i32,
        error_code: i16,
        error_message: Option<&'a str> = Some(""),
    }
}
