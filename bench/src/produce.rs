//! `produce`: a closed loop of producers. Every connection keeps `--in-flight` requests of one batch each unanswered.

use anyhow::{Context, Result, ensure};
use futures::future::try_join;
use wire::messages::api_versions::ApiVersionsRequest;
use wire::messages::produce::ProduceResponse;
use wire::{ApiKey, Reader, ResponseHeader};

use crate::clock::now;
use crate::connection::{Connection, Frames, Sender, encode_request};
use crate::lanes::{Acks, Lane, Load, PRODUCE_VERSION};
use crate::report::{Meter, Output};
use crate::run::{Limits, Run};
use crate::topic::{self, Share};
use crate::units;
use crate::window::Window;

/// Requests smaller than this are sent several at a time, larger ones from where they were built.
const SEND_BYTES: usize = 64 << 10;
/// A version of ApiVersions that every broker knows.
const FENCE_VERSION: i16 = 0;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// HOST:PORT of any broker
    #[arg(long)]
    bootstrap: String,
    /// Is created if it does not exist
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    /// Bytes of a record's value [default: 1024, or what fits the batch]
    #[arg(long, value_parser = units::message_bytes)]
    record_bytes: Option<usize>,
    /// Bytes of a batch, which is filled with as many records as fit
    #[arg(long, default_value = "64k", value_parser = units::message_bytes)]
    batch_bytes: usize,
    /// Unanswered requests of each connection
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    #[arg(long, value_enum, default_value = "all")]
    acks: Acks,
    /// Topic config as NAME=VALUE; may be repeated
    #[arg(long = "config", value_parser = config)]
    configs: Vec<(String, String)>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    output: Output,
}

fn config(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub fn run(arguments: Arguments) -> Result<()> {
    crate::block_on(async move {
        let load = Load::new(arguments.record_bytes, arguments.batch_bytes)?;
        let shares = prepare_topic(&arguments).await?;
        let mut producers = Vec::with_capacity(shares.len());
        for share in &shares {
            producers.push(Producer::open(&arguments, &load, share).await?);
        }
        let meter = Meter::start(arguments.output.clone())?;
        let run = Run::new(arguments.limits);
        let ended = run
            .supervise(
                producers
                    .into_iter()
                    .map(|producer| producer.produce(&run))
                    .collect(),
            )
            .await;
        let settings = [
            ("topic", arguments.topic.clone()),
            ("partitions", arguments.partitions.to_string()),
            ("batch_bytes", load.batch.len().to_string()),
            ("records_per_batch", load.records.to_string()),
            ("in_flight", arguments.in_flight.to_string()),
            ("connections", arguments.connections.to_string()),
            ("acks", format!("{:?}", arguments.acks)),
        ];
        meter.finish(&run, "produce", &settings, ended)
    })
}

async fn prepare_topic(arguments: &Arguments) -> Result<Vec<Share>> {
    let Arguments {
        topic, partitions, ..
    } = arguments;
    let mut connection = Connection::open(&arguments.bootstrap).await?;
    topic::create(&mut connection, topic, *partitions, &arguments.configs).await?;
    let leaders = topic::leaders(&mut connection, topic).await?;
    ensure!(
        leaders.len() == *partitions as usize,
        "topic {topic} has {} partitions, not {partitions}",
        leaders.len()
    );
    topic::shares(&leaders, arguments.connections as usize)
}

/// One connection and what it sends.
struct Producer {
    connection: Connection,
    lanes: Vec<Lane>,
    window: Window,
    acks: Acks,
    batch_bytes: u64,
    batch_records: u64,
}

impl Producer {
    async fn open(arguments: &Arguments, load: &Load, share: &Share) -> Result<Self> {
        let lane = |partition: &i32| Lane::new(load, &arguments.topic, *partition, arguments.acks);
        let mut connection = Connection::open(&share.address).await?;
        topic::wait_led(&mut connection, &arguments.topic, &share.partitions).await?;
        Ok(Self {
            connection,
            lanes: share.partitions.iter().map(lane).collect::<Result<_>>()?,
            // Without answers nothing but the socket's own limit holds a producer back.
            window: Window::new(if arguments.acks == Acks::None {
                usize::MAX
            } else {
                arguments.in_flight as usize
            }),
            acks: arguments.acks,
            batch_bytes: load.batch.len() as u64,
            batch_records: load.records,
        })
    }

    async fn produce(self, run: &Run) -> Result<()> {
        let Producer {
            connection,
            lanes,
            window,
            acks,
            batch_bytes,
            batch_records,
        } = self;
        let Connection { frames, sender, .. } = connection;
        let pace = Pace {
            run,
            window: &window,
            acks,
            batch_bytes,
            batch_records,
        };
        try_join(pace.send(sender, lanes), pace.receive(frames))
            .await
            .map(drop)
    }
}

/// What the two halves of a connection share.
struct Pace<'a> {
    run: &'a Run,
    window: &'a Window,
    acks: Acks,
    batch_bytes: u64,
    batch_records: u64,
}

