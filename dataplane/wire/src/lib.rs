//! Kafka's wire protocol: frames, headers, messages and record batches. Pure: no I/O, no clock, no state.
//!
//! The broker decodes requests and encodes responses with it; the load generator and the tests are clients and do the reverse.
//! Decoding borrows from the receive buffers and bounds every length by what is left of the frame; encoding appends to a send buffer.
//!
//! ```text
//! frame   = length i32 | header | message          frame.rs, header.rs
//! message = fields in the order of its schema      schema.rs, field.rs, array.rs, messages/
//! records = batches back to back, never copied     records.rs, batch.rs, batch_header.rs, record.rs, record_walk.rs
//! ```

mod api;
mod array;
mod batch;
mod batch_builder;
mod batch_header;
mod error;
mod field;
mod frame;
mod header;
pub mod messages;
#[cfg(test)]
mod oracle;
mod reader;
mod record;
mod record_walk;
mod records;
mod schema;
mod turns;
mod uuid;
mod writer;

pub use api::{APIS, Api, ApiKey};
pub use array::{Array, Iter};
pub use batch::{Batch, BatchError, Batches, stamp_log_append_time, stamp_offset_and_epoch};
pub use batch_builder::BatchBuilder;
pub use batch_header::{
    BATCH_HEADER_BYTES, BatchAttributes, BatchHeader, Compression, TimestampType,
};
pub use error::ErrorCode;
pub use frame::{FRAME_LENGTH_BYTES, FrameError, frame_length};
pub use header::{RequestHeader, ResponseHeader};
pub use reader::{DecodeError, Reader, Scratch};
pub use record::{Header, Headers, Record, RecordError, RecordIter};
pub use record_walk::{NO_TIMESTAMP, RecordTimes, RecordWalk};
pub use records::{Pieces, Records};
pub use turns::give_way;
pub use uuid::Uuid;
pub use writer::{EncodeError, FrameStart, Splice, Writer};
