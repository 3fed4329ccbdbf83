//! Connected sockets: receiving into the ring's shared buffers or straight into one of the caller's, gathering sends.
//!
//! ```text
//!                     receive() with nothing queued
//!          Idle ----------------------------------------> Armed: the kernel queues slices here
//!           ^ ^                                           |  |  |
//!           | |___ completion ___ Stopping <__ backlog ___|  |  | no buffer left
//!           |                              full, or          |  v
//!           |______________________________ receive_into ____| Starved: waits its turn for a buffer
//!           |__________________________________________________|
//! ```
//! A reader that does not keep up is stopped after a few slices, so that one connection cannot hold all receive buffers; data then
//! waits in the kernel and in the peer. When many do not keep up, what they left unread is copied out of the receive buffers, as long as
//! that does not come to too much: then a socket fails with ENOBUFS instead. One task receives and one task sends on a socket at a time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::Ring;
use crate::error::RingError;
use crate::memory::{Buffer, Pool, Slice};
use crate::operation::{InFlight, is_passing, perform};
use crate::outgoing::Outgoing;
use crate::reactor::Reactor;
use crate::request::Request;
use crate::slots::Key;
use crate::socket_options;

/// Slices, and bytes, that may wait for a reader before its socket stops receiving. A burst of completions may overshoot them once.
const BACKLOG_SLICES_MAX: usize = 4;
const BACKLOG_BYTES_MAX: usize = 128 << 10;

/// What is copied out of the receive buffers goes to these, if it fits one and one is free.
const COPY_BYTES: usize = 512 << 10;
const COPIES: usize = 16;

/// Buffers that stay mapped: to map memory, and to touch it for the first time, takes a lock that all threads share.
pub(crate) fn copies() -> Result<Pool, RingError> {
    Pool::new(COPY_BYTES, COPIES).map_err(RingError::other("mapping buffers for what is unread"))
}

/// A connected socket of one ring. Closes when its last handle is dropped and no operation uses it.
#[derive(Clone)]
pub struct Socket(Rc<SocketHandle>);

impl Socket {
    /// The plain descriptor, to hand to another thread's ring, if nothing has been received here and no other handle or operation uses
    /// it.
    pub fn into_descriptor(self) -> Result<OwnedFd, Socket> {
        let state = &self.0.state;
        let unused = Rc::strong_count(&self.0) == 1
            && Rc::strong_count(state) == 1
            && Rc::strong_count(&state.descriptor) == 1
            && state.queue.borrow().is_empty()
            && state.end.get().is_none();
        if !unused {
            return Err(self);
        }
        let descriptor = Rc::clone(&state.descriptor);
        drop(self);
        Ok(Rc::into_inner(descriptor).expect("the only other handle was just dropped"))
    }
}

impl Ring {
    /// Takes over a connected socket, perhaps accepted by another thread's ring.
    pub fn adopt(&self, descriptor: OwnedFd) -> Socket {
        let state = SocketState {
            descriptor: Rc::new(descriptor),
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            copied_bytes: Cell::new(0),
            end: Cell::new(None),
            receiving: Cell::new(Receiving::Idle),
            waiter: RefCell::default(),
            listed_unread: Cell::new(false),
            listed_starved: Cell::new(false),
        };
        Socket(Rc::new(SocketHandle {
            state: Rc::new(state),
            reactor: Rc::clone(&self.0),
        }))
    }

    /// The next bytes that arrived; empty at the end of the stream. Dropping the future loses nothing. A slice holds one of the ring's
    /// receive buffers however short it is: copy what must be kept while waiting for more.
    pub async fn receive(&self, socket: &Socket) -> io::Result<Slice> {
        poll_fn(|context| {
            socket
                .0
                .state
                .poll_receive(&socket.0.reactor, context.waker())
        })
        .await
    }

    /// Puts slices back in front of what is received next, because their reader is not ready for them: when receive buffers are scarce
    /// they are copied out of them.
    pub fn give_back(&self, socket: &Socket, slices: impl DoubleEndedIterator<Item = Slice>) {
        for slice in slices.rev() {
            socket.0.state.put_in_front(&self.0, slice);
        }
    }

