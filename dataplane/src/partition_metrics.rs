//! What is shown of every partition: four numbers each, written by its shard once a second and made into metrics when they are scraped.
//!
//! A gauge of the library's own carries its description and labels, 600 bytes each; a broker may hold very many partitions, so here
//! each has its numbers alone. The table is locked when partitions come and go and while it is scraped, never on the path of a record.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Name and help of each number, in the order of [`PartitionOffsets`].
const FAMILIES: [(&str, &str); 4] = [
    (
        "kafka_topic_partition_current_offset",
        "The offset that the next record gets.",
    ),
    (
        "kafka_topic_partition_oldest_offset",
        "The first offset still stored.",
    ),
    (
        "millrace_partition_high_watermark",
        "Consumers read below this offset.",
    ),
    ("kafka_log_log_size", "Bytes of record batches stored."),
];

/// What a partition's log says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct PartitionOffsets {
    pub log_end: i64,
    pub log_start: i64,
    pub high_watermark: i64,
    pub log_bytes: i64,
}

/// One partition's numbers. Its shard writes them.
#[derive(Default)]
pub struct PartitionMetrics([AtomicI64; FAMILIES.len()]);

impl PartitionMetrics {
    pub fn set(&self, offsets: PartitionOffsets) {
        let values = [
            offsets.log_end,
            offsets.log_start,
            offsets.high_watermark,
            offsets.log_bytes,
        ];
        for (number, value) in self.0.iter().zip(values) {
            number.store(value, Ordering::Relaxed);
        }
    }
}

type Table = BTreeMap<String, BTreeMap<i32, Arc<PartitionMetrics>>>;

/// The partitions of all shards. Clones share the table.
#[derive(Clone)]
pub struct PartitionFamilies {
    descriptions: Arc<[Desc; FAMILIES.len()]>,
    table: Arc<Mutex<Table>>,
}

impl PartitionFamilies {
    pub fn new() -> prometheus::Result<PartitionFamilies> {
        let describe = |(name, help): (&str, &str)| {
            let labels = vec!["topic".to_owned(), "partition".to_owned()];
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        };
        let [end, start, high_watermark, bytes] = FAMILIES.map(describe);
        Ok(PartitionFamilies {
            descriptions: Arc::new([end?, start?, high_watermark?, bytes?]),
            table: Arc::default(),
        })
    }

    /// Shows a partition from now on.
    pub fn add(&self, topic: &str, partition: i32) -> Arc<PartitionMetrics> {
        self.with_table(|table| {
            let partitions = table.entry(topic.to_owned()).or_default();
            Arc::clone(partitions.entry(partition).or_default())
        })
    }

    /// Takes a deleted topic out of what is shown.
    pub fn forget_topic(&self, topic: &str) {
        self.with_table(|table| table.remove(topic));
    }

    fn with_table<R>(&self, act: impl FnOnce(&mut Table) -> R) -> R {
        // Every change of the table is a single step, so one that panicked half-way left it whole.
        act(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Collector for PartitionFamilies {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.with_table(|table| {
            let family = |(number, (name, help)): (usize, &(&str, &str))| {
                let mut family = MetricFamily::default();
                family.set_name((*name).to_owned());
                family.set_help((*help).to_owned());
                family.set_field_type(MetricType::GAUGE);
                family.set_metric(metrics(table, number));
                family
            };
            FAMILIES.iter().enumerate().map(family).collect()
        })
    }
}

/// One number of every partition.
fn metrics(table: &Table, number: usize) -> Vec<Metric> {
    let all = table.iter().flat_map(|(topic, partitions)| {
        partitions
            .iter()
            .map(move |(partition, metrics)| (topic, partition, &metrics.0[number]))
    });
    all.map(|(topic, partition, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(value.load(Ordering::Relaxed) as f64);
        // In order of the labels' names, as the library's own families have them.
        let labels = vec![
            label("partition", partition.to_string()),
            label("topic", topic.clone()),
        ];
        let mut metric = Metric::from_gauge(gauge);
        metric.set_label(labels);
        metric
    })
    .collect()
}

fn label(name: &str, value: String) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value);
    label
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Encoder, Registry, TextEncoder};

    #[test]
    fn partitions_are_shown_until_their_topic_is_gone() {
        let families = PartitionFamilies::new().unwrap();
        let registry = Registry::new();
        registry.register(Box::new(families.clone())).unwrap();
        let shown = || {
            let mut text = Vec::new();
            TextEncoder::new()
                .encode(&registry.gather(), &mut text)
                .unwrap();
            String::from_utf8(text).unwrap()
        };
        assert_eq!(shown(), "");
        families.add("t", 3).set(PartitionOffsets {
            log_end: 7,
            log_start: 2,
            high_watermark: 6,
            log_bytes: 99,
        });
        families.add("other", 0);
        let text = shown();
        for line in [
            "# TYPE kafka_topic_partition_current_offset gauge",
            "kafka_topic_partition_current_offset{partition=\"3\",topic=\"t\"} 7",
            "kafka_topic_partition_oldest_offset{partition=\"3\",topic=\"t\"} 2",
            "millrace_partition_high_watermark{partition=\"3\",topic=\"t\"} 6",
            "kafka_log_log_size{partition=\"3\",topic=\"t\"} 99",
            "kafka_log_log_size{partition=\"0\",topic=\"other\"} 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        families.forget_topic("t");
        assert!(!shown().contains("topic=\"t\""));
    }
}
