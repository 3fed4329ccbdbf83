//! Programs of two versions in one control plane. The later one is the same program, told to support a feature level more.

use crate::cluster::live_broker;
use crate::support::{Broker, Cluster, eventually};
use control_api::client::ClientError;
use control_api::message::ControlError;

async fn assert_refused(cluster: &Cluster, why: &str) {
    let refused = cluster.operate("features --raise 2", 1).await.unwrap_err();
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
        "controller 3 supports feature levels 1 to 1, not 2",
    )
    .await;
    cluster.kill(3);
    assert_refused(&cluster, "controller 3 does not answer").await;
    cluster.later.insert(3);
    cluster.start_node(3);
    cluster.caught_up(3).await;
    assert_refused(&cluster, "broker 1 supports feature levels 1 to 1, not 2").await;
    let described = cluster.operate("features --json", 1).await.unwrap();
    for row in ["controller 3", "broker 1", "1 to 2", "1 to 1"] {
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
        "the cluster is at feature level 2, and the broker supports levels 1 to 1"
    );
}
