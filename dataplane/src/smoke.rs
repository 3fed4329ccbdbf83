//! `millrace-broker smoke`: whether a cluster really works. One record goes into a new topic and comes out again; the topic is deleted
//! whatever happened.
//!
//! It is a client, on a socket that blocks, of the versions that this build serves. Nothing of the broker is used.

use anyhow::{Context, Result, bail, ensure};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread::sleep;
use std::time::Duration;
use wire::messages::create_topics::{CreatableTopic, CreateTopicsRequest, CreateTopicsResponse};
use wire::messages::delete_topics::{DeleteTopicsRequest, DeleteTopicsResponse};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use wire::messages::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use wire::{
    ApiKey, Array, BatchBuilder, EncodeError, ErrorCode, FRAME_LENGTH_BYTES, Reader, RecordIter,
    Records, RequestHeader, ResponseHeader, Writer, frame_length,
};

/// A broker that is silent for so long does not work.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
const REQUEST_MS: i32 = 4_000;
/// What a cluster does a moment later than it says is asked for again.
const TRIES_MAX: usize = 60;
const TRY_PAUSE: Duration = Duration::from_millis(50);
/// Whoever claims more does not speak the protocol.
const ANSWER_BYTES_MAX: usize = 16 << 20;
const PARTITION: i32 = 0;
/// The last versions in which topics go by name.
const PRODUCE_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 12;
const METADATA_VERSION: i16 = 9;
const CREATE_VERSION: i16 = 5;
const DELETE_VERSION: i16 = 5;

/// Fails with the reason if the cluster that `bootstrap` belongs to does not take a record and give it back.
pub fn run(bootstrap: &str) -> Result<()> {
    // Two checks at the same time must not share a topic.
    let token = RandomState::new().build_hasher().finish();
    let topic = format!("millrace-smoke-{token:016x}");
    create(&mut Client::open(bootstrap)?, &topic)?;
    let worked = exchange(bootstrap, &topic);
    let deleted = Client::open(bootstrap).and_then(|mut client| delete(&mut client, &topic));
    worked.and(deleted)?;
    println!("{bootstrap} takes a record and gives it back");
    Ok(())
}

fn exchange(bootstrap: &str, topic: &str) -> Result<()> {
    let mut client = Client::open(bootstrap)?;
    let address = until("the topic has no leader", || leader(&mut client, topic))?;
    drop(client);
    let mut leader = Client::open(&address)?;
    let value = topic.as_bytes();
    until("the record was not taken", || {
        produce(&mut leader, topic, value)
    })?;
    let found = until("the record did not come back", || fetch(&mut leader, topic))?;
    ensure!(found == value, "the record came back changed");
    Ok(())
}

/// Asks until there is an answer.
fn until<T>(otherwise: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..TRIES_MAX {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        sleep(TRY_PAUSE);
    }
    bail!("{otherwise}")
}

fn create(client: &mut Client, topic: &str) -> Result<()> {
    let topics = [CreatableTopic {
        name: topic,
        num_partitions: 1,
        replication_factor: 1,
        ..Default::default()
    }];
    let request = CreateTopicsRequest {
        topics: Array::from(&topics),
        timeout_ms: REQUEST_MS,
        ..Default::default()
    };
    client
        .call(
            ApiKey::CreateTopics,
            CREATE_VERSION,
            |writer, version| request.encode(writer, version),
            |reader, version| {
                let response = CreateTopicsResponse::decode(reader, version)?;
                let mut topics = response.topics.iter();
                topics.try_for_each(|topic| check(topic.error_code))
            },
        )
        .context("cannot create a topic")
}

fn delete(client: &mut Client, topic: &str) -> Result<()> {
    let names = [topic];
    let request = DeleteTopicsRequest {
        topic_names: Array::from(&names),
        timeout_ms: REQUEST_MS,
        ..Default::default()
    };
    client
        .call(
            ApiKey::DeleteTopics,
            DELETE_VERSION,
            |writer, version| request.encode(writer, version),
            |reader, version| {
                let response = DeleteTopicsResponse::decode(reader, version)?;
                let mut topics = response.responses.iter();
                topics.try_for_each(|topic| check(topic.error_code))
            },
        )
        .context("cannot delete the topic")
}

