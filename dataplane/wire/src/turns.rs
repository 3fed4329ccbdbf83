//! How long messages are read and written without keeping a thread's other tasks from theirs.

use std::future::poll_fn;
use std::task::Poll;

/// Lets other tasks run first.
pub(crate) async fn give_way() {
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
