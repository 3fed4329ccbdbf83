//! Notices that this node has lost what it had acknowledged.

use super::log::LogStore;
use super::wire::WireAppend;
use std::io;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Clones are one memory.
#[derive(Clone)]
pub(crate) struct Memory {
    log: LogStore,
    /// What was lost, once something was: the node must not go on.
    lost: watch::Sender<Option<String>>,
    /// When a leader last sent anything.
    heard: watch::Sender<Instant>,
}

impl Memory {
    pub(crate) fn new(log: LogStore) -> Self {
        Memory {
            log,
            lost: watch::Sender::new(None),
            heard: watch::Sender::new(Instant::now()),
        }
    }

    /// Whether nothing was ever written here, and nothing promised but votes.
    pub(crate) fn is_blank(&self) -> bool {
        self.log.is_blank()
    }

    /// Refuses an append of a leader that has seen this node acknowledge what its log does not have, and stops the node: its votes
    /// and acknowledgements were counted, and it does not know them any more.
    pub(crate) fn stand_by(&self, append: &WireAppend) -> io::Result<()> {
        match append.acknowledged {
            Some(id) if self.log.has_lost(&id, append.term()) => {
                let text = format!(
                    "the disk has lost log entries up to {} that it had acknowledged: replace it by an empty one",
                    id.index
                );
                self.lost.send_replace(Some(text.clone()));
                Err(io::Error::other(text))
            }
            _ => {
                self.heard.send_replace(Instant::now());
                Ok(())
            }
        }
    }

    /// For how long no leader has sent anything.
    pub(crate) fn silence(&self) -> Duration {
        self.heard.borrow().elapsed()
    }

    /// Returns once something was found to be lost.
    pub(crate) async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        let found = lost.wait_for(Option::is_some).await;
        // The sender is this memory's own.
        found.ok().and_then(|text| text.clone()).unwrap_or_default()
    }
}
