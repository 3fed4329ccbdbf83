//! Where the replicas of new partitions go.

use super::{Change, election};
use control_api::ids::{BrokerId, LeaderEpoch, PartitionEpoch};
use control_api::image::{MetadataImage, PartitionRecord};
use control_api::message::ControlError;
use std::collections::BTreeSet;

/// `count` new partitions, round robin over the available brokers. The start goes on from the number of partitions there
/// are, so that leaders spread evenly over topics too.
pub(super) fn place(
    change: &Change,
    count: usize,
    replication_factor: i16,
) -> Result<Vec<PartitionRecord>, ControlError> {
    check_replication_factor(change.image, replication_factor)?;
    let ids = change.image.brokers.keys().copied();
    let available: Vec<BrokerId> = ids
        .filter(|id| election::is_available(change.image, *id))
        .collect();
    let replicas = replication_factor as usize;
    if available.len() < replicas {
        let text = "All brokers are currently fenced.".to_owned();
        return Err(ControlError::InvalidReplicationFactor(format!(
            "Unable to replicate the partition {replicas} time(s): {text}"
        )));
    }
    let start = *change.partition_count;
    let place_one = |partition: usize| {
        let nth = |replica| available[(start + partition + replica) % available.len()];
        partition_of(change.image, (0..replicas).map(nth).collect())
    };
    Ok((0..count).map(place_one).collect())
}

/// The partitions of an explicit assignment.
pub(super) fn assigned(
    change: &Change,
    assignment: &[Vec<BrokerId>],
) -> Result<Vec<PartitionRecord>, ControlError> {
    let invalid = |text: String| Err(ControlError::InvalidAssignment(text));
    for replicas in assignment {
        let distinct: BTreeSet<_> = replicas.iter().collect();
        if replicas.is_empty() || distinct.len() != replicas.len() {
            return invalid(
                "The manual partition assignment includes an empty or duplicate replica list."
                    .to_owned(),
            );
        }
        if let Some(unknown) = replicas
            .iter()
            .find(|id| !change.image.brokers.contains_key(id))
        {
            return invalid(format!(
                "The manual partition assignment includes broker {unknown}, but no such broker is registered."
            ));
        }
        let factor = i16::try_from(replicas.len()).unwrap_or(i16::MAX);
        check_replication_factor(change.image, factor)?;
    }
    let records = assignment
        .iter()
        .map(|replicas| partition_of(change.image, replicas.clone()));
    Ok(records.collect())
}

fn check_replication_factor(image: &MetadataImage, factor: i16) -> Result<(), ControlError> {
    let invalid = |text: String| Err(ControlError::InvalidReplicationFactor(text));
    let brokers = image.brokers.len();
    match factor {
        ..1 => invalid(
            "Replication factor must be larger than 0, or -1 to use the default value.".to_owned(),
        ),
        1 => Ok(()),
        _ if factor as usize > brokers => invalid(format!(
            "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be \
             reached because only {brokers} broker(s) are registered."
        )),
        _ => invalid(format!(
            "Unable to replicate the partition {factor} time(s): replication is not available in this version, the \
             replication factor must be 1."
        )),
    }
}

fn partition_of(image: &MetadataImage, replicas: Vec<BrokerId>) -> PartitionRecord {
    let leader = replicas
        .iter()
        .copied()
        .find(|id| election::is_available(image, *id));
    PartitionRecord {
        in_sync: replicas.clone(),
        replicas,
        leader,
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
    }
}
