//! Programs of two versions in one control plane. The later one is the same program, told to support a feature level more.

use crate::cluster::live_broker;
use crate::support::{Broker, Cluster, eventually};
use control_api::client::ClientError;
use control_api::level::Level;
use control_api::message::ControlError;

/// What the programs support, and what the later one does.
const NOW: u16 = Level::NEWEST.0;
const LATER: u16 = Level::TRIAL.0;

async fn assert_refused(cluster: &Cluster, why: &str) {
    let raise = format!("features --raise {LATER}");
    let refused = cluster.operate(&raise, 1).await.unwrap_err();
    assert!(refused.contains(why), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_stays_as_long_as_one_program_does_not_support_the_next() {
    let mut cluster = Cluster::prepare(3, &["--session-ms", "60000"]);
    cluster.later.extend([1, 2]);
    (1..=3).for_each(|node| cluster.start_node(node));
    cluster.leader().await;
    live_broker(&cluster.client(), 1).await;
    assert_refused(
        &cluster,
        &format!("controller 3 supports feature levels 1 to {NOW}, not {LATER}"),
    )
    .await;
    cluster.kill(3);
    assert_refused(&cluster, "controller 3 does not answer").await;
    cluster.later.insert(3);
    cluster.start_node(3);
    cluster.caught_up(3).await;
    let why = format!("broker 1 supports feature levels 1 to {NOW}, not {LATER}");
    assert_refused(&cluster, &why).await;
    let described = cluster.operate("features --json", 1).await.unwrap();
    let ranges = [LATER, NOW].map(|newest| format!("1 to {newest}"));
    for row in ["controller 3", "broker 1", &ranges[0], &ranges[1]] {
        assert!(described.contains(row), "{described}");
    }

    // The command that was refused is in the log, and is refused there by the program before as well.
    cluster.kill(3);
    cluster.later.remove(&3);
    cluster.start_node(3);
    cluster.caught_up(3).await;
}

/// This test speaks for the program before: it reads nothing of the later one's but refusals.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_begins_at_the_newest_level_of_all_and_tells_an_older_broker() {
    let mut cluster = Cluster::prepare(3, &["--session-ms", "60000"]);
    cluster.later.extend([1, 2, 3]);
    (1..=3).for_each(|node| cluster.start_node(node));
    let client = cluster.client();
    let refused = eventually("a refusal", async || {
        match Broker::register(&client, 1, 1).await {
            Err(ClientError::Refused(ControlError::UnsupportedLevel(why))) => Some(why),
            _ => None,
        }
    })
    .await;
    assert_eq!(
        refused,
        format!(
            "the cluster is at feature level {LATER}, and the broker supports levels 1 to {NOW}"
        )
    );
}

/// A broker of an older program that is gone would keep the level down for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_removed_no_longer_keeps_the_level_down() {
    let mut cluster = Cluster::start(1, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    live_broker(&client, 1).await.leave(&client).await;
    cluster.kill(1);
    cluster.later.insert(1);
    cluster.start_node(1);
    cluster.caught_up(1).await;
    let why = format!("broker 1 supports feature levels 1 to {NOW}, not {LATER}");
    assert_refused(&cluster, &why).await;
    cluster.operate("brokers remove 1", 1).await.unwrap();
    let raise = format!("features --raise {LATER}");
    cluster.operate(&raise, 1).await.unwrap();
}

/// It could not read what is in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_too_old_for_the_level_is_not_taken_in() {
    let mut cluster = Cluster::prepare(1, &["--session-ms", "60000"]);
    cluster.later.insert(1);
    cluster.start_node(1);
    eventually("the cluster to be formed", async || {
        let described = cluster.operate("features --json", 1).await.ok()?;
        let row = format!("\"finalized\": {LATER}");
        described.contains(&row).then_some(())
    })
    .await;
    cluster.start_joining(2).await;
    let add = format!("quorum add 2={} --wait-seconds 5", cluster.addresses[&2]);
    let refused = cluster.operate(&add, 1).await.unwrap_err();
    let why = format!(
        "the cluster is at feature level {LATER}, and controller 2 supports levels 1 to {NOW}"
    );
    assert!(refused.contains(&why), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
}
