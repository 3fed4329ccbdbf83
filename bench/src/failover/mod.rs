//! `failover`: kills a process of a cluster and measures how long it takes until produce (acks=all) and offset commits succeed again.
//!
//! ```text
//!  steady load      SIGKILL   process gone                            every probe succeeded     steady load     read back
//! ------------------|---------|---------------------------------------|-------------------------|---------------|---------->
//!                   0         only requests sent from here on count   the longest of these is the result
//! ```
//! A probe sends one small request after the other at a steady pace and reconnects on every error. `produce.rs` has one for each partition,
//! `commit.rs` one for the group. What they were answered is read back in the end: nothing acknowledged may be lost.

mod commit;
mod process;
mod produce;
mod read_back;
mod results;
mod timeline;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};
use monoio::time::sleep;

use crate::clock::now;
use crate::connection::Connection;
use crate::topic;
use commit::Committer;
use process::{Restart, Victim};
use produce::Producer;
use results::Results;
use timeline::Timeline;

/// How often the end of a wait is looked for.
const POLL_PAUSE: Duration = Duration::from_millis(1);
/// An attempt that is not answered by then has failed: nothing listens any more that would refuse it.
const ATTEMPT_WAIT: Duration = Duration::from_secs(2);
/// Between an attempt that failed and the next one. It bounds how exactly the return is seen.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// HOST:PORT of any broker; best one that is not killed, if there are several
    #[arg(long)]
    bootstrap: String,
    /// The process that gets SIGKILL
    #[arg(long, value_parser = clap::value_parser!(i32).range(2..))]
    pid: i32,
    /// Run with `sh -c` right after the kill, such as "scripts/start broker 1"
    #[arg(long, value_name = "COMMAND")]
    restart_command: Option<String>,
    /// Is created if it does not exist [default: a new one, which is deleted in the end]
    #[arg(long)]
    topic: Option<String>,
    /// Each is written to, and none is back before all are
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=1000))]
    partitions: i32,
    /// Between two batches of a partition, and between two commits
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pace_ms: u64,
    /// Steady load before the kill, and after the return
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds_steady: u64,
    /// How long the return is waited for
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds_max: u64,
    /// Writes the results to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    crate::block_on(async move {
        let victim = Victim::find(arguments.pid)?;
        let named = arguments.topic.clone();
        let topic = named.clone().unwrap_or_else(|| {
            let token = RandomState::new().build_hasher().finish();
            format!("millrace-failover-{token:016x}")
        });
        let load = Load::prepare(&arguments, &topic).await?;
        let mut results = Results::new(&arguments, &topic);
        let ended = measure(&arguments, victim, &load, &mut results).await;
        let ended = match ended {
            Ok(()) => load.read_back(&mut results).await,
            failed => failed,
        };
        if named.is_none() && ended.is_ok() {
            let mut connection = Connection::open(&arguments.bootstrap).await?;
            topic::delete(&mut connection, &topic).await?;
        }
        results.finish(&load, arguments.json.as_deref(), ended)
    })
}

/// All probes.
struct Load {
    producers: Vec<Producer>,
    committer: Committer,
    pace: Duration,
}

impl Load {
    async fn prepare(arguments: &Arguments, topic: &str) -> Result<Self> {
        let mut connection = Connection::open(&arguments.bootstrap).await?;
        topic::create(&mut connection, topic, arguments.partitions, &[]).await?;
        let topic = topic::find(&mut connection, topic).await?;
        // Brokers that may be asked for metadata when the first one is gone.
        let mut brokers = vec![arguments.bootstrap.clone()];
        brokers.extend(topic.leaders.iter().map(|leader| leader.address.clone()));
        brokers.sort();
        brokers.dedup();
        let brokers: Rc<[String]> = brokers.into();
        let producer =
            |leader: &topic::Leader| Producer::new(&topic, leader.partition, brokers.clone());
        Ok(Self {
            producers: topic.leaders.iter().map(producer).collect(),
            committer: Committer::new(&topic.name, brokers.clone()),
            pace: Duration::from_millis(arguments.pace_ms),
        })
    }

