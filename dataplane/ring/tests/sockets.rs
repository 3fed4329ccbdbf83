//! Sockets of a ring against plain blocking clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ring::memory::{Buffer, Slice};
use ring::{Listener, Ring, RingConfig, Socket};

fn small_ring() -> Ring {
    Ring::new(RingConfig {
        receive_buffer_bytes: 4096,
        receive_buffers: 8,
        pool_buffer_bytes: 8192,
        pool_buffers: 2,
        ..RingConfig::default()
    })
    .unwrap()
}

fn listen(ring: &Ring) -> (Listener, SocketAddr) {
    let listener = ring.listen("127.0.0.1:0".parse().unwrap(), 64).unwrap();
    let address = listener.local_address().unwrap();
    (listener, address)
}

/// A connection of which the client's end is a plain blocking stream.
fn connect(ring: &Ring) -> (Socket, TcpStream) {
    let (listener, address) = listen(ring);
    let client = TcpStream::connect(address).unwrap();
    let (socket, peer) = ring.block_on(ring.accept(&listener)).unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    (socket, client)
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes)
        .map(|place| (place.wrapping_mul(31) / 7 + seed) as u8)
        .collect()
}

/// Polls a future once, as `select` would, and leaves it pending.
fn poll_once(future: impl Future) {
    assert!(
        pin!(future)
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
}

async fn sleep_ms(ring: &Ring, ms: u64) {
    ring.sleep_until(ring.now() + ms * 1_000_000).await;
}

/// Lets other tasks and the kernel go on until something holds.
async fn until(ring: &Ring, holds: impl Fn() -> bool) {
    while !holds() {
        sleep_ms(ring, 1).await;
    }
}

async fn receive_exactly(ring: &Ring, socket: &Socket, bytes: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < bytes {
        let slice = ring.receive(socket).await.unwrap();
        assert!(
            !slice.is_empty(),
            "the stream ended after {} of {bytes} bytes",
            received.len()
        );
        received.extend_from_slice(&slice);
    }
    received
}

#[test]
fn frames_are_echoed_in_order_on_many_connections() {
    let ring = small_ring();
    let (listener, address) = listen(&ring);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    for round in 0..50 {
                        let frame = pattern((round * 977) % 20_000 + 1, client + round);
                        stream.write_all(&frame).unwrap();
                        let mut echo = vec![0; frame.len()];
                        stream.read_exact(&mut echo).unwrap();
                        assert!(echo == frame, "client {client} round {round}");
                    }
                })
            })
            .collect();
        ring.block_on(async {
            let served = Rc::new(Cell::new(0));
            for _ in 0..8 {
                let (socket, _) = ring.accept(&listener).await.unwrap();
                let (task_ring, served) = (ring.clone(), Rc::clone(&served));
                ring.spawn(async move {
                    loop {
                        let slice = task_ring.receive(&socket).await.unwrap();
                        if slice.is_empty() {
                            break;
                        }
                        let mut message = task_ring.message(Vec::new());
                        message.push_shared(slice);
                        task_ring.send(&socket, message).await.0.unwrap();
                    }
                    served.set(served.get() + 1);
                });
            }
            until(&ring, || served.get() == 8).await;
        });
        for client in clients {
            client.join().unwrap();
        }
    });
    let counters = ring.counters();
    assert!(counters.enters > 0 && counters.completions > 0 && counters.submissions > 0);
    assert!(counters.parked_nanos <= counters.total_nanos);
}

#[test]
fn a_gathered_message_of_thousands_of_pieces_reaches_a_slow_reader_whole() {
    let ring = small_ring();
    let (socket, mut client) = connect(&ring);
    let inline = pattern(4000, 1);
    let mut shared = Buffer::allocate(8 << 20).unwrap();
    shared.extend_from_slice(&pattern(8 << 20, 2));
    let mut message = ring.message(inline.clone());
    let mut expected = Vec::new();
    for (piece, byte) in inline.iter().enumerate().take(3000) {
        message.push_inline(piece..piece + 1);
        expected.push(*byte);
        let range = piece * 2700..(piece + 1) * 2700;
        message.push_shared(shared.slice(range.clone()));
        expected.extend_from_slice(&shared.as_slice()[range]);
    }
    std::thread::scope(|scope| {
        let expected_bytes = expected.len();
        let reader = scope.spawn(move || {
            let mut received = vec![0; expected_bytes];
            for part in received.chunks_mut(100_000) {
                client.read_exact(part).unwrap();
                std::thread::yield_now();
            }
            received
        });
        let (result, returned) = ring.block_on(ring.send(&socket, message));
        result.unwrap();
        assert_eq!(returned, inline, "the inline bytes come back for reuse");
        assert!(reader.join().unwrap() == expected);
    });
    assert!(shared.clear(), "no slice is held once the message is sent");
}