/// Where the partition's leader is, once it has one.
fn leader(client: &mut Client, topic: &str) -> Result<Option<String>> {
    let topics = [MetadataRequestTopic {
        name: Some(topic),
        ..Default::default()
    }];
    let request = MetadataRequest {
        topics: Some(Array::from(&topics)),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    client.call(
        ApiKey::Metadata,
        METADATA_VERSION,
        |writer, version| request.encode(writer, version),
        |reader, version| {
            let response = MetadataResponse::decode(reader, version)?;
            let mut partitions = response
                .topics
                .iter()
                .flat_map(|topic| topic.partitions.iter());
            let Some(partition) = partitions.next() else {
                return Ok(None);
            };
            let mut brokers = response.brokers.iter();
            let leader = brokers.find(|broker| broker.node_id == partition.leader_id);
            Ok(leader.map(|broker| format!("{}:{}", broker.host, broker.port)))
        },
    )
}

/// Writes one record with acks=all; `None` while the broker does not lead the partition yet.
fn produce(leader: &mut Client, topic: &str, value: &[u8]) -> Result<Option<()>> {
    let batch = BatchBuilder::new(0)
        .record(0, None, Some(value), &[])
        .build();
    let partitions = [PartitionProduceData {
        index: PARTITION,
        records: Some(Records::from_slice(&batch)),
    }];
    let topics = [TopicProduceData {
        name: topic,
        partition_data: Array::from(&partitions),
        ..Default::default()
    }];
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: REQUEST_MS,
        topic_data: Array::from(&topics),
        ..Default::default()
    };
    leader.call(
        ApiKey::Produce,
        PRODUCE_VERSION,
        |writer, version| request.encode(writer, version),
        |reader, version| {
            let response = ProduceResponse::decode(reader, version)?;
            let mut partitions = response
                .responses
                .iter()
                .flat_map(|topic| topic.partition_responses.iter());
            let partition = partitions.next().context("an answer without a partition")?;
            Ok(led(partition.error_code)?.then_some(()))
        },
    )
}

/// The value of the first record, if it can be read already.
fn fetch(leader: &mut Client, topic: &str) -> Result<Option<Vec<u8>>> {
    let partitions = [FetchPartition {
        partition: PARTITION,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    }];
    let topics = [FetchTopic {
        topic,
        partitions: Array::from(&partitions),
        ..Default::default()
    }];
    let request = FetchRequest {
        max_wait_ms: 100,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: Array::from(&topics),
        ..Default::default()
    };
    leader.call(
        ApiKey::Fetch,
        FETCH_VERSION,
        |writer, version| request.encode(writer, version),
        |reader, version| {
            let response = FetchResponse::decode(reader, version)?;
            check(response.error_code)?;
            let mut partitions = response
                .responses
                .iter()
                .flat_map(|topic| topic.partitions.iter());
            let partition = partitions.next().context("an answer without a partition")?;
            if !led(partition.error_code)? {
                return Ok(None);
            }
            first_value(&partition.records.unwrap_or_default())
        },
    )
}

fn first_value(records: &Records<'_>) -> Result<Option<Vec<u8>>> {
    let Some(batch) = records.batches().next() else {
        return Ok(None);
    };
    let batch = batch?;
    batch.validate()?;
    let payload = batch.records.to_vec();
    let record = RecordIter::new(&payload).next();
    let record = record.context("a batch without records")??;
    Ok(record.value.map(<[u8]>::to_vec))
}

/// Whether the broker leads the partition: it learns of a new topic a moment later than whoever answers for the whole cluster.
fn led(code: i16) -> Result<bool> {
    match ErrorCode::from_i16(code) {
        Some(ErrorCode::NotLeaderOrFollower | ErrorCode::UnknownTopicOrPartition) => Ok(false),
        _ => check(code).map(|()| true),
    }
}

fn check(code: i16) -> Result<()> {
    match ErrorCode::from_i16(code) {
        Some(ErrorCode::None) => Ok(()),
        Some(known) => bail!("{}", known.name()),
        None => bail!("error code {code}"),
    }
}

struct Client {
    stream: TcpStream,
    correlation_id: i32,
}

impl Client {
    fn open(address: &str) -> Result<Client> {
        let connect = || -> Result<TcpStream> {
            let mut addresses = address.to_socket_addrs()?;
            let first = addresses.next().context("it has no address")?;
            let stream = TcpStream::connect_timeout(&first, ANSWER_WAIT)?;
            stream.set_read_timeout(Some(ANSWER_WAIT))?;
            stream.set_write_timeout(Some(ANSWER_WAIT))?;
            Ok(stream)
        };
        Ok(Client {
            stream: connect().with_context(|| format!("cannot connect to {address}"))?,
            correlation_id: 0,
        })
    }

