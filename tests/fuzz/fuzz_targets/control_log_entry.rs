//! An entry in a Raft log's file: what it says, and that one which ends too soon is told from one that is damaged.
//!
//! A log that ends in the middle of an entry was torn by a crash and is cut there; any other damage must stop the node.
#![no_main]

use std::io::ErrorKind;

use controlplane::raft::read_payload;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    let _ = read_payload(bytes);
    // Few inputs name the length that they have, so everything is also asked with the right one.
    let mut entry = vec![kind];
    entry.extend((bytes.len() as u32).to_le_bytes());
    entry.extend(bytes);
    if read_payload(&*entry).is_ok() {
        for end in [0, 1, 4, entry.len() - 1] {
            let error = read_payload(&entry[..end]).expect_err("it is cut");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
    } else {
        let error = read_payload(&*entry).expect_err("it was one before");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
});
