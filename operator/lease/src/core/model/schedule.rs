//! What the world may do.

use std::time::Duration;

use super::world::{Parcel, What, World};
use super::{Act, Cast, Exploration, TTL};
use crate::core::Event;
use crate::view::{HandOver, Reason};

/// Something goes wrong, or is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::core) enum Deviation {
    /// A process stands still, and later goes on.
    Pause,
    /// It is killed, and another one begins in its pod.
    Die,
    /// The message that is about to arrive arrives later, or never.
    Hold,
    /// It arrives, and once more later.
    Twice,
    /// A process cannot reach the server; what it has sent may arrive later.
    Cut,
    /// It is to give the lease away, to whomever.
    Give,
    /// It is to give it away if somebody is there.
    GiveToSuccessor,
    /// Somebody takes the lease from whoever has it.
    ForceRelease,
    /// Its bot is not ready any more.
    Unready,
    /// The TTL is set to 3 s.
    ShortTtl,
    /// The TTL is set to 20 s.
    LongTtl,
    /// Somebody who is not asked sends a notification.
    Forge,
    /// The server restarts and has forgotten nothing.
    Restart,
    /// It is replaced by one that does not know the last change.
    Forget,
    /// By one that does not know any change since the beginning: a snapshot.
    Restore,
    /// The database's clock is set forward.
    StepClock,
    /// The server ends a session for locks.
    EndSession,
    /// It ends all of them.
    EndSessions,
    /// The backend of a session is replaced behind the process's back.
    Repool,
}

// === impl Deviation ===

impl Deviation {
    /// What there is besides where failover is by sessions.
    pub(in crate::core) const OF_SESSIONS: [Self; 3] = [Self::EndSession, Self::EndSessions, Self::Repool];
    pub(in crate::core) const ALL: [Self; 15] = [
        Self::Pause,
        Self::Die,
        Self::Hold,
        Self::Twice,
        Self::Cut,
        Self::Give,
        Self::GiveToSuccessor,
        Self::ForceRelease,
        Self::Unready,
        Self::ShortTtl,
        Self::LongTtl,
        Self::Forge,
        Self::Restart,
        Self::Forget,
        Self::Restore,
    ];
}

// === impl World ===

impl World {
    /// What may happen now.
    pub(super) fn acts(&self, model: &Exploration, acts: &mut Vec<Act>) {
        if self.healed || !self.witness.broken.is_empty() {
            return;
        }
        if self.age() >= model.horizon {
            return acts.push(Act::Heal);
        }
        acts.push(Act::Go);
        for (n, node) in self.nodes.iter().enumerate() {
            if node.paused {
                acts.push(Act::Resume(n));
            }
            if node.cut {
                acts.push(Act::Mend(n));
            }
        }
        acts.extend(self.wire.iter().enumerate().filter(|(_, parcel)| parcel.held).map(|(i, _)| Act::Release(i)));
        if self.spent < model.deviations {
            for &deviation in &model.palette {
                self.deviations(deviation, acts);
            }
        }
    }

    fn deviations(&self, deviation: Deviation, acts: &mut Vec<Act>) {
        let mut each = |wanted: &dyn Fn(usize) -> bool| {
            let nodes = (0..self.nodes.len()).filter(|n| wanted(*n));
            acts.extend(nodes.map(|n| Act::Deviate(deviation, n)));
        };
        let awake = |n: usize| !self.nodes[n].paused;
        match deviation {
            Deviation::Pause | Deviation::Forge => each(&awake),
            Deviation::Die => each(&|_| true),
            Deviation::Cut => each(&|n| !self.nodes[n].cut),
            Deviation::Give | Deviation::GiveToSuccessor | Deviation::Unready => {
                each(&|n| awake(n) && self.nodes[n].core.holds());
            }
            Deviation::Hold => acts.extend(self.next_parcel().map(|i| Act::Deviate(deviation, i))),
            Deviation::Twice => {
                let next = self.next_parcel().filter(|i| matches!(self.wire[*i].what, What::Statement(..)));
                acts.extend(next.map(|i| Act::Deviate(deviation, i)));
            }
            Deviation::Repool | Deviation::EndSession => each(&|n| self.nodes[n].session.is_some()),
            Deviation::ForceRelease
            | Deviation::ShortTtl
            | Deviation::LongTtl
            | Deviation::Restart
            | Deviation::StepClock
            | Deviation::EndSessions => {
                acts.push(Act::Deviate(deviation, 0));
            }
            Deviation::Forget | Deviation::Restore if self.past.is_empty() => {}
            Deviation::Forget | Deviation::Restore => acts.push(Act::Deviate(deviation, 0)),
        }
    }

