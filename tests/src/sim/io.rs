//! `SimIo`: the data plane's `Io` on a simulated world, for one incarnation of one host.
//!
//! Operations begin when their future is first polled, as with the ring. A future that is dropped takes nothing back: its operation
//! still happens. After the incarnation has crashed nothing it asks for ever completes.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use dataplane::io::{
    Buffer, FilePosition, Gather, GatherPart, Instant, Io, OpenMode, Slice, WriteDurability,
    WriteLease, WriteLeases,
};
use ring::memory::Pool;

use super::executor::EventKey;
use super::network::End;
use super::operation::{OpenFile, Operation, Outcome};
use super::world::{Event, Incarnation, Shared};
use super::{CrashKind, Stopped, trace};

const RECEIVE_BUFFER_BYTES: usize = 32 * 1024;

/// One life of a host. Clones are the same life.
#[derive(Clone)]
pub struct SimIo(Rc<SimIoInner>);

struct SimIoInner {
    shared: Rc<Shared>,
    incarnation: Incarnation,
    buffers: Pool,
    receive_buffers: Pool,
}

#[derive(Clone)]
pub struct SimFile(OpenFile);

#[derive(Clone)]
pub struct SimSocket(Rc<SocketHandle>);

struct SocketHandle {
    shared: Rc<Shared>,
    /// Empty once it was handed off.
    end: Cell<Option<End>>,
}

impl SocketHandle {
    fn end(&self) -> End {
        self.end
            .get()
            .expect("a socket is not used after it was handed off")
    }
}

impl Drop for SocketHandle {
    fn drop(&mut self) {
        if let Some(end) = self.end.get() {
            self.shared.world.borrow_mut().network.close(end);
        }
    }
}

/// A socket between two shards. The network closes it when this is dropped and nobody took it over.
pub struct SimHandoff {
    end: End,
    _held: Arc<()>,
}

pub struct SimListener {
    shared: Rc<Shared>,
    incarnation: Incarnation,
    address: SocketAddr,
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut world = self.shared.world.borrow_mut();
        world.network.stop_listening(self.address, self.incarnation);
    }
}

impl SimIo {
    pub(super) fn new(shared: Rc<Shared>, incarnation: Incarnation) -> SimIo {
        let options = shared.options;
        let pool = |bytes, count| {
            Pool::new(bytes, count).expect("a simulation's pools are small and have a right shape")
        };
        SimIo(Rc::new(SimIoInner {
            incarnation,
            buffers: pool(options.buffer_bytes, options.buffers),
            receive_buffers: pool(RECEIVE_BUFFER_BYTES, options.receive_buffers),
            shared,
        }))
    }

    /// The `Io` of another shard of the same process: the same life, memory of its own.
    pub fn another_shard(&self) -> SimIo {
        SimIo::new(Rc::clone(&self.0.shared), self.0.incarnation)
    }

