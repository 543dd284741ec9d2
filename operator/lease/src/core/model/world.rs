//! The state: processes, messages under way, the server and its past.

use std::collections::BTreeMap;
use std::time::Duration;

use super::checks::{Invariant, Witness};
use super::sessions::Session;
use super::{Assumption, Cast, Exploration, TTL};
use crate::core::server::{Asker, Moment, Server};
use crate::core::{Action, Answer, Ask, BootInstant, Call, Core, Event, Me, Row, Statement, Told};
use crate::identity::{HolderId, Replica, Resource};
use crate::view::Evidence;

/// It matters what happens at least this often.
const QUANTUM: Duration = Duration::from_secs(2);
/// And this often where it is about sessions.
const FAST_QUANTUM: Duration = Duration::from_millis(500);

/// More steps than can happen in that time; a variant may go round in circles without any time passing.
const MANY: usize = 200;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::core) struct World {
    /// The true time.
    pub(super) now: Duration,
    began: Duration,
    pub(super) server: Server,
    incarnation: u32,
    /// What the server was before each change that it could forget.
    pub(super) past: Vec<Server>,
    pub(super) clock_stepped: bool,
    /// Which backend has which lock.
    pub(super) locks: BTreeMap<i64, i32>,
    pub(super) sessions: i32,
    pub(super) nodes: Vec<Node>,
    pub(super) wire: Vec<Parcel>,
    pub(super) spent: u8,
    /// Nothing has happened that would be a reason for another leader.
    pub(super) benign: bool,
    pub(super) healed: bool,
    pub(super) witness: Witness,
}

/// A process and its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) core: Core,
    who: Asker,
    /// Thousandths of the true speed.
    speed: u32,
    pub(super) paused: bool,
    paused_at: Duration,
    /// What its clock has missed.
    missed: Duration,
    pub(super) cut: bool,
    connected: bool,
    connection: u32,
    run: u32,
    pub(super) session: Option<Session>,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Parcel {
    pub(super) node: usize,
    pub(super) connection: u32,
    pub(super) held: bool,
    /// A fence may depend on it.
    pub(super) matters: bool,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Statement(Asker, Box<Statement>),
    Answer(Box<Answer>),
    Wake,
    /// On the session with this number.
    Ask(i32, Ask),
    Told(i32, Told),
}

// === impl Node ===

impl Node {
    fn new(model: &Exploration, n: usize, run: u32, speed: u32) -> Self {
        let pod = if model.cast == Cast::Twins && n == 1 { 0 } else { n };
        let revision = if model.cast == Cast::Rejected && n == 1 { "bad" } else { "good" };
        let name = format!("{}{}", ["a", "b", "c"][n], "'".repeat(run as usize));
        let replica = Replica {
            resource: Resource { cluster: String::new(), namespace: String::new(), name: "bot".into() },
            pod: name.clone(),
            pod_uid: format!("pod{pod}"),
            node: format!("node{pod}"),
            revision: revision.into(),
        };
        let me = Me { id: HolderId::named(&name), replica: replica.clone(), file_lock: true };
        Self {
            core: Core::new(me, TTL).flawed(model.without, model.timing),
            who: Asker { id: name, replica },
            speed,
            paused: false,
            paused_at: Duration::ZERO,
            missed: Duration::ZERO,
            cut: false,
            connected: false,
            connection: 0,
            run,
            session: None,
        }
    }

    fn clock(&self, now: Duration) -> BootInstant {
        BootInstant::from_boot((now - self.missed) * self.speed / 1000)
    }

    /// The true time at which its clock shows `at`.
    fn when(&self, at: BootInstant) -> Duration {
        at.since_boot() * 1000 / self.speed + Duration::from_nanos(1) + self.missed
    }

    pub(super) const fn pause(&mut self, now: Duration) {
        self.paused = true;
        self.paused_at = now;
    }
}

// === impl World ===

impl World {
    /// `a` leads, the others wait.
    pub(super) fn new(model: &Exploration, speeds: [u32; 2]) -> Self {
        let nodes = if matches!(model.cast, Cast::Three | Cast::Twins) { 3 } else { 2 };
        let mut world = Self {
            now: Duration::from_secs(1),
            began: Duration::ZERO,
            server: Server::default(),
            incarnation: 0,
            past: Vec::new(),
            clock_stepped: false,
            locks: BTreeMap::new(),
            sessions: 0,
            nodes: (0..nodes).map(|n| Node::new(model, n, 0, speeds[n % 2])).collect(),
            wire: Vec::new(),
            spent: 0,
            benign: true,
            healed: false,
            witness: Witness::default(),
        };
        world.server.set(model.ttl, (model.cast == Cast::Rejected).then_some(&["good"]), model.fast);
        world.nodes[1].cut = model.cast == Cast::Twins;
        for n in 0..nodes {
            if !world.nodes[n].cut {
                world.step(n, Event::Locked);
            }
            world.step(n, Event::Ready(true));
            let until = world.now + Duration::from_secs(2);
            while world.now < until && world.micro(model) {}
        }
        assert_eq!(world.server.row.holder.as_deref(), Some("a"));
        world.past.clear();
        world.began = world.now;
        world
    }