    /// Does it.
    pub(super) fn act(&mut self, model: &Exploration, act: Act) {
        match act {
            Act::Go => self.go(model),
            Act::Resume(n) => self.resume(n, model),
            Act::Release(i) => self.wire[i].held = false,
            Act::Mend(n) => self.nodes[n].cut = false,
            Act::Deviate(deviation, n) => {
                self.spent += 1;
                self.deviate(deviation, n, model);
            }
            Act::Heal => self.heal(model),
        }
    }

    fn deviate(&mut self, deviation: Deviation, n: usize, model: &Exploration) {
        let order = HandOver::new(Reason::Manual);
        self.benign &= matches!(
            deviation,
            Deviation::Hold | Deviation::Twice | Deviation::Forge | Deviation::Restart | Deviation::EndSessions
        );
        match deviation {
            Deviation::Pause => self.nodes[n].pause(self.now),
            Deviation::Die => self.die(n, model),
            Deviation::Hold => self.wire[n].held = true,
            Deviation::Twice => {
                // Its answer finds nobody: on a connection each statement is answered once.
                let copy = Parcel { held: true, connection: u32::MAX, ..self.wire[n].clone() };
                self.wire.push(copy);
            }
            Deviation::Cut => {
                self.nodes[n].cut = true;
                self.wire.iter_mut().filter(|parcel| parcel.node == n).for_each(|parcel| parcel.held = true);
                self.drop_connection(n);
            }
            Deviation::Give => self.step(n, Event::HandOver(order)),
            Deviation::GiveToSuccessor => {
                self.step(n, Event::HandOver(HandOver { only_to_successor: true, ..order }));
            }
            Deviation::ForceRelease => {
                self.server.force_release();
                self.wake();
            }
            Deviation::Unready => self.step(n, Event::Ready(false)),
            Deviation::ShortTtl => self.set_ttl(Duration::from_secs(3), model),
            Deviation::LongTtl => self.set_ttl(TTL * 2, model),
            Deviation::Forge => self.step(n, Event::Woken),
            Deviation::Restart => self.restart_server(None),
            Deviation::Forget => self.restart_server(Some(self.past.len() - 1)),
            Deviation::Restore => self.restart_server(Some(0)),
            Deviation::StepClock => self.clock_stepped = true,
            Deviation::EndSessions => (0..self.nodes.len()).for_each(|n| self.end_session(n)),
            Deviation::EndSession => self.end_session(n),
            Deviation::Repool => self.change_backend(n),
        }
    }

    fn set_ttl(&mut self, ttl: Duration, model: &Exploration) {
        let eligible = (model.cast == Cast::Rejected).then_some(["good"]);
        self.server.set(ttl, eligible.as_ref().map(<[_; 1]>::as_slice), model.fast);
    }

    /// Whatever was wrong is over: in the end somebody leads (I9).
    fn heal(&mut self, model: &Exploration) {
        for n in 0..self.nodes.len() {
            self.nodes[n].cut = false;
            if self.nodes[n].paused {
                self.resume(n, model);
            }
            self.step(n, Event::Ready(true));
        }
        self.wire.iter_mut().for_each(|parcel| parcel.held = false);
        let until = self.now + TTL * 8;
        while self.now < until && self.micro(model) {}
        self.judge_end();
        self.healed = true;
    }
}
