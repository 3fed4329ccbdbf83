//! Commands out of a Raft log applied to the state machines: whatever decodes must apply, and twice the same way.
#![no_main]

use control_api::codec;
use control_api::ids::Position;
use controlplane::command::{MetaCommand, OffsetsCommand};
use controlplane::meta::MetaState;
use controlplane::offsets::OffsetsState;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|commands: Vec<Vec<u8>>| {
    let mut meta = [MetaState::default(), MetaState::default()];
    let mut offsets = [OffsetsState::default(), OffsetsState::default()];
    for (index, bytes) in commands.iter().enumerate() {
        if let Ok(command) = codec::decode::<MetaCommand>(bytes) {
            let at = Position {
                term: 1,
                index: index as u64 + 1,
            };
            let [one, other] = meta.each_mut().map(|state| state.apply(at, &command));
            assert_eq!(one, other);
            assert_eq!(meta[0].digest(), meta[0].image().digest(), "kept up to date");
        }
        if let Ok(command) = codec::decode::<OffsetsCommand>(bytes) {
            let [one, other] = offsets.each_mut().map(|state| state.apply(&command));
            assert_eq!(one, other);
        }
    }
});
