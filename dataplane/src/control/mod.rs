//! The broker's side of the control plane: one thread that registers, sends heartbeats, follows the metadata and carries the
//! shards' requests to the controllers. To a shard it is one more inbox.

mod controllers_file;
mod image_copy;
mod image_file;
mod link;
pub mod machine;
mod metrics;

pub use image_file::{ImageError, decode_image, encode_image, load_image};
pub use link::{Link, LinkParts};
pub use metrics::LinkMetrics;
