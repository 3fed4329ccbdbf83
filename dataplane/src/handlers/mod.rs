//! One file per API. A handler takes a decoded request, does the work, and encodes the answer.

pub mod alter_configs;
pub mod api_versions;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod fetch;
pub mod find_coordinator;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;

use control_api::ids::BrokerId;
use control_api::image::MetadataImage;
use std::collections::BTreeMap;

/// A broker's dynamic configuration: its own values over those of all brokers.
pub fn configs_of_broker(image: &MetadataImage, broker: BrokerId) -> BTreeMap<String, String> {
    control_api::topic_config::broker_configs(image.broker_configs.get(&Some(broker)), image.broker_configs.get(&None))
}