    /// Runs the world until this future ends; it belongs to this incarnation and ends with it.
    pub fn run<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        self.0.shared.run(Some(self.0.incarnation), future)
    }

    /// Ends this incarnation: all its tasks are dropped.
    pub fn crash(&self, kind: CrashKind) {
        if self.0.shared.is_running(self.0.incarnation) {
            self.0.shared.crash(self.0.incarnation.host, kind);
        }
    }

    /// SIGSTOP: nothing of this process runs until [`SimIo::go_on`]; time goes on, and so does what it has asked the kernel for.
    pub fn stop(&self) {
        let mut world = self.0.shared.world.borrow_mut();
        world.executor.stop(self.0.incarnation);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        let mut world = self.0.shared.world.borrow_mut();
        world.executor.go_on(self.0.incarnation);
    }

    pub fn trace_hash(&self) -> u64 {
        self.0.shared.world.borrow().trace.hash()
    }

    /// Pooled buffers that are free, to see that none is kept.
    pub fn buffers_available(&self) -> usize {
        self.0.buffers.available()
    }

    /// Receive buffers that are free, likewise.
    pub fn receive_buffers_available(&self) -> usize {
        self.0.receive_buffers.available()
    }

    pub fn listen(&self, address: SocketAddr) -> io::Result<SimListener> {
        let mut world = self.0.shared.world.borrow_mut();
        world.network.listen(address, self.0.incarnation)?;
        Ok(SimListener {
            shared: Rc::clone(&self.0.shared),
            incarnation: self.0.incarnation,
            address,
        })
    }

    /// The client's side of a new connection.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<SimSocket> {
        self.delay(50_000).await;
        let end = {
            let mut world = self.0.shared.world.borrow_mut();
            let result = world.network.connect(address, self.0.incarnation);
            world.record("connect", &[u64::from(result.is_ok())]);
            result?
        };
        Ok(self.socket(end))
    }

    fn socket(&self, end: End) -> SimSocket {
        SimSocket(Rc::new(SocketHandle {
            shared: Rc::clone(&self.0.shared),
            end: Cell::new(Some(end)),
        }))
    }

    async fn delay(&self, usual_nanos: u64) {
        let nanos = {
            let mut world = self.0.shared.world.borrow_mut();
            world.random.latency(usual_nanos)
        };
        self.sleep_until(Instant(self.now().0.saturating_add(nanos)))
            .await;
    }

    async fn operate(&self, operation: Operation) -> io::Result<Outcome> {
        let done = self.0.shared.begin(self.0.incarnation, operation);
        poll_fn(|context| done.poll(context)).await
    }

    async fn operate_done(&self, operation: Operation) -> io::Result<()> {
        self.operate(operation).await.map(|_| ())
    }

    async fn operate_bytes(&self, operation: Operation) -> io::Result<Vec<u8>> {
        match self.operate(operation).await? {
            Outcome::Bytes(bytes) => Ok(bytes),
            _ => unreachable!("a read ends in bytes"),
        }
    }

    /// Waits for a buffer of one of this incarnation's pools.
    fn poll_buffer(&self, pool: &Pool, context: &Context<'_>) -> Poll<Buffer> {
        match pool.take() {
            Some(buffer) => Poll::Ready(buffer),
            None => {
                let mut world = self.0.shared.world.borrow_mut();
                let waiter = (pool.clone(), context.waker().clone());
                world.memory_waiters.push(waiter);
                Poll::Pending
            }
        }
    }

    /// Bytes that have arrived and not been taken; 0 at the end of the stream.
    fn poll_arrived(&self, socket: &SimSocket, context: &Context<'_>) -> Poll<io::Result<usize>> {
        if !self.0.shared.is_running(self.0.incarnation) {
            return Poll::Pending;
        }
        let mut world = self.0.shared.world.borrow_mut();
        match world.network.arrived(socket.0.end(), context.waker()) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }

    /// Moves `bytes` arrived bytes to the end of `buffer`.
    fn take_arrived(&self, socket: &SimSocket, buffer: &mut Buffer, bytes: usize) {
        let mut world = self.0.shared.world.borrow_mut();
        let start = buffer.len();
        buffer.append(bytes, |target| world.network.take(socket.0.end(), target));
        let content = trace::hash_bytes(&buffer.as_slice()[start..]);
        world.record(
            "receive",
            &[socket.0.end().connection, bytes as u64, content],
        );
    }
}

impl Io for SimIo {
    type File = SimFile;
    type Socket = SimSocket;
    type Listener = SimListener;
    type Handoff = SimHandoff;

    fn now(&self) -> Instant {
        Instant(self.0.shared.world.borrow().executor.now())
    }

    fn wall_clock_ms(&self) -> i64 {
        self.0.shared.world.borrow().wall_clock_ms()
    }

    fn random_u64(&self) -> u64 {
        self.0.shared.world.borrow_mut().random.next()
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if self.0.shared.is_running(self.0.incarnation) {
            let mut world = self.0.shared.world.borrow_mut();
            let number = world.executor.spawn(self.0.incarnation, Box::pin(task));
            world.record("spawn", &[number]);
        }
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> {
        Sleep {
            io: self.clone(),
            deadline,
            event: Cell::new(None),
        }
    }

    fn take_buffer(&self) -> Option<Buffer> {
        self.0.buffers.take()
    }

    async fn wait_buffer(&self) -> Buffer {
        poll_fn(|context| self.poll_buffer(&self.0.buffers, context)).await
    }

    fn buffer_bytes(&self) -> usize {
        self.0.buffers.buffer_bytes()
    }

    async fn accept(&self, listener: &SimListener) -> io::Result<(SimSocket, SocketAddr)> {
        let (end, peer) = poll_fn(|context| {
            let mut world = self.0.shared.world.borrow_mut();
            match world.network.accept(listener.address, context.waker()) {
                Some(result) => Poll::Ready(result),
                None => Poll::Pending,
            }
        })
        .await?;
        Ok((self.socket(end), peer))
    }

    async fn receive(&self, socket: &SimSocket) -> io::Result<Slice> {
        poll_fn(|context| {
            let arrived = match self.poll_arrived(socket, context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Slice::default())),
                Poll::Ready(Ok(arrived)) => arrived,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            let Poll::Ready(mut buffer) = self.poll_buffer(&self.0.receive_buffers, context) else {
                return Poll::Pending;
            };
            let bytes = arrived.min(buffer.capacity());
            self.take_arrived(socket, &mut buffer, bytes);
            Poll::Ready(Ok(buffer.slice(0..bytes)))
        })
        .await
    }

