//! Requests of real clients, as they came off the wire, are decoded whole and in pieces and come back byte for byte.

use wire::messages::AnyRequest;
use wire::{ApiKey, Reader, RequestHeader, Scratch, Writer};

struct Golden {
    client: &'static str,
    api: &'static str,
    version: i16,
    frame: Vec<u8>,
}

fn golden() -> Vec<Golden> {
    include_str!("golden/client_requests.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().expect("four words a line");
            let (client, api, version, hex) = (word(), word(), word(), word());
            let byte = |index| u8::from_str_radix(&hex[index..index + 2], 16).expect("two digits");
            let frame = (0..hex.len()).step_by(2).map(byte).collect();
            Golden {
                client,
                api,
                version: version.parse().expect("a number"),
                frame,
            }
        })
        .collect()
}

fn decode<'a>(reader: &mut Reader<'a>) -> (RequestHeader<'a>, AnyRequest<'a>) {
    let header = RequestHeader::decode(reader).expect("a header");
    let api = ApiKey::from_i16(header.api_key).expect("an API of the table");
    let request = AnyRequest::decode(api, header.api_version, reader).expect("a request");
    (header, request)
}

/// librdkafka asks for the metadata of all topics with three bytes more than the message has. Kafka lets that pass, and so must we.
fn trailing_bytes(golden: &Golden) -> usize {
    if golden.client == "confluent" && golden.api == "Metadata" && golden.frame.len() == 25 {
        3
    } else {
        0
    }
}

#[test]
fn every_request_comes_back_byte_for_byte() {
    let golden = golden();
    assert!(golden.len() > 20);
    for golden in &golden {
        let mut reader = Reader::new(&golden.frame);
        let (header, request) = decode(&mut reader);
        assert_eq!(request.api().api().name, golden.api);
        assert_eq!(header.api_version, golden.version);
        assert_eq!(
            reader.remaining(),
            trailing_bytes(golden),
            "{} {}",
            golden.client,
            golden.api
        );
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        header.encode(&mut writer).unwrap();
        request.encode(&mut writer, header.api_version).unwrap();
        assert_eq!(
            bytes,
            golden.frame[..golden.frame.len() - trailing_bytes(golden)]
        );
    }
}

#[test]
fn every_request_is_the_same_in_any_two_pieces() {
    for golden in golden() {
        let whole = decode(&mut Reader::new(&golden.frame));
        for cut in 0..=golden.frame.len() {
            let parts = [&golden.frame[..cut], &golden.frame[cut..]];
            let scratch = Scratch::new();
            assert_eq!(decode(&mut Reader::fragments(&parts, &scratch)), whole);
        }
    }
}

#[test]
fn every_produced_batch_is_valid() {
    let mut batches = 0;
    for golden in golden() {
        let (_, AnyRequest::Produce(request)) = decode(&mut Reader::new(&golden.frame)) else {
            continue;
        };
        for topic in &request.topic_data {
            for partition in &topic.partition_data {
                for batch in partition.records.expect("clients send records").batches() {
                    assert_eq!(batch.unwrap().validate().err(), None);
                    batches += 1;
                }
            }
        }
    }
    assert_eq!(batches, 4);
}

/// No API, version or content makes the decoder do anything but return.
#[test]
fn damaged_requests_are_errors_or_other_requests() {
    for golden in golden() {
        for position in 0..golden.frame.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut frame = golden.frame.clone();
                frame[position] = value;
                let mut reader = Reader::new(&frame);
                let Ok(header) = RequestHeader::decode(&mut reader) else {
                    continue;
                };
                let Some(api) = ApiKey::from_i16(header.api_key) else {
                    continue;
                };
                if let Ok(request) = AnyRequest::decode(api, header.api_version, &mut reader) {
                    // Walks every array.
                    assert!(format!("{request:?}").len() < 100_000);
                }
            }
        }
    }
}
