//! One connection of an open loop: sends the batches of its outbox as far as its window allows and counts each record from when it was
//! meant to be sent.

use anyhow::{Context, Result};
use futures::future::try_join;
use wire::ApiKey;

use super::outbox::Outbox;
use super::pending::Pending;
use super::requests::{RequestWriter, Sent};
use crate::answers::{check_answer, send_fence};
use crate::bounds;
use crate::connection::{Connection, Frames, Sender};
use crate::idempotence::ProducerId;
use crate::lanes::Acks;
use crate::run::Run;
use crate::shares::Share;
use crate::topic::Topic;
use crate::window::Window;
use crate::workload::Workload;

/// Small requests are sent several at a time.
const SEND_BYTES: usize = 64 << 10;

pub struct Producer {
    connection: Connection,
    fence_version: i16,
    writer: RequestWriter,
    pub partitions: Vec<i32>,
    in_flight: usize,
}

impl Producer {
    pub async fn open(workload: &Workload, topic: &Topic, share: &Share) -> Result<Self> {
        let mut connection = Connection::open(&share.address).await?;
        bounds::wait_led(&mut connection, &topic.name, &share.partitions).await?;
        let producer = if workload.idempotence {
            Some(ProducerId::ask(&mut connection).await?)
        } else {
            None
        };
        let writer = RequestWriter {
            topic: topic.clone(),
            version: topic.version(&connection.versions, ApiKey::Produce)?,
            acks: workload.acks,
            compression: workload.compression.into(),
            partitions: share.partitions.clone(),
            producer,
            sequences: vec![0; share.partitions.len()],
            next_correlation_id: 0,
        };
        Ok(Self {
            fence_version: connection.version(ApiKey::ApiVersions)?,
            connection,
            writer,
            partitions: share.partitions.clone(),
            // Without answers nothing but the socket's own limit holds a producer back.
            in_flight: match workload.acks {
                Acks::None => usize::MAX,
                Acks::Leader | Acks::All => workload.in_flight(),
            },
        })
    }

    pub fn outbox(&self, batch_bytes: usize, linger_ns: u64) -> Outbox {
        Outbox::new(Pending::new(self.partitions.len(), batch_bytes, linger_ns))
    }

    /// Ends once everything that was put into the outbox has been answered.
    pub async fn produce(self, run: &Run, outbox: &Outbox) -> Result<()> {
        let window = Window::new(self.in_flight);
        let (acks, version) = (self.writer.acks, self.writer.version);
        let Connection { frames, sender, .. } = self.connection;
        let sending = send(
            run,
            outbox,
            &window,
            sender,
            self.writer,
            self.fence_version,
        );
        let receiving = receive(run, &window, frames, acks, version);
        try_join(sending, receiving).await.map(drop)
    }
}

async fn send(
    run: &Run,
    outbox: &Outbox,
    window: &Window<Sent>,
    mut sender: Sender,
    mut writer: RequestWriter,
    fence_version: i16,
) -> Result<()> {
    let mut requests = Vec::new();
    let mut unanswered = Vec::new();
    loop {
        let room = window.room().await;
        if !outbox.ready().await {
            break;
        }
        requests.clear();
        let mut count = 0;
        while count < room && requests.len() < SEND_BYTES {
            let Some((place, batch)) = outbox.take() else {
                break;
            };
            let sent = writer.write(&mut requests, place, batch)?;
            match writer.acks {
                Acks::None => unanswered.push(sent),
                Acks::Leader | Acks::All => window.sent(sent),
            }
            count += 1;
        }
        requests = sender.send(requests).await?;
        for sent in unanswered.drain(..) {
            run.count_records(sent.bytes, &sent.intended_ns);
        }
    }
    if writer.acks == Acks::None {
        window.sent(Sent {
            bytes: 0,
            intended_ns: Vec::new(),
        });
        let correlation_id = writer.next_correlation_id;
        send_fence(&mut sender, fence_version, correlation_id).await?;
    }
    window.finish();
    Ok(())
}

async fn receive(
    run: &Run,
    window: &Window<Sent>,
    mut frames: Frames,
    acks: Acks,
    version: i16,
) -> Result<()> {
    let mut correlation_id = 0;
    while window.answer_due().await {
        let Some(frame) = frames.arrived()? else {
            frames.receive().await?;
            continue;
        };
        if acks != Acks::None {
            check_answer(frame, version, correlation_id)?;
        }
        correlation_id = i32::wrapping_add(correlation_id, 1);
        let sent = window.answered().context("an answer to no request")?;
        if acks != Acks::None {
            run.count_records(sent.bytes, &sent.intended_ns);
        }
    }
    Ok(())
}