    fn give_back(&self, socket: &SimSocket, slices: impl DoubleEndedIterator<Item = Slice>) {
        let mut world = self.0.shared.world.borrow_mut();
        for slice in slices.rev() {
            world.network.give_back(socket.0.end(), &slice);
        }
    }

    async fn receive_into(
        &self,
        socket: &SimSocket,
        mut buffer: Buffer,
        bytes: usize,
    ) -> (io::Result<usize>, Buffer) {
        let mut received = 0;
        while received < bytes {
            match poll_fn(|context| self.poll_arrived(socket, context)).await {
                Ok(0) => break,
                Ok(arrived) => {
                    let part = arrived.min(bytes - received);
                    self.take_arrived(socket, &mut buffer, part);
                    received += part;
                }
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(received), buffer)
    }

    async fn send(&self, socket: &SimSocket, message: Gather) -> (io::Result<()>, Gather) {
        let bytes = flatten(&message);
        let mut sent = 0;
        while sent < bytes.len() {
            let part = poll_fn(|context| {
                if !self.0.shared.is_running(self.0.incarnation) {
                    return Poll::Pending;
                }
                let mut world = self.0.shared.world.borrow_mut();
                let rest = &bytes[sent..];
                match world.network.send(socket.0.end(), rest, context.waker()) {
                    Some(result) => Poll::Ready(result),
                    None => Poll::Pending,
                }
            });
            match part.await {
                Ok(part) => sent += part,
                Err(error) => return (Err(error), message),
            }
        }
        self.delay(10_000).await;
        (Ok(()), message)
    }

    fn hand_off(&self, socket: SimSocket) -> SimHandoff {
        let end = socket.0.end();
        socket.0.end.set(None);
        let held = Arc::new(());
        let mut world = self.0.shared.world.borrow_mut();
        world.handed_off.push((end, Arc::downgrade(&held)));
        SimHandoff { end, _held: held }
    }

    fn take_over(&self, socket: SimHandoff) -> SimSocket {
        let mut world = self.0.shared.world.borrow_mut();
        world.handed_off.retain(|&(end, _)| end != socket.end);
        drop(world);
        self.socket(socket.end)
    }

    fn moved_bytes(&self, socket: &SimSocket) -> Option<u64> {
        let world = self.0.shared.world.borrow();
        world.network.moved_bytes(socket.0.end())
    }

    fn shutdown(&self, socket: &SimSocket) {
        let mut world = self.0.shared.world.borrow_mut();
        world.network.close(socket.0.end());
    }

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<SimFile> {
        match self.operate(Operation::Open(path.to_owned(), mode)).await? {
            Outcome::File(file) => Ok(SimFile(file)),
            _ => unreachable!("an open ends in a file"),
        }
    }

    async fn write(
        &self,
        file: &SimFile,
        at: FilePosition,
        leases: impl Into<WriteLeases>,
        durability: WriteDurability,
    ) -> io::Result<()> {
        let leases = leases.into();
        let memory = || {
            let mut bytes = Vec::with_capacity(leases.bytes());
            for lease in leases.as_slice() {
                bytes.extend_from_slice(&lease.as_slice());
            }
            bytes
        };
        let bytes = memory();
        let hash = trace::hash_bytes(&bytes);
        let result = self
            .operate_done(Operation::Write(file.0.clone(), at.0, bytes, durability))
            .await;
        // A file system that keeps checksums read these bytes twice.
        let frozen = leases.as_slice().iter().all(WriteLease::is_frozen);
        assert!(
            frozen && trace::hash_bytes(&memory()) == hash,
            "memory may not change under a write in flight"
        );
        result
    }

    async fn read(
        &self,
        file: &SimFile,
        at: FilePosition,
        mut buffer: Buffer,
        bytes: usize,
    ) -> (io::Result<usize>, Buffer) {
        if bytes > buffer.remaining() {
            return (Err(ErrorKind::InvalidInput.into()), buffer);
        }
        let operation = Operation::Read(file.0.clone(), at.0, bytes);
        match self.operate_bytes(operation).await {
            Ok(content) => {
                buffer.extend_from_slice(&content);
                (Ok(content.len()), buffer)
            }
            Err(error) => (Err(error), buffer),
        }
    }

    async fn sync(&self, file: &SimFile) -> io::Result<()> {
        self.operate_done(Operation::Sync(file.0.clone())).await
    }

    async fn allocate(&self, file: &SimFile, at: FilePosition, bytes: u64) -> io::Result<()> {
        self.operate_done(Operation::Allocate(file.0.clone(), at.0, bytes))
            .await
    }

    async fn truncate(&self, file: &SimFile, bytes: u64) -> io::Result<()> {
        self.operate_done(Operation::Truncate(file.0.clone(), bytes))
            .await
    }

    async fn file_bytes(&self, file: &SimFile) -> io::Result<u64> {
        match self.operate(Operation::FileBytes(file.0.clone())).await? {
            Outcome::Length(bytes) => Ok(bytes),
            _ => unreachable!("a file's size is a length"),
        }
    }

    async fn changed_ms(&self, file: &SimFile) -> io::Result<i64> {
        match self.operate(Operation::ChangedMs(file.0.clone())).await? {
            Outcome::Time(ms) => Ok(ms),
            _ => unreachable!("a file's change is a time"),
        }
    }

    async fn create_directories(&self, path: &Path) -> io::Result<()> {
        self.operate_done(Operation::CreateDirectories(path.to_owned()))
            .await
    }

    async fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        match self.operate(Operation::List(path.to_owned())).await? {
            Outcome::Names(names) => Ok(names),
            _ => unreachable!("a list ends in names"),
        }
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate_done(Operation::Rename(from.to_owned(), to.to_owned()))
            .await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.operate_done(Operation::RemoveFile(path.to_owned()))
            .await
    }