    /// How long the schedule lasts already.
    pub(super) fn age(&self) -> Duration {
        self.now - self.began
    }

    /// The default, up to the next point at which it matters.
    pub(super) fn go(&mut self, model: &Exploration) {
        let next = self.now + if model.fast { FAST_QUANTUM } else { QUANTUM };
        for _ in 0..MANY {
            if self.now >= next || !self.micro(model) || self.next_parcel().is_some() {
                return;
            }
        }
    }

    /// The message that arrives next, if a fence may depend on it.
    pub(super) fn next_parcel(&self) -> Option<usize> {
        self.deliverable().filter(|i| self.wire[*i].matters)
    }

    fn deliverable(&self) -> Option<usize> {
        self.wire.iter().position(|parcel| {
            let stands = matches!(parcel.what, What::Statement(..) | What::Ask(..)) || !self.nodes[parcel.node].paused;
            !parcel.held && stands
        })
    }

    /// One step. Returns whether there was one.
    pub(super) fn micro(&mut self, model: &Exploration) -> bool {
        if let Some(i) = self.deliverable() {
            let parcel = self.wire.remove(i);
            self.deliver(parcel, model);
        } else if let Some(n) = (0..self.nodes.len()).find(|n| self.silent_at(*n).is_some_and(|at| at <= self.now)) {
            self.end_session(n);
        } else if let Some(n) = (0..self.nodes.len()).find(|n| self.wants(*n).is_some_and(|at| at <= self.now)) {
            self.live(n);
        } else {
            let times = (0..self.nodes.len()).flat_map(|n| [self.wants(n), self.silent_at(n)]);
            let Some(next) = times.flatten().min() else { return false };
            self.now = next;
        }
        self.check();
        true
    }

    /// When a process does something by itself.
    fn wants(&self, n: usize) -> Option<Duration> {
        let node = &self.nodes[n];
        if node.paused {
            return None;
        }
        if !node.connected && !node.cut || self.session_changes(n) {
            return Some(self.now);
        }
        let overdue = node.core.in_flight_since().map(|sent| node.when(sent + node.core.patience()));
        let wake = node.core.wake_at().map(|at| node.when(at));
        [overdue, wake].into_iter().flatten().min()
    }

    /// What the driver does.
    fn live(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if !node.connected && !node.cut {
            node.connected = true;
            return self.step(n, Event::Up { wakes: true });
        }
        if self.session_changes(n) {
            return self.change_session(n);
        }
        let node = &self.nodes[n];
        let clock = node.clock(self.now);
        let overdue = node.core.in_flight_since().is_some_and(|sent| clock >= sent + node.core.patience());
        if overdue {
            return self.drop_connection(n);
        }
        self.step(n, Event::Tick);
    }

    pub(super) fn drop_connection(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.connection += 1;
        node.connected = false;
        if !node.paused {
            self.step(n, Event::Down { error: String::new() });
        }
    }

    pub(super) fn resume(&mut self, n: usize, model: &Exploration) {
        let node = &mut self.nodes[n];
        node.paused = false;
        if model.broken == Some(Assumption::ClockRunsInSuspend) {
            node.missed += self.now - node.paused_at;
        }
        if !node.connected {
            self.step(n, Event::Down { error: String::new() });
        }
        self.check();
    }

    pub(super) fn die(&mut self, n: usize, model: &Exploration) {
        self.end_session(n);
        let old = &self.nodes[n];
        let mut new = Node::new(model, n, old.run + 1, old.speed);
        (new.cut, new.connection, new.missed) = (old.cut, old.connection + 1, old.missed);
        self.nodes[n] = new;
        self.step(n, Event::Locked);
        self.step(n, Event::Ready(true));
    }

    /// The processes hear of it when they speak to it again; what they have sent may still arrive.
    pub(super) fn restart_server(&mut self, back_to: Option<usize>) {
        self.incarnation += 1;
        if let Some(index) = back_to {
            // Settings are what the controller says, and it says them again.
            let setting = self.server.setting.clone();
            self.server = Server { setting, ..self.past[index].clone() };
            self.past.truncate(index + 1);
        }
        (0..self.nodes.len()).for_each(|n| self.end_session(n));
        self.wire.retain(|parcel| matches!(parcel.what, What::Statement(..)));
        self.wire.iter_mut().for_each(|parcel| parcel.held = true);
        for n in 0..self.nodes.len() {
            self.drop_connection(n);
        }
    }

