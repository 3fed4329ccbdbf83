//! The members of a group and what it remembers: every short history of nodes that crash, come back, lose their disks, join and leave.
//!
//! Which disk is which member, and what is done when somebody is to join or to leave, is production's code, all of it pure. Raft is
//! a few lines of this file: elections and replication to whoever runs are one step each, as none of what is tried here depends on
//! what happens within them. A leader writes something after each step. Held after each:
//!
//! 1. Whoever is elected has everything that was acknowledged.
//! 2. A node has one vote.
//! 3. Where voters were changed, those that run can go on without anybody else.
//! 4. While all nodes run, a member that lost its disk has its vote back.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with the test")]

use controlplane::member::{member, node_of};
use controlplane::quorum::plan::{self, Members, Plan, Step};
use millrace_tests::sweep::for_each_seed;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

const NODES: u64 = 4;
const STEPS: usize = 4;
/// More steps than any change takes.
const PLANS_MAX: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    /// Nodes stop and start again in turn.
    Turn(u64),
    /// A node gets an empty disk and is started with it.
    Wipe(u64),
    Add(u64),
    Remove(u64),
    /// The leader stops once the others have heard that the voters are to change.
    AddBroken(u64),
    RemoveBroken(u64),
}

/// Who the members are: two sets of voters during a change, of both of which a majority is needed.
#[derive(Clone, Debug, Hash, PartialEq)]
struct Config {
    voters: Vec<BTreeSet<u64>>,
    addresses: BTreeMap<u64, String>,
}

#[derive(Clone, Debug, Hash)]
enum Entry {
    Written(u64),
    Members(Rc<Config>),
}

#[derive(Clone, Hash)]
struct Node {
    id: u64,
    runs: bool,
    disk: u64,
    /// With the term of each entry.
    log: Rc<Vec<(u64, Entry)>>,
}

impl Node {
    fn member(&self) -> u64 {
        member(self.id, self.disk)
    }

    fn config(&self) -> Option<Rc<Config>> {
        self.log.iter().rev().find_map(|(_, entry)| match entry {
            Entry::Members(config) => Some(config.clone()),
            Entry::Written(_) => None,
        })
    }

    /// Of two logs the greater is the newer.
    fn last(&self) -> (u64, usize) {
        (self.log.last().map_or(0, |(term, _)| *term), self.log.len())
    }
}

#[derive(Clone, Hash)]
struct World {
    nodes: Vec<Node>,
    leader: Option<usize>,
    /// Each election has one of its own.
    term: u64,
    disks: u64,
    written: u64,
    acknowledged: Vec<u64>,
}

#[derive(Default)]
struct Seen {
    states: HashSet<(u64, usize)>,
    steps: u64,
    changes: u64,
    refusals: u64,
    newcomers_elected: u64,
}

fn address(id: u64) -> String {
    format!("node-{id}:1")
}

impl World {
    /// The first so many nodes form the cluster; the others wait to be taken in.
    fn new(formed_by: u64) -> World {
        let ids = 1..=NODES;
        let config = Rc::new(Config {
            voters: vec![(1..=formed_by).map(|id| member(id, id)).collect()],
            addresses: (1..=formed_by)
                .map(|id| (member(id, id), address(id)))
                .collect(),
        });
        let first = Rc::new(vec![(0, Entry::Members(config))]);
        let nodes = ids.map(|id| Node {
            id,
            runs: true,
            disk: id,
            log: if id <= formed_by {
                first.clone()
            } else {
                Rc::default()
            },
        });
        let mut world = World {
            nodes: nodes.collect(),
            leader: None,
            term: 0,
            disks: NODES,
            written: 0,
            acknowledged: Vec::new(),
        };
        world.lead(0);
        assert!(world.write());
        world
    }

    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    fn running(&self) -> BTreeSet<u64> {
        let running = self.nodes.iter().filter(|node| node.runs);
        running.map(Node::member).collect()
    }

    fn has_majority(&self, config: &Config) -> bool {
        let running = self.running();
        let mut sets = config.voters.iter();
        sets.all(|voters| voters.intersection(&running).count() * 2 > voters.len())
    }

    /// Who would be elected now.
    fn electable(&self) -> Vec<usize> {
        let wins = |candidate: &Node| {
            let Some(config) = candidate.config().filter(|_| candidate.runs) else {
                return false;
            };
            let for_it = |node: &&Node| node.runs && node.last() <= candidate.last();
            let votes: BTreeSet<u64> = self.nodes.iter().filter(for_it).map(Node::member).collect();
            let own = candidate.member();
            config.voters.iter().any(|voters| voters.contains(&own))
                && config
                    .voters
                    .iter()
                    .all(|voters| voters.intersection(&votes).count() * 2 > voters.len())
        };
        (0..self.nodes.len())
            .filter(|which| wins(&self.nodes[*which]))
            .collect()
    }