    /// Appends exactly `bytes` bytes of the stream to `buffer`, fewer only at its end, without an intermediate copy once what is queued
    /// is used up. A dropped future loses bytes of the stream: close the socket then.
    pub async fn receive_into(
        &self,
        socket: &Socket,
        mut buffer: Buffer,
        bytes: usize,
    ) -> (io::Result<usize>, Buffer) {
        assert!(
            bytes <= buffer.remaining(),
            "the caller has room for what it asks"
        );
        let state = &socket.0.state;
        let mut received = state.copy_queued(&self.0, &mut buffer, bytes);
        if received < bytes {
            poll_fn(|context| state.poll_idle(&socket.0.reactor, context.waker())).await;
            received += state.copy_queued(&self.0, &mut buffer, bytes - received);
        }
        while received < bytes {
            match state.end.get() {
                Some(END_OF_STREAM) => break,
                Some(errno) => return (Err(io::Error::from_raw_os_error(errno)), buffer),
                None => {}
            }
            let request = Request::Receive {
                socket: Rc::clone(&state.descriptor),
                buffer,
                bytes: bytes - received,
            };
            let (result, request) = perform(&self.0, request).await;
            let Request::Receive {
                buffer: returned, ..
            } = request
            else {
                unreachable!("a request comes back as it went");
            };
            buffer = returned;
            match result {
                Ok(0) => state.end.set(Some(END_OF_STREAM)),
                Ok(more) => {
                    buffer.advance(more);
                    received += more;
                }
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(received), buffer)
    }

    /// An empty message with these inline bytes, to be filled with pieces and sent.
    pub fn message(&self, inline: Vec<u8>) -> Box<Outgoing> {
        let mut message = self.0.spare_message();
        message.start(inline);
        message
    }

    /// Sends all pieces in order and gives the inline bytes back.
    pub async fn send(
        &self,
        socket: &Socket,
        mut message: Box<Outgoing>,
    ) -> (io::Result<()>, Vec<u8>) {
        let mut outcome = Ok(());
        while outcome.is_ok() && !message.is_sent() {
            let descriptor = Rc::clone(&socket.0.state.descriptor);
            let (result, request) = perform(
                &self.0,
                Request::Send {
                    socket: descriptor,
                    message,
                },
            )
            .await;
            let Request::Send {
                message: returned, ..
            } = request
            else {
                unreachable!("a request comes back as it went");
            };
            message = returned;
            match result {
                Ok(0) => outcome = Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => message.advance(bytes),
                Err(error) => outcome = Err(error),
            }
        }
        let inline = message.finish();
        self.0.keep_message(message);
        (outcome, inline)
    }

    /// Bytes that the peer has taken and bytes that have come from it, together; `None` if the kernel does not say.
    pub fn moved_bytes(&self, socket: &Socket) -> Option<u64> {
        socket_options::moved_bytes(&socket.0.state.descriptor)
    }

    /// Ends both directions; pending operations complete with an error or the end of the stream.
    pub fn shutdown(&self, socket: &Socket) {
        shutdown(&socket.0.state.descriptor);
    }
}

/// `SocketState::end` when the peer has finished, and not an error.
const END_OF_STREAM: i32 = 0;

struct SocketHandle {
    state: Rc<SocketState>,
    reactor: Rc<Reactor>,
}

impl Drop for SocketHandle {
    fn drop(&mut self) {
        if let Receiving::Armed(key) = self.state.receiving.replace(Receiving::Closed) {
            self.reactor.cancel(key);
        }
        self.state
            .release_copied(&self.reactor, self.state.copied_bytes.get());
        drop((self.state.waiter.take(), self.state.queue.take()));
    }
}

/// What the completions of a socket's receive work on.
pub(crate) struct SocketState {
    descriptor: Rc<OwnedFd>,
    queue: RefCell<VecDeque<Slice>>,
    queued_bytes: Cell<usize>,
    /// Of these, in front, those that count as copied out of the receive buffers.
    copied_bytes: Cell<usize>,
    /// `END_OF_STREAM` or an error number, once the stream is over.
    end: Cell<Option<i32>>,
    receiving: Cell<Receiving>,
    waiter: RefCell<Option<Waker>>,
    /// In the reactor's list of sockets with something queued.
    listed_unread: Cell<bool>,
    /// In the reactor's queue of starved sockets.
    listed_starved: Cell<bool>,
}

#[derive(Clone, Copy)]
enum Receiving {
    Idle,
    Armed(Key),
    Stopping,
    Starved,
    Closed,
}

impl SocketState {
    pub(crate) fn descriptor(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// A completion of the multishot receive.
    pub(crate) fn received(
        self: &Rc<Self>,
        reactor: &Reactor,
        result: i32,
        bytes: Option<Slice>,
        ended: bool,
    ) {
        if matches!(self.receiving.get(), Receiving::Closed) {
            return;
        }
        if ended {
            self.receiving.set(Receiving::Idle);
        }
        match (result, bytes) {
            // What comes behind a gap is of no use.
            (1.., Some(_)) if self.end.get().is_some() => {}
            (1.., Some(bytes)) => self.enqueue(reactor, bytes),
            (END_OF_STREAM.., _) => self.end.set(Some(END_OF_STREAM)),
            (errno, _) if errno == -libc::ENOBUFS => self.starve(reactor),
            (errno, _) if errno == -libc::ECANCELED || is_passing(-errno) => {}
            (errno, _) => self.end.set(Some(-errno)),
        }
        wake(&self.waiter);
    }

    /// Looks at what a reader that has had its turn left unread: a full backlog stops the receiving, and while receive buffers are
    /// scarce anything does, and is copied out of them. Returns whether the socket is to be looked at again.
    pub(crate) fn rest_if_unread(&self, reactor: &Reactor, scarce: bool) -> bool {
        let unread = !self.queue.borrow().is_empty();
        if unread
            && (scarce || self.is_full())
            && let Receiving::Armed(key) = self.receiving.get()
        {
            reactor.cancel(key);
            self.receiving.set(Receiving::Stopping);
        }
        let again = unread && !(scarce && self.copy_out(reactor));
        self.listed_unread.set(again);
        again
    }

    /// Moves what is queued into memory of its own; false if there is none to be had. If that would be too much, over all sockets, this one
    /// fails.
    fn copy_out(&self, reactor: &Reactor) -> bool {
        let bytes = self.queued_bytes.get();
        let more = bytes - self.copied_bytes.get();
        if reactor.unread_bytes.get() + more > reactor.unread_bytes_max {
            self.fail(reactor);
            return true;
        }
        let mapped = (reactor.copies.buffer_bytes() >= bytes).then(|| reactor.copies.take());
        let Some(mut copy) = mapped.flatten().or_else(|| Buffer::allocate(bytes)) else {
            return false;
        };
        self.copy_queued(reactor, &mut copy, bytes);
        self.queue.borrow_mut().push_back(copy.slice(0..bytes));
        self.queued_bytes.set(bytes);
        self.copied_bytes.set(bytes);
        reactor.unread_bytes.set(reactor.unread_bytes.get() + bytes);
        true
    }

    fn fail(&self, reactor: &Reactor) {
        self.release_copied(reactor, self.copied_bytes.get());
        self.queue.borrow_mut().clear();
        self.queued_bytes.set(0);
        self.end.set(Some(libc::ENOBUFS));
        wake(&self.waiter);
    }

    /// So many bytes have left the front of the queue.
    fn release_copied(&self, reactor: &Reactor, bytes: usize) {
        let released = bytes.min(self.copied_bytes.get());
        self.copied_bytes.set(self.copied_bytes.get() - released);
        reactor
            .unread_bytes
            .set(reactor.unread_bytes.get() - released);
    }

    /// There may be a buffer for this socket now.
    pub(crate) fn restart(self: &Rc<Self>, reactor: &Reactor) {
        self.listed_starved.set(false);
        if let Receiving::Starved = self.receiving.get() {
            self.receiving.set(Receiving::Idle);
            if self.waiter.borrow().is_some() {
                self.arm(reactor);
            }
        }
    }

    fn poll_receive(self: &Rc<Self>, reactor: &Reactor, waker: &Waker) -> Poll<io::Result<Slice>> {
        if let Some(slice) = self.queue.borrow_mut().pop_front() {
            self.queued_bytes.set(self.queued_bytes.get() - slice.len());
            self.release_copied(reactor, slice.len());
            return Poll::Ready(Ok(slice));
        }
        match self.end.get() {
            Some(END_OF_STREAM) => return Poll::Ready(Ok(Slice::default())),
            Some(errno) => return Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            None => {}
        }
        if let Receiving::Idle = self.receiving.get() {
            self.arm(reactor);
        }
        remember(&self.waiter, waker);
        Poll::Pending
    }

    /// Ready once the kernel has stopped receiving into shared buffers.
    fn poll_idle(&self, reactor: &Reactor, waker: &Waker) -> Poll<()> {
        match self.receiving.get() {
            Receiving::Idle | Receiving::Starved => {
                // Whoever waited before has given up, and must not be the reason to start again.
                self.receiving.set(Receiving::Idle);
                self.waiter.take();
                return Poll::Ready(());
            }
            Receiving::Armed(key) => {
                reactor.cancel(key);
                self.receiving.set(Receiving::Stopping);
            }
            Receiving::Stopping => {}
            Receiving::Closed => unreachable!("a socket is closed by its last handle"),
        }
        remember(&self.waiter, waker);
        Poll::Pending
    }

    /// Copies up to `bytes` queued bytes and keeps what is left over.
    fn copy_queued(&self, reactor: &Reactor, buffer: &mut Buffer, bytes: usize) -> usize {
        let mut queue = self.queue.borrow_mut();
        let mut copied = 0;
        while copied < bytes
            && let Some(slice) = queue.pop_front()
        {
            let part = slice.len().min(bytes - copied);
            buffer.extend_from_slice(&slice[..part]);
            copied += part;
            if part < slice.len() {
                queue.push_front(slice.slice(part..slice.len()));
            }
        }
        self.queued_bytes.set(self.queued_bytes.get() - copied);
        self.release_copied(reactor, copied);
        copied
    }

    fn arm(self: &Rc<Self>, reactor: &Reactor) {
        self.receiving.set(Receiving::Armed(
            reactor.start(InFlight::Receive(Rc::clone(self))),
        ));
    }

    fn enqueue(self: &Rc<Self>, reactor: &Reactor, bytes: Slice) {
        self.queued_bytes.set(self.queued_bytes.get() + bytes.len());
        self.queue.borrow_mut().push_back(bytes);
        self.list_unread(reactor);
    }

    fn put_in_front(self: &Rc<Self>, reactor: &Reactor, bytes: Slice) {
        // Counted as if it were copied already, so that those that are counted stay in front.
        reactor
            .unread_bytes
            .set(reactor.unread_bytes.get() + bytes.len());
        self.copied_bytes.set(self.copied_bytes.get() + bytes.len());
        self.queued_bytes.set(self.queued_bytes.get() + bytes.len());
        self.queue.borrow_mut().push_front(bytes);
        self.list_unread(reactor);
    }

    fn list_unread(self: &Rc<Self>, reactor: &Reactor) {
        if !self.listed_unread.replace(true) {
            reactor.look_if_unread(Rc::clone(self));
        }
    }

    fn starve(self: &Rc<Self>, reactor: &Reactor) {
        self.receiving.set(Receiving::Starved);
        if !self.listed_starved.replace(true) {
            reactor.wait_for_receive_buffer(Rc::clone(self));
        }
    }

    fn is_full(&self) -> bool {
        self.queue.borrow().len() >= BACKLOG_SLICES_MAX
            || self.queued_bytes.get() >= BACKLOG_BYTES_MAX
    }
}

/// One waiter at a time: the latest.
pub(crate) fn remember(waiter: &RefCell<Option<Waker>>, waker: &Waker) {
    let mut waiter = waiter.borrow_mut();
    match &mut *waiter {
        Some(known) => known.clone_from(waker),
        None => *waiter = Some(waker.clone()),
    }
}

pub(crate) fn wake(waiter: &RefCell<Option<Waker>>) {
    let waker = waiter.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn shutdown(descriptor: &OwnedFd) {
    // SAFETY: a plain system call on a descriptor that we own. A socket that is not connected any more is shut down already.
    let _ = unsafe { libc::shutdown(descriptor.as_raw_fd(), libc::SHUT_RDWR) };
}
