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
        Some(self.line.until(io, || self.try_charge(bytes)).await)
    }

    fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let most = (self.budget.left() + self.budget.charged()) / 2;
        let charge = self.budget.try_charge(bytes.min(most));
        if charge.is_none() {
            self.budget.note_shortage();
        }
        charge
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

    #[test]
    fn no_request_takes_more_than_half_and_all_of_it_comes_back() {
        let memory = RequestMemory::new(1 << 20);
        let first = memory.try_charge(usize::MAX);
        assert_eq!(memory.bytes(), 1 << 19);
        let second = memory.try_charge(usize::MAX);
        assert_eq!(memory.bytes(), 1 << 20);
        assert!(memory.try_charge(1).is_none());
        // Whose clients take nothing of their answers may be let go for it.
        assert!(first.as_ref().is_some_and(|kept| kept.shortages() == 1));
        drop((first, second));
        assert_eq!(memory.bytes(), 0);
    }
}
