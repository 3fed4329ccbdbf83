//! What strangers and faulty members can do to a control plane: nothing that outlives their connection.

use crate::cluster::live_broker;
use crate::operation::fails_with_one_line;
use crate::support::{Cluster, PATIENCE, create, eventually, write_secret};
use control_api::client::ClientError;
use control_api::codec;
use control_api::frame::{self, ControlFrameReader, KIND_REQUEST, META_GROUP};
use control_api::handshake::{self, HandshakeError, Party, Role};
use control_api::level::Level;
use control_api::message::Request;
use control_api::secret::Secret;
use control_api::secured::{self, Stream};
use controlplane::raft::TypeConfig;
use controlplane::raft::wire::{WireAppend, WireLogId, WireVote, WireVoteRequest};
use openraft::alias::VoteOf;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const KIND_APPEND: u8 = frame::KIND_PEER_FIRST + 1;
const KIND_VOTE: u8 = frame::KIND_PEER_FIRST + 3;

/// A connection that passed the handshake as member `member` of the quorum, or as a broker.
async fn member(cluster: &Cluster, address: &str, role: Role, member: u64) -> Stream {
    let party = Party {
        member,
        ..cluster.party()
    };
    let connected = secured::connect(address, &party, role, 0, PATIENCE).await;
    connected.unwrap().0
}

pub(crate) async fn is_closed(mut stream: impl AsyncRead + Unpin) -> bool {
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    closed.is_ok()
}

#[tokio::test]
async fn garbage_on_the_port_harms_nobody() {
    throw_garbage(&Cluster::start(3, &["--session-ms", "60000"]).await).await;
}

/// At the port, from strangers and from those who are let in.
pub(crate) async fn throw_garbage(cluster: &Cluster) {
    let client = cluster.client();
    live_broker(&client, 1).await;
    let leader = cluster.leader().await;
    let address = &cluster.addresses[&leader];
    let mut attacks: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        u32::MAX.to_le_bytes().to_vec(),
        frame::encode_raw(KIND_REQUEST, META_GROUP, &[1; 100]),
        frame::encode_raw(KIND_REQUEST, META_GROUP, &[]),
        frame::encode_raw(200, META_GROUP, &[1, 2, 3]),
        frame::encode_raw(frame::KIND_PEER_FIRST, META_GROUP, &[1; 1000]),
    ];
    for kind in frame::KIND_PEER_FIRST..frame::KIND_PEER_FIRST + 12 {
        for group in [0, 1, 7] {
            for body in [&[][..], &[1], &[1; 17], &[0xff; 300]] {
                attacks.push(frame::encode_raw(kind, group, body));
            }
        }
    }
    // From strangers, and again from those who know the secret.
    for role in [None, Some(Role::Broker), Some(Role::Controller)] {
        for attack in &attacks {
            let mut stream = match role {
                None => Stream::Plain(TcpStream::connect(address).await.unwrap()),
                Some(role) => member(cluster, address, role, leader % 3 + 1).await,
            };
            let _ = stream.write_all(attack).await;
            let _ = stream.shutdown().await;
            assert!(is_closed(stream).await, "{role:?} stays after {attack:?}");
        }
    }
    // A frame cut at any place, and one that never comes.
    let whole = frame::encode(Level::FIRST, KIND_REQUEST, META_GROUP, &Request::Status);
    for end in 0..whole.len() {
        let mut stream = member(cluster, address, Role::Operator, 0).await;
        stream.write_all(&whole[..end]).await.unwrap();
    }
    create(&client, "still-here").await;
    let stream = member(cluster, address, Role::Operator, 0).await;
    let mut stream = ControlFrameReader::new(stream, 1 << 20);
    stream.get_mut().write_all(&whole).await.unwrap();
    assert!(stream.next().await.is_ok());
    assert_eq!(cluster.leader().await, leader, "nobody had to be elected");
}

