//! The state machine by itself: what is committed, refused, removed, and what a snapshot of it gives back.

use super::*;
use crate::command::Expiry;

const TOPIC: TopicId = TopicId([1; 16]);
const OTHER: TopicId = TopicId([2; 16]);
const COMMITTED_MS: i64 = 9;

fn commit_under(epoch: i32, generation: i32, offset: i64) -> OffsetsCommand {
    commit_to(TOPIC, epoch, generation, offset)
}

fn commit_to(topic: TopicId, epoch: i32, generation: i32, offset: i64) -> OffsetsCommand {
    commit_of("g", topic, epoch, generation, offset)
}

fn delete_group(epoch: i32) -> OffsetsCommand {
    OffsetsCommand::DeleteGroups(vec![GroupDeletion {
        group: "g".into(),
        coordinator_epoch: epoch,
    }])
}

fn done() -> Response {
    Response::Done(vec![Ok(())])
}

fn refused(error: ControlError) -> Response {
    Response::Done(vec![Err(error)])
}

fn commit_of(
    group: &str,
    topic: TopicId,
    epoch: i32,
    generation: i32,
    offset: i64,
) -> OffsetsCommand {
    OffsetsCommand::Commit {
        groups: vec![GroupClaim {
            group: group.into(),
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
            timestamp_ms: COMMITTED_MS,
            retention_ms: -1,
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
fn offsets_are_deleted_by_partition_under_the_coordinators_epoch() {
    let mut state = OffsetsState::default();
    state.apply(&commit_under(1, 0, 42));
    state.apply(&commit_to(OTHER, 1, 0, 43));
    let delete = |epoch| OffsetsCommand::DeleteOffsets {
        group: "g".into(),
        coordinator_epoch: epoch,
        partitions: vec![(TOPIC, 3), (TOPIC, 99)],
    };
    assert_eq!(state.apply(&delete(0)), refused(ControlError::FencedCommit));
    assert_eq!(offsets(&state), [42, 43]);
    for _ in 0..2 {
        assert_eq!(state.apply(&delete(1)), done());
        assert_eq!((offsets(&state), state.offset_count()), (vec![43], 1));
    }
    state.apply(&delete_group(1));
    let unknown = refused(ControlError::UnknownGroup);
    assert_eq!(state.apply(&delete(1)), unknown);
}

#[test]
fn a_deleted_group_is_gone_and_keeps_out_whom_it_kept_out_before() {
    let mut state = OffsetsState::default();
    state.apply(&commit_under(5, 7, 42));
    assert_eq!(
        state.apply(&delete_group(4)),
        refused(ControlError::FencedCommit)
    );
    assert_eq!(offsets(&state), [42]);
    assert_eq!(state.apply(&delete_group(6)), done());
    assert_eq!((offsets(&state), state.offset_count()), (vec![], 0));
    assert_eq!(state.group_count(), 0);
    assert!(state.topics().is_empty());
    assert_eq!(
        state.apply(&delete_group(6)),
        refused(ControlError::UnknownGroup)
    );
    // The coordinator that was replaced before the deletion does not bring the group back; the one that deleted may.
    let fenced = refused(ControlError::FencedCommit);
    assert_eq!(state.apply(&commit_under(5, -1, 43)), fenced);
    assert_eq!(state.group_count(), 0);
    assert_eq!(state.apply(&commit_under(6, -1, 44)), done());
    assert_eq!(offsets(&state), [44]);
}

#[test]
fn the_fences_of_deleted_groups_take_no_more_room_however_many_there_were() {
    let mut state = OffsetsState::default();
    for number in 0..2_000 {
        let name = format!("group-{number}");
        state.apply(&commit_of(&name, TOPIC, 3, -1, 1));
        state.apply(&OffsetsCommand::DeleteGroups(vec![GroupDeletion {
            group: name,
            coordinator_epoch: 3,
        }]));
    }
    assert_eq!(state.group_count(), 0);
    assert!(state.removed_epochs.len() <= control_api::image::COORDINATOR_SHARDS as usize);
    let zombie = state.apply(&commit_of("group-77", TOPIC, 2, -1, 1));
    assert_eq!(zombie, refused(ControlError::FencedCommit));
}

#[test]
fn the_group_that_is_one_too_many_is_refused_by_name_and_the_others_go_on() {
    let mut state = OffsetsState::default();
    let names: Vec<String> = (0..=Rules::of(Level::FIRST).groups_max)
        .map(|number| number.to_string())
        .collect();
    let (last, first) = names.split_last().unwrap();
    for name in first {
        assert_eq!(state.apply(&commit_of(name, TOPIC, 1, -1, 1)), done());
    }
    let refusal = state.apply(&commit_of(last, TOPIC, 1, -1, 1));
    let Response::Done(refusal) = refusal else {
        panic!("{refusal:?}")
    };
    assert!(
        matches!(refusal[0], Err(ControlError::LimitReached(_))),
        "{refusal:?}"
    );
    assert_eq!(state.apply(&commit_of("0", TOPIC, 1, -1, 2)), done());
    let listed: Vec<_> = state.groups_after(Some("99998")).take(2).collect();
    assert_eq!(listed[0].name, "99999");
    assert_eq!(listed.len(), 1);
}

fn expiry(after_ms: i64) -> Expiry {
    Expiry {
        now_ms: COMMITTED_MS + after_ms,
        retention_ms: 1_000,
    }
}

fn expire(state: &mut OffsetsState, after_ms: i64) {
    let expiry = expiry(after_ms);
    for groups in state.expired(expiry) {
        let expired = state.apply(&OffsetsCommand::ExpireOffsets { expiry, groups });
        assert_eq!(expired, done());
    }
}

#[test]
fn an_offset_expires_when_nothing_was_committed_for_the_retention_time() {
    let mut state = OffsetsState::default();
    state.apply(&commit_under(5, -1, 42));
    expire(&mut state, 999);
    assert_eq!(offsets(&state), [42]);
    expire(&mut state, 1_000);
    assert_eq!((offsets(&state), state.group_count()), (vec![], 0));
    let zombie = state.apply(&commit_under(4, -1, 43));
    assert_eq!(zombie, refused(ControlError::FencedCommit));
}

#[test]
fn what_is_committed_anew_between_look_and_proposal_stays() {
    let mut state = OffsetsState::default();
    state.apply(&commit_to(TOPIC, 5, -1, 42));
    state.apply(&commit_to(OTHER, 5, -1, 43));
    let expiry = expiry(1_000);
    let found = state.expired(expiry);
    assert_eq!(found.concat()[0].partitions.len(), 2);
    let mut renewed = commit_to(OTHER, 5, -1, 44);
    if let OffsetsCommand::Commit { commits, .. } = &mut renewed {
        commits[0].timestamp_ms += 1;
    }
    state.apply(&renewed);
    for groups in found {
        state.apply(&OffsetsCommand::ExpireOffsets { expiry, groups });
    }
    assert_eq!((offsets(&state), state.group_count()), (vec![44], 1));
}

#[test]
fn a_client_may_say_how_long_its_offset_is_kept() {
    let mut state = OffsetsState::default();
    for (retention_ms, topic) in [(100, TOPIC), (5_000, OTHER)] {
        let mut command = commit_to(topic, 5, -1, retention_ms);
        if let OffsetsCommand::Commit { commits, .. } = &mut command {
            commits[0].retention_ms = retention_ms;
        }
        state.apply(&command);
    }
    expire(&mut state, 99);
    assert_eq!(offsets(&state), [100, 5_000]);
    expire(&mut state, 4_999);
    assert_eq!(offsets(&state), [5_000]);
    expire(&mut state, 5_000);
    assert_eq!(state.group_count(), 0);
}

#[test]
fn a_group_that_has_nothing_left_expires_and_one_with_generations_does_not() {
    let mut state = OffsetsState::default();
    state.apply(&commit_under(5, -1, 42));
    state.apply(&OffsetsCommand::ForgetTopics(vec![TOPIC]));
    state.apply(&commit_of("members", TOPIC, 5, 1, 1));
    assert_eq!(state.group_count(), 2);
    expire(&mut state, 0);
    assert_eq!(state.group_count(), 1);
    expire(&mut state, 1_000_000);
    assert_eq!((state.group_count(), state.offset_count()), (1, 1));
}

#[test]
fn however_much_expires_is_proposed_in_commands_of_bounded_length() {
    let mut state = OffsetsState::default();
    for partition in 0..12_000 {
        let mut command = commit_to(TOPIC, 5, -1, 1);
        if let OffsetsCommand::Commit { commits, .. } = &mut command {
            commits[0].partition = partition;
            commits[0].metadata = String::new();
        }
        state.apply(&command);
    }
    for number in 0..400 {
        let name = format!("{number:0>1000}");
        state.apply(&commit_of(&name, TOPIC, 5, -1, 1));
    }
    let expiry = expiry(1_000);
    let found = state.expired(expiry);
    assert!(found.len() > 3);
    for groups in found {
        let command = OffsetsCommand::ExpireOffsets { expiry, groups };
        let bytes = control_api::codec::encode(&command).len();
        assert!(bytes < crate::command::COMMAND_BYTES_MAX, "{bytes}");
        state.apply(&command);
    }
    assert_eq!((state.group_count(), state.offset_count()), (0, 0));
    assert!(state.topics().is_empty());
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
        metadata: "m".repeat(Rules::of(Level::FIRST).offset_metadata_bytes_max + 1),
        ..commits[0].clone()
    });
    let Response::Done(results) = state.apply(&OffsetsCommand::Commit { groups, commits }) else {
        panic!("commits are answered one by one")
    };
    let taken: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(taken, [true, false, false]);
}

#[test]
fn what_is_one_too_many_over_all_groups_is_refused_and_what_takes_no_more_room_is_not() {
    let rules = Rules::of(Level::FIRST);
    let full = [
        Size {
            offsets: rules.offsets_max,
            metadata_bytes: 100,
        },
        Size {
            offsets: 100,
            metadata_bytes: rules.offset_metadata_bytes_total_max,
        },
    ];
    for size in full {
        let mut state = OffsetsState::default();
        assert_eq!(state.apply(&commit_under(1, -1, 5)), done());
        // As if others had the rest.
        let own = std::mem::replace(&mut state.size, size);
        assert_eq!(own.offsets, 1);
        let kept = |state: &OffsetsState| {
            let all = state.fetch("g", &OffsetSelection::All);
            all.iter().map(|one| one.offset).collect::<Vec<_>>()
        };
        let other = commit_to(OTHER, 1, -1, 6);
        let Response::Done(answers) = state.apply(&other) else {
            panic!("a commit is answered one by one");
        };
        assert!(matches!(answers[..], [Err(ControlError::LimitReached(_))]));
        assert_eq!((state.size, kept(&state)), (size, vec![5]));
        assert_eq!(state.apply(&commit_under(1, -1, 7)), done());
        assert_eq!((state.size, kept(&state)), (size, vec![7]));
    }
}
