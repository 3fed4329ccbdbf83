//! A client's frame, whole and in pieces: its header and its request, of every API and version.
//!
//! The same bytes in pieces must decode to the same request, and a request that was decoded must encode and decode to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::messages::AnyRequest;
use wire::{ApiKey, Reader, RequestHeader, Scratch, Writer};

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let mut reader = Reader::new(bytes);
    let whole = decode(&mut reader);

    let middle = usize::from(cut).min(bytes.len());
    let parts = [&bytes[..middle], &bytes[middle..]];
    let scratch = Scratch::new();
    let mut reader = Reader::fragments(&parts, &scratch);
    let pieces = decode(&mut reader);
    assert_eq!(whole.is_some(), pieces.is_some());

    if let (Some((version, whole)), Some((_, pieces))) = (whole, pieces) {
        let encoded = encode(&whole, version);
        assert_eq!(encoded, encode(&pieces, version));
        if let Some(encoded) = encoded {
            let mut reader = Reader::new(&encoded);
            let again = AnyRequest::decode(whole.api(), version, &mut reader)
                .expect("what we encode we can decode");
            assert_eq!(Some(&encoded), encode(&again, version).as_ref());
        }
    }
});

fn decode<'a>(reader: &mut Reader<'a>) -> Option<(i16, AnyRequest<'a>)> {
    let header = RequestHeader::decode(reader).ok()?;
    let api = ApiKey::from_i16(header.api_key)?;
    if !api.supports(header.api_version) {
        return None;
    }
    let request = AnyRequest::decode(api, header.api_version, reader).ok()?;
    Some((header.api_version, request))
}

fn encode(request: &AnyRequest<'_>, version: i16) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    request.encode(&mut writer, version).ok()?;
    Some(bytes)
}