impl Pace<'_> {
    async fn send(&self, mut sender: Sender, mut lanes: Vec<Lane>) -> Result<()> {
        let mut lane = 0;
        let mut correlation_id = 0;
        let mut several = Vec::new();
        loop {
            let room = self.window.room().await;
            let mut count = 0;
            several.clear();
            while count < room && several.len() < SEND_BYTES && self.claim() {
                let next = &mut lanes[lane];
                next.advance(correlation_id);
                if next.request.len() >= SEND_BYTES && several.is_empty() {
                    next.request = sender.send(std::mem::take(&mut next.request)).await?;
                } else {
                    several.extend_from_slice(&next.request);
                }
                lane = (lane + 1) % lanes.len();
                correlation_id = i32::wrapping_add(correlation_id, 1);
                count += 1;
            }
            if !several.is_empty() {
                several = sender.send(several).await?;
            }
            if count == 0 {
                break;
            }
        }
        if self.acks == Acks::None {
            self.send_fence(&mut sender, correlation_id).await?;
        }
        self.window.finish();
        Ok(())
    }

    /// Whether another batch may go; takes its place in the window.
    fn claim(&self) -> bool {
        let at = now();
        let may = self.run.claim(self.batch_bytes, at);
        if may {
            match self.acks {
                Acks::None => self.run.count(self.batch_bytes, self.batch_records, at),
                Acks::Leader | Acks::All => self.window.sent(at),
            }
        }
        may
    }

    /// With acks=0 nothing is answered. Requests of a connection are handled in order, so once a last one of another kind has been answered, the broker has
    /// taken all batches.
    async fn send_fence(&self, sender: &mut Sender, correlation_id: i32) -> Result<()> {
        let mut request = Vec::new();
        encode_request(
            &mut request,
            ApiKey::ApiVersions,
            FENCE_VERSION,
            correlation_id,
            |writer| ApiVersionsRequest::default().encode(writer, FENCE_VERSION),
        )?;
        self.window.sent(now());
        sender.send(request).await?;
        Ok(())
    }

    async fn receive(&self, mut frames: Frames) -> Result<()> {
        let mut correlation_id = 0;
        while self.window.answer_due().await {
            let Some(frame) = frames.arrived()? else {
                frames.receive().await?;
                continue;
            };
            if self.acks != Acks::None {
                check_answer(frame, correlation_id)?;
            }
            correlation_id = i32::wrapping_add(correlation_id, 1);
            let sent_at = self.window.answered().context("an answer to no request")?;
            if self.acks != Acks::None {
                self.run
                    .count(self.batch_bytes, self.batch_records, sent_at);
            }
        }
        Ok(())
    }
}

fn check_answer(frame: &[u8], correlation_id: i32) -> Result<()> {
    let mut reader = Reader::new(frame);
    let header = ResponseHeader::decode(&mut reader, ApiKey::Produce, PRODUCE_VERSION)?;
    ensure!(
        header.correlation_id == correlation_id,
        "an answer out of order"
    );
    let response = ProduceResponse::decode(&mut reader, PRODUCE_VERSION)?;
    for topic in response.responses.iter() {
        for partition in topic.partition_responses.iter() {
            topic::check(partition.error_code)
                .with_context(|| format!("partition {} refused a batch", partition.index))?;
        }
    }
    Ok(())
}