    /// The production core takes a step.
    pub(super) fn step(&mut self, n: usize, event: Event) {
        let node = &mut self.nodes[n];
        let actions = node.core.step(event, node.clock(self.now));
        for action in actions {
            let statement = match action {
                Action::Send(statement) => statement,
                Action::Ask(ask) => {
                    // What is lost on its way is as if the process had been stopped: nothing rests on an ask that arrives late.
                    if let Some(session) = node.session.filter(|_| !node.cut) {
                        let (connection, what) = (node.connection, What::Ask(session.id, ask));
                        self.wire.push(Parcel { node: n, connection, held: false, matters: false, what });
                    }
                    continue;
                }
                Action::Settle(_) | Action::Done => continue,
            };
            if let Call::Handover { epoch, .. } = statement.call {
                let ordered = self.witness.ordered.entry(node.who.id.clone()).or_default();
                *ordered = epoch.max(*ordered);
            }
            let matters = matters(&statement.call);
            let what = What::Statement(node.who.clone(), Box::new(statement));
            self.wire.push(Parcel { node: n, connection: node.connection, held: false, matters, what });
        }
        self.check();
    }

    fn deliver(&mut self, parcel: Parcel, model: &Exploration) {
        let Parcel { node: n, connection, what, matters, .. } = parcel;
        let current = self.nodes[n].connection == connection;
        match what {
            What::Statement(asker, statement) => {
                let (answer, woken) = self.carry_out(&asker, &statement, model);
                if current {
                    let what = What::Answer(Box::new(answer));
                    self.wire.push(Parcel { node: n, connection, held: false, matters, what });
                }
                if woken {
                    self.wake();
                }
            }
            What::Answer(answer) if current => {
                self.step(n, Event::Answered(answer));
                if self.clock_stepped && model.broken == Some(Assumption::CandidatesOwnClock) {
                    self.nodes[n].core.age_what_was_observed(TTL * 2);
                }
            }
            What::Ask(id, ask) => self.asked(n, id, ask),
            What::Told(id, told) if self.nodes[n].session.is_some_and(|session| session.id == id) => {
                self.step(n, Event::Told(told));
            }
            What::Told(..) => {}
            What::Wake if current => self.step(n, Event::Woken),
            What::Answer(_) | What::Wake => {}
        }
    }

    /// Everybody is notified.
    pub(super) fn wake(&mut self) {
        for n in 0..self.nodes.len() {
            let connection = self.nodes[n].connection;
            self.wire.push(Parcel { node: n, connection, held: false, matters: false, what: What::Wake });
        }
    }

    fn carry_out(&mut self, asker: &Asker, statement: &Statement, model: &Exploration) -> (Answer, bool) {
        let before = self.server.clone();
        let at = Moment { now: self.now, incarnation: self.incarnation, without: model.without };
        let (answer, woken) = self.server.carry_out(at, asker, statement);
        if self.server.row.renew_seq != before.row.renew_seq {
            self.past.push(before.clone());
        }
        if answer.done {
            self.judge(&before.row, asker, statement);
        }
        (answer, woken)
    }

    // === the invariants ===

    fn judge(&mut self, before: &Row, asker: &Asker, statement: &Statement) {
        match &statement.call {
            Call::Renew { epoch, .. } | Call::Handover { epoch, .. } => self.witness.acted(*epoch, &asker.id),
            Call::Takeover { epoch, renew_seq, evidence: Evidence::Ttl | Evidence::Session, .. }
                if (*epoch, *renew_seq) != (before.epoch, before.renew_seq) =>
            {
                self.witness.fails(Invariant::I8);
            }
            _ => {}
        }
        let after = self.server.row.clone();
        let Some(holder) = after.holder.clone() else { return };
        if (&before.holder, before.epoch) == (&after.holder, after.epoch) {
            return;
        }
        self.witness.granted(after.epoch, &holder);
        if self.benign && self.witness.owners.len() > 1 {
            self.witness.fails(Invariant::I10);
        }
        let list = self.server.setting.as_ref().and_then(|setting| setting.eligible.as_ref());
        if list.is_some_and(|list| !list.contains(&after.replica.revision)) {
            self.witness.fails(Invariant::I11);
        }
        let mut others = self.nodes.iter().filter(|node| node.who.id != holder);
        if others.any(|node| node.core.role().may_poll(node.clock(self.now))) {
            self.witness.fails(Invariant::I4);
        }
    }

    fn check(&mut self) {
        let now = self.now;
        let polling: Vec<_> = self.nodes.iter().filter(|node| node.core.role().may_poll(node.clock(now))).collect();
        let two = polling.len() > 1;
        let after_order = polling.iter().any(|node| {
            let ordered = self.witness.ordered.get(&node.who.id);
            node.core.role().epoch().is_some_and(|epoch| ordered.is_some_and(|ordered| epoch <= *ordered))
        });
        if two {
            self.witness.fails(Invariant::I1);
        }
        if after_order {
            self.witness.fails(Invariant::I7);
        }
    }

    pub(super) fn judge_end(&mut self) {
        if !self.nodes.iter().any(|node| node.core.role().may_poll(node.clock(self.now))) {
            self.witness.fails(Invariant::I9);
        }
    }
}

const fn matters(call: &Call) -> bool {
    matches!(call, Call::Renew { .. } | Call::Acquire { .. } | Call::Takeover { .. } | Call::Handover { .. })
}
