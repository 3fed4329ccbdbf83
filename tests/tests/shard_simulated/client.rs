//! A small Kafka client on simulated sockets. It tries again, on a new connection if need be, until it has an answer that counts.

use dataplane::io::{Gather, GatherPart, Instant, Io};
use dataplane::partition::OffsetQuery;
use millrace_tests::sim::{SimIo, SimSocket};
use wire::messages::AnyRequest;
use wire::messages::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
};
use wire::messages::delete_topics::{DeleteTopicsRequest, DeleteTopicsResponse};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};
use wire::messages::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use wire::{
    ApiKey, Array, BatchBuilder, ErrorCode, Reader, RecordIter, Records, RequestHeader,
    ResponseHeader, Writer,
};

use super::broker::{PORT, address};

pub(super) const PRODUCE_VERSION: i16 = 12;
pub(super) const FETCH_VERSION: i16 = 12;
const CREATE_VERSION: i16 = 5;
const DELETE_VERSION: i16 = 5;
const LIST_VERSION: i16 = 7;
const RETRY_MS: u64 = 5;
/// Longer than any test leaves a client alone: what is not served for so long never will be.
const PATIENCE_MS: u64 = 300_000;
pub(super) const TIMEOUT_MS: i32 = 10_000;
const ALL: i16 = -1;

/// A record as it was fetched.
pub(super) struct Produced {
    pub(super) offset: i64,
    pub(super) value: Vec<u8>,
}

pub(super) struct Client {
    io: SimIo,
    /// Where the broker is.
    port: u16,
    socket: Option<SimSocket>,
    /// Received and not yet taken apart.
    received: Vec<u8>,
    correlation: i32,
}

impl Client {
    pub(super) fn new(io: SimIo) -> Client {
        Client::of(io, PORT)
    }

    /// A client of the process that listens there.
    pub(super) fn of(io: SimIo, port: u16) -> Client {
        Client {
            io,
            port,
            socket: None,
            received: Vec::new(),
            correlation: 0,
        }
    }

    /// Produces one record with acks=all and returns its offset.
    pub(super) async fn produce(&mut self, topic: &str, partition: i32, value: &[u8]) -> i64 {
        let begun = self.io.now();
        loop {
            if let Some((ErrorCode::None, offset)) = self.try_produce(topic, partition, value).await
            {
                return offset;
            }
            self.pause(begun).await;
        }
    }

