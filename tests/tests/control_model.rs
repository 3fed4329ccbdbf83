//! Two processes with one broker id against the control plane: every short history of both.
//!
//! Behind both is production's code, all of it pure: the link's machine, the sessions, the state machine. In each step of half a second
//! something goes wrong or nothing does, and what follows is tried from every state that comes of it. Held after each turn:
//!
//! 1. At most one of them may append.
//! 2. A process that is registered and has run and been heard all along is not fenced.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with the test")]

use control_api::ids::{BrokerEpoch, BrokerId, Incarnation, Position};
use control_api::image::{MetadataEvent, MetadataImage};
use control_api::level::{Level, Levels};
use control_api::message::{BrokerRegistration, ControlError, MetadataUpdate, Response};
use controlplane::command::MetaCommand;
use controlplane::meta::MetaState;
use controlplane::sessions::Sessions;
use dataplane::control::machine::{Beaten, Effect, Event, Failure, Machine, TURN_MS};
use dataplane::io::Instant;
use millrace_tests::sweep::for_each_seed;
use std::rc::Rc;
use std::time::Duration;

const BROKER: BrokerId = BrokerId(1);
const SESSION_MS: u64 = 1_000;
const STEP_MS: u64 = 500;
const STEPS: usize = 5;

/// What happens for the length of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    Stopped(usize),
    /// It is heard, and hears the answers at the end of the step only.
    HearsLate(usize),
    NewLeader,
    WantsShutdown(usize),
}

const TROUBLES: [Trouble; 8] = [
    Trouble::None,
    Trouble::Stopped(0),
    Trouble::Stopped(1),
    Trouble::HearsLate(0),
    Trouble::HearsLate(1),
    Trouble::NewLeader,
    Trouble::WantsShutdown(0),
    Trouble::WantsShutdown(1),
];

#[derive(Clone)]
struct World {
    now: Instant,
    meta: MetaState,
    last: Position,
    sessions: Sessions,
    changes: Vec<Rc<(Position, Vec<MetadataEvent>)>>,
    processes: Vec<Process>,
}

#[derive(Clone)]
struct Process {
    machine: Machine,
    incarnation: Incarnation,
    /// What its shards know: whether it is registered, and until when they may append.
    registered: bool,
    lease: Instant,
    /// Where its metadata stream is.
    follows: Option<Position>,
    /// Answers that it has yet to hear.
    unheard: Vec<Rc<Heard>>,
    /// For how long it has run and been heard without a break.
    ran_ms: u64,
    ended: bool,
}

/// An answer, made again for each branch that hears it.
enum Heard {
    Registered(Result<BrokerEpoch, ControlError>),
    Beat {
        sent: Instant,
        goodbye: bool,
        answer: Result<Beaten, ControlError>,
    },
}

impl Heard {
    fn event(&self) -> Event {
        match self {
            Heard::Registered(answer) => {
                Event::Registered(answer.clone().map_err(Failure::Refused))
            }
            Heard::Beat {
                sent,
                goodbye,
                answer,
            } => Event::Beat {
                sent: *sent,
                goodbye: *goodbye,
                answer: answer.clone().map_err(Failure::Refused),
            },
        }
    }
}

impl Process {
    fn new(number: u8, now: Instant) -> Process {
        let incarnation = Incarnation([number; 16]);
        let stored = MetadataImage::default();
        Process {
            machine: Machine::new(BROKER, incarnation, stored, 1, now),
            incarnation,
            registered: false,
            lease: Instant(0),
            follows: None,
            unheard: Vec::new(),
            ran_ms: 0,
            ended: false,
        }
    }

    fn may_append(&self, now: Instant) -> bool {
        !self.ended && self.registered && now < self.lease
    }

    fn registration(&self) -> BrokerRegistration {
        BrokerRegistration {
            id: BROKER,
            incarnation: self.incarnation,
            host: "localhost".into(),
            port: 9092,
            rack: None,
            version: String::new(),
            cluster_id: String::new(),
            levels: Levels::supported(),
        }
    }
}

impl World {
    /// The first process serves, the second was just started.
    fn new() -> World {
        let now = Instant(0).after_ms(1_000_000);
        let mut world = World {
            now,
            meta: MetaState::default(),
            last: Position { term: 1, index: 0 },
            sessions: Sessions::new(Duration::from_millis(SESSION_MS)),
            changes: Vec::new(),
            processes: vec![Process::new(1, now)],
        };
        world.propose(&MetaCommand::Bootstrap {
            cluster_id: "model".to_owned(),
            feature_level: Level::FIRST,
        });
        world.pass_step(Trouble::None);
        assert!(world.processes[0].may_append(world.now));
        world.processes.push(Process::new(2, world.now));
        world
    }

    fn propose(&mut self, command: &MetaCommand) -> Response {
        self.last.index += 1;
        let (response, events) = self.meta.apply(self.last, command);
        if !events.is_empty() {
            self.changes.push(Rc::new((self.last, events)));
        }
        response
    }

    fn moment(&self) -> Duration {
        Duration::from_nanos(self.now.0)
    }

