//! Programs of two versions behind one log: every short history of controllers and a broker that are upgraded and taken back, of a
//! level that is raised, and of commands.
//!
//! How a command is written, whether it may be, and what comes of it is production's code, all of it pure. The later version is the
//! same program, told to support a level more, at which everything has another form and other rules. Raft is a log that the leader
//! writes and both controllers read, the follower when it comes to it. Held after each step:
//!
//! 1. No program finds something in the log that it cannot read.
//! 2. Both controllers have answered each command alike and come to the same state, as does one that reads the log from its
//!    beginning.
//! 3. The level is one that all of them support.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with the test")]

use control_api::codec::{CodecError, Format, Kind, Tag};
use control_api::ids::{BrokerEpoch, BrokerId, Incarnation, Position};
use control_api::level::{Level, Levels, try_later_level};
use control_api::message::{BrokerRegistration, Response};
use controlplane::command::{Command, MetaCommand, RegisteredBroker, proposed};
use controlplane::meta::MetaState;
use controlplane::raft::Machine;
use millrace_tests::sweep::for_each_seed;
use std::rc::Rc;

const LEADER: usize = 0;
const FOLLOWER: usize = 1;
const BROKER: BrokerId = BrokerId(1);
const STEPS: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    /// A controller is started with the other program, on what it has.
    Exchange(usize),
    /// The broker is.
    ExchangeBroker,
    Raise,
    /// By a rule that both versions have another number for.
    Allocate,
    /// A command that only the later version has.
    Later,
    /// The follower reads on.
    Follow,
}

const ACTIONS: [Action; 7] = [
    Action::Exchange(LEADER),
    Action::Exchange(FOLLOWER),
    Action::ExchangeBroker,
    Action::Raise,
    Action::Allocate,
    Action::Later,
    Action::Follow,
];

/// A command that programs of now do not know.
struct LaterCommand;

impl Format for LaterCommand {
    const KINDS: &'static [Kind] = &[];

    fn write(&self, _level: Level, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.extend([255, 1]);
        bytes
    }

    fn read(tag: Tag, _archive: &[u8]) -> Result<Self, CodecError> {
        let (found, wanted) = (tag.kind, 255);
        Err(CodecError::Foreign { found, wanted })
    }
}

impl Command for LaterCommand {
    fn level(&self) -> Level {
        Level::TRIAL
    }
}

#[derive(Clone)]
struct Controller {
    later: bool,
    state: MetaState,
    /// One for each entry that it has applied.
    answers: Vec<Response>,
}

impl Controller {
    fn new(later: bool) -> Controller {
        let (state, answers) = (MetaState::default(), Vec::new());
        Controller {
            later,
            state,
            answers,
        }
    }

    /// Reads what it has not read, as its program does.
    fn read_on(&mut self, log: &[Vec<u8>]) {
        try_later_level(self.later);
        for entry in &log[self.answers.len()..] {
            let index = self.answers.len() as u64 + 1;
            let read = self.state.apply_entry(Position { term: 1, index }, entry);
            let (answer, _) = read.unwrap_or_else(|error| panic!("entry {index}: {error}"));
            self.answers.push(answer);
        }
    }

    fn exchange(&mut self) {
        try_later_level(self.later);
        let stored = self.state.to_bytes();
        self.later = !self.later;
        try_later_level(self.later);
        self.state = MetaState::from_bytes(&stored).unwrap();
    }
}

#[derive(Clone)]
struct World {
    log: Rc<Vec<Vec<u8>>>,
    controllers: [Controller; 2],
    broker_later: bool,
    broker_lives: u8,
}

#[derive(Default)]
struct Seen {
    steps: u64,
    raised: u64,
}

impl World {
    fn new() -> World {
        let mut world = World {
            log: Rc::default(),
            controllers: [Controller::new(false), Controller::new(false)],
            broker_later: false,
            broker_lives: 0,
        };
        world.propose(&MetaCommand::Bootstrap {
            cluster_id: "model".to_owned(),
            feature_level: Level::NEWEST,
        });
        world.register();
        world
    }

    fn level(&self) -> Level {
        self.controllers[LEADER].state.feature_level()
    }

