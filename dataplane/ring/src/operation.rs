//! Operations in flight, and the future that waits for one.
//!
//! ```text
//!            start              completion               poll
//!   Request ------> Waiting ------------------> Done ------------> (result, Request)
//!                      | future dropped: cancel    | future dropped
//!                      v                           v
//!                  Abandoned --- completion ---> discarded
//! ```
//! Whatever the future does, the request, and with it the memory the kernel uses, stays in the table until the completion.

use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use crate::Ring;
use crate::listener::ListenerState;
use crate::reactor::Reactor;
use crate::receive_buffers::GROUP;
use crate::registered::Registered;
use crate::request::Request;
use crate::slots::Key;
use crate::socket::SocketState;
use crate::timer::now_nanos;

/// A request that is interrupted or refused for the moment is started this many times before that is its result: the first few at once,
/// the others each after a pause, because what the kernel lacks comes back with time and not with trying.
const STARTS_MAX: usize = 64;
const STARTS_AT_ONCE: usize = 8;
const PAUSE_NANOS: u64 = 1_000_000;

/// What a completion belongs to.
pub(crate) enum InFlight {
    Single {
        request: Request,
        stage: Stage,
    },
    /// Multishot.
    Accept(Rc<ListenerState>),
    /// Multishot.
    Receive(Rc<SocketState>),
    /// The read of the eventfd that other threads write to.
    RemoteWake {
        eventfd: RawFd,
        count: Box<u64>,
    },
}

impl InFlight {
    /// The submission, whose pointers all lead into what `self` owns on the heap.
    pub(crate) fn entry(&mut self, registered: Option<Registered>) -> squeue::Entry {
        match self {
            InFlight::Single { request, .. } => request.entry(registered),
            InFlight::Accept(listener) => opcode::AcceptMulti::new(Fd(listener.descriptor()))
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            InFlight::Receive(socket) => {
                opcode::RecvMulti::new(Fd(socket.descriptor()), GROUP).build()
            }
            InFlight::RemoteWake { eventfd, count } => {
                let target: *mut u64 = &mut **count;
                opcode::Read::new(Fd(*eventfd), target.cast(), size_of::<u64>() as u32).build()
            }
        }
    }
}

pub(crate) enum Stage {
    /// The future has not been polled yet.
    Started,
    Waiting(Waker),
    Done(i32),
    Abandoned,
}

/// The completion of one request: its result as the kernel gives it, and the request back.
pub(crate) struct Operation {
    reactor: Rc<Reactor>,
    key: Option<Key>,
}

impl Operation {
    pub(crate) fn start(reactor: &Rc<Reactor>, request: Request) -> Operation {
        let key = reactor.start(InFlight::Single {
            request,
            stage: Stage::Started,
        });
        Operation {
            reactor: Rc::clone(reactor),
            key: Some(key),
        }
    }
}

impl Future for Operation {
    type Output = (i32, Request);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<(i32, Request)> {
        let key = self
            .key
            .expect("an operation is not polled after it has ended");
        match self.reactor.poll_single(key, context.waker()) {
            Some(outcome) => {
                self.key = None;
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.reactor.abandon(key);
        }
    }
}

/// Runs a request to its end and returns it with its result.
pub(crate) fn perform(
    reactor: &Rc<Reactor>,
    request: Request,
) -> impl Future<Output = (io::Result<usize>, Request)> {
    let start = move |request| Operation::start(reactor, request);
    until_it_counts(reactor, request, start)
}

/// Starts something again and again until its result is one that counts; `start` gives back what it was given.
async fn until_it_counts<T, S: Future<Output = (i32, T)>>(
    reactor: &Rc<Reactor>,
    mut request: T,
    start: impl Fn(T) -> S,
) -> (io::Result<usize>, T) {
    for number in 0..STARTS_MAX {
        if number >= STARTS_AT_ONCE {
            let ring = Ring(Rc::clone(reactor));
            ring.sleep_until(now_nanos() + PAUSE_NANOS).await;
        }
        let (result, returned) = start(request).await;
        request = returned;
        match result {
            0.. => return (Ok(result as usize), request),
            _ if is_passing(-result) => {}
            _ => return (Err(io::Error::from_raw_os_error(-result)), request),
        }
    }
    (Err(io::Error::from_raw_os_error(libc::EAGAIN)), request)
}

/// Errors that say only "try again".
pub(crate) fn is_passing(errno: i32) -> bool {
    errno == libc::EINTR || errno == libc::EAGAIN
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;

    use super::*;
    use crate::RingConfig;

    /// What comes of something that has these results one after the other, the last one again and again; how often it was started,
    /// and for how many nanoseconds.
    fn come_to(results: &[i32]) -> (Result<usize, Option<i32>>, usize, u64) {
        let ring = Ring::new(RingConfig::default()).expect("a ring");
        let (started, begun) = (Cell::new(0), now_nanos());
        let start = |()| {
            let number = started.replace(started.get() + 1);
            ready((results[number.min(results.len() - 1)], ()))
        };
        let (result, ()) = ring.block_on(until_it_counts(&ring.0, (), start));
        let result = result.map_err(|error| error.raw_os_error());
        (result, started.get(), now_nanos() - begun)
    }

    #[test]
    fn what_the_kernel_refuses_for_the_moment_is_started_again() {
        let (again, interrupted) = (-libc::EAGAIN, -libc::EINTR);
        let (result, started, _) = come_to(&[again, interrupted, again, 5]);
        assert_eq!((result, started), (Ok(5), 4));
        // Beyond the first few with time between, since what is lacking comes back with time.
        let late = [&[again; STARTS_AT_ONCE + 10][..], &[7]].concat();
        let (result, started, nanos) = come_to(&late);
        assert_eq!((result, started), (Ok(7), late.len()));
        assert!(nanos >= 10 * PAUSE_NANOS, "{nanos}");
        let (result, started, _) = come_to(&[again]);
        assert_eq!((result, started), (Err(Some(libc::EAGAIN)), STARTS_MAX));
    }

    #[test]
    fn any_other_error_is_the_result_at_once() {
        for errno in [libc::ENOMEM, libc::ENOSPC, libc::EIO, libc::ECANCELED] {
            let (result, started, _) = come_to(&[-errno]);
            assert_eq!((result, started), (Err(Some(errno)), 1));
        }
    }
}
