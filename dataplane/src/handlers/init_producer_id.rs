//! InitProducerId: gives an idempotent producer its id (KIP-98).
//!
//! The control plane hands out blocks of ids, so most producers get theirs without a round trip.

use crate::dispatch::{RequestError, respond};
use crate::event::Event;
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::message::{Request, Response};
use std::cell::RefCell;
use std::rc::Rc;
use wire::ErrorCode;
use wire::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

/// How often a producer that finds the block used up again by others waits for the next.
const ATTEMPTS_MAX: usize = 4;

/// What a request of version 3 or later holds when the producer has no id yet.
const NO_PRODUCER_ID: i64 = -1;
const NO_PRODUCER_EPOCH: i16 = -1;

/// The ids that a shard may still give out.
#[derive(Default)]
pub(crate) struct ProducerIdBlock {
    next: i64,
    left: i32,
    allocating: bool,
    /// The end of an allocation, whether it brought ids or not.
    allocated: Rc<Event>,
}

impl ProducerIdBlock {
    fn take(&mut self) -> Option<i64> {
        self.left = self.left.checked_sub(1).filter(|left| *left >= 0)?;
        let id = self.next;
        self.next += 1;
        Some(id)
    }

    fn fill(&mut self, first: i64, count: i32) {
        self.next = first;
        self.left = count.max(0);
    }
}

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &InitProducerIdRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let id = match check(request) {
        Ok(()) => producer_id(shard).await,
        Err(error) => Err(error),
    };
    let response = match id {
        Ok(producer_id) => InitProducerIdResponse {
            producer_id,
            producer_epoch: 0,
            ..Default::default()
        },
        Err(error) => InitProducerIdResponse {
            error_code: error as i16,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            ..Default::default()
        },
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

/// A producer that names the id it has is given a new one all the same, as in Kafka: without a transactional id nobody keeps
/// track of epochs.
fn check(request: &InitProducerIdRequest<'_>) -> Result<(), ErrorCode> {
    match request.transactional_id {
        None => {}
        Some("") => return Err(ErrorCode::InvalidRequest),
        // There are no transactions, as FindCoordinator says in words to every client that asks it first.
        Some(_) => return Err(ErrorCode::UnsupportedVersion),
    }
    let has_id = request.producer_id != NO_PRODUCER_ID;
    let has_epoch = request.producer_epoch != NO_PRODUCER_EPOCH;
    if has_id != has_epoch {
        return Err(ErrorCode::InvalidRequest);
    }
    Ok(())
}

/// The next id of the block. An empty block is filled by the first who finds it so, for whom the others wait.
async fn producer_id<I: Io>(shard: &Shard<I>) -> Result<i64, ErrorCode> {
    for _ in 0..ATTEMPTS_MAX {
        if let Some(id) = shard.producer_ids.borrow_mut().take() {
            return Ok(id);
        }
        match Allocation::begin(&shard.producer_ids) {
            Some(allocation) => allocation.run(shard).await?,
            None => {
                let allocated = shard.producer_ids.borrow().allocated.clone();
                allocated.changed_since(allocated.generation()).await;
            }
        }
    }
    // The client waits a little and asks again.
    Err(ErrorCode::CoordinatorLoadInProgress)
}

/// The one allocation that a shard has in flight; over when it is dropped.
struct Allocation<'a> {
    block: &'a RefCell<ProducerIdBlock>,
}

impl<'a> Allocation<'a> {
    /// `None` while another one is in flight.
    fn begin(block: &'a RefCell<ProducerIdBlock>) -> Option<Self> {
        let was_allocating = std::mem::replace(&mut block.borrow_mut().allocating, true);
        (!was_allocating).then_some(Allocation { block })
    }

    async fn run<I: Io>(self, shard: &Shard<I>) -> Result<(), ErrorCode> {
        let broker = shard.broker;
        let epoch = shard
            .image()
            .brokers
            .get(&broker)
            .map(|record| record.epoch);
        let answer = match epoch {
            Some(epoch) => shard.ask_control(Request::AllocateProducerIds { broker, epoch }),
            // Not registered yet.
            None => return Err(ErrorCode::CoordinatorLoadInProgress),
        };
        match answer.await {
            Ok(Response::ProducerIds { first, count }) => {
                self.block.borrow_mut().fill(first, count);
                Ok(())
            }
            Ok(_) => Err(ErrorCode::UnsupportedVersion),
            // Whatever is in the way, no majority or a registration that is being renewed, passes.
            Err(error) => {
                tracing::warn!(%error, "no producer ids from the control plane");
                Err(ErrorCode::CoordinatorLoadInProgress)
            }
        }
    }
}

impl Drop for Allocation<'_> {
    fn drop(&mut self) {
        let mut block = self.block.borrow_mut();
        block.allocating = false;
        block.allocated.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(transactional_id: Option<&str>) -> InitProducerIdRequest<'_> {
        InitProducerIdRequest {
            transactional_id,
            ..Default::default()
        }
    }

    #[test]
    fn a_block_gives_out_each_id_once() {
        let mut block = ProducerIdBlock::default();
        assert_eq!(block.take(), None);
        block.fill(1000, 2);
        assert_eq!([block.take(), block.take()], [Some(1000), Some(1001)]);
        assert_eq!([block.take(), block.take()], [None, None]);
        block.fill(5, -1);
        assert_eq!(block.take(), None);
    }

    #[test]
    fn there_is_one_allocation_at_a_time() {
        let block = RefCell::new(ProducerIdBlock::default());
        let first = Allocation::begin(&block);
        assert!(first.is_some());
        assert!(Allocation::begin(&block).is_none());
        drop(first);
        assert!(Allocation::begin(&block).is_some());
    }

    #[test]
    fn transactions_are_refused_for_good() {
        assert_eq!(check(&request(None)), Ok(()));
        assert_eq!(check(&request(Some(""))), Err(ErrorCode::InvalidRequest));
        assert_eq!(
            check(&request(Some("t"))),
            Err(ErrorCode::UnsupportedVersion)
        );
    }

    #[test]
    fn an_id_and_an_epoch_come_together_or_not_at_all() {
        let with = |producer_id, producer_epoch| InitProducerIdRequest {
            producer_id,
            producer_epoch,
            ..request(None)
        };
        assert_eq!(check(&with(5, 0)), Ok(()));
        assert_eq!(check(&with(5, -1)), Err(ErrorCode::InvalidRequest));
        assert_eq!(check(&with(-1, 0)), Err(ErrorCode::InvalidRequest));
    }
}
