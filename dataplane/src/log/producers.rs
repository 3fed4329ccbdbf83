//! What idempotent producers have appended (KIP-98): enough to refuse gaps and to recognise what is sent twice.
//!
//! The append path checks and notes every batch that carries a producer id; the checkpoint stores the state and recovery rebuilds
//! it. The rules are those of Kafka's `ProducerStateManager` without transactions: a producer that is not known (any more) may begin
//! with any sequence, a new epoch begins with 0, and within an epoch each batch continues the one before.

use std::collections::{BTreeMap, VecDeque};

use super::limits::{PRODUCER_BATCHES, PRODUCERS_MAX};
use super::types::{AppendError, Offset};

/// One batch as its producer numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProducerBatch {
    pub(super) first_sequence: i32,
    pub(super) last_sequence: i32,
    pub(super) base_offset: Offset,
    pub(super) last_offset: Offset,
    pub(super) log_append_time_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) epoch: i16,
    /// When this producer last appended.
    pub(super) last_ms: i64,
    /// Oldest first, at most [`PRODUCER_BATCHES`].
    pub(super) batches: VecDeque<ProducerBatch>,
}

/// What a producer's batch carries in its header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequenced {
    pub(super) producer_id: i64,
    pub(super) epoch: i16,
    pub(super) first_sequence: i32,
    pub(super) last_offset_delta: i32,
}

