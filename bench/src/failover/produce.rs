//! The probe that writes to one partition: one record a time, acks=all. It remembers at which offset each one was acknowledged.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;

use anyhow::{Context, Result};

use super::timeline::Timeline;
use super::{ask_any, read_back};
use crate::connection::Connection;
use crate::one_record;
use crate::stamp::Stamp;
use crate::topic::{self, Topic};

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
        let value = stamp.to_bytes();
        let offset = one_record::produce(&mut leader, &self.topic, self.partition, &value).await?;
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
