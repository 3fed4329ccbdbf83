//! The broker's copy of the metadata: it follows the controllers' changes and notices when it is no copy any more.
//!
//! Each update names its place in the controllers' log, and a keep-alive the digest of what led there. A copy whose own digest differs
//! is doubted: a snapshot is wanted in its place.

use crate::io::Instant;
use crate::message::Changed;
use control_api::ids::{Position, TopicId};
use control_api::image::{MetadataEvent, MetadataImage};
use control_api::message::MetadataUpdate;
use std::sync::Arc;

/// An image that differed again so soon after it was replaced differs for a reason that another snapshot does not mend.
pub(super) const DOUBT_PAUSE_MS: u64 = 10_000;

#[derive(Clone)]
pub(super) struct ImageCopy {
    image: Arc<MetadataImage>,
    /// Of the image.
    digest: u64,
    /// What changed since it was last asked for.
    changed: Changed,
    /// Topics whose deletion was seen committed since then.
    deleted: Vec<TopicId>,
    /// A controller has gone on from the image or replaced it, so it is one of this quorum's log.
    is_followed: bool,
    /// The image is not what the controllers have: a snapshot is wanted.
    is_doubted: bool,
    /// Until then, no other snapshot is asked for.
    doubt_after: Instant,
    divergences: u64,
}

/// What an update came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The image is at another place than before.
    New,
    /// All of it was here already.
    Known,
    /// It comes from a controller that knows less than this broker.
    Older,
}

impl ImageCopy {
    /// `stored` is what was on disk at the start.
    pub(super) fn new(stored: MetadataImage, now: Instant) -> ImageCopy {
        ImageCopy {
            digest: stored.digest(),
            image: Arc::new(stored),
            changed: Changed::Everything,
            deleted: Vec::new(),
            is_followed: false,
            is_doubted: false,
            doubt_after: now,
            divergences: 0,
        }
    }

    pub(super) fn image(&self) -> &Arc<MetadataImage> {
        &self.image
    }

    pub(super) fn is_followed(&self) -> bool {
        self.is_followed
    }

    /// How often the image was found not to be the controllers'.
    pub(super) fn divergences(&self) -> u64 {
        self.divergences
    }

    /// What changed and which topics were deleted since the last call.
    pub(super) fn take_changes(&mut self) -> (Changed, Vec<TopicId>) {
        let changed = std::mem::replace(&mut self.changed, Changed::Topics(Vec::new()));
        (changed, std::mem::take(&mut self.deleted))
    }

    /// The place to go on from; the very beginning asks for a snapshot.
    pub(super) fn watched_from(&self) -> Position {
        match self.is_doubted {
            true => Position::default(),
            false => self.image.position(),
        }
    }

    pub(super) fn take(&mut self, update: MetadataUpdate) -> Taken {
        let before = self.image.index;
        match update {
            MetadataUpdate::Snapshot(snapshot) if snapshot.index < before => return Taken::Older,
            MetadataUpdate::Snapshot(snapshot) => self.replace(snapshot),
            MetadataUpdate::Replacement(snapshot) => {
                self.diverged("it is of another log than the controllers'");
                self.replace(snapshot);
            }
            // What is here already may come again after a change of controllers.
            MetadataUpdate::Delta { at, .. } | MetadataUpdate::KeepAlive { at, .. }
                if at.index <= before =>
            {
                return Taken::Known;
            }
            MetadataUpdate::Delta { at, events } => {
                self.deleted.extend(events.iter().filter_map(deleted_topic));
                self.apply(at, &events);
            }
            MetadataUpdate::KeepAlive { at, .. } => self.apply(at, &[]),
        }
        self.is_followed = true;
        Taken::New
    }

    /// Whether what led to this place led to another image here, for which another stream is wanted now.
    pub(super) fn comes_to_differ(&mut self, now: Instant, at: Position, digest: u64) -> bool {
        let differs = at == self.image.position() && digest != self.digest;
        if !differs || now < self.doubt_after {
            return false;
        }
        self.diverged("its digest differs from the controllers'");
        self.is_doubted = true;
        self.doubt_after = now.after_ms(DOUBT_PAUSE_MS);
        true
    }

    fn apply(&mut self, at: Position, events: &[MetadataEvent]) {
        events.iter().for_each(|event| self.changed.note(event));
        let growth = Arc::make_mut(&mut self.image).apply(at, events);
        self.digest = self.digest.wrapping_add(growth);
    }

    fn replace(&mut self, snapshot: MetadataImage) {
        self.digest = snapshot.digest();
        self.image = Arc::new(snapshot);
        self.changed = Changed::Everything;
        self.is_doubted = false;
    }

    fn diverged(&mut self, how: &str) {
        let Position { term, index } = self.image.position();
        tracing::error!(
            term,
            index,
            "this broker's metadata is not the cluster's, {how}: taking a snapshot"
        );
        self.divergences += 1;
    }
}

fn deleted_topic(event: &MetadataEvent) -> Option<TopicId> {
    let MetadataEvent::TopicDeleted(id) = event else {
        return None;
    };
    Some(*id)
}
