//! The metadata that a broker follows, as one controller sends it. [`ControlClient::watch`](crate::client::ControlClient::watch)
//! opens it.

use crate::client::{ClientError, Connection, STREAM_SILENCE_MAX};
use crate::frame::{self, Frame, FrameError};
use crate::message::MetadataUpdate;
use tokio::time::timeout;

/// Metadata as it is committed. Updates come in index order; one may repeat what an earlier one said.
pub struct MetadataStream {
    connection: Connection,
    /// The first update, which shows that the controller does more than to take connections, as a hung one does.
    first: Option<Frame>,
}

impl MetadataStream {
    pub(crate) fn new(connection: Connection, first: Frame) -> Self {
        MetadataStream {
            connection,
            first: Some(first),
        }
    }

    /// The next update, keep-alives included. May be dropped and called again. After an error the stream is of no more use.
    pub async fn next(&mut self) -> Result<MetadataUpdate, ClientError> {
        if let Some(first) = self.first.take() {
            return read_update(first).map_err(|error| ClientError::StreamEnded(error.to_string()));
        }
        let frame = timeout(STREAM_SILENCE_MAX, self.connection.next())
            .await
            .map_err(|_| ClientError::StreamEnded("the controller fell silent".to_owned()))?;
        frame
            .and_then(read_update)
            .map_err(|error| ClientError::StreamEnded(error.to_string()))
    }
}

fn read_update(frame: Frame) -> Result<MetadataUpdate, FrameError> {
    frame.body(frame::KIND_UPDATE)
}