    /// Sends for ever.
    async fn run(&self) {
        let producing = self.producers.iter().map(|producer| {
            keep_trying(self.pace, &producer.timeline, async || {
                producer.attempt().await
            })
        });
        let mut producing: FuturesUnordered<_> = producing.collect();
        let committing = keep_trying(self.pace, &self.committer.timeline, async || {
            self.committer.attempt().await
        });
        futures::join!(producing.next(), committing);
    }

    fn timelines(&self) -> impl Iterator<Item = &Timeline> {
        let producers = self.producers.iter().map(|producer| &producer.timeline);
        producers.chain([&self.committer.timeline])
    }

    /// The last error of a probe that has not succeeded since `since`, or `None` if all have.
    fn still_failing(&self, since: Instant) -> Option<String> {
        self.timelines()
            .find(|timeline| timeline.first_sent_after(since).is_none())
            .map(|timeline| format!("{}: {}", timeline.name, timeline.last_error()))
    }

    async fn read_back(&self, results: &mut Results) -> Result<()> {
        for producer in &self.producers {
            results.records_found += producer.read_back().await?;
        }
        self.committer.read_back().await
    }
}

/// One attempt after the other, each begun a `pace` after the one before if that succeeded in time.
async fn keep_trying(
    pace: Duration,
    timeline: &Timeline,
    mut attempt: impl AsyncFnMut() -> Result<()>,
) {
    loop {
        let sent_at = now();
        let answered = monoio::time::timeout(ATTEMPT_WAIT, attempt()).await;
        match answered.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer"))) {
            Ok(()) => {
                timeline.succeeded(sent_at, now());
                sleep(pace.saturating_sub(now().duration_since(sent_at))).await;
            }
            Err(error) => {
                timeline.failed(&error);
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// The load beside the plan.
async fn measure(
    arguments: &Arguments,
    victim: Victim,
    load: &Load,
    results: &mut Results,
) -> Result<()> {
    let plan = std::pin::pin!(play(arguments, victim, load, results));
    match select(plan, std::pin::pin!(load.run())).await {
        Either::Left((ended, _)) => ended,
        Either::Right(((), _)) => bail!("the load ended"),
    }
}

async fn play(
    arguments: &Arguments,
    victim: Victim,
    load: &Load,
    results: &mut Results,
) -> Result<()> {
    let steady = Duration::from_secs(arguments.seconds_steady);
    let started = now();
    sleep(steady).await;
    if let Some(error) = load.still_failing(started) {
        bail!("it does not work even before the kill: {error}");
    }
    let wait = Duration::from_secs(arguments.seconds_max);
    let killed_at = now();
    victim.kill()?;
    results.killed_at = Some(killed_at);
    let mut restart = match &arguments.restart_command {
        Some(command) => Some(Restart::start(command)?),
        None => None,
    };
    let gone = until(killed_at + wait, || Ok(victim.is_gone())).await?;
    if !gone {
        bail!("process {} does not die", arguments.pid);
    }
    let gone_at = now();
    results.gone_at = Some(gone_at);
    let back = until(killed_at + wait, || {
        if let Some(restart) = &mut restart {
            restart.check()?;
        }
        Ok(load.still_failing(gone_at).is_none())
    })
    .await?;
    if !back {
        let error = load.still_failing(gone_at).unwrap_or_default();
        bail!("not back {} s after the kill: {error}", wait.as_secs());
    }
    sleep(steady).await;
    Ok(())
}

/// Whether something became true before the deadline.
async fn until(deadline: Instant, mut is_true: impl FnMut() -> Result<bool>) -> Result<bool> {
    while now() < deadline {
        if is_true()? {
            return Ok(true);
        }
        sleep(POLL_PAUSE).await;
    }
    is_true()
}

/// The first broker of several that answers a question.
async fn ask_any<T>(
    brokers: &[String],
    question: impl AsyncFn(Connection) -> Result<T>,
) -> Result<T> {
    let mut last = None;
    for broker in brokers {
        let answer = match Connection::open(broker).await {
            Ok(connection) => question(connection).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no broker is known")?)
}
