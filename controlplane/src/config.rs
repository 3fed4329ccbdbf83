//! What one controller is told at its start.

use crate::member::NODE_MAX;
use control_api::message::BROKER_HEARTBEAT;
use control_api::secured::Credentials;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub id: u64,
    /// Where brokers, operators and the other controllers connect to.
    pub listen: String,
    /// The nodes that a new cluster is formed of; none where the node waits until a cluster takes it in.
    pub peers: Peers,
    /// Controllers of that cluster, HOST:PORT.
    pub join: Vec<String>,
    /// Where others connect to this node, HOST:PORT.
    pub advertise: String,
    pub credentials: Credentials,
    /// Where metrics and health are served over HTTP.
    pub metrics: String,
    pub data: PathBuf,
    pub times: Times,
    /// A snapshot is taken when the log behind the last one is longer than it and than so many bytes.
    pub snapshot_log_bytes: u64,
    /// How long a committed offset is kept (`offsets.retention.minutes`).
    pub offsets_retention: Duration,
    /// How many entries stay in the log behind a snapshot, for followers that are a little behind.
    pub log_entries_kept: u64,
}

/// How soon a dead leader or broker is noticed. They depend on each other.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How often a leader tells its followers that it lives.
    pub heartbeat: Duration,
    /// A follower that has heard of no leader for this up to twice as long asks for votes.
    pub election: Duration,
    /// A broker that is silent for so long is taken for dead.
    pub session: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            heartbeat: Duration::from_millis(50),
            election: Duration::from_millis(200),
            session: Duration::from_millis(1_000),
        }
    }
}

impl Times {
    /// So many may be lost or late.
    const BEATS_MIN: u32 = 3;

    /// An error is one clear line for the operator.
    pub fn check(self) -> anyhow::Result<()> {
        let Times {
            heartbeat,
            election,
            session,
        } = self;
        anyhow::ensure!(
            !heartbeat.is_zero() && election >= heartbeat * Self::BEATS_MIN,
            "--election-ms {} is too short: {} heartbeats of --raft-heartbeat-ms {} must fit",
            election.as_millis(),
            Self::BEATS_MIN,
            heartbeat.as_millis()
        );
        anyhow::ensure!(
            session >= BROKER_HEARTBEAT * Self::BEATS_MIN,
            "--session-ms {} is too short: a broker sends a heartbeat each {} ms, and {} must fit",
            session.as_millis(),
            BROKER_HEARTBEAT.as_millis(),
            Self::BEATS_MIN
        );
        anyhow::ensure!(
            session >= election * Self::BEATS_MIN,
            "--session-ms {} is too short: a leader must be elected meanwhile, within up to twice --election-ms {}",
            session.as_millis(),
            election.as_millis()
        );
        Ok(())
    }
}

impl NodeConfig {
    /// Every controller's address that the node was told at its start.
    pub fn controllers(&self) -> impl Iterator<Item = &String> {
        self.peers.0.values().chain(&self.join)
    }
}

/// The nodes that a new control plane is formed of, by node id: the same on every one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(pub BTreeMap<u64, String>);

/// More do not make a control plane safer, only slower.
pub const MEMBERS_MAX: usize = 5;

/// `ID=HOST:PORT`
pub fn parse_node(text: &str) -> Result<(u64, String), String> {
    let parsed = text.split_once('=').and_then(|(id, address)| {
        let id = id.parse::<u64>().ok();
        let id = id.filter(|id| (1..=NODE_MAX).contains(id))?;
        is_address(address).then(|| (id, address.to_owned()))
    });
    parsed.ok_or_else(|| format!("`{text}` is not ID=HOST:PORT"))
}

/// Whether it is a `HOST:PORT` that one can connect to.
pub fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

impl FromStr for Peers {
    type Err = String;

    /// `1=host:port,2=host:port,3=host:port`
    fn from_str(text: &str) -> Result<Self, String> {
        let mut peers = BTreeMap::new();
        for item in text.split(',').map(str::trim) {
            let (id, address) = parse_node(item)?;
            if peers.values().any(|other| *other == address) {
                return Err(format!("{address} is given twice"));
            }
            if peers.insert(id, address).is_some() {
                return Err(format!("node {id} is given twice"));
            }
        }
        match peers.len() {
            count if count % 2 == 1 && count <= MEMBERS_MAX => Ok(Peers(peers)),
            count => Err(format!(
                "{count} controllers: there must be 1, 3 or {MEMBERS_MAX}, so that a majority is more than half"
            )),
        }
    }
}

impl std::fmt::Display for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let items = self.0.iter().map(|(id, address)| format!("{id}={address}"));
        f.write_str(&items.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_hold_together_are_refused() {
        let ms = Duration::from_millis;
        let check = |heartbeat, election, session| {
            let times = Times {
                heartbeat: ms(heartbeat),
                election: ms(election),
                session: ms(session),
            };
            times.check().map_err(|error| error.to_string())
        };
        Times::default().check().unwrap();
        check(500, 1_500, 6_000).unwrap();
        for (heartbeat, election, session, flag) in [
            (50, 149, 1_000, "--election-ms 149"),
            (0, 150, 1_000, "--raft-heartbeat-ms 0"),
            (50, 1_000, 2_000, "--session-ms 2000"),
        ] {
            let error = check(heartbeat, election, session).unwrap_err();
            assert!(error.contains(flag), "{error}");
        }
        // Two beats are not enough, and nor is all but three.
        check(10, 30, 450).unwrap();
        for session in [300, 449] {
            let line = format!(
                "--session-ms {session} is too short: a broker sends a heartbeat each 150 ms, and 3 must fit"
            );
            assert_eq!(check(10, 30, session), Err(line));
        }
    }

    #[test]
    fn only_sound_odd_clusters_are_taken() {
        for good in [
            "1=a:1",
            "1=a:1,2=b:1,3=c:1",
            "1=a:1, 7=a:2, 3=[::1]:3",
            "1=a:1,2=a:2,3=a:3,4=a:4,5=a:5",
        ] {
            let peers: Peers = good.parse().unwrap();
            assert_eq!(peers.to_string().parse(), Ok(peers), "{good}");
        }
        for bad in [
            "",
            "1",
            "1=",
            "1=a",
            "1=a:0",
            "1=a:70000",
            "0=a:1",
            "32768=a:1",
            "x=a:1",
            "1=:5",
            "1=a:1,2=b:1",
            "1=a:1,1=b:1,2=c:1",
            "1=a:1,2=a:1,3=c:1",
            "1=a:1,2=b:1,3=c:1,4=d:1",
            "1=a:1,2=a:2,3=a:3,4=a:4,5=a:5,6=a:6,7=a:7",
        ] {
            assert!(bad.parse::<Peers>().is_err(), "{bad}");
        }
    }
}