    fn pass_step(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::NewLeader => self.last.term += 1,
            Trouble::WantsShutdown(which) => self.tell(which, Event::WantsShutdown, false),
            Trouble::None | Trouble::Stopped(_) | Trouble::HearsLate(_) => {}
        }
        for _ in 0..STEP_MS / TURN_MS {
            self.now = self.now.after_ms(TURN_MS);
            for which in 0..self.processes.len() {
                match trouble == Trouble::Stopped(which) {
                    true => self.processes[which].ran_ms = 0,
                    false => self.turn(which, trouble == Trouble::HearsLate(which)),
                }
                self.check_one_appends();
            }
            self.look_for_dead();
        }
        for which in 0..self.processes.len() {
            for heard in std::mem::take(&mut self.processes[which].unheard) {
                self.tell(which, heard.event(), false);
            }
        }
        self.check_one_appends();
    }

    fn turn(&mut self, which: usize, hears_late: bool) {
        self.processes[which].ran_ms += TURN_MS;
        self.tell(which, Event::Turn, hears_late);
        while let Some(change) = self.next_change(which) {
            let (at, events) = &*change;
            self.processes[which].follows = Some(*at);
            let update = MetadataUpdate::Delta {
                at: *at,
                events: events.clone(),
            };
            self.tell(which, Event::Update(update), hears_late);
        }
    }

    fn next_change(&self, which: usize) -> Option<Rc<(Position, Vec<MetadataEvent>)>> {
        let from = self.processes[which].follows?;
        self.changes
            .iter()
            .find(|change| change.0 > from)
            .map(Rc::clone)
    }

    fn tell(&mut self, which: usize, event: Event, hears_late: bool) {
        if self.processes[which].ended {
            return;
        }
        let effects = self.processes[which].machine.step(self.now, event);
        for effect in effects {
            self.perform(which, effect, hears_late);
        }
        // Its shards may come to run at any moment, before it has heard of anything else.
        self.check_one_appends();
    }

    fn perform(&mut self, which: usize, effect: Effect, hears_late: bool) {
        let term = self.last.term;
        self.sessions.lead(term, self.meta.image(), self.moment());
        let heard = match effect {
            Effect::Register => Heard::Registered(self.register(which)),
            Effect::Beat(beat) => {
                let wanted = self.sessions.beat(&beat, self.meta.image(), self.moment());
                let answer = wanted.map(|wanted| {
                    if let Some(command) = wanted {
                        self.propose(&command);
                    }
                    if beat.goodbye {
                        self.sessions.end(beat.id);
                    }
                    let image = self.meta.image();
                    let record = &image.brokers[&beat.id];
                    Beaten {
                        fenced: record.fenced,
                        may_shut_down: record.shutting_down || record.fenced,
                        metadata_index: image.index,
                        lease_ms: (SESSION_MS / 2) as u32,
                    }
                });
                Heard::Beat {
                    sent: self.now,
                    goodbye: beat.goodbye,
                    answer,
                }
            }
            Effect::Watch(from) => {
                self.processes[which].follows = Some(from);
                return;
            }
            Effect::Publish => {
                let publication = self.processes[which].machine.publication();
                self.processes[which].registered = publication.registered;
                let published = Event::Published(publication.image.index);
                return self.tell(which, published, hears_late);
            }
            Effect::Store(_) => return,
            Effect::LeaseUntil(end) => {
                self.processes[which].lease = end;
                return;
            }
            Effect::StopShards => {
                self.processes[which].registered = false;
                return self.tell(which, Event::ShardStopped, hears_late);
            }
            Effect::End(_) => {
                self.processes[which].ended = true;
                return;
            }
        };
        match hears_late {
            true => self.processes[which].unheard.push(Rc::new(heard)),
            false => self.tell(which, heard.event(), false),
        }
    }

    fn register(&mut self, which: usize) -> Result<BrokerEpoch, ControlError> {
        let new = self.processes[which].registration();
        let wanted = self.sessions.register(&new, self.moment())?;
        match self.propose(&wanted) {
            Response::Registered { epoch, .. } => {
                let (id, moment) = (new.id, self.moment());
                self.sessions.renew(id, epoch, new.incarnation, moment);
                Ok(epoch)
            }
            Response::Error(error) => Err(error),
            other => panic!("a registration is taken or refused: {other:?}"),
        }
    }

    fn look_for_dead(&mut self) {
        let (term, moment) = (self.last.term, self.moment());
        self.sessions.lead(term, self.meta.image(), moment);
        for broker in self.sessions.dead(self.meta.image(), moment) {
            let incarnation = self.meta.image().brokers[&broker.id].incarnation;
            let mut processes = self.processes.iter();
            let process = processes.find(|process| process.incarnation == incarnation);
            let process = process.unwrap();
            assert!(
                process.ended || process.ran_ms < SESSION_MS,
                "process {incarnation:?} was heard all along and is taken for dead"
            );
            self.propose(&MetaCommand::FenceBroker(broker));
        }
    }

    fn check_one_appends(&self) {
        let appending = self.processes.iter();
        let appending = appending.filter(|process| process.may_append(self.now));
        assert!(appending.count() <= 1, "two processes append");
    }
}

/// Tries everything that can follow. Answers with how many steps were taken, and how often the second process came to append.
fn search(world: &World, path: &mut Vec<Trouble>, taken: &mut (u64, u64)) {
    if path.len() == STEPS {
        return;
    }
    for trouble in TROUBLES {
        path.push(trouble);
        let mut next = world.clone();
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            next.pass_step(trouble);
        }));
        if let Err(reason) = passed {
            eprintln!("after {path:?}");
            std::panic::resume_unwind(reason);
        }
        taken.0 += 1;
        taken.1 += u64::from(next.processes[1].may_append(next.now));
        search(&next, path, taken);
        path.pop();
    }
}

#[test]
fn at_most_one_process_of_a_broker_appends_and_none_that_is_heard_is_fenced() {
    for_each_seed(1, |_| {
        let mut taken = (0, 0);
        search(&World::new(), &mut Vec::new(), &mut taken);
        let (steps, taken_over) = taken;
        println!("{steps} steps; the second process appends after {taken_over} of them");
        assert!(taken_over > 0, "it takes over where the first is gone");
    });
}
