//! Feature levels: what the programs of a cluster may say to each other and write down.
//!
//! A level stands for the commands that may be in the logs, the form of everything that is stored or sent, and the rules by which
//! commands are applied. A program supports a range of them. The cluster is at one, which all of its controllers and brokers
//! support; it is raised by a command and never lowered, so that until then every program can be replaced by the one before.

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

/// One feature level. Kafka's are 16-bit numbers too (KIP-584). The default is none.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
)]
pub struct Level(pub u16);

impl Level {
    /// The first there was.
    pub const FIRST: Level = Level(1);
    /// The newest that this program knows. The second one has UnregisterBroker.
    pub const NEWEST: Level = Level(2);
    /// One more than that, which a program has that is told to try a later one: see [`try_later_level`].
    pub const TRIAL: Level = Level(Level::NEWEST.0 + 1);
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The levels that a program supports, both ends included.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    pub min: Level,
    pub max: Level,
}

static TRIES_LATER_LEVEL: AtomicBool = AtomicBool::new(false);

impl Levels {
    /// This program's.
    pub fn supported() -> Self {
        let max = match TRIES_LATER_LEVEL.load(Ordering::Relaxed) {
            true => Level::TRIAL,
            false => Level::NEWEST,
        };
        Levels {
            min: Level::FIRST,
            max,
        }
    }

    pub fn contain(self, level: Level) -> bool {
        (self.min..=self.max).contains(&level)
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// Makes this process support one level more, at which everything has a form that no other program reads. So what a later
/// version will do to this one can be tried before there is one. To be called before anything is read or written; a model of
/// several programs calls it for each of them in turn.
pub fn try_later_level(tries: bool) {
    TRIES_LATER_LEVEL.store(tries, Ordering::Relaxed);
}

/// The name under which Kafka's tools show and raise the level (KIP-584).
pub const FEATURE_NAME: &str = "millrace.version";

/// The level of the cluster as far as this process knows it, at which it writes what others read. Clones are one level.
#[derive(Clone, Debug)]
pub struct ClusterLevel(Arc<AtomicU16>);

impl Default for ClusterLevel {
    /// What every program reads, until more is known.
    fn default() -> Self {
        ClusterLevel(Arc::new(AtomicU16::new(Level::FIRST.0)))
    }
}

impl ClusterLevel {
    pub fn get(&self) -> Level {
        Level(self.0.load(Ordering::Relaxed))
    }

    /// It never goes down.
    pub fn raise(&self, level: Level) {
        self.0.fetch_max(level.0, Ordering::Relaxed);
    }
}
