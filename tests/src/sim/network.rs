//! The sockets of a simulation: byte streams that lose nothing, keep their order, and promise nothing about time or chunks.
//!
//! ```text
//!   send --> [ on the wire ] --delivery--> [ arrived ] --> receive
//!            |<------ at most STREAM_BYTES_MAX ------>|
//! ```
//! A delivery moves a random number of bytes. Like the disk, the network knows no tasks beyond the wakers it is given, and its owner
//! says when a delivery is due.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::task::Waker;

use super::random::Random;
use super::world::Incarnation;

/// Bytes of one direction between the two ends: the sender's socket buffer and the receiver's.
const STREAM_BYTES_MAX: usize = 128 * 1024;

/// Connections that wait to be accepted.
const BACKLOG_MAX: usize = 128;

pub(super) type ConnectionNumber = u64;

/// One end of a connection: side 0 connected, side 1 accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct End {
    pub(super) connection: ConnectionNumber,
    pub(super) side: usize,
}

impl End {
    pub(super) fn peer(self) -> End {
        End {
            side: 1 - self.side,
            ..self
        }
    }
}

#[derive(Default)]
pub(super) struct Network {
    listeners: BTreeMap<SocketAddr, Backlog>,
    connections: BTreeMap<ConnectionNumber, Connection>,
    next_connection: ConnectionNumber,
    next_port: u16,
    /// Tasks to wake once the world is no longer borrowed.
    pub(super) woken: Vec<Waker>,
    /// Ends that have something on the wire and no delivery under way.
    pub(super) deliveries: Vec<End>,
    /// How many bytes the next deliveries bring; after them it is left to chance.
    pub(super) pieces: VecDeque<usize>,
}

struct Backlog {
    owner: Incarnation,
    waiting: VecDeque<(End, SocketAddr)>,
    acceptor: Option<Waker>,
}

struct Connection {
    /// What each side receives.
    incoming: [Stream; 2],
    owners: [Incarnation; 2],
    closed: [bool; 2],
    reset: bool,
}

#[derive(Default)]
struct Stream {
    wire: VecDeque<u8>,
    arrived: VecDeque<u8>,
    /// Bytes that have ever arrived.
    arrived_bytes: u64,
    delivering: bool,
    /// The sender will send no more.
    finished: bool,
    /// The receiver knows that.
    ended: bool,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

impl Network {
    pub(super) fn listen(&mut self, address: SocketAddr, owner: Incarnation) -> io::Result<()> {
        if self.listeners.contains_key(&address) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let backlog = Backlog {
            owner,
            waiting: VecDeque::new(),
            acceptor: None,
        };
        self.listeners.insert(address, backlog);
        Ok(())
    }

    pub(super) fn stop_listening(&mut self, address: SocketAddr, owner: Incarnation) {
        let listener = self.listeners.get(&address);
        if listener.is_some_and(|backlog| backlog.owner == owner)
            && let Some(backlog) = self.listeners.remove(&address)
        {
            for (end, _) in backlog.waiting {
                self.reset(end.connection);
                self.close(end);
            }
        }
    }

    pub(super) fn connect(&mut self, to: SocketAddr, owner: Incarnation) -> io::Result<End> {
        let number = self.next_connection;
        let backlog = self
            .listeners
            .get_mut(&to)
            .filter(|backlog| backlog.waiting.len() < BACKLOG_MAX)
            .ok_or(ErrorKind::ConnectionRefused)?;
        self.next_connection += 1;
        self.next_port = self.next_port.wrapping_add(1);
        let from = SocketAddr::from(([127, 0, 0, 1], 32_768 | self.next_port));
        let accepted = End {
            connection: number,
            side: 1,
        };
        backlog.waiting.push_back((accepted, from));
        self.woken.extend(backlog.acceptor.take());
        let connection = Connection {
            incoming: Default::default(),
            owners: [owner, backlog.owner],
            closed: [false; 2],
            reset: false,
        };
        self.connections.insert(number, connection);
        Ok(accepted.peer())
    }

