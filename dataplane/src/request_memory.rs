//! The memory of one shard in which requests are looked at and their answers wait for their clients; that of records is counted elsewhere.
//!
//! What a request names becomes several structures on the way to its answer, so each element is counted as what it may come to. A
//! request for which there is no room waits in line, and its socket is not read. What is counted is given back before anything else
//! is waited for here, so nobody waits for somebody who waits.

use crate::io::{Charge, Io, MemoryBudget};
use crate::limits::*;
use crate::line::Line;
use wire::ApiKey;

pub struct RequestMemory {
    budget: MemoryBudget,
    line: Line,
}

impl Default for RequestMemory {
    fn default() -> Self {
        RequestMemory::new(REQUEST_MEMORY_BYTES_MAX)
    }
}

impl RequestMemory {
    pub fn new(bytes_max: usize) -> RequestMemory {
        RequestMemory {
            budget: MemoryBudget::new(bytes_max),
            line: Line::default(),
        }
    }

    pub fn bytes(&self) -> usize {
        self.budget.charged()
    }

    /// Whether somebody waits for room.
    pub fn is_wanted(&self) -> bool {
        !self.line.is_empty()
    }

    /// Waits for room for so many bytes; little is not counted. No request takes more than half of all there is.
    pub(crate) async fn charge<I: Io>(&self, io: &I, bytes: usize) -> Option<Charge> {
        if bytes <= REQUEST_BYTES_NOT_COUNTED {
            return None;
        }
        let most = (self.budget.left() + self.budget.charged()) / 2;
        let room = || self.budget.try_charge(bytes.min(most));
        Some(self.line.until(io, room).await)
    }
}

/// What an element of a request of this API may come to.
pub(crate) fn element_bytes(api: ApiKey) -> usize {
    match api {
        // Each resource is answered with all of its keys.
        ApiKey::DescribeConfigs | ApiKey::CreateTopics => 16 * 1024,
        _ => 640,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::ring::RingIo;
    use ::ring::{Ring, RingConfig};

    #[test]
    fn no_request_takes_all_and_little_is_not_counted() {
        let ring = Ring::new(RingConfig::default()).expect("this host has io_uring");
        let io = RingIo::new(ring.clone());
        let memory = RequestMemory::new(1 << 20);
        ring.block_on(async {
            assert!(
                memory
                    .charge(&io, REQUEST_BYTES_NOT_COUNTED)
                    .await
                    .is_none()
            );
            let first = memory.charge(&io, usize::MAX).await;
            assert_eq!(memory.bytes(), 1 << 19);
            let second = memory.charge(&io, usize::MAX).await;
            assert_eq!(memory.bytes(), 1 << 20);
            drop((first, second));
            assert_eq!(memory.bytes(), 0);
            assert!(!memory.is_wanted());
        });
    }
}
