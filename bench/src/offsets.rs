//! `offsets`: a closed loop of offset commits by many groups, as fast as their coordinators take them. A commit is one offset of one
//! partition; a request carries `--partitions` of them. In the results, records are commits.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join;
use wire::{ApiKey, Reader, ResponseHeader};

use crate::clock::now;
use crate::connection::{Connection, Frames, Sender};
use crate::groups::{self, Commit};
use crate::meter::{Meter, Output};
use crate::run::{Limits, Run};
use crate::topic;
use crate::window::Window;

/// Groups whose offsets are read back after the run, spread over all.
const GROUPS_READ_BACK_MAX: usize = 100;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// HOST:PORT of any broker
    #[arg(long)]
    bootstrap: String,
    /// Whose partitions the offsets are of; is created if it does not exist
    #[arg(long, default_value = "millrace-offsets")]
    topic: String,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    groups: u32,
    /// Partitions that each request commits
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Unanswered requests of each connection
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: Arguments) -> Result<()> {
    crate::block_on(async move {
        let partitions: Vec<i32> = (0..arguments.partitions).collect();
        let committers = prepare(&arguments, &partitions).await?;
        let mut connections = Vec::with_capacity(committers.len());
        for committer in &committers {
            connections.push(Connection::open(&committer.address).await?);
        }
        let meter = Meter::start(arguments.output.clone())?;
        let run = Run::new(arguments.limits);
        let running = committers
            .iter()
            .zip(connections)
            .map(|(committer, connection)| committer.commit(connection, &run));
        let mut ended = meter.supervise(&run, running.collect()).await;
        run.stop_clock();
        print_commits(&run)?;
        if ended.is_ok() {
            ended = read_back(&committers).await;
        }
        let settings = [
            ("topic", arguments.topic.clone()),
            ("groups", arguments.groups.to_string()),
            ("partitions", arguments.partitions.to_string()),
            ("connections", committers.len().to_string()),
            ("in_flight", arguments.in_flight.to_string()),
        ];
        meter.finish(&run, "offsets", &settings, ended)
    })
}

fn print_commits(run: &Run) -> Result<()> {
    let commits = run.counts.borrow().records as f64 / run.seconds();
    writeln!(stdout(), "{commits:.0} commits/s").context("cannot print")
}

/// Creates the topic and spreads the groups over connections to their coordinators.
async fn prepare<'a>(
    arguments: &'a Arguments,
    partitions: &'a [i32],
) -> Result<Vec<Committer<'a>>> {
    let mut bootstrap = Connection::open(&arguments.bootstrap).await?;
    topic::create(&mut bootstrap, &arguments.topic, arguments.partitions, &[]).await?;
    let leaders = topic::find(&mut bootstrap, &arguments.topic).await?.leaders;
    ensure!(
        leaders.len() >= partitions.len(),
        "topic {} has {} partitions, fewer than {}",
        arguments.topic,
        leaders.len(),
        partitions.len()
    );
    let mut groups: BTreeMap<(u32, String), Vec<String>> = BTreeMap::new();
    for number in 0..arguments.groups {
        let group = group_name(&arguments.topic, number);
        let address = groups::coordinator(&mut bootstrap, &group).await?;
        let place = (number % arguments.connections, address);
        groups.entry(place).or_default().push(group);
    }
    let version = bootstrap.version(ApiKey::OffsetCommit)?;
    let request_bytes = request_bytes(version, &arguments.topic, partitions)?;
    let committer = |((_, address), groups): ((u32, String), Vec<String>)| Committer {
        address,
        groups,
        topic: &arguments.topic,
        partitions,
        in_flight: arguments.in_flight as usize,
        version,
        request_bytes,
        answered: Cell::new(0),
    };
    Ok(groups.into_iter().map(committer).collect())
}

/// All names have one length, so that all requests have.
fn group_name(topic: &str, number: u32) -> String {
    format!("{topic}-{number:06}")
}

fn request_bytes(version: i16, topic: &str, partitions: &[i32]) -> Result<u64> {
    let commit = Commit {
        group: &group_name(topic, 0),
        topic,
        partitions,
        offset: 0,
    };
    let mut request = Vec::new();
    groups::encode_commit(&mut request, version, 0, &commit)?;
    Ok(request.len() as u64)
}

