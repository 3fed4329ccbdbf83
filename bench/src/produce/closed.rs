//! The closed loop: every connection keeps `--in-flight` requests of one batch each unanswered, built once and sent again and again.

use std::time::Instant;

use anyhow::{Context, Result};
use futures::future::try_join;
use wire::ApiKey;

use super::Arguments;
use crate::answers::{check_answer, send_fence};
use crate::bounds;
use crate::clock::now;
use crate::connection::{Connection, Frames, Sender};
use crate::idempotence::ProducerId;
use crate::keys::Chooser;
use crate::lanes::{Acks, Lane, Load, Route};
use crate::meter::Meter;
use crate::run::Run;
use crate::shares::{self, Share};
use crate::topic::Topic;
use crate::window::Window;
use crate::workload::Workload;

/// Requests smaller than this are sent several at a time, larger ones from where they were built.
const SEND_BYTES: usize = 64 << 10;

pub(super) fn run(arguments: Arguments) -> Result<()> {
    crate::block_on(async move {
        let workload = &arguments.workload;
        let load = Load::new(
            workload.record_bytes,
            workload.batch_bytes,
            workload.compression,
        )?;
        let topic = workload.prepare_topic().await?;
        let shares =
            shares::for_keys(&topic.leaders, workload.connections as usize, workload.keys)?;
        let mut producers = Vec::with_capacity(shares.len());
        for (share, seed) in shares.iter().zip(0..) {
            producers.push(Producer::open(workload, &load, &topic, share, seed).await?);
        }
        let meter = Meter::start(arguments.output.clone())?;
        let run = Run::new(arguments.limits);
        let ended = meter
            .supervise(
                &run,
                producers
                    .into_iter()
                    .map(|producer| producer.produce(&run))
                    .collect(),
            )
            .await;
        let mut settings = workload.settings(&topic);
        settings.extend([
            ("batch_bytes", load.batch.len().to_string()),
            ("records_per_batch", load.records.to_string()),
        ]);
        meter.finish(&run, "produce", &settings, ended)
    })
}

/// One connection and what it sends.
struct Producer {
    connection: Connection,
    lanes: Vec<Lane>,
    chooser: Chooser,
    window: Window<Instant>,
    version: i16,
    acks: Acks,
    batch_bytes: u64,
    batch_records: u64,
}

impl Producer {
    async fn open(
        workload: &Workload,
        load: &Load,
        topic: &Topic,
        share: &Share,
        seed: u64,
    ) -> Result<Self> {
        let mut connection = Connection::open(&share.address).await?;
        bounds::wait_led(&mut connection, &topic.name, &share.partitions).await?;
        let producer = if workload.idempotence {
            Some(ProducerId::ask(&mut connection).await?)
        } else {
            None
        };
        let route = Route {
            topic,
            version: topic.version(&connection.versions, ApiKey::Produce)?,
            acks: workload.acks,
            producer,
        };
        let lane = |partition: &i32| Lane::new(load, &route, *partition);
        Ok(Self {
            lanes: share.partitions.iter().map(lane).collect::<Result<_>>()?,
            chooser: Chooser::new(workload.keys, &share.partitions, seed),
            connection,
            // Without answers nothing but the socket's own limit holds a producer back.
            window: Window::new(match workload.acks {
                Acks::None => usize::MAX,
                Acks::Leader | Acks::All => workload.in_flight(),
            }),
            version: route.version,
            acks: workload.acks,
            batch_bytes: load.batch.len() as u64,
            batch_records: load.records,
        })
    }

    async fn produce(self, run: &Run) -> Result<()> {
        let Producer {
            connection,
            lanes,
            chooser,
            window,
            version,
            acks,
            batch_bytes,
            batch_records,
        } = self;
        let fence_version = connection.version(ApiKey::ApiVersions)?;
        let Connection { frames, sender, .. } = connection;
        let pace = Pace {
            run,
            window: &window,
            version,
            fence_version,
            acks,
            batch_bytes,
            batch_records,
        };
        try_join(pace.send(sender, lanes, chooser), pace.receive(frames))
            .await
            .map(drop)
    }
}

/// What the two halves of a connection share.
struct Pace<'a> {
    run: &'a Run,
    window: &'a Window<Instant>,
    version: i16,
    fence_version: i16,
    acks: Acks,
    batch_bytes: u64,
    batch_records: u64,
}

impl Pace<'_> {
    async fn send(
        &self,
        mut sender: Sender,
        mut lanes: Vec<Lane>,
        mut chooser: Chooser,
    ) -> Result<()> {
        let mut correlation_id = 0;
        let mut several = Vec::new();
        loop {
            let room = self.window.room().await;
            let mut count = 0;
            several.clear();
            while count < room && several.len() < SEND_BYTES && self.claim() {
                let next = &mut lanes[chooser.choose()];
                next.advance(correlation_id);
                if next.request.len() >= SEND_BYTES && several.is_empty() {
                    next.request = sender.send(std::mem::take(&mut next.request)).await?;
                } else {
                    several.extend_from_slice(&next.request);
                }
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
            self.window.sent(now());
            send_fence(&mut sender, self.fence_version, correlation_id).await?;
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

    async fn receive(&self, mut frames: Frames) -> Result<()> {
        let mut correlation_id = 0;
        while self.window.answer_due().await {
            let Some(frame) = frames.arrived()? else {
                frames.receive().await?;
                continue;
            };
            if self.acks != Acks::None {
                check_answer(frame, self.version, correlation_id)?;
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