    fn propose<C: Command>(&mut self, command: &C) {
        let level = self.level().max(Level::FIRST);
        if let Ok(entry) = proposed(command, level) {
            Rc::make_mut(&mut self.log).push(entry);
            self.controllers[LEADER].read_on(&self.log);
        }
    }

    fn broker(&self) -> RegisteredBroker {
        let known = self.controllers[LEADER].state.image().brokers.get(&BROKER);
        RegisteredBroker {
            id: BROKER,
            epoch: known.map_or(BrokerEpoch(0), |known| known.epoch),
        }
    }

    fn register(&mut self) {
        self.broker_lives += 1;
        self.propose(&MetaCommand::FenceBroker(self.broker()));
        self.propose(&MetaCommand::RegisterBroker(BrokerRegistration {
            id: BROKER,
            incarnation: Incarnation([self.broker_lives; 16]),
            host: "localhost".into(),
            port: 9092,
            rack: None,
            version: String::new(),
            cluster_id: String::new(),
            levels: supported(self.broker_later),
        }));
    }

    /// `None` where there is nothing to do, or nobody does it: what was written at the level cannot be taken back.
    fn step(&mut self, action: Action) -> Option<()> {
        let raised = self.level() == Level::TRIAL;
        match action {
            Action::Exchange(which) => {
                if raised && self.controllers[which].later {
                    return None;
                }
                self.controllers[which].exchange();
            }
            Action::ExchangeBroker => {
                if raised && self.broker_later {
                    return None;
                }
                self.broker_later = !self.broker_later;
                self.register();
            }
            Action::Raise => {
                // The controllers are asked before it is proposed.
                if self.controllers.iter().any(|one| !one.later) {
                    return None;
                }
                self.propose(&MetaCommand::RaiseFeatureLevel(Level::TRIAL));
            }
            Action::Allocate => self.propose(&MetaCommand::AllocateProducerIds(self.broker())),
            // At its level it would be read by programs that do have it.
            Action::Later if raised => return None,
            Action::Later => self.propose(&LaterCommand),
            Action::Follow if self.controllers[FOLLOWER].answers.len() == self.log.len() => {
                return None;
            }
            Action::Follow => self.controllers[FOLLOWER].read_on(&self.log),
        }
        self.check();
        Some(())
    }

    fn check(&self) {
        let [leader, follower] = &self.controllers;
        let applied = follower.answers.len();
        assert_eq!(leader.answers[..applied], follower.answers[..], "answers");
        let whole = applied == self.log.len();
        assert!(!whole || leader.state == follower.state, "states");
        let mut newcomer = Controller::new(leader.later);
        newcomer.read_on(&self.log);
        assert_eq!(newcomer.answers, leader.answers, "answers when read again");
        assert!(newcomer.state == leader.state, "states when read again");
        let image = leader.state.image();
        for broker in image.brokers.values() {
            assert!(broker.levels.contain(self.level()), "the broker's level");
        }
        let level = self.level();
        assert!(supported(leader.later).contain(level), "the leader's level");
    }
}

fn supported(later: bool) -> Levels {
    try_later_level(later);
    Levels::supported()
}

/// Tries everything that can follow.
fn search(world: &World, path: &mut Vec<Action>, seen: &mut Seen) {
    if path.len() == STEPS {
        return;
    }
    for action in ACTIONS {
        path.push(action);
        let mut next = world.clone();
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| next.step(action)));
        match stepped {
            Ok(Some(())) => {
                seen.steps += 1;
                seen.raised += u64::from(next.level() == Level::TRIAL);
                search(&next, path, seen);
            }
            Ok(None) => {}
            Err(reason) => {
                eprintln!("after {} steps, at {path:?}", seen.steps);
                std::panic::resume_unwind(reason);
            }
        }
        path.pop();
    }
}

#[test]
fn programs_of_two_versions_come_to_the_same_whenever_they_are_exchanged_and_the_level_is_raised() {
    for_each_seed(1, |_| {
        let mut seen = Seen::default();
        search(&World::new(), &mut Vec::new(), &mut seen);
        let Seen { steps, raised } = seen;
        println!("{steps} steps; the level is raised after {raised} of them");
        assert!(raised > 0, "it can be raised");
    });
}
