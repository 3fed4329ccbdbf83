//! What makes a producer idempotent: an id from the broker, and for each partition a sequence that counts its records.

use anyhow::{Context, Result};
use wire::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use wire::{ApiKey, Reader, Writer};

use crate::connection::Connection;
use crate::topic::check;

/// A broker remembers this many batches of a producer in each partition, so no more may be unanswered.
pub const IN_FLIGHT_MAX: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerId {
    pub id: i64,
    pub epoch: i16,
}

impl ProducerId {
    pub async fn ask(connection: &mut Connection) -> Result<Self> {
        let version = connection.version(ApiKey::InitProducerId)?;
        let request = InitProducerIdRequest {
            transactional_id: None,
            ..InitProducerIdRequest::default()
        };
        let encode = |writer: &mut Writer<'_>| request.encode(writer, version);
        let decode = |answer: &mut Reader<'_>| {
            let response = InitProducerIdResponse::decode(answer, version)?;
            check(response.error_code)?;
            Ok(Self {
                id: response.producer_id,
                epoch: response.producer_epoch,
            })
        };
        connection
            .call(ApiKey::InitProducerId, version, encode, decode)
            .await
            .context("cannot be idempotent")
    }
}

/// The sequence of the record that is `records` behind the one of `sequence`: behind the highest comes 0.
pub fn sequence_after(sequence: i32, records: i32) -> i32 {
    sequence.wrapping_add(records) & i32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_count_records_and_begin_again_at_0() {
        assert_eq!(sequence_after(0, 60), 60);
        assert_eq!(sequence_after(i32::MAX - 1, 1), i32::MAX);
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 9, 60), 50);
    }
}
