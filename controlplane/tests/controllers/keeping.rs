//! What a node removes and writes by itself, in this process: offsets that expire, snapshots as the log grows.

use crate::support::{self, PATIENCE, eventually, offset};
use control_api::client::ControlClient;
use control_api::handshake::{Party, Role};
use control_api::level::Level;
use control_api::message::{ControlError, GroupSummary, OffsetCommit, Request, Response};
use control_api::secret::Secret;
use controlplane::config::{NodeConfig, Times};
use controlplane::node::RunningNode;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::sleep;

/// A control plane of one node.
struct Alone {
    running: RunningNode,
    client: ControlClient,
    directory: PathBuf,
}

impl Alone {
    async fn start(snapshot_log_bytes: u64, offsets_retention: Duration) -> Self {
        let addresses = support::free_addresses(2);
        let directory = support::directory();
        let running = RunningNode::start(NodeConfig {
            id: 1,
            listen: addresses[0].clone(),
            credentials: Secret::none().into(),
            peers: format!("1={}", addresses[0]).parse().unwrap(),
            join: Vec::new(),
            advertise: addresses[0].clone(),
            metrics: addresses[1].clone(),
            data: directory.join("data"),
            times: Times {
                session: Duration::from_secs(60),
                ..Times::default()
            },
            snapshot_log_bytes,
            offsets_retention,
            log_entries_kept: 10,
        })
        .await
        .unwrap();
        let client = ControlClient::new(
            vec![addresses[0].clone()],
            Party::client(Secret::none(), String::new()),
            Role::Operator,
        );
        // What is committed for a topic that does not exist would not stay.
        let broker = support::Broker::register(&client, 1, 1).await.unwrap();
        broker.beat(&client).await.unwrap();
        support::create(&client, "t").await;
        Alone {
            running,
            client,
            directory,
        }
    }

    async fn groups(&self) -> Vec<String> {
        let request = Request::ListGroups { after: None };
        match self.client.call(request, PATIENCE).await.unwrap() {
            Response::Groups(groups) => groups.into_iter().map(|group| group.name).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn stop(self) {
        self.running.stop().await;
        std::fs::remove_dir_all(self.directory).unwrap();
    }
}

fn committed_at(group: &str, timestamp_ms: i64) -> OffsetCommit {
    OffsetCommit {
        timestamp_ms,
        ..offset(group, "t", 0, 5)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_has_expired_offsets_removed_and_their_coordinator_stays_fenced() {
    let node = Alone::start(1 << 20, Duration::from_secs(60)).await;
    let never = i64::MAX / 2;
    let commits = vec![committed_at("old", 1), committed_at("new", never)];
    support::commit(&node.client, commits).await;
    eventually("the old group to expire", async || {
        (node.groups().await == ["new"]).then_some(())
    })
    .await;
    let late = OffsetCommit {
        coordinator_epoch: 0,
        ..committed_at("old", never)
    };
    let request = Request::CommitOffsets {
        commits: vec![late],
    };
    let answer = node.client.call(request, PATIENCE).await.unwrap();
    let fenced = Response::Done(vec![Err(ControlError::FencedCommit)]);
    assert_eq!(answer, fenced);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_deleted_and_listed_some_at_a_time() {
    let node = Alone::start(1 << 20, Duration::from_secs(60)).await;
    let never = i64::MAX / 2;
    let commits = ["a", "b", "c"].map(|group| committed_at(group, never));
    support::commit(&node.client, commits.to_vec()).await;
    let named = |names: &[&str]| -> Vec<(String, i32)> {
        names.iter().map(|name| (name.to_string(), 1)).collect()
    };
    let groups = named(&["b", "x"]);
    let request = Request::DeleteGroups { groups };
    let answer = node.client.call(request, PATIENCE).await.unwrap();
    let expected = vec![Ok(()), Err(ControlError::UnknownGroup)];
    assert_eq!(answer, Response::Done(expected));
    assert_eq!(node.groups().await, ["a", "c"]);
    let after = Some("a".to_owned());
    let request = Request::ListGroups { after };
    let answer = node.client.call(request, PATIENCE).await.unwrap();
    let rest = GroupSummary {
        name: "c".into(),
        offsets: 1,
    };
    assert_eq!(answer, Response::Groups(vec![rest]));
    node.stop().await;
}

/// A snapshot writes the whole state, so it waits until the log has grown as much.
#[tokio::test(flavor = "multi_thread")]
async fn the_larger_the_state_the_rarer_a_snapshot() {
    let node = Alone::start(1, Duration::from_secs(3_600)).await;
    let offsets = node.running.node.offsets.shared.clone();
    // What every cluster begins with would come in between.
    eventually("a feature level", async || {
        let level = offsets.read(|state| state.feature_level());
        (level > Level::default()).then_some(())
    })
    .await;
    let fill = async |round: i64| {
        let commits = (0..200).map(|group| OffsetCommit {
            metadata: "m".repeat(2_000),
            ..committed_at(&format!("group-{group}"), i64::MAX / 2 + round)
        });
        support::commit(&node.client, commits.collect()).await;
    };
    fill(0).await;
    eventually("a snapshot of all that", async || {
        (offsets.snapshot_bytes() > 400_000 && offsets.unsaved_bytes() == 0).then_some(())
    })
    .await;
    let taken = offsets.snapshot_time_ms();
    support::commit(&node.client, vec![committed_at("group-0", i64::MAX / 2)]).await;
    // Several looks at what is due.
    sleep(Duration::from_secs(1)).await;
    assert!(offsets.unsaved_bytes() > 0);
    assert_eq!(offsets.snapshot_time_ms(), taken);
    for round in 1..3 {
        fill(round).await;
    }
    eventually("the next snapshot", async || {
        (offsets.snapshot_time_ms() > taken).then_some(())
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_fails_is_tried_again_and_ends_nothing() {
    let node = Alone::start(1, Duration::from_secs(3_600)).await;
    let offsets = node.running.node.offsets.shared.clone();
    // No file can be made by the name of a directory, not even by root.
    let in_the_way = node.directory.join("data/offsets/snapshot.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let never = i64::MAX / 2;
    support::commit(&node.client, vec![committed_at("a", never)]).await;
    eventually("a snapshot to fail twice", async || {
        (offsets.snapshot_failures() >= 2).then_some(())
    })
    .await;
    support::commit(&node.client, vec![committed_at("b", never)]).await;
    assert_eq!(node.groups().await, ["a", "b"]);
    std::fs::remove_dir(&in_the_way).unwrap();
    eventually("a snapshot", async || {
        (offsets.snapshot_time_ms() > 0).then_some(())
    })
    .await;
    node.stop().await;
}
