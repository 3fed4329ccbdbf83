//! The client beside controllers that answer, hang, or are gone.

use super::*;
use crate::frame::META_GROUP;
use crate::handshake;
use crate::level::Level;
use tokio::net::TcpListener;

/// Answers every request on every connection with what `answer` gives for the running number of the request.
async fn controller(answer: impl Fn(usize) -> Response + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (answer, count) = (
        std::sync::Arc::new(answer),
        std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)),
    );
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (answer, count) = (answer.clone(), count.clone());
            tokio::spawn(async move {
                handshake::accept(&mut stream, &party()).await.unwrap();
                let mut connection = ControlFrameReader::new(stream, frame::REQUEST_BYTES_MAX);
                while let Ok(frame) = connection.next().await {
                    let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let response = answer(number);
                    let stream = connection.get_mut();
                    frame::write(
                        stream,
                        Level::FIRST,
                        frame::KIND_RESPONSE,
                        frame.group,
                        &response,
                    )
                    .await
                    .unwrap();
                }
            });
        }
    });
    address
}

fn party() -> Party {
    Party::client(crate::secret::Secret::none(), "cluster".to_owned())
}

fn client(addresses: Vec<String>) -> ControlClient {
    ControlClient::new(addresses, party(), Role::Broker)
}

fn heartbeat() -> Response {
    Response::Heartbeat {
        fenced: false,
        may_shut_down: false,
        metadata_index: 5,
        lease_ms: 500,
    }
}

async fn call(client: &ControlClient) -> Result<Response, ClientError> {
    client.call(Request::Status, Duration::from_secs(10)).await
}

#[tokio::test]
async fn a_hint_leads_to_the_leader() {
    let leader = controller(|_| heartbeat()).await;
    let hint = leader.clone();
    let follower = controller(move |_| {
        Response::Error(ControlError::NotLeader {
            leader: Some(hint.clone()),
        })
    })
    .await;
    let client = client(vec![follower]);
    assert_eq!(call(&client).await.unwrap(), heartbeat());
}

#[tokio::test]
async fn a_dead_controller_is_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap().to_string();
    drop(listener);
    let live = controller(|_| heartbeat()).await;
    let client = client(vec![dead, live]);
    assert_eq!(call(&client).await.unwrap(), heartbeat());
}

/// Takes connections, as the kernel of a stopped process does, and says nothing. Counts them.
async fn hung() -> (String, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = taken.clone();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            kept.push(listener.accept().await.unwrap());
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    (address, taken)
}

/// An attempt takes longer than this call may.
const BELOW_AN_ATTEMPT: Duration = Duration::from_millis(1_200);
const _: () = assert!(BELOW_AN_ATTEMPT.as_millis() < ATTEMPT_TIME_MAX.as_millis());

#[tokio::test]
async fn a_hung_controller_that_led_is_passed_over_though_another_still_takes_it_for_the_leader() {
    let (hung, _) = hung().await;
    let hint = hung.clone();
    let live = controller(move |number| match number {
        0 => Response::Error(ControlError::NotLeader {
            leader: Some(hint.clone()),
        }),
        1 => Response::Error(ControlError::Unavailable),
        _ => heartbeat(),
    })
    .await;
    let client = client(vec![hung.clone(), live]);
    client.learn_leader(META_GROUP, Some(hung));
    let answer = client.call(Request::Status, BELOW_AN_ATTEMPT).await;
    assert_eq!(answer.unwrap(), heartbeat());
}

#[tokio::test]
async fn a_hung_controller_is_not_asked_again_while_others_answer() {
    let (hung, taken) = hung().await;
    let live = controller(|_| heartbeat()).await;
    let client = client(vec![hung, live]);
    for _ in 0..10 {
        client.learn_leader(META_GROUP, None);
        let answer = client.call(Request::Status, BELOW_AN_ATTEMPT).await;
        assert_eq!(answer.unwrap(), heartbeat());
    }
    assert!(taken.load(std::sync::atomic::Ordering::Relaxed) <= 1);
}

#[tokio::test]
async fn the_only_controller_is_waited_for_however_slow_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        handshake::accept(&mut stream, &party()).await.unwrap();
        let mut connection = ControlFrameReader::new(stream, frame::REQUEST_BYTES_MAX);
        let frame = connection.next().await.unwrap();
        sleep(SILENCE_MAX * 2).await;
        let stream = connection.get_mut();
        frame::write(
            stream,
            Level::FIRST,
            frame::KIND_RESPONSE,
            frame.group,
            &heartbeat(),
        )
        .await
    });
    let client = client(vec![address]);
    assert_eq!(call(&client).await.unwrap(), heartbeat());
}

#[tokio::test]
async fn a_stream_that_a_hung_controller_takes_is_none() {
    let (hung, _) = hung().await;
    let client = client(vec![hung]);
    let error = client.watch(Position::default()).await.err().unwrap();
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn an_election_is_waited_for() {
    let live = controller(|number| match number {
        0..3 => Response::Error(ControlError::NotLeader { leader: None }),
        3..6 => Response::Error(ControlError::Unavailable),
        _ => heartbeat(),
    })
    .await;
    let client = client(vec![live]);
    assert_eq!(call(&client).await.unwrap(), heartbeat());
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let live = controller(|number| {
        assert_eq!(number, 0, "asked twice");
        Response::Error(ControlError::DuplicateBroker)
    })
    .await;
    let client = client(vec![live]);
    let error = call(&client).await.unwrap_err();
    assert!(matches!(
        error,
        ClientError::Refused(ControlError::DuplicateBroker)
    ));
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let live = controller(|_| Response::Error(ControlError::Unavailable)).await;
    let client = client(vec![live]);
    let result = client
        .call(Request::Status, Duration::from_millis(100))
        .await;
    assert!(matches!(result, Err(ClientError::Unavailable(_))));
}
