//! The `offsets` state machine: what consumer groups have committed.
//!
//! Pure, like the `meta` one. A group remembers the highest coordinator epoch and generation under which anything was
//! committed and refuses lower ones, so a coordinator that was replaced without noticing can do no harm. A group that is
//! removed leaves that epoch behind, or the same coordinator could bring it back. Epochs belong to coordinator shards, so one
//! number for each shard does for all groups that were ever removed.

mod expiry;

use crate::command::{Commit, GroupClaim, GroupDeletion, OffsetsCommand};
use crate::rules::Rules;
use control_api::formats;
use control_api::ids::TopicId;
use control_api::image::coordinator_shard;
use control_api::level::Level;
use control_api::message::{
    CommittedOffset, ControlError, GroupSummary, OffsetSelection, Response,
};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// Cheap to clone: a snapshot is taken from a clone while commits go on, and copies only the groups that change meanwhile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OffsetsState {
    groups: BTreeMap<Arc<str>, Arc<ConsumerGroup>>,
    /// By coordinator shard: the highest epoch of any of its groups that were removed.
    removed_epochs: BTreeMap<u32, i32>,
    /// Which commands may be in the log; none until `meta` has told.
    feature_level: Level,
    size: Size,
    /// How many offsets each topic has.
    topics: BTreeMap<TopicId, usize>,
}

/// What some offsets come to, which is bounded over all groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    offsets: usize,
    metadata_bytes: usize,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct ConsumerGroup {
    coordinator_epoch: i32,
    generation: i32,
    offsets: BTreeMap<(TopicId, u32), Committed>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Committed {
    offset: i64,
    leader_epoch: i32,
    metadata: String,
    timestamp_ms: i64,
    /// When it goes, if its client said so; otherwise that follows from `timestamp_ms`.
    expires_ms: Option<i64>,
}

/// A snapshot.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct OffsetsImage {
    /// Which commands may be in the log.
    feature_level: Level,
    /// In name order.
    groups: Vec<(String, GroupImage)>,
    removed_epochs: BTreeMap<u32, i32>,
}

formats! { struct OffsetsImage: 226 }

/// One group as a snapshot holds it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct GroupImage(ConsumerGroup);

impl OffsetsState {
    pub fn apply(&mut self, command: &OffsetsCommand) -> Response {
        match command {
            OffsetsCommand::Commit { groups, commits } => {
                let claims: Vec<_> = groups.iter().map(|claim| self.claim(claim)).collect();
                let results = commits.iter().map(|commit| {
                    let position = commit.claim as usize;
                    let claim = groups.get(position).zip(claims.get(position));
                    let (claim, result) =
                        claim.ok_or_else(|| invalid("a commit names no group"))?;
                    result.clone()?;
                    self.commit(&claim.group, commit)
                });
                Response::Done(results.collect())
            }
            OffsetsCommand::DeleteOffsets {
                group,
                coordinator_epoch,
                partitions,
            } => Response::Done(vec![self.delete_offsets(
                group,
                *coordinator_epoch,
                partitions,
            )]),
            OffsetsCommand::ForgetTopics(topics) => {
                self.forget(&topics.iter().copied().collect());
                Response::Done(vec![Ok(())])
            }
            OffsetsCommand::DeleteGroups(groups) => {
                let results = groups.iter().map(|deletion| self.delete_group(deletion));
                Response::Done(results.collect())
            }
            OffsetsCommand::ExpireOffsets { expiry, groups } => {
                self.expire(*expiry, groups);
                Response::Done(vec![Ok(())])
            }
            OffsetsCommand::RaiseFeatureLevel(level) => {
                self.feature_level = self.feature_level.max(*level);
                Response::Done(vec![Ok(())])
            }
        }
    }

    /// What the group has committed, in topic and partition order. An unknown group has committed nothing.
    pub fn fetch(&self, group: &str, which: &OffsetSelection) -> Vec<CommittedOffset> {
        let Some(group) = self.groups.get(group) else {
            return Vec::new();
        };
        match which {
            OffsetSelection::All => group.offsets.iter().map(committed_offset).collect(),
            OffsetSelection::Partitions(partitions) => {
                let known = partitions
                    .iter()
                    .filter_map(|key| group.offsets.get_key_value(key));
                known.map(committed_offset).collect()
            }
        }
    }

