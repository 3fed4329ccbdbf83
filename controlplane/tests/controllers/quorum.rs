//! The members of the control plane change while it serves: more of them, fewer, others, elsewhere.

use crate::cluster::live_broker;
use crate::support::{Cluster, create, eventually};
use control_api::client::ControlClient;
use control_api::message::RaftGroupStatus;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinHandle;

const OPTIONS: [&str; 2] = ["--session-ms", "60000"];

/// The nodes of a group with this role, as an operator sees them.
async fn nodes(cluster: &Cluster, asked: u64, group: &str, roles: &[&str]) -> BTreeSet<u64> {
    let answer = cluster.operate("quorum status --json", asked).await;
    let rows: Value = serde_json::from_str(&answer.unwrap()).unwrap();
    let rows = rows.as_array().unwrap().iter();
    let wanted = rows.filter(|row| row["group"] == group);
    let wanted = wanted.filter(|row| roles.iter().any(|role| row["role"] == *role));
    wanted
        .map(|row| row["controller"].as_u64().unwrap())
        .collect()
}

async fn assert_voters(cluster: &Cluster, asked: u64, expected: &[u64]) {
    for group in ["meta", "offsets"] {
        let voters = nodes(cluster, asked, group, &["leader", "voter"]).await;
        assert_eq!(
            voters,
            BTreeSet::from_iter(expected.iter().copied()),
            "{group}"
        );
        let learners = nodes(cluster, asked, group, &["learner"]).await;
        assert!(learners.is_empty(), "{group}: {learners:?}");
    }
}

