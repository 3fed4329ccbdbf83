//! Listening sockets: one multishot accept each, while someone waits for connections.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::Ring;
use crate::operation::{InFlight, is_passing};
use crate::reactor::Reactor;
use crate::slots::Key;
use crate::socket::{Socket, remember, wake};
use crate::socket_options;

/// Accepted sockets that may wait for `accept` before the listener stops.
const ACCEPTED_MAX: usize = 128;

/// A listening socket of one ring.
pub struct Listener {
    state: Rc<ListenerState>,
    reactor: Rc<Reactor>,
}

impl Listener {
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.state.listener.local_addr()
    }
}

impl Ring {
    /// Listens for TCP connections. Accepted sockets send small messages at once (TCP_NODELAY) and find out when their peer has vanished
    /// (SO_KEEPALIVE).
    pub fn listen(&self, address: SocketAddr, backlog: u32) -> io::Result<Listener> {
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        set_backlog(&listener, backlog).map_err(failed)?;
        socket_options::of_listener(&listener).map_err(failed)?;
        let state = ListenerState {
            listener,
            queue: RefCell::default(),
            failure: Cell::new(None),
            accepting: Cell::new(Accepting::Idle),
            waiter: RefCell::default(),
        };
        Ok(Listener {
            state: Rc::new(state),
            reactor: Rc::clone(&self.0),
        })
    }

    /// The next connection. An error such as "too many open files" passes: wait a little and call again.
    pub async fn accept(&self, listener: &Listener) -> io::Result<(Socket, SocketAddr)> {
        loop {
            let descriptor = poll_fn(|context| {
                listener
                    .state
                    .poll_accept(&listener.reactor, context.waker())
            })
            .await?;
            let stream = TcpStream::from(descriptor);
            // A peer that is gone already has no address, and nobody waits for an answer.
            if let Ok(address) = stream.peer_addr() {
                return Ok((self.adopt(stream.into()), address));
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Accepting::Armed(key) = self.state.accepting.replace(Accepting::Closed) {
            self.reactor.cancel(key);
        }
        drop((self.state.waiter.take(), self.state.queue.take()));
    }
}

/// What the completions of a listener's accept work on.
pub(crate) struct ListenerState {
    listener: TcpListener,
    queue: RefCell<VecDeque<OwnedFd>>,
    /// An error number for the next `accept`.
    failure: Cell<Option<i32>>,
    accepting: Cell<Accepting>,
    waiter: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy)]
enum Accepting {
    Idle,
    Armed(Key),
    Stopping,
    Closed,
}

impl ListenerState {
    pub(crate) fn descriptor(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// A completion of the multishot accept.
    pub(crate) fn accepted(&self, reactor: &Reactor, result: Result<OwnedFd, i32>, ended: bool) {
        if matches!(self.accepting.get(), Accepting::Closed) {
            return;
        }
        if ended {
            self.accepting.set(Accepting::Idle);
        }
        match result {
            Ok(descriptor) => {
                self.queue.borrow_mut().push_back(descriptor);
                if self.queue.borrow().len() >= ACCEPTED_MAX
                    && let Accepting::Armed(key) = self.accepting.get()
                {
                    reactor.cancel(key);
                    self.accepting.set(Accepting::Stopping);
                }
            }
            Err(errno)
                if errno == libc::ECANCELED || errno == libc::ECONNABORTED || is_passing(errno) => {
            }
            Err(errno) => self.failure.set(Some(errno)),
        }
        wake(&self.waiter);
    }

    fn poll_accept(self: &Rc<Self>, reactor: &Reactor, waker: &Waker) -> Poll<io::Result<OwnedFd>> {
        if let Some(descriptor) = self.queue.borrow_mut().pop_front() {
            return Poll::Ready(Ok(descriptor));
        }
        if let Some(errno) = self.failure.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if let Accepting::Idle = self.accepting.get() {
            self.accepting.set(Accepting::Armed(
                reactor.start(InFlight::Accept(Rc::clone(self))),
            ));
        }
        remember(&self.waiter, waker);
        Poll::Pending
    }
}

fn set_backlog(listener: &TcpListener, backlog: u32) -> io::Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: a plain system call on a descriptor that we own; on a socket that listens it changes the backlog.
    let result = unsafe { libc::listen(listener.as_raw_fd(), backlog) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
