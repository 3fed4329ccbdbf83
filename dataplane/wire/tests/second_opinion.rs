//! Headers, record batches and error codes beside those of `kafka-protocol`. The messages have their own proof inside the crate.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    RequestHeader as OracleHeader, ResponseHeader as OracleResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use kafka_protocol::records::{
    Compression as OracleCompression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID,
    Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use wire::{
    APIS, BatchBuilder, ErrorCode, RecordIter, Records, RequestHeader, ResponseHeader, Writer,
};

#[test]
fn headers_of_every_api_and_version_are_the_same_bytes() {
    for api in APIS {
        for version in api.version_min..=api.version_max {
            for client_id in [None, Some(""), Some("client")] {
                let ours = RequestHeader {
                    api_key: api.key as i16,
                    api_version: version,
                    correlation_id: 77,
                    client_id,
                };
                let mut bytes = Vec::new();
                ours.encode(&mut Writer::new(&mut bytes)).unwrap();
                let oracle = OracleHeader::default()
                    .with_request_api_key(api.key as i16)
                    .with_request_api_version(version)
                    .with_correlation_id(77)
                    .with_client_id(client_id.map(StrBytes::from_static_str));
                let mut expected = BytesMut::new();
                oracle
                    .encode(&mut expected, api.key.request_header_version(version))
                    .unwrap();
                assert_eq!(bytes, &expected[..], "{} {version}", api.name);
            }
            let mut bytes = Vec::new();
            ResponseHeader { correlation_id: 77 }.encode(
                &mut Writer::new(&mut bytes),
                api.key,
                version,
            );
            let mut expected = Bytes::from(bytes.clone());
            let oracle = OracleResponseHeader::decode(
                &mut expected,
                api.key.response_header_version(version),
            )
            .unwrap();
            assert_eq!(
                (oracle.correlation_id, expected.len()),
                (77, 0),
                "{} {version}",
                api.name
            );
        }
    }
}

#[test]
fn header_versions_are_those_of_the_oracle() {
    for api in APIS {
        let oracle = kafka_protocol::messages::ApiKey::try_from(api.key as i16).unwrap();
        assert_eq!(format!("{oracle:?}").trim_end_matches("Key"), api.name);
        for version in api.version_min..=api.version_max {
            assert_eq!(
                api.key.request_header_version(version),
                oracle.request_header_version(version),
                "{}",
                api.name
            );
            assert_eq!(
                api.key.response_header_version(version),
                oracle.response_header_version(version),
                "{}",
                api.name
            );
        }
    }
}

#[test]
fn the_oracle_reads_the_batches_we_build() {
    let mut builder = BatchBuilder::new(1_700_000_000_000);
    builder.producer(42, 3, 100);
    builder.record(
        1_700_000_000_000,
        Some(b"key"),
        Some(&[9; 1000]),
        &[("a", Some(b"b")), ("c", None)],
    );
    builder.record(1_700_000_000_500, None, None, &[]);
    let read = RecordBatchDecoder::decode(&mut Bytes::from(builder.build())).unwrap();
    assert_eq!(read.records.len(), 2);
    let first = &read.records[0];
    assert_eq!(
        (first.key.as_deref(), first.value.as_deref()),
        (Some(&b"key"[..]), Some(&[9; 1000][..]))
    );
    assert_eq!(
        (
            first.producer_id,
            first.producer_epoch,
            first.sequence,
            first.offset
        ),
        (42, 3, 100, 0)
    );
    let headers: Vec<_> = first
        .headers
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_deref()))
        .collect();
    assert_eq!(headers, [("a", Some(&b"b"[..])), ("c", None)]);
    let second = &read.records[1];
    assert_eq!(
        (second.key.as_deref(), second.value.as_deref()),
        (None, None)
    );
    assert_eq!((second.timestamp, second.offset), (1_700_000_000_500, 1));
}

#[test]
fn we_read_the_batches_the_oracle_builds() {
    let record = |offset: i64, key: Option<&'static [u8]>| Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: offset as i32,
        timestamp: 5_000 + offset * 100_000,
        key: key.map(Bytes::from_static),
        value: Some(Bytes::from(vec![7; offset as usize * 50])),
        headers: Default::default(),
    };
    let records: Vec<_> = (0..5)
        .map(|offset| record(offset, (offset % 2 == 0).then_some(&b"even"[..])))
        .collect();
    let options = RecordEncodeOptions {
        version: 2,
        compression: OracleCompression::None,
    };
    let mut bytes = BytesMut::new();
    RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
    let batch = Records::from_slice(&bytes)
        .batches()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(batch.validate().err(), None);
    assert_eq!(
        (batch.header.base_timestamp, batch.header.max_timestamp),
        (5_000, 405_000)
    );
    let walked: Vec<_> = RecordIter::new(batch.records.contiguous().unwrap())
        .map(Result::unwrap)
        .collect();
    assert_eq!(walked.len(), 5);
    for (ours, theirs) in walked.iter().zip(&records) {
        assert_eq!(
            (ours.key, ours.value),
            (theirs.key.as_deref(), theirs.value.as_deref())
        );
        assert_eq!(i64::from(ours.offset_delta), theirs.offset);
        assert_eq!(
            batch.header.base_timestamp + ours.timestamp_delta,
            theirs.timestamp
        );
    }
    for codec in [
        OracleCompression::Gzip,
        OracleCompression::Snappy,
        OracleCompression::Lz4,
        OracleCompression::Zstd,
    ] {
        let options = RecordEncodeOptions {
            version: 2,
            compression: codec,
        };
        let mut bytes = BytesMut::new();
        RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
        let batch = Records::from_slice(&bytes)
            .batches()
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(batch.validate().err(), None);
        assert_eq!(
            batch.header.attributes.compression().unwrap() as i16,
            codec as i16
        );
    }
}

#[test]
fn error_codes_have_the_oracles_names() {
    let mut compared = 0;
    for code in -1..=133 {
        let Some(oracle) = kafka_protocol::ResponseError::try_from_code(code) else {
            continue;
        };
        let oracle = format!("{oracle:?}");
        if !oracle.starts_with("Unknown(") {
            let ours = ErrorCode::from_i16(code).unwrap();
            assert_eq!(
                format!("{ours:?}").to_lowercase(),
                oracle.to_lowercase(),
                "{code}"
            );
            assert_eq!(
                ours.name().replace('_', "").to_lowercase(),
                oracle.to_lowercase(),
                "{code}"
            );
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared} compared");
}
