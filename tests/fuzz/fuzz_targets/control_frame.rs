//! What arrives on the wire between the planes: frames cut out of a stream, and every message that they may carry.
#![no_main]

use control_api::frame::ControlFrameReader;
use control_api::image::{MetadataEvent, MetadataImage};
use control_api::message::{MetadataUpdate, Request, Response};
use control_api::{codec, frame};
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;

const FRAME_BYTES_MAX: usize = 1 << 20;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (kind, group, bytes) = input;
    // As a stream of whatever it is, and then as the body of a frame whose checksum is right.
    read_all(bytes);
    read_all(&frame::encode_raw(kind, group, bytes));
    let _ = codec::decode::<Request>(bytes);
    let _ = codec::decode::<Response>(bytes);
    let _ = codec::decode::<MetadataUpdate>(bytes);
    let _ = codec::decode::<MetadataEvent>(bytes);
    let _ = codec::decode::<MetadataImage>(bytes);
});

fn read_all(bytes: &[u8]) {
    let mut reader = ControlFrameReader::new(bytes, FRAME_BYTES_MAX);
    while let Ok(frame) = block_on(reader.next()) {
        let _ = frame.body::<Request>(frame.kind);
        let _ = frame.body::<Response>(frame.kind);
        let _ = frame.body::<MetadataUpdate>(frame.kind);
    }
}