    async fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.operate_done(Operation::RemoveDirectory(path.to_owned()))
            .await
    }

    async fn read_file(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        self.operate_bytes(Operation::ReadFile(path.to_owned(), bytes_max))
            .await
    }

    async fn replace_file(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        // Step by step, as on a real disk: who replaces a file that somebody else is replacing meets his traces.
        let mut temporary = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
        temporary.push(".tmp");
        let temporary = path.with_file_name(temporary);
        let opened = self.operate(Operation::OpenEmpty(temporary.clone()));
        let Outcome::File(file) = opened.await? else {
            unreachable!("an open ends in a file")
        };
        self.operate_done(Operation::WriteBuffered(file.clone(), bytes))
            .await?;
        self.operate_done(Operation::Sync(file.clone())).await?;
        drop(file);
        self.rename(&temporary, path).await?;
        let parent = path.parent().ok_or(ErrorKind::InvalidInput)?;
        self.sync_directory(parent).await
    }

    async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.operate_done(Operation::SyncDirectory(path.to_owned()))
            .await
    }
}

/// A timer, taken back when it is dropped. Like a kernel's it is never early and often a little late.
struct Sleep {
    io: SimIo,
    deadline: Instant,
    event: Cell<Option<EventKey>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let inner = &self.io.0;
        if !inner.shared.is_running(inner.incarnation) {
            return Poll::Pending;
        }
        let mut world = inner.shared.world.borrow_mut();
        if let Some(key) = self.event.take() {
            world.executor.unschedule(&key);
        }
        if world.executor.now() >= self.deadline.0 {
            return Poll::Ready(());
        }
        let world = &mut *world;
        let late = world.random.below(100_000);
        let key = world.executor.schedule(
            self.deadline.0.saturating_add(late),
            Some(inner.incarnation),
            Event::Wake(context.waker().clone()),
            &mut world.random,
        );
        self.event.set(Some(key));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.event.take() {
            let mut world = self.io.0.shared.world.borrow_mut();
            world.executor.unschedule(&key);
        }
    }
}

fn flatten(message: &Gather) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.bytes());
    for part in &message.parts {
        match part {
            GatherPart::Inline(range) => bytes.extend_from_slice(&message.inline[range.clone()]),
            GatherPart::Shared(slice) => bytes.extend_from_slice(slice),
        }
    }
    bytes
}