/// Creates one topic after the other until it is told to stop; answers how many.
struct Stream {
    stop: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Stream {
    fn start(client: ControlClient, name: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut created = 0;
            while !stopped.load(Ordering::Relaxed) {
                create(&client, &format!("{created:05}{name}")).await;
                created += 1;
            }
            created
        });
        Stream { stop, task }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn assert_topics(cluster: &Cluster, node: u64, count: usize) {
    eventually("every topic that was acknowledged", async || {
        let topics = cluster.status(node).await?.image.topics.len();
        assert!(topics <= count);
        (topics == count).then_some(())
    })
    .await;
}

async fn ends_as_taken_out(cluster: &mut Cluster, node: u64) {
    assert_eq!(cluster.ended(node).await, Some(1));
    let log = cluster.log(node);
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("was taken out of the quorum"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_controller_becomes_three_then_five_then_another_three_while_topics_are_created() {
    let mut cluster = Cluster::start(1, &OPTIONS).await;
    live_broker(&cluster.client(), 1).await;
    for node in 2..=5 {
        cluster.start_joining(node).await;
    }
    let stream = Stream::start(cluster.client(), "grows");
    for node in 2..=5 {
        let member = format!("quorum add {node}={}", cluster.addresses[&node]);
        cluster.operate(&member, 1).await.unwrap();
        let expected: Vec<u64> = (1..=node).collect();
        assert_voters(&cluster, node, &expected).await;
        // To say it again changes nothing.
        cluster.operate(&member, 1).await.unwrap();
    }
    assert_voters(&cluster, 3, &[1, 2, 3, 4, 5]).await;
    let one_more = cluster.operate("quorum remove 9", 3).await.unwrap_err();
    assert!(one_more.contains("none of the members"), "{one_more}");
    // The one that the cluster was formed by, which may lead.
    for node in [1, 2] {
        let command = format!("quorum remove {node}");
        cluster.operate(&command, 5).await.unwrap();
        ends_as_taken_out(&mut cluster, node).await;
    }
    assert_voters(&cluster, 4, &[3, 4, 5]).await;
    // Three of three that remain; two are enough.
    cluster.kill(3);
    let other = Stream::start(cluster.client(), "after");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let created = stream.end().await + other.end().await;
    for node in [4, 5] {
        assert_topics(&cluster, node, created).await;
    }
    // Its disk has had a vote once and has none now.
    cluster.start_node(1);
    ends_as_taken_out(&mut cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_controller_is_replaced_by_a_new_machine_and_a_majority_is_never_given_away() {
    let mut cluster = Cluster::start(3, &OPTIONS).await;
    live_broker(&cluster.client(), 1).await;
    create(&cluster.client(), "before").await;
    cluster.kill(3);
    let leader = cluster.leader().await;
    let follower = 3 - leader;
    // With one of three dead, another one's place must not be given away, though the dead one answered a moment ago.
    let command = format!("quorum remove {follower}");
    let refused = cluster.operate(&command, leader).await.unwrap_err();
    assert!(refused.contains("no majority"), "{refused}");
    assert_voters(&cluster, leader, &[1, 2, 3]).await;
    let nobody = cluster.operate("quorum add 4=127.0.0.1:1", leader).await;
    assert!(nobody.unwrap_err().contains("controller 4 at 127.0.0.1:1"));
    cluster.start_joining(4).await;
    let wrong = format!("quorum add 5={}", cluster.addresses[&4]);
    let wrong = cluster.operate(&wrong, leader).await.unwrap_err();
    assert!(wrong.contains("is controller 4, not 5"), "{wrong}");
    assert_voters(&cluster, leader, &[1, 2, 3]).await;
    cluster.operate("quorum remove 3", leader).await.unwrap();
    let new = format!("quorum add 4={}", cluster.addresses[&4]);
    cluster.operate(&new, follower).await.unwrap();
    assert_voters(&cluster, 4, &[1, 2, 4]).await;
    // The new one's vote is needed now.
    cluster.kill(leader);
    create(&cluster.client(), "with-the-new-one").await;
    assert_topics(&cluster, 4, 2).await;
    // The old machine comes back with its disk, and finds that it has no part in this any more.
    cluster.start_node(3);
    ends_as_taken_out(&mut cluster, 3).await;
    // With an empty disk it can join.
    std::fs::remove_dir_all(cluster.data(3)).unwrap();
    cluster.start_node(leader);
    cluster.start_joining(3).await;
    let again = format!("quorum add 3={}", cluster.addresses[&3]);
    cluster.operate(&again, 4).await.unwrap();
    assert_voters(&cluster, 3, &[1, 2, 3, 4]).await;
}

#[tokio::test]
async fn the_only_controller_is_not_taken_out() {
    let cluster = Cluster::start(1, &OPTIONS).await;
    let refused = cluster.operate("quorum remove 1", 1).await.unwrap_err();
    assert!(refused.contains("the only controller"), "{refused}");
    assert_eq!(refused.lines().count(), 1);
    assert_voters(&cluster, 1, &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_are_found_at_other_addresses_than_before() {
    let mut cluster = Cluster::start(3, &OPTIONS).await;
    live_broker(&cluster.client(), 1).await;
    // One after the other, a leader among them; nobody but itself is told.
    for node in 1..=3 {
        assert_eq!(cluster.terminate(node).await, Some(0));
        cluster.move_nodes(&[node], false);
        cluster.start_node(node);
        let address = &cluster.addresses[&node];
        for asked in 1..=3 {
            eventually("the new address to be known", async || {
                let groups = cluster.status(asked).await?.groups;
                let known = groups.iter().all(|group| {
                    group
                        .voters
                        .iter()
                        .any(|(id, known)| *id == node && known == address)
                });
                known.then_some(())
            })
            .await;
        }
        // Its vote is needed, whoever leads.
        let other = node % 3 + 1;
        cluster.kill(other);
        create(&cluster.client(), &format!("{node}moved")).await;
        cluster.start_node(other);
        cluster.caught_up(other).await;
    }
    // And all at once.
    for node in 1..=3 {
        cluster.kill(node);
    }
    cluster.move_nodes(&[1, 2, 3], true);
    (1..=3).for_each(|node| cluster.start_node(node));
    create(&cluster.client(), "all-moved").await;
    for node in 1..=3 {
        assert_topics(&cluster, node, 4).await;
    }
    assert_voters(&cluster, 2, &[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leadership_is_transferred_to_whom_the_operator_says() {
    let cluster = Cluster::start(3, &OPTIONS).await;
    live_broker(&cluster.client(), 1).await;
    let stream = Stream::start(cluster.client(), "transfer");
    for node in [2, 3, 1, 1] {
        let command = format!("quorum transfer {node}");
        cluster.operate(&command, 1).await.unwrap();
        for group in ["meta", "offsets"] {
            let leaders = nodes(&cluster, 2, group, &["leader"]).await;
            assert_eq!(leaders, BTreeSet::from([node]), "{group}");
        }
    }
    let created = stream.end().await;
    assert!(created > 0);
    let unknown = cluster.operate("quorum transfer 7", 1).await.unwrap_err();
    assert!(unknown.contains("none of the members"), "{unknown}");
    cluster.signal(2, "STOP");
    let hung = eventually("the hung one to be missed", async || {
        let refused = cluster
            .operate("quorum transfer 2 --wait-seconds 5", 1)
            .await;
        refused.err()
    })
    .await;
    assert!(
        hung.contains("does not answer") || hung.contains("not done in time"),
        "{hung}"
    );
    cluster.signal(2, "CONT");
    create(&cluster.client(), "goes-on").await;
    for node in 1..=3 {
        assert_topics(&cluster, node, created + 1).await;
    }
}

/// It was told to form a cluster alone, long ago, and would have nobody to ask: it formed a second one.
#[tokio::test]
async fn a_controller_that_began_a_cluster_alone_and_lost_its_disk_begins_no_second_one() {
    let mut cluster = Cluster::start(1, &OPTIONS).await;
    live_broker(&cluster.client(), 1).await;
    let id = cluster.status(1).await.unwrap().image.cluster_id;
    for node in 2..=3 {
        cluster.start_joining(node).await;
        let member = format!("quorum add {node}={}", cluster.addresses[&node]);
        cluster.operate(&member, 1).await.unwrap();
    }
    create(&cluster.client(), "before").await;
    cluster.wipe(1);
    cluster.start_node(1);
    eventually("the empty disk to be taken in", async || {
        let status = cluster.status(1).await?;
        let voters = |group: &RaftGroupStatus| group.voters.len() == 3 && group.last_log_index > 0;
        (status.image.cluster_id == id && status.groups.iter().all(voters)).then_some(())
    })
    .await;
    cluster.takes_nobody_in().await;
    let log = cluster.log(1);
    assert!(log.contains("will take its empty disk in"), "{log}");
    // Its vote is needed now.
    cluster.kill(2);
    create(&cluster.client(), "after").await;
    assert_topics(&cluster, 1, 2).await;
    assert_topics(&cluster, 3, 2).await;
}

/// Whoever asks for the leader is sent to where it was, it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_comes_back_elsewhere_says_so_to_itself() {
    let mut cluster = Cluster::start(1, &["--session-ms", "60000"]).await;
    cluster.start_joining(2).await;
    let add = format!("quorum add 2={}", cluster.addresses[&2]);
    cluster.operate(&add, 1).await.unwrap();
    cluster.operate("quorum remove 1", 1).await.unwrap();
    assert_eq!(cluster.ended(1).await, Some(1));
    cluster.kill(2);
    cluster.move_nodes(&[2], false);
    cluster.start_node(2);
    let address = cluster.addresses[&2].clone();
    eventually("both groups to know where it is", async || {
        let members = cluster.operate("quorum status --json", 2).await.ok()?;
        (members.matches(&address).count() == 2).then_some(())
    })
    .await;
}
