//! Fetch requests of one connection and the walk over the batches that come back.

use anyhow::{Context, Result, ensure};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use wire::{ApiKey, Array, Batch, BatchError, ErrorCode, Reader, Records, Writer};

use crate::connection::Connection;
use crate::topic::{Topic, check};

/// Asks for no fetch session (KIP-227).
const NO_SESSION_EPOCH: i32 = -1;
const WAIT_MS_MAX: i32 = 500;

/// The most that a fetch may return.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    pub partition_bytes: usize,
    pub bytes: usize,
}

/// A connection that fetches of one topic.
pub struct Fetcher {
    pub connection: Connection,
    topic: Topic,
    limits: FetchLimits,
    version: i16,
}

/// What a fetch gave of one partition.
pub struct Fetched<'a> {
    pub partition: i32,
    /// False if the offset asked for is not there, because it was deleted meanwhile.
    pub in_range: bool,
    pub records: Records<'a>,
}

impl Fetcher {
    pub fn new(connection: Connection, topic: &Topic, limits: FetchLimits) -> Result<Self> {
        let version = topic.version(&connection.versions, ApiKey::Fetch)?;
        Ok(Self {
            connection,
            topic: topic.clone(),
            limits,
            version,
        })
    }

    /// One request for these partitions, each from its offset on. The broker waits a while for records if there are none yet.
    pub async fn fetch(
        &mut self,
        positions: impl Iterator<Item = (i32, i64)>,
        mut take: impl FnMut(Fetched<'_>) -> Result<()>,
    ) -> Result<()> {
        let version = self.version;
        let partition = |(partition, fetch_offset)| FetchPartition {
            partition,
            fetch_offset,
            partition_max_bytes: self.limits.partition_bytes as i32,
            ..FetchPartition::default()
        };
        let partitions: Vec<_> = positions.map(partition).collect();
        let topics = [FetchTopic {
            topic: &self.topic.name,
            topic_id: self.topic.id,
            partitions: Array::from(&partitions),
        }];
        let request = FetchRequest {
            max_wait_ms: WAIT_MS_MAX,
            min_bytes: 1,
            max_bytes: self.limits.bytes as i32,
            session_epoch: NO_SESSION_EPOCH,
            topics: Array::from(&topics),
            ..FetchRequest::default()
        };
        let encode = |writer: &mut Writer<'_>| request.encode(writer, version);
        let decode = |answer: &mut Reader<'_>| each_partition(answer, version, &mut take);
        self.connection
            .call(ApiKey::Fetch, version, encode, decode)
            .await
    }
}

fn each_partition(
    answer: &mut Reader<'_>,
    version: i16,
    take: &mut impl FnMut(Fetched<'_>) -> Result<()>,
) -> Result<()> {
    let response = FetchResponse::decode(answer, version)?;
    check(response.error_code)?;
    let partitions = response.responses.iter();
    for data in partitions.flat_map(|topic| topic.partitions.iter()) {
        let partition = data.partition_index;
        let in_range = data.error_code != ErrorCode::OffsetOutOfRange as i16;
        if in_range {
            check(data.error_code).with_context(|| format!("partition {partition}"))?;
        }
        take(Fetched {
            partition,
            in_range,
            records: data.records.unwrap_or_default(),
        })?;
    }
    Ok(())
}

impl Fetched<'_> {
    /// Shows every whole batch to `take`, with the offset that it should start at; returns the offset to go on with.
    pub fn batches(
        &self,
        mut next: i64,
        mut take: impl FnMut(i64, &Batch<'_>) -> Result<()>,
    ) -> Result<i64> {
        let mut whole = false;
        for batch in self.records.batches() {
            let batch = match batch {
                Ok(batch) => batch,
                // A broker may cut the last batch at the byte limit.
                Err(BatchError::TooShort { .. }) if whole => break,
                Err(error) => {
                    return Err(error).with_context(|| format!("partition {}", self.partition));
                }
            };
            whole = true;
            take(next, &batch)?;
            let end = batch.header.last_offset() + 1;
            ensure!(
                end > next,
                "partition {}: offset {} was given twice",
                self.partition,
                batch.header.base_offset
            );
            next = end;
        }
        Ok(next)
    }
}
