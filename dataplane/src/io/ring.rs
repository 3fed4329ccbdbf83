//! [`Io`] on io_uring: a thin, safe layer over the `ring` crate, one per shard thread.

use std::cell::Cell;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use ::ring::{File, Listener, Ring, Socket};

use super::{
    Buffer, FilePosition, Gather, GatherPart, Instant, Io, OpenMode, Slice, WriteDurability,
    WriteLeases,
};

/// The time on the clock of every ring, for threads that have none.
pub fn now() -> Instant {
    Instant(::ring::now_nanos())
}

/// The world as a shard's ring gives it. Clones are handles to the same ring.
#[derive(Clone)]
pub struct RingIo {
    ring: Ring,
    random_state: Rc<Cell<u64>>,
    /// The ring's turn in which the wall clock was read last, and what it said.
    wall_clock: Rc<Cell<(u64, i64)>>,
}

impl RingIo {
    /// On the thread that made the ring.
    pub fn new(ring: Ring) -> RingIo {
        // The standard library's hasher takes its keys from the operating system's randomness.
        let seed = RandomState::new().hash_one(std::process::id());
        RingIo {
            ring,
            random_state: Rc::new(Cell::new(seed)),
            wall_clock: Rc::new(Cell::new((0, read_wall_clock_ms()))),
        }
    }
}

impl Io for RingIo {
    type File = File;
    type Socket = Socket;
    type Listener = Listener;
    type Handoff = OwnedFd;

    fn now(&self) -> Instant {
        Instant(self.ring.now())
    }

    /// Read once a turn, which is over in less than a millisecond unless there is very much to do.
    fn wall_clock_ms(&self) -> i64 {
        let turn = self.ring.turn();
        let (read_in, known) = self.wall_clock.get();
        if read_in == turn {
            return known;
        }
        let now = read_wall_clock_ms();
        self.wall_clock.set((turn, now));
        now
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): well spread, and not for secrets.
    fn random_u64(&self) -> u64 {
        let state = self.random_state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random_state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.ring.spawn(task);
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.ring.sleep_until(deadline.0).await;
    }

    fn take_buffer(&self) -> Option<Buffer> {
        self.ring.pool().take()
    }

    async fn wait_buffer(&self) -> Buffer {
        self.ring.wait_buffer().await
    }

    fn buffer_bytes(&self) -> usize {
        self.ring.pool().buffer_bytes()
    }

    async fn accept(&self, listener: &Listener) -> io::Result<(Socket, SocketAddr)> {
        self.ring.accept(listener).await
    }

    async fn receive(&self, socket: &Socket) -> io::Result<Slice> {
        self.ring.receive(socket).await
    }

    fn give_back(&self, socket: &Socket, slices: impl DoubleEndedIterator<Item = Slice>) {
        self.ring.give_back(socket, slices);
    }

    async fn receive_into(
        &self,
        socket: &Socket,
        buffer: Buffer,
        bytes: usize,
    ) -> (io::Result<usize>, Buffer) {
        self.ring.receive_into(socket, buffer, bytes).await
    }

    async fn send(&self, socket: &Socket, mut message: Gather) -> (io::Result<()>, Gather) {
        let mut outgoing = self.ring.message(std::mem::take(&mut message.inline));
        for part in &message.parts {
            match part {
                GatherPart::Inline(range) => outgoing.push_inline(range.clone()),
                GatherPart::Shared(slice) => outgoing.push_shared(slice.clone()),
            }
        }
        let (result, inline) = self.ring.send(socket, outgoing).await;
        message.inline = inline;
        (result, message)
    }

    fn hand_off(&self, socket: Socket) -> OwnedFd {
        let descriptor = socket.into_descriptor().ok();
        descriptor.expect("a socket is handed off by its only holder, before it is used")
    }

    fn take_over(&self, socket: OwnedFd) -> Socket {
        self.ring.adopt(socket)
    }

    fn moved_bytes(&self, socket: &Socket) -> Option<u64> {
        self.ring.moved_bytes(socket)
    }

