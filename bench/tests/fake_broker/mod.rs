//! A broker that keeps everything in memory and can be told to misbehave, so that the load generator meets what a real broker should never do.

#![allow(
    clippy::disallowed_methods,
    reason = "a blocking server of a few lines, outside the product"
)]
#![allow(dead_code, reason = "no test uses all of it")]

mod cluster;
mod groups;
mod state;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use wire::messages::fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData};
use wire::messages::list_offsets::{
    ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use wire::messages::produce::{
    PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse,
};
use wire::{
    ApiKey, Array, Batch, EncodeError, ErrorCode, Reader, Records, RequestHeader, ResponseHeader,
    Writer, stamp_offset_and_epoch,
};

use state::{Log, State};

/// What happens at the produce request of this number, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The connection is closed.
    HangUp(u64),
    /// It and all later ones are never answered.
    FallSilent(u64),
    /// It is acknowledged and not stored.
    LoseBatch(u64),
    /// It is stored twice.
    RepeatBatch(u64),
    /// It is refused.
    Refuse(u64),
    /// It takes half a second.
    Stall(u64),
    /// It and all later ones take two milliseconds.
    Slow(u64),
    /// Not produce requests but those for offsets: from this Fetch request on, the older half of every partition is gone.
    Forget(u64),
    /// Not produce requests but the first ListOffsets requests, as many as this, find that this broker does not lead yet.
    LeadLate(u64),
    /// Not produce requests but all OffsetCommit requests from this number on are acknowledged and not kept.
    LoseCommits(u64),
    /// The OffsetCommit request of this number is refused.
    RefuseCommit(u64),
}

#[derive(Clone)]
pub(crate) struct FakeBroker {
    pub(crate) address: String,
    port: i32,
    fault: Fault,
    /// APIs that it speaks in other versions than its message types can.
    versions: Vec<(ApiKey, i16, i16)>,
    state: Arc<Mutex<State>>,
}

impl FakeBroker {
    pub(crate) fn start(fault: Fault) -> Self {
        Self::speaking(fault, &[])
    }

