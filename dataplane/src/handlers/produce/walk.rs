//! Where a request stands whose batches are appended in turns.

use super::PendingProduce;
use crate::io::Io;
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::{Array, Iter};

/// What is left of a request whose batches are appended in turns. To find the place anew would take as long as there are batches before it.
pub(crate) struct Walk<'a> {
    pub(super) topics: Iter<'a, TopicProduceData<'a>>,
    /// The one that was begun last.
    pub(super) topic: Option<TopicProduceData<'a>>,
    pub(super) partitions: Iter<'a, PartitionProduceData<'a>>,
}

impl<'a> Walk<'a> {
    /// Behind what has been begun.
    #[inline]
    pub(crate) fn new<I: Io>(request: &ProduceRequest<'a>, pending: &PendingProduce<I>) -> Self {
        let mut topics = request.topic_data.iter();
        let (mut topic, mut partitions) = (None, Array::default().iter());
        if let Some(last) = pending.topics.last() {
            topic = topics.nth(pending.topics.len() - 1);
            partitions = topic
                .as_ref()
                .map_or(partitions, |topic: &TopicProduceData<'a>| {
                    topic.partition_data.iter()
                });
            if last.partitions > 0 {
                partitions.nth(last.partitions - 1);
            }
        }
        Walk {
            topics,
            topic,
            partitions,
        }
    }
}
