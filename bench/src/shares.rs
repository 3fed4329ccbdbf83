//! Which connection serves which partitions of a topic.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::keys::Keys;
use crate::topic::Leader;

/// The partitions that one connection serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub address: String,
    pub partitions: Vec<i32>,
}

/// Spreads partitions over `connections` connections, of which one that serves partitions of several brokers becomes several. Where there
/// are more connections than partitions, partitions are served more than once.
pub fn shares(leaders: &[Leader], connections: usize) -> Result<Vec<Share>> {
    ensure!(!leaders.is_empty(), "the topic has no partitions");
    let mut shares: BTreeMap<(usize, &str), Vec<i32>> = BTreeMap::new();
    for turn in 0..connections.max(leaders.len()) {
        let leader = &leaders[turn % leaders.len()];
        shares
            .entry((turn % connections, &leader.address))
            .or_default()
            .push(leader.partition);
    }
    let share = |((_, address), partitions): ((usize, &str), Vec<i32>)| Share {
        address: address.to_owned(),
        partitions,
    };
    Ok(shares.into_iter().map(share).collect())
}

/// As `shares` for records that go to each partition in turn. For others every connection serves all partitions of its broker, because
/// connections are equally fast and partitions are not to be.
pub fn for_keys(leaders: &[Leader], connections: usize, keys: Keys) -> Result<Vec<Share>> {
    if keys == Keys::RoundRobin {
        return shares(leaders, connections);
    }
    let brokers = shares(leaders, 1)?;
    let turns = brokers.iter().cycle();
    Ok(turns
        .take(connections.max(brokers.len()))
        .cloned()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaders(addresses: &[&str]) -> Vec<Leader> {
        let leader = |(partition, address): (usize, &&str)| Leader {
            partition: partition as i32,
            address: (*address).to_owned(),
        };
        addresses.iter().enumerate().map(leader).collect()
    }

    fn partitions(shares: &[Share]) -> Vec<Vec<i32>> {
        shares
            .iter()
            .map(|share| share.partitions.clone())
            .collect()
    }

    #[test]
    fn partitions_are_spread_evenly_over_fewer_connections() {
        let shares = shares(&leaders(&["a"; 5]), 2).unwrap();
        assert_eq!(partitions(&shares), [vec![0, 2, 4], vec![1, 3]]);
    }

    #[test]
    fn spare_connections_serve_partitions_again() {
        let shares = shares(&leaders(&["a"; 2]), 3).unwrap();
        assert_eq!(partitions(&shares), [vec![0], vec![1], vec![0]]);
    }

    #[test]
    fn a_connection_never_serves_partitions_of_two_brokers() {
        let shares = shares(&leaders(&["a", "b", "a", "b"]), 1).unwrap();
        assert_eq!(partitions(&shares), [vec![0, 2], vec![1, 3]]);
        assert_eq!([&*shares[0].address, &*shares[1].address], ["a", "b"]);
    }

    #[test]
    fn unequal_partitions_are_all_served_by_every_connection_to_their_broker() {
        let shares = for_keys(&leaders(&["a", "b", "a"]), 3, Keys::Zipf).unwrap();
        assert_eq!(partitions(&shares), [vec![0, 2], vec![1], vec![0, 2]]);
        let even = for_keys(&leaders(&["a"; 2]), 2, Keys::RoundRobin).unwrap();
        assert_eq!(partitions(&even), [vec![0], vec![1]]);
    }

    #[test]
    fn a_topic_without_partitions_is_refused() {
        assert!(shares(&[], 1).is_err());
    }
}
