//! The two state machines as Raft sees them.

use super::machine::Machine;
use crate::command::{MetaCommand, OffsetsCommand};
use crate::meta::MetaState;
use crate::offsets::OffsetsState;
use control_api::codec::{self, CodecError};
use control_api::ids::Position;
use control_api::image::MetadataEvent;
use control_api::level::Level;
use control_api::message::Response;

impl Machine for MetaState {
    fn apply_entry(
        &mut self,
        at: Position,
        command: &[u8],
    ) -> Result<(Response, Vec<MetadataEvent>), CodecError> {
        let command: MetaCommand = codec::decode(command)?;
        let applied = self.apply(at, &command);
        codec::check_level(self.feature_level())?;
        Ok(applied)
    }

    fn to_bytes(&self) -> Vec<u8> {
        codec::encode_at(self.feature_level(), self)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let state = codec::decode::<MetaState>(bytes)?;
        state.image().check_level()?;
        Ok(state.completed())
    }

    fn feature_level(&self) -> Level {
        MetaState::feature_level(self)
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
        let response = self.apply(&command);
        codec::check_level(self.feature_level())?;
        Ok((response, Vec::new()))
    }

    fn to_bytes(&self) -> Vec<u8> {
        codec::encode_at(self.feature_level(), &self.to_image())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let state = OffsetsState::from_image(codec::decode(bytes)?);
        codec::check_level(state.feature_level())?;
        Ok(state)
    }

    fn feature_level(&self) -> Level {
        OffsetsState::feature_level(self)
    }

    fn changed_at(&self) -> Position {
        Position::default()
    }

    fn digest(&self) -> u64 {
        0
    }
}
