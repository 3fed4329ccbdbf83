//! What the handlers of requests about the controllers share: questions to the leaders of the Raft groups, and how a controller's
//! disk looks to Kafka's tools.

use crate::io::Io;
use crate::shard::Shard;
use control_api::message::{
    ControlError, QUORUM_GROUPS, QuorumChange, QuorumStatus, Request, Response,
};
use wire::{ErrorCode, Uuid};

/// Between two looks at whether a change has come further.
const PENDING_PAUSE_MS: u64 = 100;
const DISK_BITS: u32 = 48;
/// A UUID of version 4 but for the 48 bits that are the disk's.
const DIRECTORY_ID: u128 = 0x4000_8000_0000_0000_0000;

/// What the leader of a group says of its members.
pub(super) async fn describe<I: Io>(
    shard: &Shard<I>,
    group: u8,
) -> Result<QuorumStatus, ControlError> {
    let by_leader = true;
    match shard
        .ask_control(Request::DescribeQuorum { group, by_leader })
        .await?
    {
        Response::Quorum(quorum) => Ok(quorum),
        // Only a controller of another version answers with anything else.
        _ => Err(ControlError::UnsupportedVersion),
    }
}

/// Changes the members of both groups, one after the other, and waits for so long until it is done.
pub(super) async fn change<I: Io>(
    shard: &Shard<I>,
    change: QuorumChange,
    time_ms: u64,
) -> Result<(), ControlError> {
    let deadline = shard.io.now().after_ms(time_ms);
    for group in QUORUM_GROUPS {
        loop {
            let change = change.clone();
            let asked = shard.ask_control(Request::ChangeQuorum { group, change });
            match asked.await? {
                Response::Done(_) => break,
                Response::Pending(_) if shard.io.now() < deadline => {}
                Response::Pending(_) => return Err(ControlError::Unavailable),
                _ => return Err(ControlError::UnsupportedVersion),
            }
            let pause = shard.io.now().after_ms(PENDING_PAUSE_MS);
            shard.io.sleep_until(pause).await;
        }
    }
    Ok(())
}

/// Whether a controller votes in both groups, or in one of them, with this disk or any.
pub(super) async fn votes<I: Io>(
    shard: &Shard<I>,
    node: u64,
    disk: Option<u64>,
) -> Result<[bool; 2], ControlError> {
    let mut votes = [false; 2];
    for (group, votes) in QUORUM_GROUPS.into_iter().zip(&mut votes) {
        let quorum = describe(shard, group).await?;
        *votes = quorum.members.iter().any(|member| {
            member.votes && member.node == node && disk.is_none_or(|disk| disk == member.disk)
        });
    }
    Ok(votes)
}

/// A client may name the cluster that it means.
pub(super) fn check_cluster<I: Io>(
    shard: &Shard<I>,
    named: Option<&str>,
) -> Result<(), (ErrorCode, String)> {
    let image = shard.image();
    let own = &image.cluster_id;
    match named {
        Some(named) if named != own => Err((
            ErrorCode::InconsistentClusterId,
            format!("this is cluster {own}"),
        )),
        _ => Ok(()),
    }
}

/// A disk as a directory id of KIP-853.
pub(super) fn directory_id(disk: u64) -> Uuid {
    Uuid((DIRECTORY_ID | u128::from(disk)).to_be_bytes())
}

/// The disk that a client means, `Ok(None)` where it leaves it open, `Err` for an id that no disk has.
pub(super) fn disk_of(directory: Uuid) -> Result<Option<u64>, ()> {
    if directory == Uuid::ZERO {
        return Ok(None);
    }
    let bits = u128::from_be_bytes(directory.0);
    let disk = bits & ((1 << DISK_BITS) - 1);
    match bits ^ disk == DIRECTORY_ID {
        true => u64::try_from(disk).map(Some).map_err(|_| ()),
        false => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_id_names_one_disk() {
        for disk in [0, 1, (1 << DISK_BITS) - 1] {
            assert_eq!(disk_of(directory_id(disk)), Ok(Some(disk)));
        }
        let id = directory_id(0xabc).to_string();
        // A tool would take it for a flag, or Kafka for one of the first hundred, which mean something else.
        assert_eq!((id.as_str(), id.len()), ("AAAAAAAAQACAAAAAAAAKvA", 22));
        assert_eq!(disk_of(Uuid::ZERO), Ok(None));
        assert_eq!(disk_of(Uuid([7; 16])), Err(()));
    }
}
