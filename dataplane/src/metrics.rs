//! The broker's metrics: families registered once, counted on each shard without atomics, and flushed once a second.
//!
//! Names follow what Kafka dashboards already query where such a name exists; our own start with `millrace_`.

use crate::partition_metrics::PartitionFamilies;
use control_api::process::ProcessCollector;
use prometheus::core::{AtomicU64, GenericLocalCounter};
use prometheus::local::LocalHistogram;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};
use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use wire::{APIS, ApiKey};

/// Where a request's time goes. The stages of one request add up to its total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Waiting for the connection's earlier requests: for their being begun and, but for Produce, for their answers.
    Queue,
    /// Of a Produce request some of whose batches are another shard's: until these are as safe as it asked, and their answer is back.
    Hop,
    /// Checked, stamped and copied into the log's tail; for other requests than Produce, handled.
    Append,
    /// Of any other Produce request: waiting for the write, or for stable storage, as it asked, and for earlier answers.
    Flush,
    /// Waiting for the socket to take the answer.
    Send,
    /// All of it.
    Total,
}

const STAGES: usize = Stage::Total as usize + 1;

impl Stage {
    const fn label(self) -> &'static str {
        match self {
            Stage::Queue => "queue",
            Stage::Hop => "hop",
            Stage::Append => "append",
            Stage::Flush => "flush",
            Stage::Send => "send",
            Stage::Total => "total",
        }
    }
}

/// The families. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    pub registry: Registry,
    request_seconds: HistogramVec,
    requests: IntCounterVec,
    topic_bytes_in: IntCounterVec,
    topic_bytes_out: IntCounterVec,
    topic_messages_in: IntCounterVec,
    pub partitions: PartitionFamilies,
    pub connections: IntGaugeVec,
    pub shard_busy: GaugeVec,
    pub ring_enters: IntCounterVec,
    pub shard_allocations: IntCounterVec,
    pub spare_segments: IntGaugeVec,
    pub poisoned_partitions: IntGaugeVec,
    pub stalled_partitions: IntGaugeVec,
}

const LATENCY_SECONDS: &[f64] = &[
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

impl Metrics {
    pub fn new() -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::new(env!("CARGO_PKG_VERSION"))?))?;
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
                let family = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(family.clone()))?;
                Ok(family)
            };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntGaugeVec> {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let request_seconds = HistogramVec::new(
            HistogramOpts::new(
                "millrace_request_seconds",
                "Time of requests by API and stage. The stage total spans from the last byte received to the last byte sent, and the others add up to it.",
            )
            .buckets(LATENCY_SECONDS.to_vec()),
            &["api", "stage"],
        )?;
        registry.register(Box::new(request_seconds.clone()))?;
        let shard_busy = GaugeVec::new(
            Opts::new(
                "millrace_shard_busy_ratio",
                "Share of the last second that a shard's thread was not waiting, 0 to 1.",
            ),
            &["shard"],
        )?;
        registry.register(Box::new(shard_busy.clone()))?;
        let partitions = PartitionFamilies::new()?;
        registry.register(Box::new(partitions.clone()))?;
        Ok(Metrics {
            request_seconds,
            shard_busy,
            requests: counters(
                "kafka_network_requestmetrics_requests_total",
                "Requests answered, by API.",
                &["request"],
            )?,
            topic_bytes_in: counters(
                "kafka_server_brokertopicmetrics_bytesin_total",
                "Bytes of record batches appended by producers.",
                &["topic"],
            )?,
            topic_bytes_out: counters(
                "kafka_server_brokertopicmetrics_bytesout_total",
                "Bytes of record batches sent to consumers.",
                &["topic"],
            )?,
            topic_messages_in: counters(
                "kafka_server_brokertopicmetrics_messagesin_total",
                "Records appended by producers.",
                &["topic"],
            )?,
            partitions,
            connections: gauges(
                "millrace_connections_open",
                "Open client connections.",
                &["shard"],
            )?,
            ring_enters: counters(
                "millrace_ring_enters_total",
                "io_uring_enter calls since the start.",
                &["shard"],
            )?,
            spare_segments: gauges(
                "millrace_spare_segments",
                "Segment files that are prepared and wait for their use.",
                &["shard"],
            )?,
            shard_allocations: counters(
                "millrace_shard_allocations_total",
                "Memory allocations of a shard's thread since the start. A produce request on the steady path needs none.",
                &["shard"],
            )?,
            poisoned_partitions: gauges(
                "millrace_partitions_poisoned",
                "Partitions that take no more appends because a write or a flush failed.",
                &["shard"],
            )?,
            stalled_partitions: gauges(
                "millrace_partitions_stalled",
                "Partitions that take no appends until the system has what their writes lack: descriptors, memory or room on the disk.",
                &["shard"],
            )?,
            registry,
        })
    }
}

