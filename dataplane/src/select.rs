//! Waiting for the first of two futures, or for one with a deadline.

use crate::io::{Instant, Io};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Runs both until one ends; true if that was the first. The other is dropped.
pub async fn first(one: impl Future<Output = ()>, other: impl Future<Output = ()>) -> bool {
    let mut one = pin!(one);
    let mut other = pin!(other);
    poll_fn(|context| {
        if one.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        other.as_mut().poll(context).map(|()| false)
    })
    .await
}

/// The future's output, or `None` once the deadline has passed; then the future is dropped.
pub async fn until<I: Io, T>(
    io: &I,
    deadline: Instant,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let mut timeout = pin!(io.sleep_until(deadline));
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        timeout.as_mut().poll(context).map(|()| None)
    })
    .await
}
