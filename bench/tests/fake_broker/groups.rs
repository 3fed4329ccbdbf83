//! Committed offsets: the fake broker coordinates every group.

use wire::messages::find_coordinator::FindCoordinatorResponse;
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
};
use wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchResponse, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use wire::{Array, EncodeError, ErrorCode, Reader, Writer};

use super::{FakeBroker, Fault};

const NO_OFFSET: i64 = -1;

impl FakeBroker {
    pub(super) fn find_coordinator(
        &self,
        version: i16,
        _: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<(), EncodeError> {
        let response = FindCoordinatorResponse {
            node_id: 1,
            host: "127.0.0.1",
            port: self.port,
            ..FindCoordinatorResponse::default()
        };
        response.encode(writer, version)
    }

    pub(super) fn offset_commit(
        &self,
        version: i16,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<(), EncodeError> {
        let request = OffsetCommitRequest::decode(reader, version).unwrap();
        let topic = request.topics.iter().next().unwrap();
        let mut state = self.state.lock().unwrap();
        state.commit_requests += 1;
        let (mut kept, mut error) = (true, ErrorCode::None);
        match self.fault {
            Fault::LoseCommits(from) if state.commit_requests >= from => kept = false,
            Fault::RefuseCommit(at) if state.commit_requests == at => {
                (kept, error) = (false, ErrorCode::NotCoordinator);
            }
            _ => {}
        }
        let mut partitions = Vec::new();
        for partition in topic.partitions.iter() {
            let index = partition.partition_index;
            if kept {
                let key = (request.group_id.to_owned(), topic.name.to_owned(), index);
                state.committed.insert(key, partition.committed_offset);
            }
            partitions.push(OffsetCommitResponsePartition {
                partition_index: index,
                error_code: error as i16,
            });
        }
        let topics = [OffsetCommitResponseTopic {
            name: topic.name,
            partitions: Array::from(&partitions),
        }];
        let response = OffsetCommitResponse {
            topics: Array::from(&topics),
            ..OffsetCommitResponse::default()
        };
        response.encode(writer, version)
    }

    pub(super) fn offset_fetch(
        &self,
        version: i16,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<(), EncodeError> {
        let request = OffsetFetchRequest::decode(reader, version).unwrap();
        let topic = request.topics.unwrap().iter().next().unwrap();
        let state = self.state.lock().unwrap();
        let partition = |index| {
            let key = (request.group_id.to_owned(), topic.name.to_owned(), index);
            OffsetFetchResponsePartition {
                partition_index: index,
                committed_offset: state.committed.get(&key).copied().unwrap_or(NO_OFFSET),
                ..OffsetFetchResponsePartition::default()
            }
        };
        let partitions: Vec<_> = topic.partition_indexes.iter().map(partition).collect();
        let topics = [OffsetFetchResponseTopic {
            name: topic.name,
            partitions: Array::from(&partitions),
        }];
        let response = OffsetFetchResponse {
            topics: Array::from(&topics),
            ..OffsetFetchResponse::default()
        };
        response.encode(writer, version)
    }
}
