//! What must hold of a producer's batch before it is appended, in Kafka's order: exactly one, from offset 0, not too large, whole,
//! its records sound, and of this time.

use crate::inspection::Inspector;
use crate::log::limits::BATCH_BYTES_MAX;
use control_api::topic_config::{TimestampType, TopicConfig};
use wire::{Batch, ErrorCode, NO_TIMESTAMP, RecordTimes, Records};

/// What the checks found, apart from the batch itself: enough for the shard that appends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The largest timestamp of the records, whatever the header claims.
    pub max_timestamp: i64,
    /// A setting of the topic forbids the batch. One that was appended before, when it was allowed, is acknowledged again all the
    /// same: its producer never heard of that.
    pub refusal: Option<ErrorCode>,
}

/// Why there is no verdict.
pub(super) enum Unsettled {
    Refused(ErrorCode),
    /// Its records have to be looked at at length.
    TakesLong,
}

impl From<ErrorCode> for Unsettled {
    fn from(code: ErrorCode) -> Self {
        Unsettled::Refused(code)
    }
}

/// The one batch in `records`, checked. `times` keeps what was found out about its records, so that a request which is begun again
/// need not find it out again.
pub(super) fn check<'a>(
    inspector: &Inspector,
    config: &TopicConfig,
    now_ms: i64,
    records: &Records<'a>,
    times: &mut Option<Result<RecordTimes, ErrorCode>>,
) -> Result<(Batch<'a>, Verdict), Unsettled> {
    if records.is_empty() {
        return Err(ErrorCode::InvalidRecord.into());
    }
    let mut batch = Batch::first(records).map_err(|error| error.code())?;
    if batch.header.base_offset != 0 {
        return Err(ErrorCode::InvalidRecord.into());
    }
    let size_refusal = check_size(config, &batch).err();
    let may_be_repeated = batch.header.producer_id >= 0 && batch.bytes.len() <= BATCH_BYTES_MAX;
    if let Some(code) = size_refusal
        && !may_be_repeated
    {
        return Err(code.into());
    }
    if batch.bytes.len() != records.len() {
        return Err(ErrorCode::InvalidRecord.into());
    }
    let known = match times {
        Some(known) => *known,
        None => look(inspector, &batch)?,
    };
    *times = Some(known);
    let known = known?;
    batch.set_times(&known);
    if batch.header.attributes.is_transactional() {
        return Err(ErrorCode::InvalidTxnState.into());
    }
    let refusal = size_refusal.or_else(|| check_times(now_ms, config, &batch, &known).err());
    match refusal {
        Some(code) if !may_be_repeated => Err(code.into()),
        refusal => Ok((
            batch,
            Verdict {
                max_timestamp: batch.max_timestamp,
                refusal,
            },
        )),
    }
}

fn check_size(config: &TopicConfig, batch: &Batch<'_>) -> Result<(), ErrorCode> {
    if batch.bytes.len() > config.max_message_bytes as usize {
        return Err(ErrorCode::MessageTooLarge);
    }
    if batch.bytes.len() > config.segment_bytes as usize {
        return Err(ErrorCode::RecordListTooLarge);
    }
    Ok(())
}

fn look(
    inspector: &Inspector,
    batch: &Batch<'_>,
) -> Result<Result<RecordTimes, ErrorCode>, Unsettled> {
    match batch.validate() {
        Ok(Some(times)) => Ok(Ok(times)),
        Ok(None) => inspector.at_once(batch).ok_or(Unsettled::TakesLong),
        Err(error) => Ok(Err(error.code())),
    }
}