impl Sequenced {
    fn last_sequence(&self) -> i32 {
        // Sequences run from 0 to 2^31-1 and then begin again at 0.
        ((i64::from(self.first_sequence) + i64::from(self.last_offset_delta)) % (1 << 31)) as i32
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producers {
    states: BTreeMap<i64, Producer>,
}

impl Producers {
    /// `Ok(None)`: the batch may be appended. `Ok(Some(_))`: it has been before.
    pub(super) fn check(&self, batch: &Sequenced) -> Result<Option<ProducerBatch>, AppendError> {
        let Some(producer) = self.states.get(&batch.producer_id) else {
            return Ok(None);
        };
        if batch.epoch < producer.epoch {
            return Err(AppendError::InvalidProducerEpoch {
                current: producer.epoch,
                found: batch.epoch,
            });
        }
        if batch.epoch > producer.epoch {
            return expect_sequence(0, batch.first_sequence);
        }
        let same = |known: &&ProducerBatch| {
            known.first_sequence == batch.first_sequence
                && known.last_sequence == batch.last_sequence()
        };
        if let Some(known) = producer.batches.iter().find(same) {
            return Ok(Some(*known));
        }
        match producer.batches.back() {
            Some(last) => expect_sequence(next_sequence(last.last_sequence), batch.first_sequence),
            None => Ok(None),
        }
    }

    /// Notes a batch that was appended.
    pub(super) fn append(
        &mut self,
        batch: &Sequenced,
        base_offset: Offset,
        log_append_time_ms: i64,
        now_ms: i64,
    ) {
        self.make_room(batch.producer_id);
        let producer = self
            .states
            .entry(batch.producer_id)
            .or_insert_with(|| Producer {
                epoch: batch.epoch,
                last_ms: now_ms,
                batches: VecDeque::with_capacity(PRODUCER_BATCHES),
            });
        if producer.epoch != batch.epoch {
            producer.epoch = batch.epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == PRODUCER_BATCHES {
            producer.batches.pop_front();
        }
        producer.last_ms = now_ms;
        producer.batches.push_back(ProducerBatch {
            first_sequence: batch.first_sequence,
            last_sequence: batch.last_sequence(),
            base_offset,
            last_offset: Offset(base_offset.0 + i64::from(batch.last_offset_delta)),
            log_append_time_ms,
        });
    }

    pub(super) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.states
            .retain(|_, producer| now_ms.saturating_sub(producer.last_ms) < expiration_ms);
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, &Producer)> {
        self.states.iter().map(|(id, producer)| (*id, producer))
    }

    /// Puts back what a checkpoint stored.
    pub(super) fn restore(&mut self, producer_id: i64, producer: Producer) {
        self.states.insert(producer_id, producer);
    }

    fn make_room(&mut self, for_id: i64) {
        if self.states.len() < PRODUCERS_MAX || self.states.contains_key(&for_id) {
            return;
        }
        let silent = self
            .states
            .iter()
            .min_by_key(|(_, producer)| producer.last_ms)
            .map(|(id, _)| *id);
        silent.map(|id| self.states.remove(&id));
    }
}

fn next_sequence(last: i32) -> i32 {
    if last == i32::MAX { 0 } else { last + 1 }
}

fn expect_sequence(expected: i32, found: i32) -> Result<Option<ProducerBatch>, AppendError> {
    if expected == found {
        Ok(None)
    } else {
        Err(AppendError::OutOfOrderSequence { expected, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: i64 = 7;

    fn batch(epoch: i16, first_sequence: i32, records: i32) -> Sequenced {
        Sequenced {
            producer_id: ID,
            epoch,
            first_sequence,
            last_offset_delta: records - 1,
        }
    }

    fn append(producers: &mut Producers, batch: Sequenced, base_offset: i64) {
        assert_eq!(producers.check(&batch), Ok(None));
        producers.append(&batch, Offset(base_offset), -1, 0);
    }

    #[test]
    fn each_of_the_last_five_batches_is_recognised_and_an_older_one_is_out_of_order() {
        let mut producers = Producers::default();
        for number in 0..6 {
            append(
                &mut producers,
                batch(0, number * 10, 10),
                100 + i64::from(number) * 10,
            );
        }
        for number in 1..6 {
            let known = producers
                .check(&batch(0, number * 10, 10))
                .unwrap()
                .unwrap();
            assert_eq!(known.base_offset, Offset(100 + i64::from(number) * 10));
            assert_eq!(known.last_offset, Offset(109 + i64::from(number) * 10));
        }
        assert_eq!(
            producers.check(&batch(0, 0, 10)),
            Err(AppendError::OutOfOrderSequence {
                expected: 60,
                found: 0
            })
        );
    }

    #[test]
    fn a_gap_or_a_batch_of_another_length_is_out_of_order() {
        let mut producers = Producers::default();
        append(&mut producers, batch(0, 0, 10), 0);
        for wrong in [
            batch(0, 11, 1),
            batch(0, 9, 1),
            batch(0, 0, 9),
            batch(0, 0, 11),
        ] {
            assert!(matches!(
                producers.check(&wrong),
                Err(AppendError::OutOfOrderSequence { expected: 10, .. })
            ));
        }
    }

    #[test]
    fn an_unknown_producer_may_begin_anywhere() {
        let mut producers = Producers::default();
        append(&mut producers, batch(3, 1234, 1), 0);
        append(&mut producers, batch(3, 1235, 1), 1);
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_ends_the_old_one() {
        let mut producers = Producers::default();
        append(&mut producers, batch(0, 0, 10), 0);
        assert_eq!(
            producers.check(&batch(1, 10, 1)),
            Err(AppendError::OutOfOrderSequence {
                expected: 0,
                found: 10
            })
        );
        append(&mut producers, batch(1, 0, 10), 10);
        assert_eq!(
            producers.check(&batch(0, 10, 1)),
            Err(AppendError::InvalidProducerEpoch {
                current: 1,
                found: 0
            })
        );
    }

    #[test]
    fn sequences_wrap_after_the_largest() {
        let mut producers = Producers::default();
        append(&mut producers, batch(0, i32::MAX - 1, 1), 0);
        append(&mut producers, batch(0, i32::MAX, 3), 1);
        assert!(producers.check(&batch(0, i32::MAX, 3)).unwrap().is_some());
        append(&mut producers, batch(0, 2, 1), 4);
        append(&mut producers, batch(0, 3, 1), 5);
    }

    #[test]
    fn silent_producers_expire_and_the_longest_silent_one_makes_room() {
        let mut producers = Producers::default();
        for id in 0..PRODUCERS_MAX as i64 {
            producers.append(
                &Sequenced {
                    producer_id: id,
                    ..batch(0, 0, 1)
                },
                Offset(id),
                -1,
                1000 - id % 900,
            );
        }
        producers.append(
            &Sequenced {
                producer_id: -5,
                ..batch(0, 0, 1)
            },
            Offset(0),
            -1,
            1000,
        );
        assert_eq!(producers.len(), PRODUCERS_MAX);
        assert!(!producers.states.contains_key(&899));
        producers.expire(1100, 100);
        assert!(
            producers
                .iter()
                .all(|(_, producer)| producer.last_ms > 1000)
        );
    }
}
