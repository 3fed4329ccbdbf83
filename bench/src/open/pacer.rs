//! Makes every record when it is due and puts it into its partition's batch, whatever the broker does. Records that should have been made
//! already are made late, and their latency counts from when they were due.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use anyhow::Result;

use super::outbox::Outbox;
use super::schedule::Schedule;
use crate::clock;
use crate::filler::Filler;
use crate::keys::Chooser;
use crate::run::Run;
use crate::stamp::{Stamp, TIMED_STAMP_BYTES, TimedStamp};
use crate::timer::Timer;

/// Records that wait take no more memory than this; those that are due beyond it are made once there is room.
const PENDING_BYTES_MAX: usize = 256 << 20;

/// Others get a turn after so many records.
const TURN_RECORDS_MAX: usize = 1024;
/// Waking for every single record would cost more than making it, so those of such a time are made together.
const TURN_NS_MIN: u64 = 100_000;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// Where a partition's records go.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    pub outbox: &'a Outbox,
    /// The partition's place in it.
    pub place: usize,
}

/// Why an open loop ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    Broker { records_per_second: u64 },
    Generator { records_per_second: u64 },
}

impl Overload {
    /// Whose fault it is that records are still unsent: those that are `pending` wait for the broker, those that are `unmade` although
    /// there is room for them wait for this program.
    fn blame(records_per_second: u64, pending: u64, unmade: u64, has_room: bool) -> Self {
        if has_room && unmade > pending {
            Overload::Generator { records_per_second }
        } else {
            Overload::Broker { records_per_second }
        }
    }
}

impl fmt::Display for Overload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Overload::Broker { records_per_second } => write!(
                formatter,
                "the broker cannot keep up with {records_per_second} records/s"
            ),
            Overload::Generator { records_per_second } => write!(
                formatter,
                "this program cannot make {records_per_second} records/s of this size on its processor"
            ),
        }
    }
}

impl std::error::Error for Overload {}

pub struct Pacer<'a> {
    pub run: &'a Run,
    pub schedule: Schedule,
    pub backlog_seconds_max: u64,
    pub outboxes: &'a [Outbox],
    /// One for each partition.
    pub destinations: Vec<Destination<'a>>,
    pub chooser: Chooser,
    pub values: Values,
    /// The longest that a record was made after it was due although there was room for it: the part of the latency that is this program's
    /// own.
    pub late_ns_max: &'a Cell<u64>,
}