    /// Creates a topic; it is there afterwards.
    pub(super) async fn create_topic(&mut self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[]).await;
    }

    /// The same with configs, by name.
    pub(super) async fn create_topic_with(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) {
        let begun = self.io.now();
        loop {
            let answer = self.try_create_topic_with(name, partitions, configs).await;
            if let Some(ErrorCode::None | ErrorCode::TopicAlreadyExists) = answer {
                return;
            }
            self.pause(begun).await;
        }
    }

    /// Deletes a topic; it is gone afterwards.
    pub(super) async fn delete_topic(&mut self, name: &str) {
        let begun = self.io.now();
        loop {
            let answer = self.try_delete_topic(name).await;
            if let Some(ErrorCode::None | ErrorCode::UnknownTopicOrPartition) = answer {
                return;
            }
            self.pause(begun).await;
        }
    }

    pub(super) async fn try_create_topic(
        &mut self,
        name: &str,
        partitions: i32,
    ) -> Option<ErrorCode> {
        self.try_create_topic_with(name, partitions, &[]).await
    }

    async fn try_create_topic_with(
        &mut self,
        name: &str,
        num_partitions: i32,
        configs: &[(&str, &str)],
    ) -> Option<ErrorCode> {
        let configs = configs.iter().map(|&(name, value)| CreatableTopicConfig {
            name,
            value: Some(value),
        });
        let configs: Vec<CreatableTopicConfig<'_>> = configs.collect();
        let topics = [CreatableTopic {
            name,
            num_partitions,
            replication_factor: 1,
            configs: Array::from(&configs[..]),
            ..Default::default()
        }];
        let request = CreateTopicsRequest {
            topics: Array::from(&topics),
            timeout_ms: 5_000,
            ..Default::default()
        };
        let request = AnyRequest::CreateTopics(request);
        let answer = self.exchange(request, CREATE_VERSION).await?;
        let mut reader = answer_reader(&answer, ApiKey::CreateTopics, CREATE_VERSION);
        let response = CreateTopicsResponse::decode(&mut reader, CREATE_VERSION).unwrap();
        let topic = response.topics.iter().next().unwrap();
        ErrorCode::from_i16(topic.error_code)
    }

    pub(super) async fn try_delete_topic(&mut self, name: &str) -> Option<ErrorCode> {
        let names = [name];
        let request = DeleteTopicsRequest {
            topic_names: Array::from(&names[..]),
            timeout_ms: 5_000,
            ..Default::default()
        };
        let request = AnyRequest::DeleteTopics(request);
        let answer = self.exchange(request, DELETE_VERSION).await?;
        let mut reader = answer_reader(&answer, ApiKey::DeleteTopics, DELETE_VERSION);
        let response = DeleteTopicsResponse::decode(&mut reader, DELETE_VERSION).unwrap();
        let topic = response.responses.iter().next().unwrap();
        ErrorCode::from_i16(topic.error_code)
    }

    /// Fetches a partition from its start to its end.
    pub(super) async fn fetch_all(&mut self, topic: &str, partition: i32) -> Vec<Produced> {
        let begun = self.io.now();
        let mut found = Vec::new();
        loop {
            match self.try_fetch(topic, partition, found.len() as i64).await {
                Some((records, high_watermark)) => {
                    found.extend(records);
                    if found.len() as i64 >= high_watermark {
                        return found;
                    }
                }
                None => self.pause(begun).await,
            }
        }
    }

    /// Where a partition's log starts, and everything from there to its end.
    pub(super) async fn fetch_kept(&mut self, topic: &str, partition: i32) -> (i64, Vec<Produced>) {
        let begun = self.io.now();
        loop {
            if let Some(start) = self.try_log_start(topic, partition).await
                && let Some(found) = self.try_fetch_from(topic, partition, start).await
            {
                return (start, found);
            }
            // Something was deleted in between, or nobody serves it now.
            self.pause(begun).await;
        }
    }

    async fn try_fetch_from(
        &mut self,
        topic: &str,
        partition: i32,
        start: i64,
    ) -> Option<Vec<Produced>> {
        let mut found = Vec::new();
        loop {
            let next = start + found.len() as i64;
            let (records, high_watermark) = self.try_fetch(topic, partition, next).await?;
            found.extend(records);
            if start + found.len() as i64 >= high_watermark {
                return Some(found);
            }
        }
    }

    async fn try_log_start(&mut self, topic: &str, partition: i32) -> Option<i64> {
        let partitions = [ListOffsetsPartition {
            partition_index: partition,
            timestamp: OffsetQuery::EARLIEST,
            ..Default::default()
        }];
        let topics = [ListOffsetsTopic {
            name: topic,
            partitions: Array::from(&partitions),
        }];
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: Array::from(&topics),
            ..Default::default()
        };
        let request = AnyRequest::ListOffsets(request);
        let answer = self.exchange(request, LIST_VERSION).await?;
        let mut reader = answer_reader(&answer, ApiKey::ListOffsets, LIST_VERSION);
        let response = ListOffsetsResponse::decode(&mut reader, LIST_VERSION).unwrap();
        let topic = response.topics.iter().next()?;
        let found = topic.partitions.iter().next()?;
        (found.error_code == i16::from(ErrorCode::None)).then_some(found.offset)
    }

    pub(super) async fn try_produce(
        &mut self,
        topic: &str,
        partition: i32,
        value: &[u8],
    ) -> Option<(ErrorCode, i64)> {
        self.produce_within(topic, partition, value, TIMEOUT_MS)
            .await
    }

    /// The same with a `timeout_ms` of its own.
    pub(super) async fn produce_within(
        &mut self,
        topic: &str,
        partition: i32,
        value: &[u8],
        timeout_ms: i32,
    ) -> Option<(ErrorCode, i64)> {
        let now = self.io.wall_clock_ms();
        let mut builder = BatchBuilder::new(now);
        builder.record(now, None, Some(value), &[]);
        self.try_produce_batch(topic, partition, &builder.build(), timeout_ms)
            .await
    }

    pub(super) async fn try_produce_batch(
        &mut self,
        topic: &str,
        partition: i32,
        batch: &[u8],
        timeout_ms: i32,
    ) -> Option<(ErrorCode, i64)> {
        let partitions = [PartitionProduceData {
            index: partition,
            records: Some(Records::from_slice(batch)),
        }];
        let topics = [TopicProduceData {
            name: topic,
            partition_data: Array::from(&partitions),
            ..Default::default()
        }];
        let request = ProduceRequest {
            acks: ALL,
            timeout_ms,
            topic_data: Array::from(&topics),
            ..Default::default()
        };
        let answer = self
            .exchange(AnyRequest::Produce(request), PRODUCE_VERSION)
            .await?;
        let mut reader = answer_reader(&answer, ApiKey::Produce, PRODUCE_VERSION);
        let response = ProduceResponse::decode(&mut reader, PRODUCE_VERSION).unwrap();
        let topic = response.responses.iter().next().unwrap();
        let outcome = topic.partition_responses.iter().next().unwrap();
        Some((
            ErrorCode::from_i16(outcome.error_code).unwrap(),
            outcome.base_offset,
        ))
    }

    pub(super) async fn try_fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Option<(Vec<Produced>, i64)> {
        let partitions = [FetchPartition {
            partition,
            fetch_offset: offset,
            partition_max_bytes: 10_000,
            ..Default::default()
        }];
        let topics = [FetchTopic {
            topic,
            partitions: Array::from(&partitions),
            ..Default::default()
        }];
        let request = FetchRequest {
            max_wait_ms: 50,
            min_bytes: 1,
            max_bytes: 1 << 20,
            topics: Array::from(&topics),
            ..Default::default()
        };
        let answer = self
            .exchange(AnyRequest::Fetch(request), FETCH_VERSION)
            .await?;
        let mut reader = answer_reader(&answer, ApiKey::Fetch, FETCH_VERSION);
        let response = FetchResponse::decode(&mut reader, FETCH_VERSION).unwrap();
        let topic = response.responses.iter().next()?;
        let data = topic.partitions.iter().next()?;
        if data.error_code != i16::from(ErrorCode::None) {
            return None;
        }
        Some((
            records_of(data.records.unwrap_or_default(), offset),
            data.high_watermark,
        ))
    }

    /// The answer to a request, without its length; `None` when the connection was lost, so that nobody knows what became of it.
    pub(super) async fn exchange(
        &mut self,
        request: AnyRequest<'_>,
        version: i16,
    ) -> Option<Vec<u8>> {
        let answer = self.try_exchange(request, version).await;
        if answer.is_none() {
            self.leave();
        }
        answer
    }

    async fn try_exchange(&mut self, request: AnyRequest<'_>, version: i16) -> Option<Vec<u8>> {
        let socket = self.connected().await?;
        self.send(&socket, request, version).await?;
        self.answer(0).await
    }

    /// Sends a request whose answer nobody waits for; `None` when the connection was lost.
    pub(super) async fn send_only(&mut self, request: AnyRequest<'_>, version: i16) -> Option<()> {
        let socket = self.connected().await?;
        self.send(&socket, request, version).await
    }

    /// Drops the connection with whatever it has not read.
    pub(super) fn leave(&mut self) {
        self.socket = None;
        self.received.clear();
    }

    pub(super) async fn connected(&mut self) -> Option<SimSocket> {
        if self.socket.is_none() {
            self.socket = Some(self.io.connect(address(self.port)).await.ok()?);
        }
        self.socket.clone()
    }

    async fn send(
        &mut self,
        socket: &SimSocket,
        request: AnyRequest<'_>,
        version: i16,
    ) -> Option<()> {
        self.correlation += 1;
        let mut message = Gather::default();
        let mut writer = Writer::new(&mut message.inline);
        let frame = writer.start_frame();
        let header = RequestHeader {
            api_key: request.api() as i16,
            api_version: version,
            correlation_id: self.correlation,
            client_id: Some("simulated"),
        };
        header.encode(&mut writer).unwrap();
        request.encode(&mut writer, version).unwrap();
        writer.end_frame(frame).unwrap();
        let bytes = message.inline.len();
        message.parts.push(GatherPart::Inline(0..bytes));
        self.io.send(socket, message).await.0.ok()
    }

    pub(super) async fn send_bytes(&self, socket: &SimSocket, bytes: Vec<u8>) -> Option<()> {
        let message = Gather {
            parts: vec![GatherPart::Inline(0..bytes.len())],
            inline: bytes,
            ..Gather::default()
        };
        self.io.send(socket, message).await.0.ok()
    }

    /// The answer to the request sent last, without its length, taken with a pause before each piece; `None` when the connection ends.
    pub(super) async fn answer(&mut self, pause_ms: u64) -> Option<Vec<u8>> {
        let socket = self.connected().await?;
        let length = self.take(&socket, 4, pause_ms).await?;
        let length = i32::from_be_bytes(length.try_into().unwrap());
        let answer = self.take(&socket, length as usize, pause_ms).await?;
        assert_eq!(answer[..4], self.correlation.to_be_bytes());
        Some(answer)
    }

    async fn take(&mut self, socket: &SimSocket, bytes: usize, pause_ms: u64) -> Option<Vec<u8>> {
        while self.received.len() < bytes {
            if pause_ms > 0 {
                self.io.sleep_until(self.io.now().after_ms(pause_ms)).await;
            }
            let slice = self.io.receive(socket).await.ok()?;
            if slice.is_empty() {
                return None;
            }
            self.received.extend_from_slice(&slice);
        }
        Some(self.received.drain(..bytes).collect())
    }

    /// Before it is tried again what was first tried then.
    async fn pause(&self, begun: Instant) {
        let now = self.io.now();
        assert!(now < begun.after_ms(PATIENCE_MS), "nobody serves this");
        self.io.sleep_until(now.after_ms(RETRY_MS)).await;
    }
}