#[test]
fn sending_to_a_peer_that_is_gone_is_an_error_and_no_signal() {
    let ring = small_ring();
    let (socket, client) = connect(&ring);
    drop(client);
    let result = ring.block_on(async {
        loop {
            let mut message = ring.message(vec![0; 1000]);
            message.push_inline(0..1000);
            if let (Err(error), _) = ring.send(&socket, message).await {
                return error;
            }
        }
    });
    assert!(
        matches!(result.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)),
        "{result}"
    );
}

#[test]
fn data_waits_for_held_receive_buffers_and_all_of_it_arrives() {
    let ring = small_ring();
    let (first, mut first_client) = connect(&ring);
    let (second, mut second_client) = connect(&ring);
    let sent = pattern(200_000, 3);
    std::thread::scope(|scope| {
        let bytes = &sent;
        scope.spawn(move || first_client.write_all(bytes).unwrap());
        scope.spawn(move || second_client.write_all(bytes).unwrap());
        ring.block_on(async {
            // Hold slices until no buffer is left.
            let mut held: Vec<Slice> = Vec::new();
            while ring.counters().receive_starvations == 0 {
                let mut receive = pin!(ring.receive(&first));
                let mut give_up = pin!(sleep_ms(&ring, 20));
                let slice = poll_fn(|context| match receive.as_mut().poll(context) {
                    Poll::Ready(slice) => Poll::Ready(Some(slice.unwrap())),
                    Poll::Pending => give_up.as_mut().poll(context).map(|()| None),
                })
                .await;
                held.extend(slice);
            }
            let mut received: Vec<u8> = held.iter().flat_map(|slice| slice.to_vec()).collect();
            drop(held);
            received.extend(receive_exactly(&ring, &first, sent.len() - received.len()).await);
            assert!(received == sent);
            assert!(receive_exactly(&ring, &second, sent.len()).await == sent);
        });
    });
}

#[test]
fn a_connection_that_is_not_read_does_not_keep_others_from_receiving() {
    let ring = small_ring();
    let (unread, mut unread_client) = connect(&ring);
    let (read, mut read_client) = connect(&ring);
    let flood = pattern(4 << 20, 4);
    let talk = pattern(300_000, 5);
    std::thread::scope(|scope| {
        let (flood, talk) = (&flood, &talk);
        scope.spawn(move || unread_client.write_all(flood).unwrap());
        ring.block_on(async {
            let mut start = ring.receive(&unread).await.unwrap().to_vec();
            // Whatever one burst took stays with the unread socket; the rest of the buffers goes around.
            scope.spawn(move || read_client.write_all(talk).unwrap());
            assert!(&receive_exactly(&ring, &read, talk.len()).await == talk);
            start.extend(receive_exactly(&ring, &unread, flood.len() - start.len()).await);
            assert!(&start == flood);
        });
    });
}

/// Each of thousands of connections may leave something unread.
#[test]
fn what_sockets_have_unread_is_bounded_over_all_of_them() {
    const CONNECTIONS: usize = 40;
    const UNREAD_BYTES_MAX: usize = 64 << 10;
    let ring = Ring::new(RingConfig {
        receive_buffer_bytes: 4096,
        receive_buffers: 8,
        unread_bytes_max: UNREAD_BYTES_MAX,
        pool_buffer_bytes: 8192,
        pool_buffers: 2,
        ..RingConfig::default()
    })
    .unwrap();
    let connections: Vec<(Socket, TcpStream)> = (0..CONNECTIONS).map(|_| connect(&ring)).collect();
    ring.block_on(async {
        for (socket, _) in &connections {
            poll_once(ring.receive(socket));
        }
        // Nobody reads, so all but a few of the receive buffers are needed for the next ones.
        for (_, client) in &connections {
            (&*client).write_all(&pattern(4096, 1)).unwrap();
            sleep_ms(&ring, 5).await;
        }
        let (mut taken, mut failed) = (0, 0);
        for (socket, _) in &connections {
            match ring.receive(socket).await {
                Ok(slice) => taken += slice.len(),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
                    failed += 1;
                }
            }
        }
        let most = UNREAD_BYTES_MAX + 8 * 4096;
        assert!(taken <= most && taken > most / 4, "{taken} bytes");
        assert!(failed > 0 && failed < CONNECTIONS, "{failed} failed");
    });
    // What was read is free for others again.
    let (socket, mut client) = connect(&ring);
    client.write_all(&pattern(4096, 2)).unwrap();
    let received = ring.block_on(receive_exactly(&ring, &socket, 4096));
    assert!(received == pattern(4096, 2));
}

