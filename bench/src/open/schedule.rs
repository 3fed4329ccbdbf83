//! When each record of an open loop is meant to be sent: a fixed rate from the start of the run, whatever the broker does.

const NS_PER_SECOND: u128 = 1_000_000_000;

/// Records are numbered from 0; times are nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub records_per_second: u64,
    /// How many records there are.
    pub records: u64,
}

impl Schedule {
    /// When a record is meant to be sent.
    pub fn intended_ns(&self, record: u64) -> u64 {
        let ns = u128::from(record) * NS_PER_SECOND / u128::from(self.records_per_second);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// How many records are meant to have been sent by then, the one of that very moment included.
    pub fn due(&self, at_ns: u64) -> u64 {
        // The record after the last one is the first whose time, rounded down, is later.
        let next = (u128::from(at_ns) + 1) * u128::from(self.records_per_second);
        let due = next.div_ceil(NS_PER_SECOND);
        u64::try_from(due).unwrap_or(u64::MAX).min(self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(records_per_second: u64) -> Schedule {
        Schedule {
            records_per_second,
            records: 1_000_000_000,
        }
    }

    #[test]
    fn records_are_evenly_spread_and_do_not_drift() {
        let three = schedule(3);
        let times: Vec<_> = (0..4).map(|record| three.intended_ns(record)).collect();
        assert_eq!(times, [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(schedule(7).intended_ns(7 * 86_400), 86_400_000_000_000);
    }

    #[test]
    fn a_record_is_due_from_its_own_time_on() {
        for rate in [1, 3, 7, 1_000, 999_999, 1_000_000, 30_000_000] {
            let schedule = schedule(rate);
            assert_eq!(schedule.due(0), 1, "{rate}");
            for record in [1, 2, 99, 12_345] {
                let at = schedule.intended_ns(record);
                assert_eq!(schedule.due(at), record + 1, "{rate}");
                assert_eq!(schedule.due(at - 1), record, "{rate}");
            }
        }
    }

    #[test]
    fn no_more_records_are_due_than_there_are() {
        let schedule = Schedule {
            records_per_second: 10,
            records: 25,
        };
        assert_eq!(schedule.due(2_300_000_000), 24);
        assert_eq!(schedule.due(9_000_000_000), 25);
    }
}
