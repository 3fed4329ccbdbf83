//! Tells the shard that was asked something that nobody waits for the answer any more.

use atomic_waker::AtomicWaker;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

#[derive(Default)]
struct Shared {
    abandoned: AtomicBool,
    waker: AtomicWaker,
}

/// Kept by who waits: dropping it abandons the question.
pub struct Asking(Arc<Shared>);

/// Goes with the question.
pub struct Asked(Arc<Shared>);

/// One question's two ends.
pub fn question() -> (Asking, Asked) {
    let shared = Arc::new(Shared::default());
    (Asking(shared.clone()), Asked(shared))
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

impl Asked {
    /// Resolves once nobody waits for the answer.
    pub async fn abandoned(&self) {
        poll_fn(|context| {
            // Registered first: it may be abandoned in between.
            self.0.waker.register(context.waker());
            match self.0.abandoned.load(Ordering::Acquire) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn a_question_is_abandoned_once_nobody_waits() {
        let (asking, asked) = question();
        let mut abandoned = pin!(asked.abandoned());
        let context = &mut Context::from_waker(Waker::noop());
        assert!(abandoned.as_mut().poll(context).is_pending());
        std::thread::scope(|scope| scope.spawn(move || drop(asking)).join()).expect("it ends");
        assert!(abandoned.as_mut().poll(context).is_ready());
    }
}
