//! The rules by which commands are applied, which belong to the feature level that a group is at.
//!
//! Every controller must come to the same state, whichever version of the program it runs. So what a command does follows from
//! the state, the command, and these numbers, of which each level has its own; those of a level that was ever released are never
//! changed. Defaults and the tables of configs, which versions of the program differ in, are consulted before a command is
//! proposed ([`crate::proposal`]).

use control_api::level::Level;

#[derive(Debug, PartialEq, Eq)]
pub struct Rules {
    pub topics_max: usize,
    pub partitions_per_topic_max: usize,
    pub partitions_max: usize,
    pub brokers_max: usize,
    pub host_bytes_max: usize,
    pub version_bytes_max: usize,
    /// How many producer ids a broker is given at a time.
    pub producer_ids_per_block: i32,
    pub offsets_max: usize,
    pub groups_max: usize,
    pub group_name_bytes_max: usize,
    /// Kafka's `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// Over all offsets.
    pub offset_metadata_bytes_total_max: usize,
}

const OF_LEVEL_1: Rules = Rules {
    topics_max: 20_000,
    partitions_per_topic_max: 10_000,
    partitions_max: 100_000,
    brokers_max: 1_000,
    host_bytes_max: 255,
    version_bytes_max: 255,
    producer_ids_per_block: 1_000,
    offsets_max: 2_000_000,
    groups_max: 200_000,
    group_name_bytes_max: 1_024,
    offset_metadata_bytes_max: 4_096,
    offset_metadata_bytes_total_max: 256 << 20,
};

/// Other ones than before, so that a program which goes by its own and not by the level's can be told.
const OF_TRIAL: Rules = Rules {
    producer_ids_per_block: 2_000,
    ..OF_LEVEL_1
};

impl Rules {
    /// Before a group is at any level it goes by the first one's.
    pub const fn of(level: Level) -> &'static Rules {
        match level {
            Level::TRIAL => &OF_TRIAL,
            _ => &OF_LEVEL_1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another version of the program goes by these already: a number that is to change changes with a new level.
    #[test]
    fn the_rules_of_a_level_are_never_changed() {
        let rules = Rules {
            topics_max: 20_000,
            partitions_per_topic_max: 10_000,
            partitions_max: 100_000,
            brokers_max: 1_000,
            host_bytes_max: 255,
            version_bytes_max: 255,
            producer_ids_per_block: 1_000,
            offsets_max: 2_000_000,
            groups_max: 200_000,
            group_name_bytes_max: 1_024,
            offset_metadata_bytes_max: 4_096,
            offset_metadata_bytes_total_max: 256 << 20,
        };
        assert_eq!(*Rules::of(Level(1)), rules);
        assert_eq!(*Rules::of(Level(2)), rules);
    }
}
