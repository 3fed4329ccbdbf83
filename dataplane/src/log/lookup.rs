//! Finds records by time, for ListOffsets.

use std::rc::Rc;

use control_api::ids::LeaderEpoch;
use wire::{BATCH_HEADER_BYTES, BatchHeader};

use super::Log;
use super::read::{Walk, batch_bytes};
use super::records::first_at_or_after;
use super::segment::Segment;
use super::types::{Offset, ReadError};
use crate::io::Io;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRecord {
    pub offset: Offset,
    pub timestamp: i64,
    pub leader_epoch: LeaderEpoch,
}

impl<I: Io> Log<I> {
    /// The first record below the high watermark with a timestamp of at least `timestamp`.
    pub async fn offset_for_timestamp(
        &self,
        timestamp: i64,
    ) -> Result<Option<FoundRecord>, ReadError> {
        let segments: Vec<Rc<Segment<I>>> =
            self.0.segments.borrow().iter().map(Rc::clone).collect();
        for segment in segments
            .iter()
            .filter(|segment| segment.max_timestamp.get().0 >= timestamp)
        {
            if segment.next.get() <= self.log_start() {
                continue;
            }
            self.load_index(segment).await?;
            let position = segment
                .index
                .borrow()
                .as_ref()
                .map_or(0, |index| index.position_of_timestamp(timestamp));
            if let Some(found) = self.first_in(segment, position, timestamp).await? {
                return Ok(Some(found).filter(|found| found.offset < self.high_watermark()));
            }
        }
        Ok(None)
    }

    /// The first record with the largest timestamp of the log, as far as consumers see it (KIP-734).
    pub async fn max_timestamp(&self) -> Result<Option<FoundRecord>, ReadError> {
        let newest = self
            .0
            .segments
            .borrow()
            .iter()
            .filter(|segment| segment.bytes.get() > 0)
            .map(|segment| segment.max_timestamp.get())
            // Of several the first, which `max_by_key` alone would not return.
            .reduce(|newest, next| if next.0 > newest.0 { next } else { newest });
        let Some((timestamp, offset)) = newest.filter(|(timestamp, _)| *timestamp >= 0) else {
            return Ok(None);
        };
        let place = self.locate(offset).await?;
        let found = self
            .first_in(&place.segment, place.position, timestamp)
            .await?;
        Ok(found.filter(|found| found.offset < self.high_watermark()))
    }

    async fn first_in(
        &self,
        segment: &Rc<Segment<I>>,
        mut position: u64,
        timestamp: i64,
    ) -> Result<Option<FoundRecord>, ReadError> {
        let mut walk = Walk::new(self, Rc::clone(segment));
        while let Some(header) = walk.header(position).await? {
            let bytes = batch_bytes(&header, segment, position)?;
            if header.max_timestamp >= timestamp && header.last_offset() >= self.log_start().0 {
                let records = self.records_at(segment, position, bytes).await?;
                let found = first_at_or_after(&header, &records, timestamp).await;
                if let Some((offset, found)) = found {
                    return Ok(Some(found_record(
                        &header,
                        offset.max(self.log_start()),
                        found,
                    )));
                }
            }
            position += bytes;
        }
        Ok(None)
    }

    async fn records_at(
        &self,
        segment: &Rc<Segment<I>>,
        position: u64,
        bytes: u64,
    ) -> Result<Vec<u8>, ReadError> {
        let window = self.window(segment, position, bytes as usize, 0).await?;
        let records = position + BATCH_HEADER_BYTES as u64..position + bytes;
        Ok(window
            .slices(records)
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect())
    }
}

fn found_record(header: &BatchHeader, offset: Offset, timestamp: i64) -> FoundRecord {
    FoundRecord {
        offset,
        timestamp,
        leader_epoch: LeaderEpoch(header.partition_leader_epoch),
    }
}
