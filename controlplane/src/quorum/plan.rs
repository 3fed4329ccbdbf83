//! What a change of a group's members takes next, decided from what its leader knows. Pure, so that a model can try every history
//! of small clusters.

use crate::config::MEMBERS_MAX;
use crate::member::{disk_of, disk_text, node_of};
use std::collections::{BTreeMap, BTreeSet};

/// A follower that is so close behind catches up while its vote is being committed.
const LAG_ENTRIES_MAX: u64 = 64;
/// Whoever is to lead must first store what it lacks, while the leader proposes nothing.
const TRANSFER_LAG_MAX: u64 = 1_000;

/// What a leader knows of the members.
#[derive(Clone, Debug)]
pub struct Members {
    /// Itself.
    pub leader: u64,
    pub voters: BTreeSet<u64>,
    /// Where each member is, those that only follow included.
    pub addresses: BTreeMap<u64, String>,
    /// Those that answered of late.
    pub heard: BTreeSet<u64>,
    /// How many entries each member lacks, as far as that is known.
    pub lag: BTreeMap<u64, u64>,
}

/// One thing to have committed, or to do. What comes after it is decided from what is known then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is left to do.
    Done,
    /// What there is to wait for.
    Wait(String),
    /// These get nothing any more. None of them votes.
    Forget(BTreeSet<u64>),
    /// A new member begins to follow, without a vote.
    Follow(u64),
    /// A member is spoken to elsewhere from now on.
    Locate(u64),
    /// These vote from now on, and no others.
    Vote(BTreeSet<u64>),
    /// This one leads from now on, and is asked for what is left.
    HandOver(u64),
}

/// An error says why it is refused.
pub type Plan = Result<Step, String>;

impl Members {
    fn lag(&self, member: u64) -> u64 {
        self.lag.get(&member).copied().unwrap_or(u64::MAX)
    }

    fn voter_of(&self, node: u64) -> Option<u64> {
        let mut voters = self.voters.iter().copied();
        voters.find(|voter| node_of(*voter) == node)
    }

    /// Refuses voters of which no majority is there now: they could commit nothing, not even the next change.
    fn vote(&self, voters: BTreeSet<u64>) -> Plan {
        let (heard, all) = (self.heard.intersection(&voters).count(), voters.len());
        match heard * 2 > all {
            true => Ok(Step::Vote(voters)),
            false => Err(format!(
                "{all} controllers would vote then, of which {heard} answer: that is no majority"
            )),
        }
    }
}

/// An operator's wish that a node has a vote, which was found at the address with this disk.
pub fn add(members: &Members, found: u64, address: &str) -> Plan {
    let id = node_of(found);
    match members.voter_of(id) {
        Some(voter) if voter != found && members.heard.contains(&voter) => Err(format!(
            "controller {id} votes already, with disk {}",
            disk_text(disk_of(voter))
        )),
        None if members.voters.len() >= MEMBERS_MAX => Err(format!(
            "{} controllers vote already: remove one first",
            members.voters.len()
        )),
        _ => admit(members, found, address),
    }
}

/// Has a disk vote, in place of the one that its node had before.
pub fn admit(members: &Members, found: u64, address: &str) -> Plan {
    let id = node_of(found);
    let followers = members.addresses.keys().copied();
    let followers = followers.filter(|one| !members.voters.contains(one));
    let gone: BTreeSet<u64> = followers
        .filter(|one| node_of(*one) == id && *one != found)
        .collect();
    if !gone.is_empty() {
        return Ok(Step::Forget(gone));
    }
    match members.addresses.get(&found) {
        None => return Ok(Step::Follow(found)),
        Some(known) if known != address => return Ok(Step::Locate(found)),
        Some(_) => {}
    }
    if members.voters.contains(&found) {
        return Ok(Step::Done);
    }
    let lag = members.lag(found);
    if lag > LAG_ENTRIES_MAX {
        return Ok(Step::Wait(behind(id, lag)));
    }
    let others = members.voters.iter().copied();
    let others = others.filter(|one| node_of(*one) != id);
    members.vote(others.chain([found]).collect())
}

/// Takes a node out, or only one disk of it.
pub fn remove(members: &Members, (id, disk): (u64, Option<u64>)) -> Plan {
    let gone = members.addresses.keys().copied();
    let gone =
        gone.filter(|one| node_of(*one) == id && disk.is_none_or(|disk| disk == disk_of(*one)));
    let (voters, followers): (BTreeSet<u64>, BTreeSet<u64>) =
        gone.partition(|one| members.voters.contains(one));
    if !followers.is_empty() {
        return Ok(Step::Forget(followers));
    }
    if voters.is_empty() {
        return Ok(Step::Done);
    }
    let rest: BTreeSet<u64> = members.voters.difference(&voters).copied().collect();
    if rest.is_empty() {
        return Err("it is the only controller that votes".to_owned());
    }
    let change = members.vote(rest.clone())?;
    if !voters.contains(&members.leader) {
        return Ok(change);
    }
    let live = rest.intersection(&members.heard).copied();
    let successor = live.min_by_key(|voter| (members.lag(*voter), *voter));
    successor
        .map(Step::HandOver)
        .ok_or_else(|| "nobody else answers".to_owned())
}

/// A member says that it is elsewhere now.
pub fn relocate(members: &Members, (id, disk): (u64, u64), address: &str) -> Plan {
    let mut known = members.addresses.iter();
    match known.find(|(one, _)| (node_of(**one), disk_of(**one)) == (id, disk)) {
        None => Err(unknown(id)),
        Some((_, known)) if known == address => Ok(Step::Done),
        Some((moved, _)) => Ok(Step::Locate(*moved)),
    }
}

/// Has a node lead.
pub fn transfer(members: &Members, id: u64) -> Plan {
    let successor = members.voter_of(id).ok_or_else(|| unknown(id))?;
    if successor == members.leader {
        return Ok(Step::Done);
    }
    if !members.heard.contains(&successor) {
        return Err(format!("controller {id} does not answer"));
    }
    let lag = members.lag(successor);
    Ok(match lag > TRANSFER_LAG_MAX {
        true => Step::Wait(behind(id, lag)),
        false => Step::HandOver(successor),
    })
}

fn behind(id: u64, lag: u64) -> String {
    format!("controller {id} is {lag} entries behind")
}

fn unknown(id: u64) -> String {
    format!("controller {id} is none of the members")
}