/// The records of a fetch's answer for one partition.
pub(super) fn fetched(answer: &[u8], offset: i64) -> Vec<Produced> {
    let mut reader = answer_reader(answer, ApiKey::Fetch, FETCH_VERSION);
    let response = FetchResponse::decode(&mut reader, FETCH_VERSION).unwrap();
    let topic = response.responses.iter().next().unwrap();
    let data = topic.partitions.iter().next().unwrap();
    assert_eq!(data.error_code, i16::from(ErrorCode::None));
    records_of(data.records.unwrap_or_default(), offset)
}

pub(super) fn answer_reader(answer: &[u8], api: ApiKey, version: i16) -> Reader<'_> {
    let mut reader = Reader::new(answer);
    ResponseHeader::decode(&mut reader, api, version).unwrap();
    reader
}

/// The records at `offset` and after it, which must follow each other without a gap; the last batch may be cut.
fn records_of(records: Records<'_>, offset: i64) -> Vec<Produced> {
    let mut found = Vec::new();
    for batch in records.batches() {
        let Ok(batch) = batch else { break };
        batch.check_crc().unwrap();
        let payload = batch.records.to_vec();
        for record in RecordIter::new(&payload) {
            let record = record.unwrap();
            let at = batch.header.base_offset + i64::from(record.offset_delta);
            if at >= offset {
                found.push(Produced {
                    offset: at,
                    value: record.value.unwrap_or_default().to_vec(),
                });
            }
        }
    }
    found
}
