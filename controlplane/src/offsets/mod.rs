//! The `offsets` state machine: what consumer groups have committed.
//!
//! Pure, like the `meta` one. A group remembers the highest coordinator epoch and generation under which anything was
//! committed and refuses lower ones, so a coordinator that was replaced without noticing can do no harm.

use crate::command::{Commit, GroupClaim, OffsetsCommand};
use crate::limits::{
    GROUP_NAME_BYTES_MAX, GROUPS_MAX, OFFSET_METADATA_BYTES_MAX, OFFSET_METADATA_BYTES_TOTAL_MAX,
    OFFSETS_MAX,
};
use control_api::ids::TopicId;
use control_api::message::{CommittedOffset, ControlError, OffsetSelection, Response};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Cheap to clone: a snapshot is taken from a clone while commits go on, and copies only the groups that change meanwhile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OffsetsState {
    groups: BTreeMap<Arc<str>, Arc<Group>>,
    size: Size,
}

/// What some offsets come to, which is bounded over all groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    offsets: usize,
    metadata_bytes: usize,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Group {
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
}

/// A snapshot: the groups, in name order.
pub type OffsetsImage = Vec<(String, GroupImage)>;

/// One group as a snapshot holds it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct GroupImage(Group);

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
            OffsetsCommand::DeleteOffsets { group, partitions } => {
                self.delete(group, partitions.as_deref());
                Response::Done(vec![Ok(())])
            }
            OffsetsCommand::ForgetTopics(topics) => {
                self.forget(&topics.iter().copied().collect());
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

    /// Each group's name and how many offsets it has.
    pub fn groups(&self) -> impl Iterator<Item = (&str, usize)> {
        self.groups
            .iter()
            .map(|(name, group)| (&**name, group.offsets.len()))
    }

    pub fn offset_count(&self) -> usize {
        self.size.offsets
    }

    /// The topics that any offset is for.
    pub fn topics(&self) -> BTreeSet<TopicId> {
        let offsets = self.groups.values().flat_map(|group| group.offsets.keys());
        offsets.map(|(topic, _)| *topic).collect()
    }

    pub fn to_image(&self) -> OffsetsImage {
        let groups = self.groups.iter();
        groups
            .map(|(name, group)| (name.to_string(), GroupImage(Group::clone(group))))
            .collect()
    }

    pub fn from_image(image: OffsetsImage) -> Self {
        let groups = image
            .into_iter()
            .map(|(name, group)| (name.into(), Arc::new(group.0)));
        let mut state = OffsetsState {
            groups: groups.collect(),
            size: Size::default(),
        };
        for group in state.groups.values() {
            state.size.add(group.size());
        }
        state
    }

    /// Checks the claim and remembers it.
    fn claim(&mut self, claim: &GroupClaim) -> Result<(), ControlError> {
        if claim.group.len() > GROUP_NAME_BYTES_MAX {
            return Err(invalid("the group's name is too long"));
        }
        let Some(group) = self.groups.get_mut(&*claim.group) else {
            if self.groups.len() >= GROUPS_MAX {
                return Err(invalid("there are too many groups"));
            }
            let group = Group {
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
        if commit.metadata.len() > OFFSET_METADATA_BYTES_MAX {
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
        let committed = Committed {
            offset: commit.offset,
            leader_epoch: commit.leader_epoch,
            metadata: commit.metadata.clone(),
            timestamp_ms: commit.timestamp_ms,
        };
        let mut size = self.size;
        size.take(replaced);
        size.add(committed.size());
        if size.offsets > OFFSETS_MAX || size.metadata_bytes > OFFSET_METADATA_BYTES_TOTAL_MAX {
            return Err(invalid("there are too many committed offsets"));
        }
        Arc::make_mut(group).offsets.insert(key, committed);
        self.size = size;
        Ok(())
    }

    fn delete(&mut self, name: &str, partitions: Option<&[(TopicId, u32)]>) {
        match partitions {
            Some(partitions) => {
                let Some(group) = self.groups.get_mut(name) else {
                    return;
                };
                for key in partitions {
                    let removed = Arc::make_mut(group).offsets.remove(key);
                    self.size
                        .take(removed.map_or(Size::default(), |removed| removed.size()));
                }
            }
            None => {
                let removed = self.groups.remove(name);
                self.size
                    .take(removed.map_or(Size::default(), |removed| removed.size()));
            }
        }
    }

    fn forget(&mut self, topics: &BTreeSet<TopicId>) {
        for group in self.groups.values_mut() {
            if !group
                .offsets
                .keys()
                .any(|(topic, _)| topics.contains(topic))
            {
                continue;
            }
            self.size.take(group.size());
            let group = Arc::make_mut(group);
            group
                .offsets
                .retain(|(topic, _), _| !topics.contains(topic));
            self.size.add(group.size());
        }
    }
}

impl Group {
    fn size(&self) -> Size {
        let mut size = Size::default();
        self.offsets
            .values()
            .for_each(|committed| size.add(committed.size()));
        size
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
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId([1; 16]);
    const OTHER: TopicId = TopicId([2; 16]);

    fn commit_under(epoch: i32, generation: i32, offset: i64) -> OffsetsCommand {
        commit_to(TOPIC, epoch, generation, offset)
    }

    fn commit_to(topic: TopicId, epoch: i32, generation: i32, offset: i64) -> OffsetsCommand {
        OffsetsCommand::Commit {
            groups: vec![GroupClaim {
                group: "g".into(),
                coordinator_epoch: epoch,
                generation,
            }],
            commits: vec![Commit {
                claim: 0,
                topic,
                partition: 3,
                offset,
                leader_epoch: -1,
                metadata: format!("at {offset}"),
                timestamp_ms: 9,
            }],
        }
    }

    /// Checks on the way that the sizes kept are those of what is there.
    fn offsets(state: &OffsetsState) -> Vec<i64> {
        assert_eq!(&OffsetsState::from_image(state.to_image()), state);
        let all = state.fetch("g", &OffsetSelection::All);
        all.iter().map(|committed| committed.offset).collect()
    }

    #[test]
    fn a_commit_is_fetched_and_repeating_it_changes_nothing() {
        let mut state = OffsetsState::default();
        for _ in 0..2 {
            let done = Response::Done(vec![Ok(())]);
            assert_eq!(state.apply(&commit_under(1, 0, 42)), done);
            assert_eq!((offsets(&state), state.offset_count()), (vec![42], 1));
        }
        let one = OffsetSelection::Partitions(vec![(TOPIC, 3), (TOPIC, 4), (OTHER, 3)]);
        assert_eq!(state.fetch("g", &one).len(), 1);
        assert!(state.fetch("h", &OffsetSelection::All).is_empty());
    }

    #[test]
    fn lower_epochs_and_generations_are_refused() {
        // (epoch, generation) after (5, 7): is the commit taken?
        let cases = [
            (4, 9, false),
            (5, 6, false),
            (5, 7, true),
            (5, 8, true),
            (6, 0, true),
            (5, -1, true),
            (4, -1, false),
        ];
        for (epoch, generation, taken) in cases {
            let mut state = OffsetsState::default();
            state.apply(&commit_under(5, 7, 1));
            let expected = if taken {
                Ok(())
            } else {
                Err(ControlError::FencedCommit)
            };
            let response = state.apply(&commit_under(epoch, generation, 2));
            assert_eq!(
                response,
                Response::Done(vec![expected]),
                "{epoch} {generation}"
            );
            assert_eq!(offsets(&state), [if taken { 2 } else { 1 }]);
        }
    }

    #[test]
    fn a_deleted_topic_takes_its_offsets_along() {
        let mut state = OffsetsState::default();
        state.apply(&commit_under(1, 0, 42));
        state.apply(&commit_to(OTHER, 1, 0, 43));
        state.apply(&OffsetsCommand::ForgetTopics(vec![TOPIC]));
        assert_eq!((offsets(&state), state.offset_count()), (vec![43], 1));
        assert_eq!(state.topics(), BTreeSet::from([OTHER]));
    }

    #[test]
    fn offsets_are_deleted_by_partition_or_all_at_once() {
        let mut state = OffsetsState::default();
        state.apply(&commit_under(1, 0, 42));
        state.apply(&commit_to(OTHER, 1, 0, 43));
        let delete = |partitions| OffsetsCommand::DeleteOffsets {
            group: "g".into(),
            partitions,
        };
        state.apply(&delete(Some(vec![(TOPIC, 3), (TOPIC, 99)])));
        assert_eq!((offsets(&state), state.offset_count()), (vec![43], 1));
        state.apply(&delete(None));
        assert_eq!((offsets(&state), state.offset_count()), (vec![], 0));
        assert_eq!(state.groups().count(), 0);
    }

    #[test]
    fn an_image_gives_the_same_state_back() {
        let mut state = OffsetsState::default();
        state.apply(&commit_under(5, 7, 42));
        state.apply(&commit_to(OTHER, 5, 7, 43));
        assert_eq!(OffsetsState::from_image(state.to_image()), state);
    }

    #[test]
    fn a_commit_that_names_no_group_or_too_much_metadata_is_refused() {
        let mut state = OffsetsState::default();
        let OffsetsCommand::Commit {
            groups,
            mut commits,
        } = commit_under(1, 0, 1)
        else {
            unreachable!()
        };
        commits.push(Commit {
            claim: 1,
            ..commits[0].clone()
        });
        commits.push(Commit {
            metadata: "m".repeat(OFFSET_METADATA_BYTES_MAX + 1),
            ..commits[0].clone()
        });
        let Response::Done(results) = state.apply(&OffsetsCommand::Commit { groups, commits })
        else {
            panic!("commits are answered one by one")
        };
        let taken: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(taken, [true, false, false]);
    }
}