    /// One request and what `decode` makes of its answer.
    fn call<T>(
        &mut self,
        api: ApiKey,
        version: i16,
        encode: impl FnOnce(&mut Writer<'_>, i16) -> Result<(), EncodeError>,
        decode: impl FnOnce(&mut Reader<'_>, i16) -> Result<T>,
    ) -> Result<T> {
        self.correlation_id += 1;
        let mut frame = Vec::new();
        let mut writer = Writer::new(&mut frame);
        let start = writer.start_frame();
        let header = RequestHeader {
            api_key: api as i16,
            api_version: version,
            correlation_id: self.correlation_id,
            client_id: Some("millrace-smoke"),
        };
        header.encode(&mut writer)?;
        encode(&mut writer, version)?;
        writer.end_frame(start)?;
        let answer = self.exchange(&frame);
        let answer = answer.with_context(|| format!("no answer to {}", api.api().name))?;
        let mut reader = Reader::new(&answer);
        let header = ResponseHeader::decode(&mut reader, api, version)?;
        ensure!(
            header.correlation_id == self.correlation_id,
            "an answer to another request"
        );
        decode(&mut reader, version)
    }

    fn exchange(&mut self, frame: &[u8]) -> Result<Vec<u8>> {
        self.stream.write_all(frame)?;
        let mut length = [0; FRAME_LENGTH_BYTES];
        self.stream.read_exact(&mut length)?;
        let mut answer = vec![0; frame_length(length, ANSWER_BYTES_MAX)?];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;
    use wire::messages::create_topics::CreatableTopicResult;
    use wire::messages::delete_topics::DeletableTopicResult;
    use wire::messages::metadata::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };
    use wire::messages::produce::{PartitionProduceResponse, TopicProduceResponse};

    /// Answers on `listener` until the topic was deleted; to Produce with these codes, one after the other. Returns the APIs asked.
    fn serve(listener: &TcpListener, mut codes: Vec<ErrorCode>) -> Vec<ApiKey> {
        let mut asked = Vec::new();
        while asked.last() != Some(&ApiKey::DeleteTopics) {
            let (mut stream, _) = listener.accept().unwrap();
            loop {
                let mut length = [0; FRAME_LENGTH_BYTES];
                if stream.read_exact(&mut length).is_err() {
                    break;
                }
                let mut frame = vec![0; frame_length(length, 1 << 20).unwrap()];
                stream.read_exact(&mut frame).unwrap();
                let header = RequestHeader::decode(&mut Reader::new(&frame)).unwrap();
                let api = ApiKey::from_i16(header.api_key).unwrap();
                asked.push(api);
                let mut answer = Vec::new();
                let mut writer = Writer::new(&mut answer);
                let start = writer.start_frame();
                let correlation_id = header.correlation_id;
                ResponseHeader { correlation_id }.encode(&mut writer, api, header.api_version);
                let port = listener.local_addr().unwrap().port();
                encode_answer(api, header.api_version, port, &mut codes, &mut writer);
                writer.end_frame(start).unwrap();
                stream.write_all(&answer).unwrap();
            }
        }
        asked
    }

    fn encode_answer(
        api: ApiKey,
        version: i16,
        port: u16,
        codes: &mut Vec<ErrorCode>,
        writer: &mut Writer<'_>,
    ) {
        match api {
            ApiKey::CreateTopics => CreateTopicsResponse {
                topics: Array::from(&[CreatableTopicResult::default()]),
                ..Default::default()
            }
            .encode(writer, version),
            ApiKey::DeleteTopics => DeleteTopicsResponse {
                responses: Array::from(&[DeletableTopicResult::default()]),
                ..Default::default()
            }
            .encode(writer, version),
            ApiKey::Metadata => MetadataResponse {
                brokers: Array::from(&[MetadataResponseBroker {
                    node_id: 3,
                    host: "127.0.0.1",
                    port: i32::from(port),
                    rack: None,
                }]),
                topics: Array::from(&[MetadataResponseTopic {
                    partitions: Array::from(&[MetadataResponsePartition {
                        leader_id: 3,
                        ..Default::default()
                    }]),
                    ..Default::default()
                }]),
                ..Default::default()
            }
            .encode(writer, version),
            ApiKey::Produce => ProduceResponse {
                responses: Array::from(&[TopicProduceResponse {
                    partition_responses: Array::from(&[PartitionProduceResponse {
                        error_code: codes.remove(0) as i16,
                        ..Default::default()
                    }]),
                    ..Default::default()
                }]),
                ..Default::default()
            }
            .encode(writer, version),
            other => panic!("{other:?} is not expected"),
        }
        .unwrap();
    }

    /// One who does not lead yet is asked again; any other refusal is named, and no topic is left behind.
    #[test]
    fn a_refused_record_is_an_error_that_leaves_no_topic() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let codes = vec![ErrorCode::NotLeaderOrFollower, ErrorCode::KafkaStorageError];
        let (error, asked) = thread::scope(|scope| {
            let server = scope.spawn(|| serve(&listener, codes));
            (run(&address).unwrap_err(), server.join().unwrap())
        });
        assert_eq!(error.to_string(), "KAFKA_STORAGE_ERROR");
        let (twice, last) = (ApiKey::Produce, ApiKey::DeleteTopics);
        let first = [ApiKey::CreateTopics, ApiKey::Metadata];
        assert_eq!(asked, [&first[..], &[twice, twice, last]].concat());
    }

    #[test]
    fn whoever_is_not_there_or_hangs_up_is_an_error_that_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::scope(|scope| {
            scope.spawn(|| drop(listener.accept()));
            let error = format!("{:#}", run(&address).unwrap_err());
            assert!(error.contains("no answer to CreateTopics"), "{error}");
        });
        drop(listener);
        let error = format!("{:#}", run(&address).unwrap_err());
        assert!(error.contains("cannot connect to"), "{error}");
    }
}
