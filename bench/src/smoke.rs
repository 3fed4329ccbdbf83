//! `smoke`: whether a cluster really works. One record goes into a new topic and comes out again; the topic is deleted whatever happened.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Write, stdout};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::bounds;
use crate::connection::Connection;
use crate::fetch::{FetchLimits, Fetched, Fetcher};
use crate::one_record;
use crate::topic;

const PARTITION: i32 = 0;
const FETCH_BYTES_MAX: usize = 1 << 20;
const FETCHES_MAX: usize = 20;
const FETCH_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// HOST:PORT of any broker
    #[arg(long)]
    bootstrap: String,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let bootstrap = arguments.bootstrap;
    crate::block_on(async {
        let mut connection = Connection::open(&bootstrap).await?;
        // Two checks at the same time must not share a topic.
        let topic = format!(
            "millrace-smoke-{:016x}",
            RandomState::new().build_hasher().finish()
        );
        topic::create(&mut connection, &topic, 1, &[]).await?;
        let worked = exchange(&mut connection, &topic).await;
        worked.and(delete(&bootstrap, &topic).await)
    })?;
    writeln!(stdout(), "{bootstrap} takes a record and gives it back").context("cannot print")
}

/// Over a connection of its own, because an error may have left the other one in the middle of an answer.
async fn delete(bootstrap: &str, topic: &str) -> Result<()> {
    topic::delete(&mut Connection::open(bootstrap).await?, topic).await
}

async fn exchange(connection: &mut Connection, topic: &str) -> Result<()> {
    let topic = topic::find(connection, topic).await?;
    let leader = topic
        .leaders
        .first()
        .context("the topic has no partition")?;
    let mut leader = Connection::open(&leader.address).await?;
    bounds::wait_led(&mut leader, &topic.name, &[PARTITION]).await?;
    let value = topic.name.as_bytes();
    one_record::produce(&mut leader, &topic, PARTITION, value).await?;
    let limits = FetchLimits {
        partition_bytes: FETCH_BYTES_MAX,
        bytes: FETCH_BYTES_MAX,
    };
    let mut fetcher = Fetcher::new(leader, &topic, limits)?;
    for _ in 0..FETCHES_MAX {
        if let Some(found) = fetch(&mut fetcher).await? {
            ensure!(found == value, "the record came back changed");
            return Ok(());
        }
        monoio::time::sleep(FETCH_PAUSE).await;
    }
    bail!("the record did not come back")
}

/// The value of the first record, if it can be read already.
async fn fetch(fetcher: &mut Fetcher) -> Result<Option<Vec<u8>>> {
    let mut found = None;
    let take = |fetched: Fetched<'_>| {
        fetched.batches(0, |_, batch| {
            batch.validate()?;
            let records = batch
                .records
                .contiguous()
                .context("the batch lies in one piece")?;
            let record = wire::RecordIter::new(records)
                .next()
                .context("a batch without records")??;
            found = record.value.map(<[u8]>::to_vec);
            Ok(())
        })?;
        Ok(())
    };
    fetcher.fetch([(PARTITION, 0)].into_iter(), take).await?;
    Ok(found)
}
