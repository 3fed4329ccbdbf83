//! Calls and streams to a member that answers as a test wants, over real sockets.

use super::*;
use control_api::handshake::Role;
use control_api::secret::Secret;
use control_api::secured;
use tokio::net::TcpListener;

fn identity(member: u64, secret: Secret) -> Identity {
    Identity::new(secret.into(), member)
}

/// Member 2, which takes one connection, answers so many appends, and then waits for the end of what it is sent or, if it is
/// told to be `rude`, does not.
async fn peer(secret: Secret, appends: usize, rude: bool) -> Peer {
    slow_peer(Duration::ZERO, secret, appends, rude).await
}

/// As [`peer`], and takes its time before it says who it is.
async fn slow_peer(pause: Duration, secret: Secret, appends: usize, rude: bool) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        sleep(pause).await;
        let party = identity(2, secret).party();
        let (stream, client) = secured::accept(stream, &party).await.unwrap();
        assert_eq!((client.role, client.member), (Role::Controller, 1));
        let (reader, writer) = stream.split();
        let reader = ControlFrameReader::new(reader, PEER_FRAME_BYTES_MAX);
        let mut link = ProvenConnection {
            reader,
            writer,
            level: ClusterLevel::default(),
        };
        for _ in 0..appends {
            link.reader.next().await.unwrap();
            link.send(KIND_ANSWER, 0, &WireAppended::Up(None))
                .await
                .unwrap();
        }
        if !rude {
            assert!(matches!(link.reader.next().await, Err(FrameError::Closed)));
        }
    });
    Peer {
        one_by_one: false,
        target: Arc::new(Target {
            member: 2,
            address,
            identity: Arc::new(identity(1, Secret::of(b"ours"))),
            addresses: Arc::default(),
        }),
        group: 0,
        acknowledged: Arc::default(),
        link: None,
        connecting: None,
    }
}

fn append() -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: Vote::new(1, 1),
        prev_log_id: None,
        leader_commit: None,
        entries: Vec::new(),
    }
}

fn option() -> RPCOption {
    RPCOption::new(PEER_TIME_MAX)
}

#[tokio::test]
async fn a_stream_that_openraft_ends_ends_without_an_error() {
    let mut peer = peer(Secret::of(b"ours"), 3, false).await;
    let input = futures::stream::iter([append(), append(), append()]);
    let answers = peer.stream_append(input, option()).await.unwrap();
    let answers: Vec<_> = answers.collect().await;
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Ok(None)))));
}

#[tokio::test]
async fn a_stream_that_the_peer_cuts_ends_with_an_error() {
    let mut peer = peer(Secret::of(b"ours"), 2, true).await;
    let input = futures::stream::iter([append(), append()]).chain(futures::stream::pending());
    let answers = peer.stream_append(input, option()).await.unwrap();
    let answers: Vec<_> = answers.collect().await;
    assert_eq!(answers.len(), 3);
    assert!(answers[2].is_err());
}

#[test]
fn what_was_acknowledged_cannot_be_denied_in_the_same_term() {
    let id = |index| WireLogId { term: 3, index };
    let known = Acknowledged::default();
    let denies = |term, index| {
        let answer = WireAppended::Conflict(Some(id(index)));
        known.check(term, &answer).is_err()
    };
    assert!(!denies(5, 0));
    known.add(5, id(7));
    known.add(5, id(4));
    assert!(denies(5, 7) && denies(5, 0) && !denies(5, 8));
    // A later leader has seen nothing yet, and another one may have truncated meanwhile.
    assert!(!denies(6, 7));
    known.add(6, id(2));
    assert_eq!(known.in_term(6), Some(id(2)));
    assert!(!denies(5, 7));
}

#[tokio::test]
async fn a_node_that_does_not_know_the_secret_is_not_spoken_to() {
    let mut peer = peer(Secret::of(b"theirs"), 0, false).await;
    let answered = peer.append_entries(append(), option()).await;
    assert!(matches!(answered, Err(RPCError::Unreachable(_))));
}

#[tokio::test]
async fn another_member_at_the_address_is_not_spoken_to() {
    let mut peer = peer(Secret::of(b"ours"), 0, false).await;
    Arc::get_mut(&mut peer.target).unwrap().member = 3;
    let answered = peer.append_entries(append(), option()).await;
    assert!(matches!(answered, Err(RPCError::Unreachable(_))));
}

/// A leader gives each heartbeat no more time than there is between two.
#[tokio::test]
async fn heartbeats_that_have_less_time_than_a_handshake_takes_get_through_in_the_end() {
    let time = Duration::from_millis(50);
    let mut peer = slow_peer(time * 4, Secret::of(b"ours"), 2, true).await;
    peer.one_by_one = true;
    let mut tries = 0;
    for _ in 0..2 {
        let mut answered = false;
        while !answered {
            let input = futures::stream::iter([append()]);
            let beating = async {
                let mut answers = peer
                    .stream_append(input, RPCOption::new(time))
                    .await
                    .unwrap();
                answers.next().await
            };
            answered = matches!(timeout(time, beating).await, Ok(Some(Ok(Ok(None)))));
            tries += 1;
            assert!(tries < 100, "each try begins anew");
        }
    }
    assert!(tries > 2, "the first had too little time");
}
