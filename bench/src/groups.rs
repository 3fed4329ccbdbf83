//! What commands ask of a consumer group's coordinator: who it is, to keep offsets, to give them back. In the simple form, without members:
//! the offsets of consumers that assign their partitions themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wire::messages::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    OffsetCommitResponse,
};
use wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestTopic, OffsetFetchResponse,
};
use wire::{ApiKey, Array, EncodeError, ErrorCode, Reader, Writer};

use crate::connection::{Connection, encode_request};
use crate::topic::{Refusal, check};

/// The last versions that ask for a single group.
const FIND_COORDINATOR_VERSION_MAX: i16 = 3;
const OFFSET_FETCH_VERSION_MAX: i16 = 7;

/// FindCoordinator's key types are groups and transactions.
const GROUP: i8 = 0;
const NO_GENERATION: i32 = -1;
/// How OffsetFetch says that nothing was committed.
const NO_OFFSET: i64 = -1;

const COORDINATOR_POLLS_MAX: usize = 100;
const COORDINATOR_POLL_PAUSE: Duration = Duration::from_millis(100);

/// One offset for each of some partitions of a topic.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    pub partitions: &'a [i32],
    pub offset: i64,
}

/// The address of a group's coordinator; waits a while for one, as on a cluster that has had no group yet.
pub async fn coordinator(connection: &mut Connection, group: &str) -> Result<String> {
    let mut polls = 1;
    loop {
        match coordinator_now(connection, group).await {
            Err(error) if is_passing(&error) && polls < COORDINATOR_POLLS_MAX => {}
            ended => return ended,
        }
        polls += 1;
        monoio::time::sleep(COORDINATOR_POLL_PAUSE).await;
    }
}

fn is_passing(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref().map(|refusal: &Refusal| refusal.0);
    code == Some(ErrorCode::CoordinatorNotAvailable as i16)
}

async fn coordinator_now(connection: &mut Connection, group: &str) -> Result<String> {
    let api = ApiKey::FindCoordinator;
    let version = connection
        .versions
        .agreed_at_most(api, FIND_COORDINATOR_VERSION_MAX)?;
    let request = FindCoordinatorRequest {
        key: group,
        key_type: GROUP,
        ..FindCoordinatorRequest::default()
    };
    let decode = |answer: &mut Reader<'_>| {
        let found = FindCoordinatorResponse::decode(answer, version)?;
        check(found.error_code)?;
        Ok(format!("{}:{}", found.host, found.port))
    };
    let encode = |writer: &mut Writer<'_>| request.encode(writer, version);
    connection.call(api, version, encode, decode).await
}

/// Appends a whole request that commits.
pub fn encode_commit(
    request: &mut Vec<u8>,
    version: i16,
    correlation_id: i32,
    commit: &Commit<'_>,
) -> Result<()> {
    let encode = |writer: &mut Writer<'_>| commit.encode(writer, version);
    let api = ApiKey::OffsetCommit;
    encode_request(request, api, version, correlation_id, encode)?;
    Ok(())
}

/// Commits once and waits for the answer.
pub async fn commit(connection: &mut Connection, commit: &Commit<'_>) -> Result<()> {
    let api = ApiKey::OffsetCommit;
    let version = connection.version(api)?;
    let encode = |writer: &mut Writer<'_>| commit.encode(writer, version);
    let decode = |answer: &mut Reader<'_>| check_commit(answer, version, commit.partitions.len());
    connection.call(api, version, encode, decode).await
}

impl Commit<'_> {
    fn encode(&self, writer: &mut Writer<'_>, version: i16) -> Result<(), EncodeError> {
        let partition = |index: &i32| OffsetCommitRequestPartition {
            partition_index: *index,
            committed_offset: self.offset,
            ..OffsetCommitRequestPartition::default()
        };
        let partitions: Vec<_> = self.partitions.iter().map(partition).collect();
        let topics = [OffsetCommitRequestTopic {
            name: self.topic,
            partitions: Array::from(&partitions),
        }];
        let request = OffsetCommitRequest {
            group_id: self.group,
            generation_id_or_member_epoch: NO_GENERATION,
            topics: Array::from(&topics),
            ..OffsetCommitRequest::default()
        };
        request.encode(writer, version)
    }
}

/// Checks that an answer, behind its header, took the offset of every one of `partitions` partitions.
pub fn check_commit(answer: &mut Reader<'_>, version: i16, partitions: usize) -> Result<()> {
    let response = OffsetCommitResponse::decode(answer, version)?;
    let mut taken = 0;
    for topic in response.topics.iter() {
        for partition in topic.partitions.iter() {
            check(partition.error_code).with_context(|| {
                format!("partition {} refused a commit", partition.partition_index)
            })?;
            taken += 1;
        }
    }
    ensure!(taken == partitions, "an answer without all partitions");
    Ok(())
}

/// The offsets that a group has committed, by partition. One without an offset is left out.
pub async fn committed(
    connection: &mut Connection,
    group: &str,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, i64>> {
    let api = ApiKey::OffsetFetch;
    let version = connection
        .versions
        .agreed_at_most(api, OFFSET_FETCH_VERSION_MAX)?;
    let topics = [OffsetFetchRequestTopic {
        name: topic,
        partition_indexes: Array::from(partitions),
    }];
    let request = OffsetFetchRequest {
        group_id: group,
        topics: Some(Array::from(&topics)),
        ..OffsetFetchRequest::default()
    };
    let decode = |answer: &mut Reader<'_>| {
        let response = OffsetFetchResponse::decode(answer, version)?;
        check(response.error_code)?;
        let mut found = BTreeMap::new();
        for topic in response.topics.iter() {
            for partition in topic.partitions.iter() {
                check(partition.error_code)?;
                if partition.committed_offset != NO_OFFSET {
                    found.insert(partition.partition_index, partition.committed_offset);
                }
            }
        }
        Ok(found)
    };
    let encode = |writer: &mut Writer<'_>| request.encode(writer, version);
    connection.call(api, version, encode, decode).await
}