/// One connection and its groups, which commit in turn: request k is of group k modulo their number, with offset [`offset_of`] k.
struct Committer<'a> {
    address: String,
    groups: Vec<String>,
    topic: &'a str,
    partitions: &'a [i32],
    in_flight: usize,
    /// Of OffsetCommit.
    version: i16,
    request_bytes: u64,
    /// Requests so far.
    answered: Cell<u64>,
}

impl Committer<'_> {
    async fn commit(&self, connection: Connection, run: &Run) -> Result<()> {
        let Connection { frames, sender, .. } = connection;
        let window = Window::new(self.in_flight);
        try_join(
            self.send(sender, &window, run),
            self.receive(frames, &window, run),
        )
        .await
        .map(drop)
    }

    async fn send(&self, mut sender: Sender, window: &Window<Instant>, run: &Run) -> Result<()> {
        let mut requests = Vec::new();
        let mut number = 0;
        loop {
            let room = window.room().await;
            requests.clear();
            for _ in 0..room {
                let at = now();
                if !run.claim(self.request_bytes, at) {
                    break;
                }
                window.sent(at);
                // Correlation ids may wrap.
                groups::encode_commit(
                    &mut requests,
                    self.version,
                    number as i32,
                    &self.commit_of(number),
                )?;
                number += 1;
            }
            if requests.is_empty() {
                window.finish();
                return Ok(());
            }
            requests = sender.send(requests).await?;
        }
    }

    fn commit_of(&self, number: u64) -> Commit<'_> {
        Commit {
            group: &self.groups[(number % self.groups.len() as u64) as usize],
            topic: self.topic,
            partitions: self.partitions,
            offset: offset_of(number, self.groups.len()),
        }
    }

    async fn receive(&self, mut frames: Frames, window: &Window<Instant>, run: &Run) -> Result<()> {
        let partitions = self.partitions.len();
        while window.answer_due().await {
            let Some(frame) = frames.arrived()? else {
                frames.receive().await?;
                continue;
            };
            let mut answer = Reader::new(frame);
            let header = ResponseHeader::decode(&mut answer, ApiKey::OffsetCommit, self.version)?;
            ensure!(
                header.correlation_id == self.answered.get() as i32,
                "an answer out of order"
            );
            groups::check_commit(&mut answer, self.version, partitions)?;
            self.answered.set(self.answered.get() + 1);
            let sent_at = window.answered().context("an answer to no request")?;
            run.count(self.request_bytes, partitions as u64, sent_at);
        }
        Ok(())
    }

    /// The offset that each group committed last, for those that did.
    fn committed(&self) -> impl Iterator<Item = (&str, i64)> {
        let answered = self.answered.get();
        let first = answered.saturating_sub(self.groups.len() as u64);
        (first..answered).map(|number| {
            let commit = self.commit_of(number);
            (commit.group, commit.offset)
        })
    }
}

/// Offsets of a group go up by one with every request.
fn offset_of(number: u64, groups: usize) -> i64 {
    (number / groups as u64) as i64 + 1
}

/// Asks the coordinators for what they answered for, over connections of their own.
async fn read_back(committers: &[Committer<'_>]) -> Result<()> {
    let each = GROUPS_READ_BACK_MAX.div_ceil(committers.len().max(1));
    for committer in committers {
        let mut connection = Connection::open(&committer.address).await?;
        for (group, offset) in committer.committed().take(each) {
            let (topic, partitions) = (committer.topic, committer.partitions);
            let found = groups::committed(&mut connection, group, topic, partitions).await?;
            for partition in partitions {
                match found.get(partition) {
                    Some(found) if *found == offset => {}
                    Some(found) => bail!(
                        "an acknowledged commit is lost: group {group}, partition {partition} is at {found}, not {offset}"
                    ),
                    None => bail!(
                        "an acknowledged commit is lost: group {group}, partition {partition} has no offset"
                    ),
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_offset_of_each_group_is_known_from_the_number_of_answers() {
        let committer = Committer {
            address: String::new(),
            groups: ["a", "b", "c"].map(str::to_owned).to_vec(),
            topic: "t",
            partitions: &[0],
            in_flight: 1,
            version: 8,
            request_bytes: 1,
            answered: Cell::new(0),
        };
        assert_eq!(committer.committed().count(), 0);
        committer.answered.set(2);
        assert!(committer.committed().eq([("a", 1), ("b", 1)]));
        committer.answered.set(7);
        assert!(committer.committed().eq([("b", 2), ("c", 2), ("a", 3)]));
    }
}
