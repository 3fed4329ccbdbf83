//! One record, produced and waited for: for checks that ask whether a broker works, not how fast.

use anyhow::{Context, Result};
use wire::messages::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use wire::{ApiKey, Array, BatchBuilder, Reader, Records, Writer};

use crate::clock;
use crate::connection::Connection;
use crate::topic::{self, Topic};

const ACKS_ALL: i16 = -1;
const TIMEOUT_MS: i32 = 10_000;

/// Writes one record with acks=all and returns its offset.
pub async fn produce(
    leader: &mut Connection,
    topic: &Topic,
    partition: i32,
    value: &[u8],
) -> Result<i64> {
    let version = topic.version(&leader.versions, ApiKey::Produce)?;
    let now_ms = clock::wall_clock_ms();
    let batch = BatchBuilder::new(now_ms)
        .record(now_ms, None, Some(value), &[])
        .build();
    let partitions = [PartitionProduceData {
        index: partition,
        records: Some(Records::from_slice(&batch)),
    }];
    let topics = [TopicProduceData {
        name: &topic.name,
        topic_id: topic.id,
        partition_data: Array::from(&partitions),
    }];
    let request = ProduceRequest {
        acks: ACKS_ALL,
        timeout_ms: TIMEOUT_MS,
        topic_data: Array::from(&topics),
        ..ProduceRequest::default()
    };
    let decode = |answer: &mut Reader<'_>| {
        let response = ProduceResponse::decode(answer, version)?;
        let mut partitions = response
            .responses
            .iter()
            .flat_map(|topic| topic.partition_responses.iter());
        let partition = partitions.next().context("an answer without a partition")?;
        topic::check(partition.error_code)?;
        Ok(partition.base_offset)
    };
    let encode = |writer: &mut Writer<'_>| request.encode(writer, version);
    leader.call(ApiKey::Produce, version, encode, decode).await
}
