//! Where the members of a group are now.
//!
//! openraft keeps the address with which it began to speak to a member, but a member may move meanwhile. Which member answers is
//! proved at each handshake, so to try an address that is somebody else's by now costs nothing but time.

use crate::member::node_of;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// By node, as this one was told at its start: how they find each other when all of them have moved at once.
    given: BTreeMap<u64, String>,
    /// By member, of the newest membership in the log here.
    current: Mutex<HashMap<u64, String>>,
}

impl Addresses {
    pub(crate) fn new(given: BTreeMap<u64, String>) -> Self {
        Addresses {
            given,
            current: Mutex::default(),
        }
    }

    pub(crate) fn set(&self, current: HashMap<u64, String>) {
        *self.current() = current;
    }

    /// Where to look for a member, in this order. `began`: where openraft began to.
    pub(crate) fn of(&self, member: u64, began: &str) -> Vec<String> {
        let current = self.current().get(&member).cloned();
        let mut addresses = vec![current.unwrap_or_else(|| began.to_owned())];
        let given = self.given.get(&node_of(member));
        addresses.extend(given.filter(|given| **given != addresses[0]).cloned());
        addresses
    }

    fn current(&self) -> MutexGuard<'_, HashMap<u64, String>> {
        // It is always replaced whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::member;

    #[test]
    fn a_member_is_looked_for_where_it_is_then_where_it_was_said_to_be() {
        let addresses = Addresses::new([(1, "given:1".to_owned())].into());
        let (one, two) = (member(1, 5), member(2, 5));
        assert_eq!(addresses.of(one, "began:1"), ["began:1", "given:1"]);
        assert_eq!(addresses.of(one, "given:1"), ["given:1"]);
        assert_eq!(addresses.of(two, "began:2"), ["began:2"]);
        addresses.set([(one, "moved:1".to_owned())].into());
        assert_eq!(addresses.of(one, "began:1"), ["moved:1", "given:1"]);
        assert_eq!(addresses.of(two, "began:2"), ["began:2"]);
    }
}