/// `message.timestamp.type`, and `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms` (KIP-937) for every record
/// that has a time. The bit that says who set the times is the leader's: it is refused where the leader does set them; elsewhere
/// Kafka takes the header's max timestamp for every record's time, and what is stored has no such bit.
fn check_times(
    now_ms: i64,
    config: &TopicConfig,
    batch: &Batch<'_>,
    times: &RecordTimes,
) -> Result<(), ErrorCode> {
    let claims_append_time =
        batch.header.attributes.timestamp_type() == wire::TimestampType::LogAppendTime;
    if config.message_timestamp_type == TimestampType::LogAppendTime {
        return match claims_append_time {
            true => Err(ErrorCode::InvalidTimestamp),
            false => Ok(()),
        };
    }
    let oldest_ms = now_ms.saturating_sub_unsigned(config.message_timestamp_before_max_ms);
    let newest_ms = now_ms.saturating_add_unsigned(config.message_timestamp_after_max_ms);
    let claimed = batch.header.max_timestamp;
    let claim_holds = !claims_append_time
        || claimed != NO_TIMESTAMP && (oldest_ms..=newest_ms).contains(&claimed);
    if !claim_holds || !times.lie_within(oldest_ms, newest_ms) {
        return Err(ErrorCode::InvalidTimestamp);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{BatchAttributes, BatchBuilder};

    const NOW_MS: i64 = 1_700_000_000_000;
    const HOUR_MS: i64 = 3_600_000;
    const APPEND_TIME: BatchAttributes = BatchAttributes(8);

    fn verdict(config: &TopicConfig, bytes: &[u8]) -> Result<Verdict, ErrorCode> {
        let records = Records::from_slice(bytes);
        match check(&Inspector::default(), config, NOW_MS, &records, &mut None) {
            Ok((_, verdict)) => Ok(verdict),
            Err(Unsettled::Refused(code)) => Err(code),
            Err(Unsettled::TakesLong) => panic!("nothing here is long"),
        }
    }

    /// A batch whose header says `claimed` and whose records have these times.
    fn batch(builder: &mut BatchBuilder, times: &[i64], claimed: i64) -> Vec<u8> {
        for time in times {
            builder.record(*time, None, Some(b"value"), &[]);
        }
        builder.claim_max_timestamp(claimed).build()
    }

    /// Changes a field and makes the CRC fit.
    fn sealed(mut bytes: Vec<u8>, position: usize, field: &[u8]) -> Vec<u8> {
        bytes[position..position + field.len()].copy_from_slice(field);
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn accepted(max_timestamp: i64) -> Result<Verdict, ErrorCode> {
        Ok(Verdict {
            max_timestamp,
            refusal: None,
        })
    }

    #[test]
    fn the_max_timestamp_is_that_of_the_records() {
        let config = TopicConfig::default();
        for claimed in [
            -1,
            0,
            NOW_MS - HOUR_MS,
            NOW_MS,
            NOW_MS + 100 * HOUR_MS,
            i64::MAX,
        ] {
            let bytes = batch(
                &mut BatchBuilder::new(NOW_MS),
                &[NOW_MS, NOW_MS + 5, -1, NOW_MS - 9],
                claimed,
            );
            assert_eq!(verdict(&config, &bytes), accepted(NOW_MS + 5), "{claimed}");
        }
        let bytes = batch(&mut BatchBuilder::new(-1), &[-1, -1], NOW_MS);
        assert_eq!(verdict(&config, &bytes), accepted(-1));
    }

    #[test]
    fn every_record_is_held_against_the_bounds() {
        let mut config = TopicConfig::default();
        let of = |times: &[i64]| batch(&mut BatchBuilder::new(NOW_MS), times, NOW_MS);
        let refused = Err(ErrorCode::InvalidTimestamp);
        assert_eq!(verdict(&config, &of(&[NOW_MS, 0])), accepted(NOW_MS));
        assert_eq!(
            verdict(&config, &of(&[NOW_MS, NOW_MS + HOUR_MS])),
            accepted(NOW_MS + HOUR_MS)
        );
        assert_eq!(
            verdict(&config, &of(&[NOW_MS, NOW_MS + HOUR_MS + 1])),
            refused
        );
        assert_eq!(verdict(&config, &of(&[-1, NOW_MS + HOUR_MS + 1])), refused);
        config.message_timestamp_before_max_ms = HOUR_MS as u64;
        assert_eq!(
            verdict(&config, &of(&[NOW_MS, -1, NOW_MS - HOUR_MS])),
            accepted(NOW_MS)
        );
        assert_eq!(
            verdict(&config, &of(&[NOW_MS, NOW_MS - HOUR_MS - 1])),
            refused
        );
        // Where the leader sets the time, that of the records does not matter.
        config.message_timestamp_type = TimestampType::LogAppendTime;
        assert!(verdict(&config, &of(&[0, NOW_MS + 100 * HOUR_MS])).is_ok());
    }

    #[test]
    fn the_bit_of_the_append_time_is_the_brokers() {
        let mut config = TopicConfig::default();
        let of = |claimed| {
            batch(
                BatchBuilder::new(NOW_MS).attributes(APPEND_TIME),
                &[NOW_MS - 5],
                claimed,
            )
        };
        let refused = Err(ErrorCode::InvalidTimestamp);
        assert_eq!(verdict(&config, &of(NOW_MS)), accepted(NOW_MS - 5));
        assert_eq!(verdict(&config, &of(-1)), refused);
        assert_eq!(verdict(&config, &of(NOW_MS + HOUR_MS + 1)), refused);
        config.message_timestamp_type = TimestampType::LogAppendTime;
        assert_eq!(verdict(&config, &of(NOW_MS)), refused);
    }

    #[test]
    fn only_a_batch_that_may_have_been_appended_gets_past_the_limits() {
        let config = TopicConfig {
            max_message_bytes: 100,
            ..TopicConfig::default()
        };
        let value = [1; 100];
        let mut builder = BatchBuilder::new(NOW_MS);
        builder.record(NOW_MS, None, Some(&value), &[]);
        assert_eq!(
            verdict(&config, &builder.build()),
            Err(ErrorCode::MessageTooLarge)
        );
        builder.producer(1, 0, 0);
        let refused = verdict(&config, &builder.build()).unwrap();
        assert_eq!(refused.refusal, Some(ErrorCode::MessageTooLarge));
        let mut damaged = builder.build();
        damaged[100] ^= 1;
        assert_eq!(verdict(&config, &damaged), Err(ErrorCode::CorruptMessage));
        let small = TopicConfig {
            segment_bytes: 100,
            ..TopicConfig::default()
        };
        let refused = verdict(&small, &builder.build()).unwrap();
        assert_eq!(refused.refusal, Some(ErrorCode::RecordListTooLarge));
    }

    #[test]
    fn what_is_not_one_whole_batch_from_offset_0_is_refused() {
        let config = TopicConfig::default();
        let good = batch(&mut BatchBuilder::new(NOW_MS), &[NOW_MS], NOW_MS);
        let mut moved = good.clone();
        moved[7] = 1;
        for bytes in [
            moved,
            [&good[..], &good].concat(),
            [&good[..], b"rest"].concat(),
            Vec::new(),
        ] {
            assert_eq!(verdict(&config, &bytes), Err(ErrorCode::InvalidRecord));
        }
        let transactional = sealed(good, 22, &[0x10]);
        assert_eq!(
            verdict(&config, &transactional),
            Err(ErrorCode::InvalidTxnState)
        );
    }
}
