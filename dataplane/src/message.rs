//! What travels through the mesh.

use crate::calls::CallId;
use crate::frame_memory::Lent;
use crate::io::{Charge, Io, Slice};
use crate::mesh::ShardId;
use crate::partition_request::{PartitionReply, PartitionRequest};
use control_api::ids::TopicId;
use control_api::image::{MetadataEvent, MetadataImage};
use control_api::message::{ControlError, Request, Response};
use std::sync::Arc;

/// What a shard finds in its inbox.
pub enum Message<I: Io> {
    /// The cluster's metadata changed; from the control link.
    Metadata(Arc<Metadata>),
    /// A client's socket, from the shard that accepts.
    Connection(I::Handoff),
    /// Work on a partition of this shard, from the shard that has the client.
    Request {
        from: ShardId,
        call: CallId,
        request: PartitionRequest,
    },
    /// The answer to a call of this shard.
    Reply { call: CallId, reply: Reply },
    /// Flush everything, write the clean-shutdown marks, say so on the call, and stop.
    Stop,
}

/// The cluster's metadata, and what the control link knows about it.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pub image: Arc<MetadataImage>,
    pub changed: Changed,
    /// Topics whose deletion was seen committed since the last of these messages. One that is absent for any other reason may come
    /// back.
    pub deleted: Vec<TopicId>,
    /// Whether the image knows every topic that this broker ever had a part of, unless it was deleted.
    pub complete: bool,
    /// Whether the image shows this very process in service; if not, it is an earlier process that leads.
    pub registered: bool,
}

/// Where an image may differ from the one in the message before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Changed {
    /// It may be another one altogether, or something changed that counts for every topic.
    #[default]
    Everything,
    /// These topics were created, changed or deleted, some more than once.
    Topics(Vec<TopicId>),
}

impl Changed {
    pub(crate) fn note(&mut self, event: &MetadataEvent) {
        let topic = match event {
            MetadataEvent::TopicCreated(topic) => topic.id,
            MetadataEvent::TopicDeleted(topic)
            | MetadataEvent::PartitionChanged { topic, .. }
            | MetadataEvent::PartitionsAdded { topic, .. }
            | MetadataEvent::TopicConfigsChanged { topic, .. } => *topic,
            // They are the defaults of topics.
            MetadataEvent::BrokerConfigsChanged { .. } => {
                *self = Changed::Everything;
                return;
            }
            MetadataEvent::ClusterIdSet(_)
            | MetadataEvent::BrokerChanged(_)
            | MetadataEvent::BrokerRemoved(_)
            | MetadataEvent::CoordinatorChanged { .. }
            | MetadataEvent::NextProducerId(_)
            | MetadataEvent::FeatureLevelSet(_) => return,
        };
        if let Changed::Topics(topics) = self {
            topics.push(topic);
        }
    }
}

/// The answer to a call.
pub enum Reply {
    Partition(PartitionReply),
    Control(Result<Response, ControlError>),
}

/// What the control link finds in its inbox.
pub enum ControlMessage {
    Call {
        from: ShardId,
        call: CallId,
        request: Request,
    },
    /// The shard has closed its partitions.
    Stopped(ShardId),
}

/// Record bytes on their way to another shard, by pointer.
pub struct SharedRecords {
    slices: Vec<Slice>,
    /// What keeps the memory counted where it came from, until these are gone.
    _lent: Option<Arc<Lent>>,
    _pinned: Option<Charge>,
}

impl SharedRecords {
    pub fn new(
        slices: Vec<Slice>,
        lent: Option<Arc<Lent>>,
        pinned: Option<Charge>,
    ) -> SharedRecords {
        SharedRecords {
            slices,
            _lent: lent,
            _pinned: pinned,
        }
    }

    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    pub fn bytes(&self) -> usize {
        self.slices.iter().map(|slice| slice.len()).sum()
    }
}