#[test]
fn bodies_go_straight_into_a_buffer_between_headers_that_do_not() {
    let ring = small_ring();
    let (socket, mut client) = connect(&ring);
    let sizes: Vec<usize> = (0..60).map(|frame| frame * frame * 101 % 70_000).collect();
    std::thread::scope(|scope| {
        let sender_sizes = sizes.clone();
        scope.spawn(move || {
            for bytes in sender_sizes {
                client.write_all(&(bytes as u32).to_be_bytes()).unwrap();
                client.write_all(&pattern(bytes, bytes)).unwrap();
            }
        });
        ring.block_on(async {
            let mut pending = Vec::new();
            for bytes in sizes {
                // What arrives in slices may hold several frames, or a part of one.
                while pending.len() < 4 {
                    pending.extend_from_slice(&ring.receive(&socket).await.unwrap());
                }
                assert_eq!(
                    u32::from_be_bytes(pending[..4].try_into().unwrap()) as usize,
                    bytes
                );
                let here = (pending.len() - 4).min(bytes);
                let mut body = Buffer::allocate(bytes).unwrap();
                body.extend_from_slice(&pending[4..4 + here]);
                pending.drain(..4 + here);
                let (result, body) = ring.receive_into(&socket, body, bytes - here).await;
                assert_eq!(result.unwrap(), bytes - here);
                assert!(body.as_slice() == pattern(bytes, bytes));
            }
            assert!(
                ring.receive(&socket).await.unwrap().is_empty(),
                "the end of the stream"
            );
            assert!(ring.receive(&socket).await.unwrap().is_empty(), "and again");
        });
    });
}

#[test]
fn a_stream_that_ends_early_fills_a_buffer_in_part() {
    let ring = small_ring();
    let (socket, mut client) = connect(&ring);
    client.write_all(b"part").unwrap();
    drop(client);
    let buffer = Buffer::allocate(100).unwrap();
    let (result, buffer) = ring.block_on(ring.receive_into(&socket, buffer, 100));
    assert_eq!(result.unwrap(), 4);
    assert_eq!(buffer.as_slice(), b"part");
}

#[test]
fn memory_of_a_dropped_receive_is_kept_until_the_kernel_lets_go() {
    let ring = small_ring();
    let (socket, mut client) = connect(&ring);
    ring.block_on(async {
        let buffer = ring.wait_buffer().await;
        let other = ring.wait_buffer().await;
        poll_once(ring.receive_into(&socket, buffer, 8000));
        assert_eq!(
            ring.pool().available(),
            0,
            "the operation owns the buffer of the future that was dropped"
        );
        until(&ring, || ring.pool().available() == 1).await;
        let mut again = ring.pool().take().unwrap();
        again.append(8000, |bytes| bytes.fill(0xAA));
        client.write_all(&[0x55; 8000]).unwrap();
        sleep_ms(&ring, 20).await;
        assert!(
            again.as_slice().iter().all(|&byte| byte == 0xAA),
            "nothing writes to it any more"
        );
        drop(other);
    });
}

#[test]
fn memory_of_a_dropped_send_is_kept_until_the_kernel_lets_go() {
    let ring = small_ring();
    let (socket, _client_that_reads_nothing) = connect(&ring);
    ring.block_on(async {
        let mut log = Buffer::allocate(64 << 20).unwrap();
        log.append(64 << 20, |_| ());
        let mut message = ring.message(Vec::new());
        message.push_shared(log.slice(0..log.len()));
        poll_once(ring.send(&socket, message));
        assert!(
            !log.clear(),
            "the operation holds the slice of the future that was dropped"
        );
        while !log.clear() {
            sleep_ms(&ring, 1).await;
        }
    });
}

#[test]
fn a_dropped_receive_or_accept_loses_nothing() {
    let ring = small_ring();
    let (listener, address) = listen(&ring);
    ring.block_on(async {
        poll_once(ring.accept(&listener));
        let mut client = TcpStream::connect(address).unwrap();
        let (socket, _) = ring.accept(&listener).await.unwrap();
        poll_once(ring.receive(&socket));
        client.write_all(b"still here").unwrap();
        sleep_ms(&ring, 10).await;
        assert_eq!(&ring.receive(&socket).await.unwrap()[..], b"still here");
        poll_once(ring.receive(&socket));
        // Turning to a direct receive while the shared one is armed, and back.
        client.write_all(b"12345678").unwrap();
        let (result, body) = ring
            .receive_into(&socket, Buffer::allocate(5).unwrap(), 5)
            .await;
        assert_eq!(result.unwrap(), 5);
        assert_eq!(body.as_slice(), b"12345");
        assert_eq!(receive_exactly(&ring, &socket, 3).await, b"678");
    });
}

