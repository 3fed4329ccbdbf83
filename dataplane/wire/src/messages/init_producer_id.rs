//! InitProducerId (API 22): give a producer its id and epoch.

use crate::schema::messages;

messages! {
    InitProducerId: InitProducerIdRequest<'a> => InitProducerIdResponse;

    struct InitProducerIdRequest<'a> {
        transactional_id: Option<&'a str> = Some(""),
        transaction_timeout_ms: i32,
        producer_id: i64 [3..] = -1,
        producer_epoch: i16 [3..] = -1,
    }

    struct InitProducerIdResponse {
        throttle_time_ms: i32,
        error_code: i16,
        producer_id: i64 = -1,
        producer_epoch: i16,
    }
}
