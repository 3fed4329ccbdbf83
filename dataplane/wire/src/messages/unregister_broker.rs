//! UnregisterBroker (API 64): forgets a broker that is gone for good (KIP-500).

use crate::schema::messages;

messages! {
    UnregisterBroker: UnregisterBrokerRequest => UnregisterBrokerResponse<'a>;

    struct UnregisterBrokerRequest {
        broker_id: i32,
    }

    struct UnregisterBrokerResponse<'a> {
        throttle_time_ms: i32,
        error_code: i16,
        error_message: Option<&'a str> = Some(""),
    }
}
