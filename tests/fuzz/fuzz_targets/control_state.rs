//! Commands out of a Raft log applied to the state machines: whatever decodes must apply, and twice the same way.
#![no_main]

use control_api::codec;
use controlplane::command::{MetaCommand, OffsetsCommand};
use controlplane::meta::MetaState;
use controlplane::offsets::OffsetsState;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|commands: Vec<Vec<u8>>| {
    let mut meta = [MetaState::default(), MetaState::default()];
    let mut offsets = [OffsetsState::default(), OffsetsState::default()];
    for (index, bytes) in commands.iter().enumerate() {
        if let Ok(command) = codec::decode::<MetaCommand>(bytes) {
            let [one, other] = meta
                .each_mut()
                .map(|state| state.apply(index as u64 + 1, &command));
            assert_eq!(one, other);
        }
        if let Ok(command) = codec::decode::<OffsetsCommand>(bytes) {
            let [one, other] = offsets.each_mut().map(|state| state.apply(&command));
            assert_eq!(one, other);
        }
    }
});
