//! What must hold at every moment, seen from outside: from the views that processes publish, by their own clocks, and from the
//! row.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

use super::net::Net;
use super::place::Clock;
use crate::core::server::Asker;
use crate::core::{Call, Row, Statement};
use crate::lease::Lease;
use crate::view::View;

pub(super) struct Process {
    pub(super) who: Asker,
    pub(super) clock: Clock,
    pub(super) lease: Lease,
    pub(super) view: watch::Receiver<View>,
    pub(super) alive: bool,
    pub(super) frozen_until: Duration,
    /// Until then it reaches no server.
    pub(super) away_until: Duration,
    has_file_lock: bool,
    /// The highest epoch that it has sent an order about.
    gave: i64,
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) violation: Option<String>,
    /// The highest epoch that anybody was granted.
    last: i64,
    pub(super) leaders: BTreeMap<i64, usize>,
}

// === impl Process ===

impl Process {
    pub(super) fn new(who: Asker, clock: Clock, lease: Lease) -> Self {
        Self {
            who,
            clock,
            view: lease.view(),
            lease,
            alive: true,
            frozen_until: Duration::ZERO,
            away_until: Duration::ZERO,
            has_file_lock: false,
            gave: 0,
        }
    }

    fn polls_under(&self, now: Duration) -> Option<i64> {
        let role = self.view.borrow().role;
        role.epoch().filter(|_| self.alive && role.may_poll(self.clock.read(now)))
    }
}

// === impl Net ===

impl Net {
    pub(super) fn name(&self, n: usize) -> &str {
        &self.processes[n].who.id
    }

    /// The kernel gives the lock to one living process of a pod.
    pub(super) fn lock_file(&mut self, n: usize) -> bool {
        let pod = &self.processes[n].who.replica.pod_uid;
        let taken = self.processes.iter().enumerate().any(|(other, process)| {
            other != n && process.alive && process.has_file_lock && process.who.replica.pod_uid == *pod
        });
        self.processes[n].has_file_lock = !taken;
        !taken
    }

    /// Who may act, and under which epoch.
    pub(super) fn leaders(&self) -> Vec<(usize, i64)> {
        let polls = |(n, process): (usize, &Process)| Some((n, process.polls_under(self.now)?));
        self.processes.iter().enumerate().filter_map(polls).collect()
    }

    pub(super) fn violated(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.seen.violation.is_none() {
            let what = what(self);
            self.note(|_| what.clone());
            self.seen.violation = Some(what);
        }
    }

    /// A process was polled: time alone makes nobody a leader.
    pub(super) fn check(&mut self, n: usize) {
        let process = &mut self.processes[n];
        if !process.view.has_changed().unwrap_or(false) {
            return;
        }
        let role = process.view.borrow_and_update().role;
        self.note(|net| format!("{}: {role:?}", net.name(n)));
        let leaders = self.leaders();
        if leaders.len() > 1 {
            self.violated(|_| format!("I1: two leaders: {leaders:?}"));
        }
        let Some(epoch) = self.processes[n].polls_under(self.now) else { return };
        if epoch <= self.processes[n].gave {
            self.violated(|net| format!("I7: {} polls under epoch {epoch}, which it has given away", net.name(n)));
        }
        if epoch < self.seen.leaders.last_key_value().map_or(0, |(epoch, _)| *epoch) {
            self.violated(|_| format!("I2: the old epoch {epoch} leads again"));
        }
        if *self.seen.leaders.entry(epoch).or_insert(n) != n {
            self.violated(|_| format!("I3: two leaders of epoch {epoch}"));
        }
    }

    /// A statement sets out.
    pub(super) fn sending(&mut self, n: usize, statement: &Statement) {
        let Call::Handover { epoch, .. } = statement.call else { return };
        self.processes[n].gave = self.processes[n].gave.max(epoch);
        if self.processes[n].polls_under(self.now) == Some(epoch) {
            self.violated(|net| format!("I7: {} still polls under epoch {epoch} and gives it away", net.name(n)));
        }
    }

    /// A statement was carried out.
    pub(super) fn judge(&mut self, before: &Row, sender: &str, statement: &Statement, done: bool) {
        let after = self.server.row.clone();
        // Also by what the server has forgotten.
        let last = self.seen.last;
        if let Call::Renew { epoch, .. } | Call::Handover { epoch, .. } = statement.call
            && done
            && epoch < last
        {
            self.violated(|_| format!("I5: {sender} was deposed by epoch {last} and has done {:?}", statement.call));
        }
        if (after.epoch, &after.holder) == (before.epoch, &before.holder) {
            return;
        }
        if after.epoch == before.epoch && after.holder.is_some() {
            self.violated(|_| format!("I3: a new holder under an old epoch: {after:?}"));
        }
        if after.epoch != before.epoch {
            if after.epoch <= last {
                self.violated(|_| format!("I2: an epoch again: {after:?} after {last}"));
            }
            self.seen.last = after.epoch;
            let eligible = self.server.setting.as_ref().and_then(|setting| setting.eligible.as_ref());
            if eligible.is_some_and(|list| !list.contains(&after.replica.revision)) {
                self.violated(|_| format!("I11: {:?} may not lead", after.holder));
            }
        }
        let leaders = self.leaders();
        if !leaders.is_empty() {
            self.violated(|_| format!("I4: {leaders:?} still may poll, and the lease passes to {:?}", after.holder));
        }
    }
}