impl Pacer<'_> {
    /// Ends once all records have been made.
    pub async fn pace(mut self) -> Result<()> {
        let timer = Timer::new()?;
        let mut made = 0;
        while made < self.schedule.records {
            let at_ns = self.run.elapsed_ns();
            let due = self.schedule.due(at_ns);
            made += self.turn(made, due, at_ns);
            self.ripen(self.run.elapsed_ns());
            self.check_backlog(made, due, at_ns)?;
            let next_ns = self.next_turn_ns(made, due, at_ns);
            let next = self.run.started + Duration::from_nanos(next_ns);
            timer.wait(next).await?;
        }
        self.outboxes.iter().for_each(Outbox::close);
        Ok(())
    }

    /// Makes records that are due, as many as there is room and time for. Returns how many.
    fn turn(&mut self, made: u64, due: u64, at_ns: u64) -> u64 {
        let timestamp_ms = clock::wall_clock_ms();
        let mut room = PENDING_BYTES_MAX.saturating_sub(self.pending_bytes());
        if made < due && room > 0 {
            let late_ns = at_ns.saturating_sub(self.schedule.intended_ns(made));
            self.late_ns_max.set(self.late_ns_max.get().max(late_ns));
        }
        let record_bytes = self.values.record_bytes;
        let mut record = made;
        for _ in 0..TURN_RECORDS_MAX {
            if record == due || room < record_bytes {
                break;
            }
            let Destination { outbox, place } = self.destinations[self.chooser.choose()];
            let intended_ns = self.schedule.intended_ns(record);
            let values = &mut self.values;
            outbox.with(|pending| {
                let value = values.next(pending.next_number(place), intended_ns);
                pending.append(place, intended_ns, timestamp_ms, value);
            });
            room -= record_bytes;
            record += 1;
        }
        record - made
    }

    fn ripen(&self, at_ns: u64) {
        for outbox in self.outboxes {
            outbox.with(|pending| pending.ripen(at_ns));
        }
    }

    fn pending_bytes(&self) -> usize {
        let bytes = |outbox: &Outbox| outbox.with(|pending| pending.bytes());
        self.outboxes.iter().map(bytes).sum()
    }

    /// Ends a run whose oldest unsent record is too old.
    fn check_backlog(&self, made: u64, due: u64, at_ns: u64) -> Result<(), Overload> {
        let records = |outbox: &Outbox| outbox.with(|pending| pending.records());
        let pending: u64 = self.outboxes.iter().map(records).sum();
        let age_ns = at_ns.saturating_sub(self.schedule.intended_ns(made - pending));
        if age_ns <= self.backlog_seconds_max * NS_PER_SECOND {
            return Ok(());
        }
        let has_room = self.pending_bytes() + self.values.record_bytes <= PENDING_BYTES_MAX;
        Err(Overload::blame(
            self.schedule.records_per_second,
            pending,
            due - made,
            has_room,
        ))
    }

    /// When the next record is due or the next batch has lingered long enough; at once if records are overdue.
    fn next_turn_ns(&self, made: u64, due: u64, at_ns: u64) -> u64 {
        if made < due {
            return at_ns;
        }
        let ripe_ns = |outbox: &Outbox| outbox.with(|pending| pending.next_ripe_ns());
        let next_ripe_ns = self.outboxes.iter().filter_map(ripe_ns).min();
        let next_due_ns = self.schedule.intended_ns(made);
        next_due_ns
            .min(next_ripe_ns.unwrap_or(u64::MAX))
            .max(at_ns + TURN_NS_MIN)
    }
}

/// Makes the values of records: stamped, then filled.
pub struct Values {
    filler: Filler,
    value: Vec<u8>,
    record_bytes: usize,
    stream: u64,
}

impl Values {
    pub fn new(record_bytes: usize, stream: u64) -> Self {
        assert!(record_bytes >= TIMED_STAMP_BYTES, "the stamp has room");
        Self {
            filler: Filler::new(record_bytes),
            value: Vec::with_capacity(record_bytes),
            record_bytes,
            stream,
        }
    }

    fn next(&mut self, batch: u64, intended_ns: u64) -> &[u8] {
        let stamp = Stamp {
            stream: self.stream,
            sequence: batch,
        };
        let stamp = TimedStamp { stamp, intended_ns }.to_bytes();
        self.value.clear();
        self.value.extend_from_slice(&stamp);
        let filler = self.filler.next(self.record_bytes - TIMED_STAMP_BYTES);
        self.value.extend_from_slice(filler);
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_wait_are_the_brokers_fault_and_those_not_made_this_programs() {
        let blame = |pending, unmade, has_room| {
            Overload::blame(1000, pending, unmade, has_room).to_string()
        };
        let broker = "the broker cannot keep up with 1000 records/s";
        assert_eq!(blame(500, 10, true), broker);
        assert_eq!(blame(500, 900, false), broker);
        assert!(blame(500, 900, true).starts_with("this program cannot make 1000 records/s"));
    }

    #[test]
    fn every_value_names_its_batch_and_its_time() {
        let mut values = Values::new(40, 3);
        let value = values.next(5, 70);
        assert_eq!(value.len(), 40);
        let found = TimedStamp::read(value).unwrap();
        assert_eq!((found.stamp.stream, found.stamp.sequence), (3, 5));
        assert_eq!(found.intended_ns, 70);
    }
}