    pub(super) fn accept(
        &mut self,
        address: SocketAddr,
        waker: &Waker,
    ) -> Option<io::Result<(End, SocketAddr)>> {
        let Some(backlog) = self.listeners.get_mut(&address) else {
            return Some(Err(ErrorKind::NotConnected.into()));
        };
        let accepted = backlog.waiting.pop_front();
        if accepted.is_none() {
            backlog.acceptor = Some(waker.clone());
        }
        accepted.map(Ok)
    }

    /// Takes what the stream has room for from the front of `bytes`; `None` when it has none, and the waker is kept.
    pub(super) fn send(
        &mut self,
        end: End,
        bytes: &[u8],
        waker: &Waker,
    ) -> Option<io::Result<usize>> {
        let connection = match self.open_connection(end) {
            Ok(connection) => connection,
            Err(error) => return Some(Err(error)),
        };
        let peer_closed = connection.closed[1 - end.side];
        if connection.closed[end.side] || (peer_closed && connection.incoming[end.side].ended) {
            return Some(Err(ErrorKind::BrokenPipe.into()));
        }
        if peer_closed {
            // The news has not come yet: as on a real network these bytes are sent and lost.
            return Some(Ok(bytes.len()));
        }
        let stream = &mut connection.incoming[1 - end.side];
        let room = STREAM_BYTES_MAX.saturating_sub(stream.wire.len() + stream.arrived.len());
        let taken = room.min(bytes.len());
        if taken == 0 && !bytes.is_empty() {
            stream.sender = Some(waker.clone());
            return None;
        }
        stream.wire.extend(&bytes[..taken]);
        self.want_delivery(end.peer());
        Some(Ok(taken))
    }

    /// How many bytes have arrived at `end`; 0 at the end of the stream; `None` when there is nothing yet, and the waker is kept.
    pub(super) fn arrived(&mut self, end: End, waker: &Waker) -> Option<io::Result<usize>> {
        let connection = match self.open_connection(end) {
            Ok(connection) => connection,
            Err(error) => return Some(Err(error)),
        };
        let closed = connection.closed[end.side];
        let stream = &mut connection.incoming[end.side];
        if stream.arrived.is_empty() && !stream.ended && !closed {
            stream.receiver = Some(waker.clone());
            return None;
        }
        Some(Ok(if closed { 0 } else { stream.arrived.len() }))
    }

    /// Takes arrived bytes; there must be that many.
    pub(super) fn take(&mut self, end: End, target: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(&end.connection) else {
            return;
        };
        let stream = &mut connection.incoming[end.side];
        let (first, second) = front(&stream.arrived, target.len());
        target[..first.len()].copy_from_slice(first);
        target[first.len()..].copy_from_slice(second);
        stream.arrived.drain(..target.len());
        self.woken.extend(stream.sender.take());
    }

    /// Puts back in front what was taken.
    pub(super) fn give_back(&mut self, end: End, bytes: &[u8]) {
        if let Ok(connection) = self.open_connection(end) {
            let arrived = &mut connection.incoming[end.side].arrived;
            bytes
                .iter()
                .rev()
                .for_each(|byte| arrived.push_front(*byte));
        }
    }

    /// A delivery is due. Returns how many bytes it brought, and whether another one is to follow.
    pub(super) fn deliver(&mut self, end: End, random: &mut Random) -> (usize, bool) {
        let Some(connection) = self.connections.get_mut(&end.connection) else {
            return (0, false);
        };
        let stream = &mut connection.incoming[end.side];
        let bytes = match stream.wire.len() {
            0 => 0,
            available => match self.pieces.pop_front() {
                Some(bytes) => bytes.clamp(1, available),
                None => random.chunk(available),
            },
        };
        let (first, second) = front(&stream.wire, bytes);
        stream.arrived.extend(first);
        stream.arrived.extend(second);
        stream.wire.drain(..bytes);
        stream.arrived_bytes += bytes as u64;
        let more = !stream.wire.is_empty();
        stream.delivering = more;
        stream.ended = stream.finished && !more;
        self.woken.extend(stream.receiver.take());
        self.forget_if_over(end.connection);
        (bytes, more)
    }