    /// A broker that speaks some APIs in these versions only.
    pub(crate) fn speaking(fault: Fault, versions: &[(ApiKey, i16, i16)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let port = i32::from(address.port());
        let broker = Self {
            address: address.to_string(),
            port,
            fault,
            versions: versions.to_vec(),
            state: Arc::default(),
        };
        let server = broker.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = server.clone();
                thread::spawn(move || server.serve(stream));
            }
        });
        broker
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.state.lock().unwrap().topics.keys().cloned().collect()
    }

    /// How many records each partition of a topic holds.
    pub(crate) fn record_counts(&self, topic: &str) -> Vec<u64> {
        let state = self.state.lock().unwrap();
        state.topics[topic]
            .iter()
            .map(|log| log.end as u64)
            .collect()
    }

    /// Makes a topic as if nothing had been written to it.
    pub(crate) fn clear(&self, topic: &str) {
        let mut state = self.state.lock().unwrap();
        for log in state.topics.get_mut(topic).unwrap() {
            *log = Log::default();
        }
    }

    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        loop {
            let mut prefix = [0; 4];
            stream.read_exact(&mut prefix).ok()?;
            let mut frame = vec![0; i32::from_be_bytes(prefix) as usize];
            stream.read_exact(&mut frame).ok()?;
            let mut reader = Reader::new(&frame);
            let header = RequestHeader::decode(&mut reader).unwrap();
            let api = ApiKey::from_i16(header.api_key).unwrap();
            let mut answer = Vec::new();
            let mut writer = Writer::new(&mut answer);
            let start = writer.start_frame();
            let correlation_id = header.correlation_id;
            ResponseHeader { correlation_id }.encode(&mut writer, api, header.api_version);
            let wanted = self.answer(api, header.api_version, &mut reader, &mut writer)?;
            writer.end_frame(start).unwrap();
            if wanted {
                stream.write_all(&answer).ok()?;
            }
        }
    }

    /// False if the request is not answered, `None` if the connection ends.
    fn answer(
        &self,
        api: ApiKey,
        version: i16,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> Option<bool> {
        let encoded = match api {
            ApiKey::Produce => return self.produce(version, reader, writer),
            ApiKey::ApiVersions => self.api_versions(version, writer),
            ApiKey::InitProducerId => self.init_producer_id(version, writer),
            ApiKey::Metadata => self.metadata(version, reader, writer),
            ApiKey::CreateTopics => self.create_topics(version, reader, writer),
            ApiKey::DeleteTopics => self.delete_topics(version, reader, writer),
            ApiKey::ListOffsets => self.list_offsets(version, reader, writer),
            ApiKey::Fetch => self.fetch(version, reader, writer),
            ApiKey::FindCoordinator => self.find_coordinator(version, reader, writer),
            ApiKey::OffsetCommit => self.offset_commit(version, reader, writer),
            ApiKey::OffsetFetch => self.offset_fetch(version, reader, writer),
            other => panic!("{other:?} is not expected"),
        };
        encoded.unwrap();
        Some(true)
    }

    fn produce(
        &self,
        version: i16,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> Option<bool> {
        let request = ProduceRequest::decode(reader, version).unwrap();
        let topic = request.topic_data.iter().next().unwrap();
        let partition = topic.partition_data.iter().next().unwrap();
        let number = {
            let mut state = self.state.lock().unwrap();
            state.produce_requests += 1;
            state.produce_requests
        };
        match self.fault {
            Fault::Stall(at) if number == at => thread::sleep(Duration::from_millis(500)),
            Fault::Slow(at) if number >= at => thread::sleep(Duration::from_millis(2)),
            _ => {}
        }
        let mut state = self.state.lock().unwrap();
        let name = state.name_of(topic.name, topic.topic_id);
        let (mut copies, mut error) = (1, ErrorCode::None);
        match self.fault {
            Fault::HangUp(at) if number >= at => return None,
            Fault::FallSilent(at) if number >= at => return Some(false),
            Fault::LoseBatch(at) if number == at => copies = 0,
            Fault::RepeatBatch(at) if number == at => copies = 2,
            Fault::Refuse(at) if number == at => {
                (copies, error) = (0, ErrorCode::NotLeaderOrFollower)
            }
            _ => {}
        }
        let records = partition.records.unwrap();
        let header = Batch::first(&records).unwrap().header;
        if header.producer_id >= 0 {
            let stream = (header.producer_id, partition.index);
            let next = state.sequences.entry(stream).or_default();
            assert_eq!(header.base_sequence, *next, "out of sequence");
            *next += header.records_count;
        }
        let log = &mut state.topics.get_mut(&name).unwrap()[partition.index as usize];
        let base_offset = log.end;
        for _ in 0..copies {
            let batch = Batch::first(&records).unwrap();
            assert_eq!(batch.validate().err(), None);
            let mut bytes = records.to_vec();
            stamp_offset_and_epoch(&mut bytes, log.end, 0);
            log.batches.push((log.end, bytes));
            log.end += i64::from(batch.header.records_count);
        }
        let partitions = [PartitionProduceResponse {
            index: partition.index,
            error_code: error as i16,
            base_offset,
            ..PartitionProduceResponse::default()
        }];
        let topics = [TopicProduceResponse {
            name: topic.name,
            topic_id: topic.topic_id,
            partition_responses: Array::from(&partitions),
        }];
        let response = ProduceResponse {
            responses: Array::from(&topics),
            ..ProduceResponse::default()
        };
        response.encode(writer, version).unwrap();
        Some(request.acks != 0)
    }

    fn list_offsets(
        &self,
        version: i16,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<(), EncodeError> {
        const LATEST: i64 = -1;
        let request = ListOffsetsRequest::decode(reader, version).unwrap();
        let topic = request.topics.iter().next().unwrap();
        let mut state = self.state.lock().unwrap();
        state.list_offsets_requests += 1;
        let error = match self.fault {
            Fault::LeadLate(until) if state.list_offsets_requests <= until => {
                ErrorCode::NotLeaderOrFollower
            }
            _ => ErrorCode::None,
        };
        let logs = &state.topics[topic.name];
        let partitions: Vec<_> = topic
            .partitions
            .iter()
            .map(|asked| ListOffsetsPartitionResponse {
                partition_index: asked.partition_index,
                error_code: error as i16,
                offset: if asked.timestamp == LATEST {
                    logs[asked.partition_index as usize].end
                } else {
                    logs[asked.partition_index as usize].start
                },
                ..ListOffsetsPartitionResponse::default()
            })
            .collect();
        let topics = [ListOffsetsTopicResponse {
            name: topic.name,
            partitions: Array::from(&partitions),
        }];
        let response = ListOffsetsResponse {
            topics: Array::from(&topics),
            ..ListOffsetsResponse::default()
        };
        response.encode(writer, version)
    }

    fn fetch(
        &self,
        version: i16,
        reader: &mut Reader<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<(), EncodeError> {
        let request = FetchRequest::decode(reader, version).unwrap();
        let topic = request.topics.iter().next().unwrap();
        let mut state = self.state.lock().unwrap();
        state.fetch_requests += 1;
        let name = state.name_of(topic.topic, topic.topic_id);
        if self.fault == Fault::Forget(state.fetch_requests) {
            state
                .topics
                .get_mut(&name)
                .unwrap()
                .iter_mut()
                .for_each(Log::forget_half);
        }
        let logs = &state.topics[&name];
        let records: Vec<Vec<u8>> = topic
            .partitions
            .iter()
            .map(|asked| {
                logs[asked.partition as usize].read(asked.fetch_offset, asked.partition_max_bytes)
            })
            .collect();
        let partitions: Vec<_> = topic
            .partitions
            .iter()
            .zip(&records)
            .map(|(asked, records)| PartitionData {
                partition_index: asked.partition,
                error_code: if asked.fetch_offset < logs[asked.partition as usize].start {
                    ErrorCode::OffsetOutOfRange
                } else {
                    ErrorCode::None
                } as i16,
                records: Some(Records::from_slice(records)),
                ..PartitionData::default()
            })
            .collect();
        let topics = [FetchableTopicResponse {
            topic: topic.topic,
            topic_id: topic.topic_id,
            partitions: Array::from(&partitions),
        }];
        let response = FetchResponse {
            responses: Array::from(&topics),
            ..FetchResponse::default()
        };
        response.encode(writer, version)
    }
}