/// Two frames used to stop a controller for good: its greeting, which it gave to anyone, and a vote of the last term there is.
#[tokio::test]
async fn no_one_moves_the_quorum_to_a_term_far_away() {
    let cluster = Cluster::start(3, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    live_broker(&client, 1).await;
    let leader = cluster.leader().await;
    let sender = controlplane::member::member(leader, 7);
    let far = |term| {
        let vote = WireVote {
            term,
            node: sender,
            committed: true,
        };
        let last = WireLogId {
            term,
            index: 1 << 61,
        };
        let ask = VoteRequest::<TypeConfig>::new(vote.into(), Some(last.into()));
        let append = AppendEntriesRequest::<TypeConfig> {
            vote: VoteOf::<TypeConfig>::from(vote),
            prev_log_id: None,
            leader_commit: None,
            entries: Vec::new(),
        };
        [
            (KIND_VOTE, 0, codec::encode(&WireVoteRequest::from(ask))),
            (KIND_APPEND, 1, codec::encode(&WireAppend::from(append))),
        ]
    };
    for (node, address) in cluster
        .addresses
        .iter()
        .filter(|(node, _)| **node != leader)
    {
        for term in [u64::MAX, 1 << 40, 1 << 30] {
            for (kind, group, body) in far(term) {
                let frame = frame::encode_raw(kind, group, &body);
                // A stranger is not heard, and a member that has gone mad is not believed.
                let mut stranger = TcpStream::connect(address).await.unwrap();
                let _ = stranger.write_all(&frame).await;
                assert!(is_closed(stranger).await, "node {node}, term {term}");
                let mut mad = member(&cluster, address, Role::Controller, sender).await;
                mad.write_all(&frame).await.unwrap();
                assert!(is_closed(mad).await, "node {node}, term {term}");
            }
        }
    }
    create(&client, "still-here").await;
    let status = cluster.status(cluster.leader().await).await.unwrap();
    assert!(
        status.groups.iter().all(|group| group.term < 1 << 20),
        "{:?}",
        status.groups
    );
}

#[tokio::test]
async fn who_does_not_know_the_secret_or_is_of_another_cluster_is_refused() {
    let cluster = Cluster::start(1, &[]).await;
    let id = cluster.status(1).await.unwrap().image.cluster_id;
    let stranger = cluster.client_as(Party::client(Secret::none(), String::new()));
    let ask = |client: control_api::client::ControlClient| async move {
        client.call(Request::MetadataIndex, PATIENCE / 30).await
    };
    let refused = ask(stranger).await;
    assert!(
        matches!(&refused, Err(ClientError::Unavailable(why)) if why.contains("secret")),
        "{refused:?}"
    );
    let other = Party {
        cluster_id: "another".into(),
        ..cluster.party()
    };
    let refused = ask(cluster.client_as(other)).await;
    assert!(
        matches!(&refused, Err(ClientError::Unavailable(why)) if why.contains(&id)),
        "{refused:?}"
    );
    let same = Party {
        cluster_id: id,
        ..cluster.party()
    };
    assert!(ask(cluster.client_as(same)).await.is_ok());

    // One that makes up a proof is found out, and the log says so.
    let mut stream = TcpStream::connect(&cluster.addresses[&1]).await.unwrap();
    let party = Party::client(Secret::none(), String::new());
    let offered = handshake::offer(&mut stream, &party, Role::Broker, 0).await;
    assert!(matches!(offered, Err(HandshakeError::Secret)));
    let _ = stream.write_all(&[7; 32]).await;
    assert!(is_closed(stream).await);
    eventually("the refusal to be logged", async || {
        cluster
            .log(1)
            .contains("refused a connection")
            .then_some(())
    })
    .await;
}

/// The most memory that the process has had, in MiB.
pub(crate) fn peak_mib(cluster: &Cluster, node: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.pid(node))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() >> 10
}

/// A hundred strangers used to take 800 MiB, and any of them could keep its place for as long as it liked.
#[tokio::test]
async fn strangers_take_no_memory_and_keep_no_place() {
    let cluster = Cluster::start(1, &[]).await;
    let address = &cluster.addresses[&1];
    let before = peak_mib(&cluster, 1);
    let mut long = frame::encode_raw(KIND_REQUEST, META_GROUP, &[]);
    long[..4].copy_from_slice(&(8u32 << 20).to_le_bytes());
    long.resize(1 << 20, 1);
    let mut strangers = Vec::new();
    for number in 0..400 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number < 100 {
            // What the kernel does not take, nobody reads.
            let written = stream.write_all(&long);
            let _ = tokio::time::timeout(PATIENCE / 1000, written).await;
        }
        strangers.push(stream);
    }
    // They hold every place that strangers may have, and yet who knows the secret gets in.
    let status = cluster.status(1).await;
    assert!(status.is_some());
    let grown = peak_mib(&cluster, 1) - before;
    assert!(grown < 32, "{grown} MiB for strangers");
    for stranger in strangers {
        assert!(is_closed(stranger).await);
    }
}

/// Whoever is let in shares a bounded memory with the others.
#[tokio::test]
async fn members_share_a_bounded_memory() {
    let cluster = Cluster::start(1, &[]).await;
    let address = &cluster.addresses[&1];
    let before = peak_mib(&cluster, 1);
    let mut almost = frame::encode_raw(KIND_REQUEST, META_GROUP, &vec![1; 7 << 20]);
    almost.pop();
    let mut members = Vec::new();
    for _ in 0..40 {
        let mut stream = member(&cluster, address, Role::Broker, 0).await;
        let written = stream.write_all(&almost);
        let _ = tokio::time::timeout(PATIENCE / 300, written).await;
        members.push(stream);
    }
    assert!(
        cluster.status(1).await.is_some(),
        "small requests need no share"
    );
    let grown = peak_mib(&cluster, 1) - before;
    assert!(grown < 200, "{grown} MiB for forty connections");
}

#[tokio::test]
async fn without_a_secret_only_this_machine_is_served() {
    let cluster = Cluster::start(1, &[]).await;
    let mut arguments = cluster.arguments(1);
    arguments
        .retain(|one| one != "--secret-file" && *one != cluster.secret().display().to_string());
    let elsewhere = |flag: &str, value: &str| {
        let mut arguments = arguments.clone();
        let at = arguments.iter().position(|one| one == flag).unwrap();
        arguments[at + 1] = value.to_owned();
        arguments
    };
    let reason = "without a cluster secret only loopback addresses are served and joined";
    fails_with_one_line(&elsewhere("--listen", "0.0.0.0:0"), reason);
    fails_with_one_line(&elsewhere("--peers", "1=192.0.2.1:9093"), reason);
    let status = ["status", "--controllers", "192.0.2.1:9093"].map(str::to_owned);
    fails_with_one_line(&status, reason);
    // Nor is a secret taken that others can read.
    let open = cluster.directory.join("open");
    write_secret(&open);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&open, mode).unwrap();
    let secret = ["--secret-file".to_owned(), open.display().to_string()];
    fails_with_one_line(&[arguments.clone(), secret.to_vec()].concat(), "chmod 600");
}
