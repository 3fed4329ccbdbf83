//! The two state machines as Raft sees them.

use super::machine::Machine;
use crate::command::{MetaCommand, OffsetsCommand};
use crate::meta::MetaState;
use crate::offsets::OffsetsState;
use control_api::codec::{self, CodecError};
use control_api::ids::Position;
use control_api::image::MetadataEvent;
use control_api::message::Response;

impl Machine for MetaState {
    fn apply_entry(
        &mut self,
        at: Position,
        command: &[u8],
    ) -> Result<(Response, Vec<MetadataEvent>), CodecError> {
        let command: MetaCommand = codec::decode(command)?;
        Ok(self.apply(at, &command))
    }

    fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(codec::decode::<MetaState>(bytes)?.completed())
    }

    fn changed_at(&self) -> Position {
        self.image().position()
    }

    fn digest(&self) -> u64 {
        MetaState::digest(self)
    }
}

impl Machine for OffsetsState {
    fn apply_entry(
        &mut self,
        _at: Position,
        command: &[u8],
    ) -> Result<(Response, Vec<MetadataEvent>), CodecError> {
        let command: OffsetsCommand = codec::decode(command)?;
        Ok((self.apply(&command), Vec::new()))
    }

    fn to_bytes(&self) -> Vec<u8> {
        codec::encode(&self.to_image())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(OffsetsState::from_image(codec::decode(bytes)?))
    }

    fn changed_at(&self) -> Position {
        Position::default()
    }

    fn digest(&self) -> u64 {
        0
    }
}
