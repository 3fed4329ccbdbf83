//! One file per API. A handler takes a decoded request, does the work, and encodes the answer.

pub(crate) mod add_raft_voter;
pub(crate) mod alter_configs;
pub(crate) mod api_versions;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_groups;
pub(crate) mod delete_topics;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod describe_groups;
pub(crate) mod describe_quorum;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod incremental_alter_configs;
pub(crate) mod init_producer_id;
pub(crate) mod list_groups;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod offset_commit;
pub(crate) mod offset_delete;
pub(crate) mod offset_fetch;
pub(crate) mod offset_for_leader_epoch;
pub mod produce;
pub(crate) mod remove_raft_voter;
pub(crate) mod unregister_broker;
pub(crate) mod update_features;

mod admin;
mod authorized_operations;
mod auto_create;
pub(crate) mod batch_checks;
mod config_changes;
mod config_entries;
mod config_resources;
mod groups;
mod new_topics;
mod quorum;

use control_api::ids::BrokerId;
use control_api::image::MetadataImage;
use std::collections::BTreeMap;

/// A broker's dynamic configuration: its own values over those of all brokers.
pub(crate) fn configs_of_broker(
    image: &MetadataImage,
    broker: BrokerId,
) -> BTreeMap<String, String> {
    control_api::topic_config::broker_configs(
        image.broker_configs.get(&Some(broker)),
        image.broker_configs.get(&None),
    )
}