    fn shutdown(&self, socket: &Socket) {
        self.ring.shutdown(socket);
    }

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<File> {
        match mode {
            OpenMode::Direct => self.ring.open_direct(path).await,
            OpenMode::DirectCreate => self.ring.create_direct(path).await,
            OpenMode::ReadDirect => self.ring.open_direct_to_read(path).await,
            OpenMode::ReadCached => self.ring.open_cached(path).await,
        }
    }

    async fn write(
        &self,
        file: &File,
        at: FilePosition,
        leases: impl Into<WriteLeases>,
        durability: WriteDurability,
    ) -> io::Result<()> {
        let synced = durability == WriteDurability::Synced;
        self.ring.write(file, at.0, leases, synced).await
    }

    async fn read(
        &self,
        file: &File,
        at: FilePosition,
        buffer: Buffer,
        bytes: usize,
    ) -> (io::Result<usize>, Buffer) {
        self.ring.read(file, at.0, buffer, bytes).await
    }

    async fn sync(&self, file: &File) -> io::Result<()> {
        self.ring.sync(file).await
    }

    async fn allocate(&self, file: &File, at: FilePosition, bytes: u64) -> io::Result<()> {
        self.ring.allocate(file, at.0, bytes).await
    }

    async fn truncate(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.ring.truncate(file, bytes).await
    }

    async fn file_bytes(&self, file: &File) -> io::Result<u64> {
        self.ring.file_bytes(file).await
    }

    async fn changed_ms(&self, file: &File) -> io::Result<i64> {
        self.ring.changed_ms(file).await
    }

    async fn create_directories(&self, path: &Path) -> io::Result<()> {
        self.ring.create_directories(path).await
    }

    async fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.ring.list(path)
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ring.rename(from, to).await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.ring.remove_file(path).await
    }

    async fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.ring.remove_directory(path).await
    }

    async fn read_file(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        self.ring.read_file(path, bytes_max).await
    }

    async fn replace_file(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        self.ring.replace_file(path, bytes).await
    }

    async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.ring.sync_directory(path).await
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the place where time comes from"
)]
fn read_wall_clock_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |elapsed| {
        i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::ring::RingConfig;
    use std::io::Read;
    use std::net::TcpStream;

    fn io() -> RingIo {
        RingIo::new(Ring::new(RingConfig::default()).unwrap())
    }

    #[test]
    fn a_gathered_message_is_sent_in_the_order_of_its_parts_and_comes_back() {
        let io = io();
        let listener = io.ring.listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let mut client = TcpStream::connect(listener.local_address().unwrap()).unwrap();
        let mut buffer = io.take_buffer().unwrap();
        buffer.extend_from_slice(b"records");
        let message = Gather {
            inline: b"headtrailer".to_vec(),
            parts: vec![
                GatherPart::Inline(0..4),
                GatherPart::Shared(buffer.slice(0..7)),
                GatherPart::Inline(4..11),
            ],
            ..Gather::default()
        };
        let bytes = message.bytes();
        io.ring.clone().block_on(async {
            let (socket, _) = io.accept(&listener).await.unwrap();
            let socket = io.take_over(io.hand_off(socket));
            let (result, message) = io.send(&socket, message).await;
            result.unwrap();
            assert_eq!(message.inline, b"headtrailer");
            assert_eq!(message.bytes(), bytes);
        });
        let mut received = vec![0; bytes];
        client.read_exact(&mut received).unwrap();
        assert_eq!(received, b"headrecordstrailer");
    }

    #[test]
    fn randomness_differs_from_call_to_call_and_from_ring_to_ring() {
        let (first, second) = (io(), io());
        let drawn: std::collections::HashSet<u64> = (0..100)
            .flat_map(|_| [first.random_u64(), second.random_u64()])
            .collect();
        assert_eq!(drawn.len(), 200);
        assert!(first.wall_clock_ms() > 1_700_000_000_000);
    }
}
