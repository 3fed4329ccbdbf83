//! What the fake broker holds: topics, their partitions, and the sequences of idempotent producers.

use std::collections::BTreeMap;

use wire::Uuid;

#[derive(Default)]
pub(super) struct State {
    pub(super) produce_requests: u64,
    pub(super) list_offsets_requests: u64,
    pub(super) fetch_requests: u64,
    pub(super) producers: i64,
    /// The sequence that each idempotent producer goes on with in each partition.
    pub(super) sequences: BTreeMap<(i64, i32), i32>,
    pub(super) topics: BTreeMap<String, Vec<Log>>,
    pub(super) commit_requests: u64,
    /// By group, topic and partition.
    pub(super) committed: BTreeMap<(String, String, i32), i64>,
}

#[derive(Default)]
pub(super) struct Log {
    pub(super) batches: Vec<(i64, Vec<u8>)>,
    pub(super) start: i64,
    pub(super) end: i64,
}

/// A topic's id, made of its name.
pub(super) fn id_of(name: &str) -> Uuid {
    let mut id = [0xff; 16];
    let bytes = name.len().min(id.len());
    id[..bytes].copy_from_slice(&name.as_bytes()[..bytes]);
    Uuid(id)
}

impl State {
    /// The topic that a request names in one way or the other.
    pub(super) fn name_of(&self, name: &str, id: Uuid) -> String {
        let names = self.topics.keys();
        let mut named = names.filter(|known| *known == name || id_of(known) == id);
        named.next().unwrap().clone()
    }
}

impl Log {
    pub(super) fn forget_half(&mut self) {
        self.batches.drain(..self.batches.len() / 2);
        self.start = self.batches.first().map_or(self.end, |(base, _)| *base);
    }

    /// Batches from `offset` on, the last one cut at the byte limit as Apache Kafka does, but the first one whole.
    pub(super) fn read(&self, offset: i64, bytes_max: i32) -> Vec<u8> {
        if offset < self.start {
            return Vec::new();
        }
        let from = self.batches.iter().skip_while(|(base, _)| *base < offset);
        let mut found = Vec::new();
        let mut first_bytes = 0;
        for (_, batch) in from {
            if found.len() >= bytes_max as usize {
                break;
            }
            first_bytes = first_bytes.max(if found.is_empty() { batch.len() } else { 0 });
            found.extend_from_slice(batch);
        }
        found.truncate((bytes_max as usize).max(first_bytes));
        found
    }
}
