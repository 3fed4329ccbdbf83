//! Whether all is well with a control plane, by what its nodes say, and if not, what is wrong.

use super::Answers;
use control_api::message::{NodeStatus, RaftGroupStatus};
use std::collections::BTreeMap;

/// Names of the Raft groups, as nodes give them.
const GROUPS: [&str; 2] = ["meta", "offsets"];
/// Brokers and partitions that one problem names; the rest is counted.
const NAMED_MAX: usize = 5;

/// One line each for whatever needs an operator; none when all is well.
pub(super) fn problems(answers: &Answers) -> Vec<String> {
    let mut problems = Vec::new();
    for (address, answer) in answers {
        if let Err(error) = answer {
            problems.push(format!("unreachable: controller {address}: {error}"));
        }
    }
    let nodes: Vec<&NodeStatus> = known(answers).collect();
    for group in GROUPS {
        problems.extend(no_majority(&nodes, group));
        problems.extend(diverged(&nodes, group));
        problems.extend(behind(&nodes, group));
    }
    problems.extend(voters_differ(&nodes));
    problems.extend(cluster_ids(&nodes));
    if let Some(newest) = super::newest(answers) {
        problems.extend(fenced_brokers(newest));
        problems.extend(offline_partitions(newest));
    }
    problems
}

/// Whether a follower that answers has yet to store what its leader has, which may only mean that it is about to.
pub(super) fn lagging(answers: &Answers) -> bool {
    let nodes: Vec<&NodeStatus> = known(answers).collect();
    let groups = nodes.iter().flat_map(|node| &node.groups);
    let mut lags = groups
        .filter(|group| group.has_majority)
        .flat_map(|group| &group.follower_lag);
    lags.any(|(id, entries)| *entries > 0 && nodes.iter().any(|node| node.node == *id))
}

fn known(answers: &Answers) -> impl Iterator<Item = &NodeStatus> {
    answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok())
}

fn of_group<'a>(
    nodes: &[&'a NodeStatus],
    group: &str,
) -> impl Iterator<Item = (u64, &'a RaftGroupStatus)> {
    nodes.iter().copied().filter_map(move |node| {
        let status = node.groups.iter().find(|status| status.name == group)?;
        Some((node.node, status))
    })
}

fn no_majority(nodes: &[&NodeStatus], group: &str) -> Option<String> {
    let leaders = of_group(nodes, group).filter(|(_, status)| status.has_majority);
    // Of two, the one of the older term has not noticed yet that it was replaced, and can commit nothing.
    match leaders.max_by_key(|(_, status)| status.term) {
        Some(_) => None,
        None => Some(format!(
            "no majority: no node that answers leads {group} with a majority behind it"
        )),
    }
}

/// Nodes that have applied different things up to the same index.
fn diverged(nodes: &[&NodeStatus], group: &str) -> Option<String> {
    let mut at: BTreeMap<u64, Vec<(u64, u32)>> = BTreeMap::new();
    for (node, status) in of_group(nodes, group) {
        for (index, digest) in &status.digests {
            at.entry(*index).or_default().push((node, *digest));
        }
    }
    let differs = |found: &[(u64, u32)]| found.iter().any(|(_, digest)| *digest != found[0].1);
    let (index, found) = at.into_iter().find(|(_, found)| differs(found))?;
    let nodes = found.iter().map(|(node, _)| node.to_string());
    let nodes = nodes.collect::<Vec<_>>().join(", ");
    Some(format!(
        "diverged: nodes {nodes} differ in what {group} has come to at index {index}"
    ))
}

/// A change of the members has come to one group and not to the other.
fn voters_differ(nodes: &[&NodeStatus]) -> Option<String> {
    let [meta, offsets] = GROUPS.map(|group| {
        let ids = leader(nodes, group)?.voters.iter().map(|(id, _)| *id);
        Some(ids.collect::<Vec<_>>())
    });
    let (meta, offsets) = (meta?, offsets?);
    (meta != offsets).then(|| {
        format!("half changed: {meta:?} vote on meta and {offsets:?} on offsets: repeat what was to be changed")
    })
}

fn leader<'a>(nodes: &[&'a NodeStatus], group: &str) -> Option<&'a RaftGroupStatus> {
    let leaders = of_group(nodes, group).filter(|(_, status)| status.has_majority);
    let leader = leaders.max_by_key(|(_, status)| status.term);
    leader.map(|(_, status)| status)
}

fn behind(nodes: &[&NodeStatus], group: &str) -> impl Iterator<Item = String> {
    let lags = leader(nodes, group).map_or(&[][..], |status| &status.follower_lag);
    lags.iter()
        .filter(|(_, entries)| *entries > 0)
        .map(move |(node, entries)| {
            format!("behind: node {node} lacks {entries} entries of {group}")
        })
        .collect::<Vec<_>>()
        .into_iter()
}