    fn lead(&mut self, which: usize) {
        self.term += 1;
        self.leader = Some(which);
        let log = self.nodes[which].log.clone();
        let has = |number: &u64| {
            let mut entries = log.iter();
            entries.any(|(_, entry)| matches!(entry, Entry::Written(one) if one == number))
        };
        let id = self.nodes[which].id;
        assert!(
            self.acknowledged.iter().all(has),
            "controller {id} leads and has forgotten what was acknowledged"
        );
    }

    /// Has the leader append, and send to the members that run. Answers whether it is committed; a leader that cannot is none.
    fn append(&mut self, entry: Entry) -> bool {
        let leader = self.leader.unwrap();
        let term = self.term;
        Rc::make_mut(&mut self.nodes[leader].log).push((term, entry));
        let (log, config) = (
            self.nodes[leader].log.clone(),
            self.nodes[leader].config().unwrap(),
        );
        for node in &mut self.nodes {
            if node.runs && config.addresses.contains_key(&node.member()) {
                node.log = log.clone();
            }
        }
        let committed = self.has_majority(&config);
        if !committed {
            self.leader = None;
        }
        committed
    }

    fn write(&mut self) -> bool {
        self.written += 1;
        let number = self.written;
        let committed = self.leader.is_some() && self.append(Entry::Written(number));
        if committed {
            self.acknowledged.push(number);
        }
        committed
    }

    fn members(&self, leader: usize) -> Members {
        let node = &self.nodes[leader];
        let config = node.config().unwrap();
        let running = self.running();
        let lag = self.nodes.iter().map(|one| {
            let lag = node.log.len().saturating_sub(one.log.len());
            (one.member(), lag as u64)
        });
        Members {
            leader: node.member(),
            voters: config.voters.iter().flatten().copied().collect(),
            heard: running
                .into_iter()
                .filter(|one| config.addresses.contains_key(one))
                .collect(),
            lag: lag.collect(),
            addresses: config.addresses.clone(),
        }
    }

    /// Plans and does what was planned until there is nothing left to do, or it is refused or cannot be done now. Answers whether
    /// the voters are others than before, and why it ended if that was a refusal.
    fn carry_out(
        &mut self,
        plan: impl Fn(&World, usize) -> Option<Plan>,
        breaks: bool,
    ) -> (bool, Option<String>) {
        let mut changed = false;
        for _ in 0..PLANS_MAX {
            let Some(leader) = self.leader else {
                return (changed, None);
            };
            let Some(plan) = plan(self, leader) else {
                return (changed, None);
            };
            let step = match plan {
                Ok(step) => step,
                Err(why) => return (changed, Some(why)),
            };
            let mut config = (*self.nodes[leader].config().unwrap()).clone();
            match step {
                Step::Done | Step::Wait(_) => return (changed, None),
                Step::HandOver(successor) => {
                    let mut nodes = self.nodes.iter();
                    let which = nodes.position(|node| node.runs && node.member() == successor);
                    self.lead(which.unwrap());
                    continue;
                }
                Step::Forget(gone) => config.addresses.retain(|one, _| !gone.contains(one)),
                Step::Follow(one) | Step::Locate(one) => {
                    config.addresses.insert(one, address(node_of(one)));
                }
                Step::Vote(voters) => config.voters.push(voters),
            }
            let changes_voters = config.voters.len() > 1;
            let committed = self.append(Entry::Members(Rc::new(config)));
            if changes_voters && breaks {
                self.nodes[leader].runs = false;
                self.leader = None;
                return (false, None);
            }
            changed |= changes_voters;
            if changes_voters && committed {
                self.end_change();
            }
        }
        panic!("a change that never ends");
    }

    /// The second half of a change of the voters, which a new leader may have found begun.
    fn end_change(&mut self) {
        let Some(leader) = self.leader else { return };
        let config = self.nodes[leader].config().unwrap();
        let [before, after] = &config.voters[..] else {
            return;
        };
        let mut addresses = config.addresses.clone();
        addresses.retain(|one, _| after.contains(one) || !before.contains(one));
        let nodes: BTreeSet<u64> = after.iter().map(|one| node_of(*one)).collect();
        assert_eq!(nodes.len(), after.len(), "a node has two votes");
        let leads_on = after.contains(&self.nodes[leader].member());
        let voters = vec![after.clone()];
        self.append(Entry::Members(Rc::new(Config { voters, addresses })));
        if !leads_on {
            self.leader = None;
        }
    }

    /// What a leader does by itself: a node whose voter is silent may be there with another disk.
    fn keep(&mut self) {
        let Some(leader) = self.leader else { return };
        let members = self.members(leader);
        for voter in members.voters.difference(&members.heard) {
            let id = node_of(*voter);
            self.carry_out(|world, leader| found(world, leader, id, plan::admit), false);
        }
    }

