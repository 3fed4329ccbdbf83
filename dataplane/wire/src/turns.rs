//! How long work, such as reading or writing a long message, is done without keeping a thread's other tasks from theirs.

use std::future::poll_fn;
use std::task::Poll;

/// Lets every other task that is ready run first.
pub async fn give_way() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