    /// This side is done with both directions; what it sent before still arrives, unless it leaves something unread: then, as with TCP, the
    /// connection is reset.
    pub(super) fn close(&mut self, end: End) {
        let Some(connection) = self.connections.get_mut(&end.connection) else {
            return;
        };
        let incoming = &connection.incoming[end.side];
        let unread = !incoming.wire.is_empty() || !incoming.arrived.is_empty();
        if unread && !connection.closed[end.side] {
            self.reset(end.connection);
        }
        let Some(connection) = self.connections.get_mut(&end.connection) else {
            return;
        };
        if std::mem::replace(&mut connection.closed[end.side], true) {
            return;
        }
        for stream in &mut connection.incoming {
            self.woken.extend(stream.receiver.take());
            self.woken.extend(stream.sender.take());
        }
        connection.incoming[1 - end.side].finished = true;
        self.want_delivery(end.peer());
        self.forget_if_over(end.connection);
    }

    /// Both sides lose the connection and what was under way.
    pub(super) fn reset(&mut self, number: ConnectionNumber) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        connection.reset = true;
        for stream in &mut connection.incoming {
            stream.wire.clear();
            stream.arrived.clear();
            self.woken.extend(stream.receiver.take());
            self.woken.extend(stream.sender.take());
        }
    }

    /// A process is gone: the kernel closes or resets what it had, and nobody listens there any more.
    pub(super) fn crash(&mut self, owner: Incarnation, random: &mut Random) {
        let listeners = self.listeners.iter();
        let gone: Vec<SocketAddr> = listeners
            .filter(|(_, backlog)| backlog.owner == owner)
            .map(|(&address, _)| address)
            .collect();
        for address in gone {
            self.stop_listening(address, owner);
        }
        let ends: Vec<End> = self
            .connections
            .iter()
            .flat_map(|(&connection, state)| {
                [0, 1].map(|side| (state.owners[side], End { connection, side }))
            })
            .filter(|(end_owner, _)| *end_owner == owner)
            .map(|(_, end)| end)
            .collect();
        for end in ends {
            if random.coin() {
                self.reset(end.connection);
            }
            self.close(end);
        }
    }

    /// Bytes that have arrived at either end; a connection that is over says nothing.
    pub(super) fn moved_bytes(&self, end: End) -> Option<u64> {
        let connection = self.connections.get(&end.connection)?;
        let streams = connection.incoming.iter();
        Some(streams.map(|stream| stream.arrived_bytes).sum())
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    fn open_connection(&mut self, end: End) -> io::Result<&mut Connection> {
        let connection = self.connections.get_mut(&end.connection);
        connection
            .filter(|connection| !connection.reset)
            .ok_or_else(|| ErrorKind::ConnectionReset.into())
    }

    fn want_delivery(&mut self, end: End) {
        let Some(connection) = self.connections.get_mut(&end.connection) else {
            return;
        };
        let stream = &mut connection.incoming[end.side];
        let due = !stream.wire.is_empty() || (stream.finished && !stream.ended);
        if due && !std::mem::replace(&mut stream.delivering, true) {
            self.deliveries.push(end);
        }
    }

    fn forget_if_over(&mut self, number: ConnectionNumber) {
        if let Some(connection) = self.connections.get(&number)
            && connection.closed == [true; 2]
        {
            self.connections.remove(&number);
        }
    }
}

/// The first `bytes` bytes, in the two parts in which they lie.
fn front(queue: &VecDeque<u8>, bytes: usize) -> (&[u8], &[u8]) {
    let (first, second) = queue.as_slices();
    let in_first = bytes.min(first.len());
    (&first[..in_first], &second[..bytes - in_first])
}
