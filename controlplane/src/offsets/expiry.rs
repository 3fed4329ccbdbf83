//! Which committed offsets have been kept long enough (`offsets.retention.minutes`).
//!
//! The leader looks through its own state and proposes what it found, with the time by which it judged; `apply` looks again,
//! because an offset may have been committed anew meanwhile. As in Kafka, an offset goes when nothing was committed to its
//! partition for the retention time, or when the time that its client asked for is over, and a group goes with its last
//! offset. A group with generations has, or had, members, of which only its coordinator knows: it is left alone.

use super::{Committed, ConsumerGroup, OffsetsState};
use crate::command::{ExpiredGroup, Expiry};

/// What one command may name, so that it stays far below the longest and is applied in a moment.
const EXPIRED_PER_COMMAND_MAX: usize = 5_000;
const NAME_BYTES_PER_COMMAND_MAX: usize = 256 << 10;

impl Expiry {
    fn is_over(self, committed: &Committed) -> bool {
        match committed.expires_ms {
            Some(expires_ms) => self.now_ms >= expires_ms,
            None => self.now_ms.saturating_sub(committed.timestamp_ms) >= self.retention_ms,
        }
    }
}

impl OffsetsState {
    /// What has expired, in portions that may be proposed.
    pub fn expired(&self, expiry: Expiry) -> Vec<Vec<ExpiredGroup>> {
        let mut portions = vec![Vec::new()];
        let (mut count, mut bytes) = (0, 0);
        for (name, group) in self.groups.iter().filter(|(_, group)| group.may_expire()) {
            let over = group.offsets.iter();
            let over = over.filter(|(_, committed)| expiry.is_over(committed));
            let partitions: Vec<_> = over.map(|(key, _)| *key).collect();
            if partitions.is_empty() && !group.offsets.is_empty() {
                continue;
            }
            let mut partitions = partitions.as_slice();
            loop {
                if count >= EXPIRED_PER_COMMAND_MAX || bytes >= NAME_BYTES_PER_COMMAND_MAX {
                    portions.push(Vec::new());
                    (count, bytes) = (0, 0);
                }
                let room = EXPIRED_PER_COMMAND_MAX - count;
                let (now, later) = partitions.split_at(room.min(partitions.len()));
                let group = name.to_string();
                count += 1 + now.len();
                bytes += group.len();
                if let Some(portion) = portions.last_mut() {
                    let partitions = now.to_vec();
                    portion.push(ExpiredGroup { group, partitions });
                }
                partitions = later;
                if partitions.is_empty() {
                    break;
                }
            }
        }
        portions.retain(|portion| !portion.is_empty());
        portions
    }

    pub(super) fn expire(&mut self, expiry: Expiry, groups: &[ExpiredGroup]) {
        for ExpiredGroup { group, partitions } in groups {
            let known = self.groups.get(group.as_str());
            let Some(known) = known.filter(|known| known.may_expire()) else {
                continue;
            };
            let over = |key| {
                known
                    .offsets
                    .get(key)
                    .is_some_and(|one| expiry.is_over(one))
            };
            let keys: Vec<_> = partitions.iter().filter(|key| over(key)).copied().collect();
            let nothing_left = known.offsets.len() == keys.len();
            match nothing_left {
                true => self.remove_group(group),
                false => self.remove_offsets(group, &keys),
            }
        }
    }
}

impl ConsumerGroup {
    fn may_expire(&self) -> bool {
        self.generation < 0
    }
}