/// A counter of one shard, flushed into the shared family by [`ShardMetrics::flush`].
pub type LocalCounter = GenericLocalCounter<AtomicU64>;

/// One topic's counters on one shard.
pub struct TopicMetrics {
    pub bytes_in: LocalCounter,
    pub bytes_out: LocalCounter,
    pub messages_in: LocalCounter,
}

/// One shard's part of the metrics.
pub struct ShardMetrics {
    pub families: Metrics,
    /// By API key; what was never asked for is not made.
    apis: Vec<ApiMetrics>,
    pub connections_open: Cell<i64>,
}

/// APIs are in order of their keys.
const KEY_MAX: usize = APIS[APIS.len() - 1].key as usize;

#[derive(Default)]
struct ApiMetrics {
    requests: OnceCell<LocalCounter>,
    stages: [OnceCell<LocalHistogram>; STAGES],
}

impl ShardMetrics {
    pub fn new(families: Metrics) -> Self {
        ShardMetrics {
            families,
            apis: (0..=KEY_MAX).map(|_| ApiMetrics::default()).collect(),
            connections_open: Cell::new(0),
        }
    }

    pub fn topic(&self, name: &str) -> Rc<TopicMetrics> {
        Rc::new(TopicMetrics {
            bytes_in: self
                .families
                .topic_bytes_in
                .with_label_values(&[name])
                .local(),
            bytes_out: self
                .families
                .topic_bytes_out
                .with_label_values(&[name])
                .local(),
            messages_in: self
                .families
                .topic_messages_in
                .with_label_values(&[name])
                .local(),
        })
    }

    /// Takes a deleted topic out of what is shown.
    pub fn forget_topic(&self, name: &str) {
        let families = &self.families;
        families.partitions.forget_topic(name);
        // Another shard may have removed the same labels already.
        for family in [
            &families.topic_bytes_in,
            &families.topic_bytes_out,
            &families.topic_messages_in,
        ] {
            let _ = family.remove_label_values(&[name]);
        }
    }

    /// Counts one request's time in a stage.
    pub fn observe(&self, api: ApiKey, stage: Stage, nanos: u64) {
        let histogram = self.apis[api as usize].stages[stage as usize].get_or_init(|| {
            self.families
                .request_seconds
                .with_label_values(&[api.api().name, stage.label()])
                .local()
        });
        histogram.observe(nanos as f64 / 1e9);
    }

    pub fn count_request(&self, api: ApiKey) {
        let requests = self.apis[api as usize].requests.get_or_init(|| {
            self.families
                .requests
                .with_label_values(&[api.api().name])
                .local()
        });
        requests.inc();
    }

    /// Makes what was counted since the last call visible.
    pub fn flush(&self) {
        for api in &self.apis {
            api.stages
                .iter()
                .filter_map(OnceCell::get)
                .for_each(LocalHistogram::flush);
            api.requests.get().inspect(|requests| requests.flush());
        }
    }
}

impl TopicMetrics {
    pub fn flush(&self) {
        self.bytes_in.flush();
        self.bytes_out.flush();
        self.messages_in.flush();
    }
}