#[test]
fn a_closed_socket_is_closed_for_its_peer_even_while_it_receives() {
    let ring = small_ring();
    let (socket, mut client) = connect(&ring);
    ring.block_on(async {
        poll_once(ring.receive(&socket));
        sleep_ms(&ring, 1).await;
        drop(socket);
        sleep_ms(&ring, 1).await;
    });
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn shutdown_ends_a_pending_receive() {
    let ring = small_ring();
    let (socket, _client) = connect(&ring);
    ring.block_on(async {
        let (task_ring, task_socket) = (ring.clone(), socket.clone());
        ring.spawn(async move {
            sleep_ms(&task_ring, 5).await;
            task_ring.shutdown(&task_socket);
        });
        assert!(ring.receive(&socket).await.unwrap().is_empty());
    });
}

#[test]
fn a_busy_port_is_one_clear_error() {
    let ring = small_ring();
    let (_listener, address) = listen(&ring);
    let Err(error) = ring.listen(address, 1) else {
        panic!("the port is taken")
    };
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn an_accepted_socket_moves_to_the_ring_of_another_thread() {
    let ring = small_ring();
    let (socket, mut client) = connect(&ring);
    let clone = socket.clone();
    let socket = socket
        .into_descriptor()
        .expect_err("another handle forbids it");
    drop(clone);
    let descriptor = socket
        .into_descriptor()
        .ok()
        .expect("nothing was received here");
    let stream = TcpStream::from(descriptor);
    assert!(stream.nodelay().unwrap(), "accepted sockets send at once");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let other = small_ring();
            let socket = other.adopt(stream.into());
            let slice = other.block_on(other.receive(&socket)).unwrap();
            let mut message = other.message(Vec::new());
            message.push_shared(slice);
            other.block_on(other.send(&socket, message)).0.unwrap();
        });
        client.write_all(b"across").unwrap();
        let mut echo = [0; 6];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"across");
    });
}

/// The kernel's table of TCP sockets says which timer a quiet one has, and when it is due in hundredths of a second: 2 is keepalive's.
#[test]
fn a_peer_that_is_silent_is_asked_within_two_minutes_whether_it_is_still_there() {
    let ring = small_ring();
    let (_socket, client) = connect(&ring);
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let ours = hex(client.peer_addr().unwrap());
    let theirs = hex(client.local_addr().unwrap());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace());
    let timer = fields
        .filter_map(|mut fields| {
            let ends = [fields.nth(1)?, fields.next()?];
            (ends == [ours.as_str(), theirs.as_str()]).then(|| fields.nth(2))?
        })
        .next();
    let (kind, due) = timer.unwrap().split_once(':').unwrap();
    assert_eq!(kind, "02");
    let due = u64::from_str_radix(due, 16).unwrap();
    assert!((1..=120 * 100).contains(&due), "{due}");
}

#[test]
fn a_ring_that_is_dropped_closes_every_socket_that_its_tasks_held() {
    let ring = small_ring();
    let (listener, address) = listen(&ring);
    let mut clients: Vec<TcpStream> = Vec::new();
    ring.block_on(async {
        for _ in 0..100 {
            clients.push(TcpStream::connect(address).unwrap());
            let (socket, _) = ring.accept(&listener).await.unwrap();
            let task_ring = ring.clone();
            ring.spawn(async move {
                let buffer = Buffer::allocate(100).unwrap();
                task_ring
                    .receive_into(&socket, buffer, 100)
                    .await
                    .0
                    .unwrap();
            });
        }
        sleep_ms(&ring, 5).await;
    });
    ring.drop_tasks();
    drop(listener);
    drop(ring);
    for mut client in clients {
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn more_operations_than_the_queue_has_entries_all_complete() {
    let ring = Ring::new(RingConfig {
        entries: 2,
        completions: 4,
        ..RingConfig::default()
    })
    .unwrap();
    let (listener, address) = listen(&ring);
    let mut clients: Vec<TcpStream> = Vec::new();
    ring.block_on(async {
        let done = Rc::new(Cell::new(0));
        for _ in 0..40 {
            clients.push(TcpStream::connect(address).unwrap());
            let (socket, _) = ring.accept(&listener).await.unwrap();
            let (task_ring, done) = (ring.clone(), Rc::clone(&done));
            ring.spawn(async move {
                assert_eq!(&task_ring.receive(&socket).await.unwrap()[..], b"x");
                done.set(done.get() + 1);
            });
        }
        for client in &mut clients {
            client.write_all(b"x").unwrap();
        }
        until(&ring, || done.get() == 40).await;
    });
    assert!(ring.counters().submissions_backlogged > 0);
}
