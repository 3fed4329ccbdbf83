//! A quorum is the cluster's memory: a disk that is empty, or that has forgotten, has no say in it.

use crate::cluster::live_broker;
use crate::operation::fails_with_one_line;
use crate::support::{Cluster, create, eventually};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

async fn topics(cluster: &Cluster, node: u64) -> Vec<String> {
    let status = cluster.status(node).await;
    let names = status.map(|status| status.image.topic_ids.keys().cloned().collect());
    names.unwrap_or_default()
}

async fn leads(cluster: &Cluster, node: u64, group: &str) -> bool {
    let name = format!("millrace_raft_leader{{group=\"{group}\"}}");
    cluster.metric(node, &name).await == Some(1)
}

/// One node was down, another got an empty disk and was started beside it: the two elected a leader, and what had been acknowledged
/// without the one and forgotten by the other was gone.
#[tokio::test]
async fn an_empty_disk_does_not_vote_away_what_was_acknowledged() {
    let mut cluster = Cluster::start(3, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    live_broker(&client, 1).await;
    let leader = cluster.leader().await;
    let (wiped, behind) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.kill(behind);
    for number in 0..8 {
        create(&client, &format!("acknowledged-{number}")).await;
    }
    cluster.wipe(wiped);
    cluster.kill(leader);
    cluster.start_node(behind);
    cluster.start_node(wiped);
    for _ in 0..10 {
        for node in [wiped, behind] {
            assert!(
                !leads(&cluster, node, "meta").await && !leads(&cluster, node, "offsets").await
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.start_node(leader);
    for node in 1..=3 {
        eventually("all that was acknowledged", async || {
            (topics(&cluster, node).await.len() == 8).then_some(())
        })
        .await;
    }
    // By now the empty disk may vote, so another node can be spared.
    votes_again(&cluster, wiped).await;
    cluster.kill(behind);
    create(&client, "after").await;
    assert_eq!(topics(&cluster, cluster.leader().await).await.len(), 9);
}

/// Waits until a leader of each group counts on the node.
async fn votes_again(cluster: &Cluster, node: u64) {
    for group in ["meta", "offsets"] {
        eventually("the new disk to vote", async || {
            let leader = cluster.leader_of(group).await;
            let name = format!("millrace_raft_voters{{group=\"{group}\"}}");
            let voters = cluster.metric(leader, &name).await;
            let lag = format!(
                "millrace_raft_follower_lag_entries{{follower=\"{node}\",group=\"{group}\"}}"
            );
            let known = leader == node || cluster.metric(leader, &lag).await == Some(0);
            (voters == Some(3)
                && known
                && cluster.metric(leader, &new_disks(group)).await == Some(0))
            .then_some(())
        })
        .await;
    }
}

fn new_disks(group: &str) -> String {
    format!("millrace_raft_learners{{group=\"{group}\"}}")
}

/// Whatever node it is, the one that forms new clusters included.
#[tokio::test]
async fn a_node_whose_disk_was_replaced_votes_again_by_itself() {
    let mut cluster = Cluster::start(3, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    live_broker(&client, 1).await;
    let id = cluster.status(1).await.unwrap().image.cluster_id;
    for node in 1..=3 {
        create(&client, &format!("before-{node}")).await;
        cluster.wipe(node);
        create(&client, &format!("without-{node}")).await;
        cluster.start_node(node);
        votes_again(&cluster, node).await;
        cluster.caught_up(node).await;
        // Its vote is needed now.
        let other = node % 3 + 1;
        cluster.kill(other);
        create(&client, &format!("with-{node}")).await;
        cluster.start_node(other);
        cluster.caught_up(other).await;
    }
    for node in 1..=3 {
        let image = cluster.status(node).await.unwrap().image;
        assert_eq!(
            (image.cluster_id, image.topics.len()),
            (id.clone(), 9),
            "node {node}"
        );
    }
}

#[tokio::test]
async fn a_new_cluster_waits_for_all_of_its_nodes() {
    let mut cluster = Cluster::prepare(3, &[]);
    cluster.start_node(1);
    cluster.start_node(3);
    for _ in 0..5 {
        for node in [1, 3] {
            assert!(!leads(&cluster, node, "meta").await);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(cluster.log(1).contains("controller 2 does not answer"));
    cluster.start_node(2);
    cluster.leader().await;
}

/// As after a virtual machine was put back to an earlier state of its disk.
#[tokio::test]
async fn a_disk_that_lost_what_it_acknowledged_stops_its_node() {
    let mut cluster = Cluster::start(3, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    live_broker(&client, 1).await;
    let leader = cluster.leader().await;
    let node = leader % 3 + 1;
    create(&client, "before").await;
    cluster.caught_up(node).await;
    cluster.kill(node);
    let (now, then) = (cluster.data(node), cluster.directory.join("then"));
    copy(&now, &then);
    cluster.start_node(node);
    for number in 0..5 {
        create(&client, &format!("later-{number}")).await;
    }
    cluster.caught_up(node).await;
    assert_eq!(
        cluster.leader().await,
        leader,
        "it has seen what was acknowledged"
    );
    cluster.kill(node);
    fs::remove_dir_all(&now).unwrap();
    copy(&then, &now);
    cluster.start_node(node);
    assert_eq!(cluster.ended(node).await, Some(1));
    let log = cluster.log(node);
    let reason = log.lines().last().unwrap_or_default();
    assert!(reason.contains("has lost log entries"), "{reason}");
    // The others go on, and take it in with an empty disk.
    create(&client, "last").await;
    fs::remove_dir_all(&now).unwrap();
    cluster.start_node(node);
    eventually("the node to know everything", async || {
        (topics(&cluster, node).await.len() == 7).then_some(())
    })
    .await;
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

#[tokio::test]
async fn a_disk_whose_log_is_gone_is_one_clear_line() {
    let mut cluster = Cluster::start(1, &[]).await;
    assert_eq!(cluster.terminate(1).await, Some(0));
    let log = cluster.data(1).join("offsets/log");
    fs::remove_dir_all(&log).unwrap();
    fails_with_one_line(&cluster.arguments(1), "damaged");
}
