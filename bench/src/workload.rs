//! What producers send: the flags that every command with producers has, and the topic that they are for.

use anyhow::{Result, ensure};

use crate::codec::Codec;
use crate::connection::Connection;
use crate::idempotence::IN_FLIGHT_MAX;
use crate::keys::Keys;
use crate::lanes::Acks;
use crate::topic::{self, Topic};
use crate::units;

const PARTITIONS_DEFAULT: i32 = 4;
const IN_FLIGHT_DEFAULT: u32 = 8;

#[derive(Clone, Debug, clap::Args)]
pub struct Workload {
    /// HOST:PORT of any broker
    #[arg(long)]
    pub bootstrap: String,
    /// Name of the topic
    #[arg(long)]
    pub topic: String,
    /// Whether to create the topic if it does not exist; with false it is taken as it is
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub create: bool,
    /// Number of partitions [default: 4, or those that the topic has with --create=false]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: Option<i32>,
    /// Topic config as NAME=VALUE, for a topic that is created; may be repeated
    #[arg(long = "config", value_parser = config)]
    pub configs: Vec<(String, String)>,
    /// Bytes of a record's value [default: 1024, or what fits the batch]
    #[arg(long, value_parser = units::message_bytes)]
    pub record_bytes: Option<usize>,
    /// Bytes that a batch may have before compression
    #[arg(long, default_value = "64k", value_parser = units::message_bytes)]
    pub batch_bytes: usize,
    /// Unanswered requests of each connection, of one batch each [default: 8, with --idempotence 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub in_flight: Option<u32>,
    /// Connections; at a fixed rate no more than there are partitions
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Which answer a producer waits for; with 0 a record counts as soon as the socket has taken it
    #[arg(long, value_enum, default_value = "all")]
    pub acks: Acks,
    /// Lets the broker refuse a batch that it has already; each connection is a producer of its own
    #[arg(long)]
    pub idempotence: bool,
    /// At full speed the same compressed batch is sent again and again; consume --verify then counts its records but cannot tell its place
    #[arg(long, value_enum, default_value = "none")]
    pub compression: Codec,
    /// How records are spread over partitions
    #[arg(long, value_enum, default_value = "round-robin")]
    pub keys: Keys,
}

fn config(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Workload {
    /// Refuses flags that do not go together, before anything is sent.
    pub fn check(&self) -> Result<()> {
        if self.idempotence {
            ensure!(self.acks == Acks::All, "--idempotence needs --acks all");
            ensure!(
                self.in_flight() <= IN_FLIGHT_MAX as usize,
                "--idempotence allows --in-flight {IN_FLIGHT_MAX} at most"
            );
        }
        Ok(())
    }

    pub fn in_flight(&self) -> usize {
        let default = if self.idempotence {
            IN_FLIGHT_MAX
        } else {
            IN_FLIGHT_DEFAULT
        };
        self.in_flight.unwrap_or(default) as usize
    }

    /// Creates the topic unless it is to be taken as it is, and finds it.
    pub async fn prepare_topic(&self) -> Result<Topic> {
        let mut connection = Connection::open(&self.bootstrap).await?;
        let mut wanted = self.partitions;
        if self.create {
            let partitions = *wanted.get_or_insert(PARTITIONS_DEFAULT);
            topic::create(&mut connection, &self.topic, partitions, &self.configs).await?;
        }
        let found = topic::find(&mut connection, &self.topic).await?;
        if let Some(wanted) = wanted {
            ensure!(
                found.leaders.len() == wanted as usize,
                "topic {} has {} partitions, not {wanted}",
                self.topic,
                found.leaders.len()
            );
        }
        Ok(found)
    }

    /// For the report.
    pub fn settings(&self, topic: &Topic) -> Vec<(&'static str, String)> {
        let name = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
        vec![
            ("topic", self.topic.clone()),
            ("partitions", topic.leaders.len().to_string()),
            ("in_flight", self.in_flight().to_string()),
            ("connections", self.connections.to_string()),
            ("acks", format!("{:?}", self.acks)),
            ("idempotence", self.idempotence.to_string()),
            ("compression", name(&self.compression)),
            ("keys", name(&self.keys)),
        ]
    }
}