fn cluster_ids(nodes: &[&NodeStatus]) -> Option<String> {
    let mut ids: Vec<&str> = nodes
        .iter()
        .map(|node| &*node.image.cluster_id)
        .filter(|id| !id.is_empty())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    match ids.as_slice() {
        [] => Some("not formed: no node that answers knows the cluster's id".to_owned()),
        [_] => None,
        several => Some(format!(
            "several clusters: the nodes belong to {}",
            several.join(", ")
        )),
    }
}

fn fenced_brokers(newest: &NodeStatus) -> Option<String> {
    let fenced = newest.image.brokers.values().filter(|one| one.fenced);
    let ids: Vec<String> = fenced.map(|broker| broker.id.to_string()).collect();
    (!ids.is_empty()).then(|| format!("fenced: {} brokers: {}", ids.len(), some(&ids)))
}

fn offline_partitions(newest: &NodeStatus) -> Option<String> {
    let topics = newest.image.topics.values();
    let offline = topics.flat_map(|topic| {
        let numbered = (0..).zip(&topic.partitions);
        let offline = numbered.filter(|(_, partition)| partition.leader.is_none());
        offline.map(|(number, _): (u32, _)| format!("{}-{number}", topic.name))
    });
    let names: Vec<String> = offline.collect();
    (!names.is_empty()).then(|| {
        format!(
            "offline: {} partitions without a leader: {}",
            names.len(),
            some(&names)
        )
    })
}

fn some(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len() > NAMED_MAX {
        true => format!("{shown}, ..."),
        false => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::image::MetadataImage;
    use control_api::level::{Level, Levels};

    fn group(name: &str, leads: bool) -> RaftGroupStatus {
        RaftGroupStatus {
            name: name.into(),
            role: if leads { "leader" } else { "follower" }.into(),
            leader: Some(1),
            term: 3,
            last_log_index: 9,
            applied_index: 9,
            follower_lag: match leads {
                true => vec![(2, 0), (3, 0)],
                false => Vec::new(),
            },
            has_majority: leads,
            voters: (1..=3).map(|id| (id, format!("host:{id}"))).collect(),
            snapshot_index: 0,
            snapshot_age_ms: None,
            digests: vec![(8, 80), (9, 90)],
        }
    }

    fn node(node: u64) -> NodeStatus {
        NodeStatus {
            node,
            version: "1".into(),
            groups: GROUPS.iter().map(|name| group(name, node == 1)).collect(),
            image: MetadataImage {
                cluster_id: "c".into(),
                ..MetadataImage::default()
            },
            feature_level: Level::FIRST,
            levels: Levels::supported(),
            last_beats_ms: Vec::new(),
            offset_groups: 0,
            committed_offsets: 0,
        }
    }

    fn found(change: impl FnOnce(&mut Answers)) -> Vec<String> {
        let mut answers: Answers = (1..=3)
            .map(|id| (format!("host:{id}"), Ok(node(id))))
            .collect();
        change(&mut answers);
        let problems = problems(&answers);
        problems
            .iter()
            .filter_map(|problem| Some(problem.split_once(':')?.0.to_owned()))
            .collect()
    }

    fn status(answers: &mut Answers, at: usize) -> &mut NodeStatus {
        answers[at].1.as_mut().unwrap()
    }

    #[test]
    fn a_healthy_control_plane_has_no_problem() {
        assert!(found(|_| {}).is_empty());
    }

    #[test]
    fn each_thing_that_is_wrong_has_a_name() {
        let silent = |answers: &mut Answers| answers[2].1 = Err("silent".into());
        assert_eq!(found(silent), ["unreachable"]);
        let alone = |answers: &mut Answers| {
            status(answers, 0).groups[1].has_majority = false;
        };
        assert_eq!(found(alone), ["no majority"]);
        let drifted = |answers: &mut Answers| status(answers, 2).groups[0].digests[1].1 = 91;
        assert_eq!(found(drifted), ["diverged"]);
        let slow = |answers: &mut Answers| status(answers, 0).groups[0].follower_lag[1].1 = 4;
        assert_eq!(found(slow), ["behind"]);
        let half = |answers: &mut Answers| {
            status(answers, 0).groups[1].voters.pop();
        };
        assert_eq!(found(half), ["half changed"]);
        let strange = |answers: &mut Answers| status(answers, 1).image.cluster_id = "d".into();
        assert_eq!(found(strange), ["several clusters"]);
        let new = |answers: &mut Answers| {
            (0..3).for_each(|at| status(answers, at).image.cluster_id.clear());
        };
        assert_eq!(found(new), ["not formed"]);
    }

    #[test]
    fn nodes_that_share_no_index_are_not_taken_for_diverged() {
        let elsewhere = |answers: &mut Answers| {
            status(answers, 2).groups[0].digests = vec![(3, 1), (4, 2)];
        };
        assert!(found(elsewhere).is_empty());
    }
}