    fn act(&mut self, action: Action, seen: &mut Seen) {
        match action {
            Action::Turn(id) => {
                let node = self.node(id);
                node.runs = !node.runs;
            }
            Action::Wipe(id) => {
                self.disks += 1;
                let disk = self.disks;
                let node = self.node(id);
                (node.runs, node.disk, node.log) = (true, disk, Rc::default());
            }
            Action::Add(id) => self.change(false, seen, |world, leader| {
                found(world, leader, id, plan::add)
            }),
            Action::AddBroken(id) => self.change(true, seen, |world, leader| {
                found(world, leader, id, plan::add)
            }),
            Action::Remove(id) => self.change(false, seen, |world, leader| {
                Some(plan::remove(&world.members(leader), (id, None)))
            }),
            Action::RemoveBroken(id) => self.change(true, seen, |world, leader| {
                Some(plan::remove(&world.members(leader), (id, None)))
            }),
        }
        let gone = |leader: &usize| !self.nodes[*leader].runs || self.nodes[*leader].log.is_empty();
        if self.leader.as_ref().is_some_and(gone) {
            self.leader = None;
        }
    }

    fn change(
        &mut self,
        breaks: bool,
        seen: &mut Seen,
        plan: impl Fn(&World, usize) -> Option<Plan>,
    ) {
        let (changed, refused) = self.carry_out(plan, breaks);
        seen.refusals += u64::from(refused.is_some());
        if changed {
            seen.changes += 1;
            assert!(
                self.write(),
                "the voters were changed, and those that run are no majority of them"
            );
        }
    }

    /// What a leader that there is does before anything else happens.
    fn settle(&mut self) {
        self.end_change();
        self.keep();
        self.write();
        let Some(leader) = self.leader else { return };
        if self.nodes.iter().all(|node| node.runs) {
            let members = self.members(leader);
            assert!(
                members.voters.is_subset(&members.heard),
                "a member whose disk was replaced has no vote"
            );
        }
    }
}

fn found(
    world: &World,
    leader: usize,
    id: u64,
    plan: impl Fn(&Members, u64, &str) -> Plan,
) -> Option<Plan> {
    let node = &world.nodes[id as usize - 1];
    let there = node.runs.then(|| node.member())?;
    Some(plan(&world.members(leader), there, &address(id)))
}

fn actions(world: &World) -> Vec<Action> {
    let everywhere = (1..=NODES).flat_map(|id| [Action::Turn(id), Action::Wipe(id)]);
    let by_a_leader = (1..=NODES).flat_map(|id| {
        [
            Action::Add(id),
            Action::Remove(id),
            Action::AddBroken(id),
            Action::RemoveBroken(id),
        ]
    });
    let by_a_leader = by_a_leader.filter(|_| world.leader.is_some());
    everywhere.chain(by_a_leader).collect()
}

/// Tries everything that can follow, whoever is elected.
fn search(world: &World, path: &mut Vec<Action>, seen: &mut Seen) {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    if path.len() == STEPS || !seen.states.insert((hasher.finish(), path.len())) {
        return;
    }
    for action in actions(world) {
        path.push(action);
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            seen.steps += 1;
            let mut next = world.clone();
            next.act(action, seen);
            let elected = match next.leader {
                Some(_) => Vec::new(),
                None => next.electable(),
            };
            let mut worlds: Vec<World> = elected
                .iter()
                .map(|which| {
                    let mut led = next.clone();
                    led.lead(*which);
                    seen.newcomers_elected += u64::from(led.nodes[*which].disk > NODES);
                    led
                })
                .collect();
            if worlds.is_empty() {
                worlds.push(next);
            }
            worlds.iter_mut().for_each(World::settle);
            worlds
        }));
        match passed {
            Ok(worlds) => worlds.iter().for_each(|next| search(next, path, seen)),
            Err(reason) => {
                eprintln!("after {path:?}");
                std::panic::resume_unwind(reason);
            }
        }
        path.pop();
    }
}

#[test]
fn nothing_acknowledged_is_forgotten_whoever_joins_leaves_or_loses_its_disk() {
    for_each_seed(1, |_| {
        for formed_by in [1, 3] {
            let mut seen = Seen::default();
            search(&World::new(formed_by), &mut Vec::new(), &mut seen);
            let Seen {
                steps,
                changes,
                refusals,
                newcomers_elected,
                ..
            } = seen;
            println!(
                "formed by {formed_by}: {steps} steps, {changes} changes of voters, {refusals} refusals, {newcomers_elected} times a new disk led"
            );
            assert!(changes > 0 && refusals > 0 && newcomers_elected > 0);
        }
    });
}