    /// The groups behind `after`, in name order.
    pub fn groups_after(&self, after: Option<&str>) -> impl Iterator<Item = GroupSummary> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let groups = self.groups.range::<str, _>((from, Bound::Unbounded));
        groups.map(|(name, group)| GroupSummary {
            name: name.to_string(),
            offsets: group.offsets.len() as u64,
        })
    }

    /// Which commands may be in the log; none until `meta` has told.
    pub fn feature_level(&self) -> Level {
        self.feature_level
    }

    pub fn knows(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    pub fn offset_count(&self) -> usize {
        self.size.offsets
    }

    /// The topics that any offset is for.
    pub fn topics(&self) -> BTreeSet<TopicId> {
        self.topics.keys().copied().collect()
    }

    pub fn to_image(&self) -> OffsetsImage {
        let groups = self.groups.iter();
        OffsetsImage {
            groups: groups
                .map(|(name, group)| (name.to_string(), GroupImage(ConsumerGroup::clone(group))))
                .collect(),
            removed_epochs: self.removed_epochs.clone(),
            feature_level: self.feature_level,
        }
    }

    pub fn from_image(image: OffsetsImage) -> Self {
        let mut state = OffsetsState {
            removed_epochs: image.removed_epochs,
            feature_level: image.feature_level,
            ..OffsetsState::default()
        };
        for (name, GroupImage(group)) in image.groups {
            for (key, committed) in &group.offsets {
                state.size.add(committed.size());
                *state.topics.entry(key.0).or_default() += 1;
            }
            state.groups.insert(name.into(), Arc::new(group));
        }
        state
    }

    /// Checks the claim and remembers it.
    fn claim(&mut self, claim: &GroupClaim) -> Result<(), ControlError> {
        let rules = Rules::of(self.feature_level);
        if claim.group.len() > rules.group_name_bytes_max {
            return Err(invalid("the group's name is too long"));
        }
        let Some(group) = self.groups.get_mut(&*claim.group) else {
            let removed = self.removed_epochs.get(&coordinator_shard(&claim.group));
            if removed.is_some_and(|epoch| claim.coordinator_epoch < *epoch) {
                return Err(ControlError::FencedCommit);
            }
            if self.groups.len() >= rules.groups_max {
                let text = format!("there are {} groups already", rules.groups_max);
                return Err(ControlError::LimitReached(text));
            }
            let group = ConsumerGroup {
                coordinator_epoch: claim.coordinator_epoch,
                generation: claim.generation,
                offsets: BTreeMap::new(),
            };
            self.groups
                .insert(claim.group.as_str().into(), Arc::new(group));
            return Ok(());
        };
        let (epoch, generation) = (claim.coordinator_epoch, claim.generation);
        // A simple consumer (generation -1) belongs to no generation and so to none that could be over.
        let over =
            epoch == group.coordinator_epoch && generation >= 0 && generation < group.generation;
        if epoch < group.coordinator_epoch || over {
            return Err(ControlError::FencedCommit);
        }
        // A new coordinator may have begun the group's generations anew.
        let generation = match epoch > group.coordinator_epoch {
            true => generation,
            false => generation.max(group.generation),
        };
        if (epoch, generation) != (group.coordinator_epoch, group.generation) {
            let group = Arc::make_mut(group);
            group.coordinator_epoch = epoch;
            group.generation = generation;
        }
        Ok(())
    }

    fn commit(&mut self, group: &str, commit: &Commit) -> Result<(), ControlError> {
        let rules = Rules::of(self.feature_level);
        if commit.metadata.len() > rules.offset_metadata_bytes_max {
            return Err(invalid("the offset's metadata is too long"));
        }
        let group = self
            .groups
            .get_mut(group)
            .ok_or(ControlError::FencedCommit)?;
        let key = (commit.topic, commit.partition);
        let replaced = group
            .offsets
            .get(&key)
            .map_or(Size::default(), Committed::size);
        let expires_ms = (commit.retention_ms >= 0)
            .then(|| commit.timestamp_ms.saturating_add(commit.retention_ms));
        let committed = Committed {
            offset: commit.offset,
            leader_epoch: commit.leader_epoch,
            metadata: commit.metadata.clone(),
            timestamp_ms: commit.timestamp_ms,
            expires_ms,
        };
        let mut size = self.size;
        size.take(replaced);
        size.add(committed.size());
        if size.offsets > rules.offsets_max
            || size.metadata_bytes > rules.offset_metadata_bytes_total_max
        {
            let text = format!(
                "there are {} committed offsets already, or {} bytes of their metadata",
                rules.offsets_max, rules.offset_metadata_bytes_total_max
            );
            return Err(ControlError::LimitReached(text));
        }
        let known = Arc::make_mut(group).offsets.insert(key, committed);
        if known.is_none() {
            *self.topics.entry(commit.topic).or_default() += 1;
        }
        self.size = size;
        Ok(())
    }

    /// Whether a coordinator of this epoch may remove anything of the group.
    fn check_removal(&self, name: &str, coordinator_epoch: i32) -> Result<(), ControlError> {
        let group = self.groups.get(name).ok_or(ControlError::UnknownGroup)?;
        match coordinator_epoch < group.coordinator_epoch {
            true => Err(ControlError::FencedCommit),
            false => Ok(()),
        }
    }

    fn delete_offsets(
        &mut self,
        name: &str,
        coordinator_epoch: i32,
        partitions: &[(TopicId, u32)],
    ) -> Result<(), ControlError> {
        self.check_removal(name, coordinator_epoch)?;
        self.remove_offsets(name, partitions);
        Ok(())
    }

    fn delete_group(&mut self, deletion: &GroupDeletion) -> Result<(), ControlError> {
        self.check_removal(&deletion.group, deletion.coordinator_epoch)?;
        self.remove_group(&deletion.group);
        // The epoch that deletes is one that the shard has reached, even if nothing of this group was committed under it.
        self.raise_removed_epoch(&deletion.group, deletion.coordinator_epoch);
        Ok(())
    }

    fn forget(&mut self, topics: &BTreeSet<TopicId>) {
        let names: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for name in names {
            let offsets = self.groups.get(&name).map(|group| &group.offsets);
            let keys = offsets.into_iter().flat_map(BTreeMap::keys);
            let keys = keys.filter(|(topic, _)| topics.contains(topic));
            let keys: Vec<_> = keys.copied().collect();
            self.remove_offsets(&name, &keys);
        }
    }

    /// The group itself stays, even without offsets, until it expires.
    fn remove_offsets(&mut self, name: &str, keys: &[(TopicId, u32)]) {
        let Some(group) = self.groups.get_mut(name).filter(|_| !keys.is_empty()) else {
            return;
        };
        let group = Arc::make_mut(group);
        for key in keys {
            if let Some(removed) = group.offsets.remove(key) {
                self.size.take(removed.size());
                uncount(&mut self.topics, key.0);
            }
        }
    }

    /// Removes a group with all that it has, and keeps its fence.
    fn remove_group(&mut self, name: &str) {
        let Some(group) = self.groups.remove(name) else {
            return;
        };
        for (key, removed) in &group.offsets {
            self.size.take(removed.size());
            uncount(&mut self.topics, key.0);
        }
        self.raise_removed_epoch(name, group.coordinator_epoch);
    }

    fn raise_removed_epoch(&mut self, name: &str, epoch: i32) {
        let removed = self.removed_epochs.entry(coordinator_shard(name));
        let removed = removed.or_insert(epoch);
        *removed = epoch.max(*removed);
    }
}

fn uncount(topics: &mut BTreeMap<TopicId, usize>, topic: TopicId) {
    if let Some(count) = topics.get_mut(&topic) {
        *count -= 1;
        if *count == 0 {
            topics.remove(&topic);
        }
    }
}

impl Committed {
    fn size(&self) -> Size {
        Size {
            offsets: 1,
            metadata_bytes: self.metadata.len(),
        }
    }
}

impl Size {
    fn add(&mut self, other: Size) {
        self.offsets += other.offsets;
        self.metadata_bytes += other.metadata_bytes;
    }

    fn take(&mut self, other: Size) {
        self.offsets -= other.offsets;
        self.metadata_bytes -= other.metadata_bytes;
    }
}

fn committed_offset(entry: (&(TopicId, u32), &Committed)) -> CommittedOffset {
    let ((topic, partition), committed) = entry;
    CommittedOffset {
        topic: *topic,
        partition: *partition,
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.clone(),
        timestamp_ms: committed.timestamp_ms,
    }
}

fn invalid(text: &str) -> ControlError {
    ControlError::InvalidRequest(text.to_owned())
}

#[cfg(test)]
mod tests;
