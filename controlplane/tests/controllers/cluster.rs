//! Three real controllers: what they promise survives the death of any one of them.

use crate::support::{Broker, Cluster, PATIENCE, commit, create, eventually, offset, topic};
use control_api::client::{ClientError, ControlClient};
use control_api::ids::Position;
use control_api::image::MetadataImage;
use control_api::message::{ControlError, MetadataUpdate, OffsetSelection, Request, Response};
use std::time::Duration;
use tokio::time::sleep;

/// Registers a broker that topics can be placed on.
pub(crate) async fn live_broker(client: &ControlClient, id: i32) -> Broker {
    let broker = Broker::register(client, id, 1).await.unwrap();
    assert!(
        !broker.beat(client).await.unwrap(),
        "it has caught up, so it is live"
    );
    broker
}

async fn committed(client: &ControlClient, group: &str) -> Vec<(u32, i64)> {
    let request = Request::FetchOffsets {
        group: group.into(),
        which: OffsetSelection::All,
    };
    match client.call(request, PATIENCE).await.unwrap() {
        Response::Offsets(offsets) => offsets
            .iter()
            .map(|one| (one.partition, one.offset))
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// A connection costs its two ends more than a request, and much more over TLS. Each heartbeat of a leader's used to make one.
pub(crate) async fn keeps_its_connections(cluster: &Cluster) {
    let client = cluster.client();
    live_broker(&client, 1).await;
    create(&client, "t").await;
    commit(&client, vec![offset("g", "t", 0, 0)]).await;
    let made = async || {
        let mut sum = 0;
        for node in cluster.addresses.keys() {
            let name = "millrace_controller_handshakes_total{result=\"accepted\"}";
            sum += cluster.metric(*node, name).await.unwrap();
        }
        sum
    };
    let before = made().await;
    for number in 0..100 {
        commit(&client, vec![offset("g", "t", 0, number)]).await;
    }
    sleep(Duration::from_secs(1)).await;
    let made = made().await - before;
    assert!(made < 10, "{made} connections for 100 commits and a second");
}

#[tokio::test]
async fn connections_are_kept_and_not_made_for_each_commit_or_heartbeat() {
    keeps_its_connections(&Cluster::start(3, &["--session-ms", "60000"]).await).await;
}

#[tokio::test]
async fn topics_and_offsets_survive_the_leaders_death_and_a_new_one_goes_on() {
    let mut cluster = Cluster::start(3, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    live_broker(&client, 1).await;
    create(&client, "before").await;
    for round in 0..3 {
        commit(
            &client,
            vec![
                offset("g", "before", 0, round),
                offset("g", "before", 1, 10 + round),
            ],
        )
        .await;
        for group in ["meta", "offsets"] {
            let leader = cluster.leader_of(group).await;
            cluster.kill(leader);
            create(&client, &format!("after-{group}-{round}")).await;
            assert_eq!(committed(&client, "g").await, [(0, round), (1, 10 + round)]);
            cluster.start_node(leader);
            cluster.caught_up(leader).await;
        }
    }
    let leader = cluster.leader().await;
    let expected = cluster.status(leader).await.unwrap().image;
    assert_eq!(expected.topics.len(), 7);
    for node in 1..=3 {
        cluster.caught_up(node).await;
        assert_eq!(
            cluster.status(node).await.unwrap().image,
            expected,
            "node {node}"
        );
    }
}

#[tokio::test]
async fn a_follower_behind_a_purge_and_an_empty_node_catch_up_by_snapshot() {
    let options = [
        "--snapshot-log-bytes",
        "20000",
        "--log-entries-kept",
        "5",
        "--session-ms",
        "60000",
    ];
    let mut cluster = Cluster::start(3, &options).await;
    let client = cluster.client();
    live_broker(&client, 1).await;
    create(&client, "t").await;
    let leader = cluster.leader_of("offsets").await;
    let lagging = (1..=3).find(|node| *node != leader).unwrap();
    cluster.caught_up(lagging).await;
    let stored = cluster.status(lagging).await.unwrap().groups[1].last_log_index;
    cluster.kill(lagging);
    let mut next = 0;
    let mut fill = async |cluster: &Cluster| {
        let goal = cluster
            .metric(leader, "millrace_raft_last_log_index{group=\"offsets\"}")
            .await;
        eventually("a purge", async || {
            let commits = (0..50).map(|group| offset(&format!("group-{group}"), "t", 0, next));
            commit(&client, commits.collect()).await;
            next += 1;
            let purged = cluster
                .metric(leader, "millrace_raft_purged_index{group=\"offsets\"}")
                .await;
            (purged > goal).then_some(())
        })
        .await;
    };
    fill(&cluster).await;
    let purged = cluster
        .metric(leader, "millrace_raft_purged_index{group=\"offsets\"}")
        .await;
    assert!(purged > Some(stored), "the follower's next entry is gone");

    cluster.start_node(lagging);
    cluster.caught_up(lagging).await;
    fill(&cluster).await;
    cluster.caught_up(lagging).await;

    cluster.kill(lagging);
    std::fs::remove_dir_all(cluster.data(lagging)).unwrap();
    cluster.start_node(lagging);
    cluster.caught_up(lagging).await;
    fill(&cluster).await;
    cluster.caught_up(lagging).await;

    // The log grows once more when the new disk is given its vote.
    cluster.takes_nobody_in().await;
    cluster.caught_up(lagging).await;
    let expected = cluster.status(leader).await.unwrap();
    let found = cluster.status(lagging).await.unwrap();
    assert_eq!(found.offset_groups, expected.offset_groups);
    assert_eq!(found.offset_groups, 50);
    assert_eq!(
        found.groups[1].digests.last(),
        expected.groups[1].digests.last()
    );
    assert_eq!(found.image, expected.image);
    eventually("no follower to lag", async || {
        let lag = cluster.status(leader).await?.groups[1].follower_lag.clone();
        lag.iter().all(|(_, entries)| *entries == 0).then_some(())
    })
    .await;
    // A restart from snapshot and log gives the same again.
    cluster.kill(lagging);
    cluster.start_node(lagging);
    cluster.caught_up(lagging).await;
    let found = cluster.status(lagging).await.unwrap();
    assert_eq!(
        found.groups[1].digests.last(),
        expected.groups[1].digests.last()
    );
}

#[tokio::test]
async fn without_a_majority_the_answer_is_unavailable_and_comes_in_time() {
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    for node in (1..=3).filter(|node| *node != leader) {
        cluster.kill(node);
    }
    let client = cluster.client();
    let address = cluster.addresses[&leader].clone();
    let request = || Request::CreateTopics {
        topics: vec![topic("t")],
        validate_only: false,
    };
    // As a leader it cannot commit; later it is a leader no more.
    for _ in 0..3 {
        let answer = client.call_one(&address, request(), PATIENCE).await;
        assert!(
            matches!(
                answer,
                Err(ClientError::Refused(
                    ControlError::Unavailable | ControlError::NotLeader { .. }
                ))
            ),
            "{answer:?}"
        );
    }
    let answer = client.call(request(), Duration::from_secs(2)).await;
    assert!(
        matches!(answer, Err(ClientError::Unavailable(_))),
        "{answer:?}"
    );
    let status = cluster
        .status(leader)
        .await
        .expect("what needs no majority goes on");
    assert_eq!(status.node, leader);
}

/// It used to go on as the leader of its last term, and to say that it was ready.
#[tokio::test]
async fn a_leader_that_is_restarted_alone_claims_nothing() {
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    for node in 1..=3 {
        cluster.kill(node);
    }
    cluster.start_node(leader);
    for _ in 0..20 {
        let page = eventually("an answer", async || cluster.page(leader, "/readyz").await).await;
        assert!(page.starts_with("HTTP/1.1 503"), "{page}");
        for group in ["meta", "offsets"] {
            let name = format!("millrace_raft_leader{{group=\"{group}\"}}");
            assert_eq!(cluster.metric(leader, &name).await, Some(0), "{group}");
        }
    }
    // With the others it is, and alone again it is not.
    let other = leader % 3 + 1;
    cluster.start_node(other);
    readiness(&cluster, leader, "HTTP/1.1 200").await;
    cluster.kill(other);
    readiness(&cluster, leader, "HTTP/1.1 503").await;
}

async fn readiness(cluster: &Cluster, node: u64, wanted: &str) {
    eventually("readiness to follow the quorum", async || {
        let page = cluster.page(node, "/readyz").await?;
        page.starts_with(wanted).then_some(())
    })
    .await;
}

/// The survivors elect a leader within an election's time; a call that waited for the hung one much longer would take its deadline
/// with it, and brokers whose heartbeats did would be fenced.
#[tokio::test]
async fn a_leader_that_hangs_delays_a_call_by_an_election_and_has_no_broker_fenced() {
    let cluster = Cluster::start(3, &["--session-ms", "1500"]).await;
    let client = cluster.client();
    let beats = cluster.client();
    let broker = live_broker(&beats, 1).await;
    let beating = async {
        loop {
            // As often, and as patiently, as a broker.
            let request = Request::Heartbeat(broker.heartbeat());
            let _ = beats.call(request, Duration::from_millis(600)).await;
            sleep(control_api::message::BROKER_HEARTBEAT).await;
        }
    };
    let rounds = async {
        for round in 0..3 {
            let hung = cluster.leader().await;
            for node in 1..=3 {
                cluster.caught_up(node).await;
            }
            cluster.signal(hung, "STOP");
            create(&client, &format!("{round}-while-one-hangs")).await;
            sleep(Duration::from_secs(3)).await;
            cluster.signal(hung, "CONT");
            cluster.caught_up(hung).await;
        }
    };
    tokio::select! {
        () = rounds => {}
        () = beating => {}
    }
    for node in 1..=3 {
        assert!(!cluster.log(node).contains("broker fenced"), "node {node}");
    }
}

#[tokio::test]
async fn a_silent_broker_is_fenced_and_everybody_hears_of_it() {
    let cluster = Cluster::start(3, &["--session-ms", "600"]).await;
    let client = cluster.client();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push((
            client.watch(Position::default()).await.unwrap(),
            MetadataImage::default(),
        ));
    }
    let broker = live_broker(&client, 1).await;
    create(&client, "t").await;
    let other = Broker::register(&client, 1, 2).await;
    assert!(matches!(
        other,
        Err(ClientError::Refused(ControlError::DuplicateBroker))
    ));
    for (stream, image) in &mut streams {
        follow(stream, image, |image| {
            let lost = |topic: &control_api::image::TopicRecord| {
                topic.partitions.iter().all(|one| one.leader.is_none())
            };
            image.topic("t").is_some_and(lost)
        })
        .await;
        assert!(image.brokers[&broker.id].fenced);
    }
    let second = Broker::register(&client, 1, 2).await.unwrap();
    assert!(second.epoch > broker.epoch);
    let stale = broker.beat(&client).await;
    assert!(matches!(
        stale,
        Err(ClientError::Refused(ControlError::StaleBrokerEpoch))
    ));
    second.beat(&client).await.unwrap();
    for (stream, image) in &mut streams {
        follow(stream, image, |image| {
            let led = |topic: &control_api::image::TopicRecord| {
                topic
                    .partitions
                    .iter()
                    .all(|one| one.leader == Some(second.id))
            };
            image.topic("t").is_some_and(led)
        })
        .await;
    }
    // A later start, from an index in between, comes to the same image.
    let (mut stream, mut image) = (
        client.watch(Position::default()).await.unwrap(),
        MetadataImage::default(),
    );
    let index = streams[0].1.index;
    follow(&mut stream, &mut image, |image| image.index >= index).await;
    let mut resumed = client.watch(image.position()).await.unwrap();
    create(&client, "later").await;
    follow(&mut resumed, &mut image, |image| {
        image.topic("later").is_some()
    })
    .await;
}

/// Another quorum's log, or one from before a loss: changes on top of it would come to what nobody has.
#[tokio::test]
async fn a_place_that_the_log_never_had_is_answered_with_the_whole_image() {
    let cluster = Cluster::start(1, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    live_broker(&client, 1).await;
    create(&client, "topic").await;
    let at = |term, index| Position { term, index };
    for foreign in [at(77, 2), at(0, 1 << 40), at(1 << 40, 1 << 40)] {
        let mut stream = client.watch(foreign).await.unwrap();
        let image = loop {
            match stream.next().await.unwrap() {
                MetadataUpdate::KeepAlive { at, .. } => assert!(at.index < foreign.index),
                MetadataUpdate::Replacement(image) => break image,
                other => panic!("{foreign:?}: {other:?}"),
            }
        };
        assert!(image.topic("topic").is_some());
    }
}

async fn follow(
    stream: &mut control_api::metadata_stream::MetadataStream,
    image: &mut MetadataImage,
    done: impl Fn(&MetadataImage) -> bool,
) {
    let reach = async {
        while !done(image) {
            match stream.next().await.unwrap() {
                MetadataUpdate::Snapshot(snapshot) => *image = snapshot,
                MetadataUpdate::Replacement(_) => panic!("it has always followed this log"),
                MetadataUpdate::Delta { at, events } => {
                    assert!(at >= image.position(), "updates come in order");
                    image.apply(at, &events);
                }
                MetadataUpdate::KeepAlive { at, digest } => {
                    assert!(at >= image.position(), "updates come in order");
                    image.apply(at, &[]);
                    assert_eq!(digest, image.digest());
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, reach)
        .await
        .expect("the stream tells of it");
}

#[tokio::test]
async fn offsets_of_a_deleted_topic_are_forgotten() {
    let cluster = Cluster::start(1, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    live_broker(&client, 1).await;
    create(&client, "gone").await;
    create(&client, "stays").await;
    commit(
        &client,
        vec![offset("g", "gone", 0, 1), offset("g", "stays", 2, 2)],
    )
    .await;
    let topics = vec![topic("gone").id];
    client
        .call(Request::DeleteTopics { topics }, PATIENCE)
        .await
        .unwrap();
    eventually("the offsets to go", async || {
        (committed(&client, "g").await == [(2, 2)]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn status_and_health_tell_how_it_stands() {
    let cluster = Cluster::start(3, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    live_broker(&client, 7).await;
    create(&client, "orders").await;
    let leader = cluster.leader().await;
    for path in ["/healthz", "/readyz"] {
        // The other Raft group may still be electing its leader.
        eventually(path, async || {
            let page = cluster.page(leader, path).await?;
            page.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
    }
    let metrics = [
        ("millrace_raft_leader{group=\"meta\"}", 1),
        ("millrace_controller_live_brokers", 1),
        ("millrace_controller_broker_sessions", 1),
        ("millrace_controller_partitions", 3),
    ];
    for (name, value) in metrics {
        assert_eq!(cluster.metric(leader, name).await, Some(value), "{name}");
    }
}

/// No pause lay between the tries of a leader that could not connect at all: beside a dead controller it used two cores.
#[tokio::test]
async fn a_controller_that_is_gone_is_tried_again_after_pauses() {
    const TIME: Duration = Duration::from_secs(2);
    const TRIES_MAX: usize = 500;
    let mut cluster = Cluster::start(3, &[]).await;
    let gone = cluster.leader().await % 3 + 1;
    cluster.kill(gone);
    let listener = tokio::net::TcpListener::bind(&cluster.addresses[&gone]).await;
    let listener = listener.unwrap();
    let mut tries = 0;
    let counting = async {
        loop {
            drop(listener.accept().await);
            tries += 1;
        }
    };
    let _ = tokio::time::timeout(TIME, counting).await;
    assert!((1..TRIES_MAX).contains(&tries), "{tries} tries");
}
