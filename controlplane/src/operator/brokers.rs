//! The brokers as a table, and the removal of one.

use super::table::Table;
use anyhow::{Context, bail};
use control_api::client::ControlClient;
use control_api::ids::BrokerId;
use control_api::image::{BrokerRecord, MetadataImage, PartitionRecord};
use control_api::message::{Request, Response};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// A leader is there by then if there is to be one.
const ASK_TIME_MAX: Duration = Duration::from_secs(5);

/// `last_beats`: how long ago each was heard.
pub(super) fn table(image: &MetadataImage, last_beats: &BTreeMap<i32, u64>) -> Table {
    let mut table = Table::new(&[
        "broker",
        "address",
        "rack",
        "version",
        "epoch",
        "state",
        "last_beat_ms",
        "leads",
        "replicas",
    ]);
    for broker in image.brokers.values() {
        let led = partitions(image).filter(|one| one.leader == Some(broker.id));
        let held = partitions(image).filter(|one| one.replicas.contains(&broker.id));
        table.row([
            json!(broker.id.0),
            json!(format!("{}:{}", broker.host, broker.port)),
            json!(broker.rack),
            json!(broker.version),
            json!(broker.epoch.0),
            json!(state(broker)),
            json!(last_beats.get(&broker.id.0)),
            json!(led.count()),
            json!(held.count()),
        ]);
    }
    table
}

fn partitions(image: &MetadataImage) -> impl Iterator<Item = &PartitionRecord> {
    image.topics.values().flat_map(|topic| &topic.partitions)
}

fn state(broker: &BrokerRecord) -> &'static str {
    match (broker.fenced, broker.shutting_down) {
        (true, _) => "fenced",
        (false, true) => "shutting down",
        (false, false) => "live",
    }
}

/// Forgets a broker that is gone. Answers with what that leaves behind.
pub async fn remove_broker(client: &ControlClient, id: BrokerId) -> anyhow::Result<String> {
    let request = Request::UnregisterBroker { broker: id };
    match client.call(request, ASK_TIME_MAX).await {
        Ok(Response::Done(_)) => {}
        Ok(other) => bail!("a controller answered {other:?}"),
        Err(error) => bail!("broker {id} is not removed: {error}"),
    }
    let status = client.call(Request::Status, ASK_TIME_MAX).await;
    let Response::Status(status) = status.context("what it leaves is not known")? else {
        bail!("a controller answered something else than its status");
    };
    let alone = |one: &&PartitionRecord| one.replicas == [id] && one.leader.is_none();
    Ok(match partitions(&status.image).filter(alone).count() {
        0 => format!("broker {id} is removed\n"),
        count => format!(
            "broker {id} is removed; {count} partitions that only it has stay offline until it comes back with its data\n"
        ),
    })
}
