//! The probe that commits offsets of one group: each commit one higher than the last.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Result, ensure};

use super::ask_any;
use super::timeline::Timeline;
use crate::connection::Connection;
use crate::groups::{self, Commit};

const PARTITION: i32 = 0;

pub(super) struct Committer {
    pub(super) timeline: Timeline,
    topic: String,
    group: String,
    brokers: Rc<[String]>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    coordinator: Option<Connection>,
    sent: i64,
    acknowledged: i64,
}

impl Committer {
    pub(super) fn new(topic: &str, brokers: Rc<[String]>) -> Self {
        Self {
            timeline: Timeline::new("offset commit".to_owned()),
            topic: topic.to_owned(),
            group: format!("{topic}-group"),
            brokers,
            state: RefCell::default(),
        }
    }

    pub(super) async fn attempt(&self) -> Result<()> {
        let (open, offset) = {
            let mut state = self.state.borrow_mut();
            state.sent += 1;
            (state.coordinator.take(), state.sent)
        };
        let mut coordinator = match open {
            Some(coordinator) => coordinator,
            None => self.connect().await?,
        };
        let commit = Commit {
            group: &self.group,
            topic: &self.topic,
            partitions: &[PARTITION],
            offset,
        };
        groups::commit(&mut coordinator, &commit).await?;
        let mut state = self.state.borrow_mut();
        state.acknowledged = offset;
        // Only a connection that has just worked is used again.
        state.coordinator = Some(coordinator);
        Ok(())
    }

    async fn connect(&self) -> Result<Connection> {
        let address = ask_any(&self.brokers, async |mut broker: Connection| {
            groups::coordinator_now(&mut broker, &self.group).await
        });
        Connection::open(&address.await?).await
    }

    /// Fails if the last acknowledged commit is not there. A later one that was not answered may have been taken too.
    pub(super) async fn read_back(&self) -> Result<()> {
        let mut coordinator = self.connect().await?;
        let found =
            groups::committed(&mut coordinator, &self.group, &self.topic, &[PARTITION]).await?;
        let found = found.get(&PARTITION).copied().unwrap_or_default();
        let State {
            acknowledged, sent, ..
        } = *self.state.borrow();
        ensure!(
            (acknowledged..=sent).contains(&found),
            "an acknowledged commit is lost: the group is at {found}, not {acknowledged}"
        );
        Ok(())
    }
}
