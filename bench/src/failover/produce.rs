//! The probe that writes to one partition: one record a time, acks=all. It remembers at which offset each one was acknowledged.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;

use anyhow::{Context, Result};
use wire::messages::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use wire::{ApiKey, Array, BatchBuilder, Reader, Records, Writer};

use super::timeline::Timeline;
use super::{ask_any, read_back};
use crate::clock;
use crate::connection::Connection;
use crate::stamp::Stamp;
use crate::topic::{self, Topic};

const ACKS_ALL: i16 = -1;
const TIMEOUT_MS: i32 = 10_000;

pub(super) struct Producer {
    pub(super) timeline: Timeline,
    topic: Topic,
    partition: i32,
    brokers: Rc<[String]>,
    state: RefCell<State>,
}

struct State {
    leader: Option<Connection>,
    next: Stamp,
    /// What was acknowledged, and at which offset. A broker that loses records may acknowledge one offset twice.
    acknowledged: Vec<(i64, Stamp)>,
}

impl Producer {
    pub(super) fn new(topic: &Topic, partition: i32, brokers: Rc<[String]>) -> Self {
        Self {
            timeline: Timeline::new(format!("produce to partition {partition}")),
            topic: topic.clone(),
            partition,
            brokers,
            state: RefCell::new(State {
                leader: None,
                next: Stamp {
                    stream: RandomState::new().build_hasher().finish(),
                    sequence: 0,
                },
                acknowledged: Vec::new(),
            }),
        }
    }

    /// Sends the next record. One that was not acknowledged is not sent again: it may have been stored.
    pub(super) async fn attempt(&self) -> Result<()> {
        let (open, stamp) = {
            let mut state = self.state.borrow_mut();
            let stamp = state.next;
            state.next.sequence += 1;
            (state.leader.take(), stamp)
        };
        let mut leader = match open {
            Some(leader) => leader,
            None => self.connect().await?,
        };
        let offset = send(&mut leader, &self.topic, self.partition, stamp).await?;
        let mut state = self.state.borrow_mut();
        state.acknowledged.push((offset, stamp));
        // Only a connection that has just worked is used again.
        state.leader = Some(leader);
        Ok(())
    }

    async fn connect(&self) -> Result<Connection> {
        let found = ask_any(&self.brokers, async |mut broker: Connection| {
            topic::find_now(&mut broker, &self.topic.name).await
        });
        let topic = found.await?.map_err(anyhow::Error::msg)?;
        let leader = topic
            .leaders
            .iter()
            .find(|leader| leader.partition == self.partition)
            .context("the partition is unknown")?;
        Connection::open(&leader.address).await
    }

    /// Fails if an acknowledged record is not where it was said to be. Returns how many there are.
    pub(super) async fn read_back(&self) -> Result<usize> {
        let leader = self.connect().await?;
        let found = read_back::stamps(leader, &self.topic, self.partition).await?;
        let state = self.state.borrow();
        read_back::check(self.partition, &state.acknowledged, &found)?;
        Ok(state.acknowledged.len())
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.state.borrow().acknowledged.len()
    }
}

/// Writes one record and returns its offset.
async fn send(leader: &mut Connection, topic: &Topic, partition: i32, stamp: Stamp) -> Result<i64> {
    let version = topic.version(&leader.versions, ApiKey::Produce)?;
    let now_ms = clock::wall_clock_ms();
    let batch = BatchBuilder::new(now_ms)
        .record(now_ms, None, Some(&stamp.to_bytes()), &[])
        .build();
    let partitions = [PartitionProduceData {
        index: partition,
        records: Some(Records::from_slice(&batch)),
    }];
    let topics = [TopicProduceData {
        name: &topic.name,
        topic_id: topic.id,
        partition_data: Array::from(&partitions),
    }];
    let request = ProduceRequest {
        acks: ACKS_ALL,
        timeout_ms: TIMEOUT_MS,
        topic_data: Array::from(&topics),
        ..ProduceRequest::default()
    };
    let decode = |answer: &mut Reader<'_>| {
        let response = ProduceResponse::decode(answer, version)?;
        let mut partitions = response
            .responses
            .iter()
            .flat_map(|topic| topic.partition_responses.iter());
        let partition = partitions.next().context("an answer without a partition")?;
        topic::check(partition.error_code)?;
        Ok(partition.base_offset)
    };
    let encode = |writer: &mut Writer<'_>| request.encode(writer, version);
    leader.call(ApiKey::Produce, version, encode, decode).await
}
