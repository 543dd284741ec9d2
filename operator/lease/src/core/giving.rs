//! Giving the lease away.

use std::time::Duration;

use pollux_clock::BootInstant;

use super::{Action, Call, Core, Otherwise, Rule};
use crate::view::{HandOver, HandedOver, Reason};

/// How long a handover looks for a successor with a fresh beat.
const SEARCH: Duration = Duration::from_millis(500);
/// How often it looks.
const AGAIN: Duration = Duration::from_millis(10);
/// After this time whoever waits for it is told that the outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(5);

/// A handover that is not over yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Giving {
    order: HandOver,
    epoch: i64,
    started: BootInstant,
    try_at: BootInstant,
    /// The candidates were looked at since it began.
    pub(super) looked: bool,
    /// An order was sent and not answered.
    pub(super) maybe_done: bool,
    /// Whoever waited has been told; it goes on all the same.
    settled: bool,
}

// === impl Core ===

impl Core {
    /// The agent gives an order.
    pub(super) fn begin_giving(&mut self, order: HandOver, now: BootInstant, actions: &mut Vec<Action>) {
        if let Some(giving) = &mut self.giving {
            // Another one is under way: this one is the same. A new wait begins.
            if giving.settled {
                giving.settled = false;
                giving.started = now;
            }
            // Unless it would have kept the lease for want of a successor, and this one must not.
            if giving.order.only_to_successor && !order.only_to_successor {
                let epoch = giving.epoch;
                giving.order = order;
                giving.started = now;
                giving.try_at = now;
                self.end(epoch);
            }
            return;
        }
        let mine = self.row.as_ref().filter(|row| self.is_me(row) && row.epoch > self.ended).map(|row| row.epoch);
        let Some(epoch) = mine else { return actions.push(Action::Settle(HandedOver::NotLeader)) };
        self.start(order, epoch, false, now);
    }

    /// A lease that we cannot use has reached us.
    pub(super) fn hand_on(&mut self, epoch: i64, now: BootInstant) {
        if self.giving.is_none() {
            let reason = if self.leaving.is_some() { Reason::PodDeleted } else { Reason::BotGone };
            self.start(HandOver::new(reason), epoch, true, now);
        }
    }

    fn start(&mut self, order: HandOver, epoch: i64, settled: bool, now: BootInstant) {
        if !order.only_to_successor && self.keeps(Rule::EndedWhenSent) {
            self.end(epoch);
        }
        self.giving =
            Some(Giving { order, epoch, started: now, try_at: now, looked: false, maybe_done: false, settled });
    }

    /// The process ends with a lease in its hands.
    pub(super) fn release_at_end(&mut self, now: BootInstant) {
        match (&mut self.giving, &self.row) {
            (Some(giving), _) => {
                giving.order.only_to_successor = false;
                giving.try_at = now;
            }
            (None, Some(row)) => {
                let epoch = row.epoch;
                self.start(HandOver::new(Reason::PodDeleted), epoch, true, now);
            }
            (None, None) => {}
        }
    }

    /// The next statement of a handover.
    pub(super) fn give(&mut self, now: BootInstant, actions: &mut Vec<Action>) -> Option<Call> {
        let giving = self.giving.as_ref()?;
        if now < giving.try_at {
            let at = giving.try_at;
            self.wake_by(at);
            return None;
        }
        let (epoch, search_over) = (giving.epoch, now - giving.started >= SEARCH);
        if !giving.order.only_to_successor || giving.order.to_pod.is_some() {
            let otherwise = match giving.order.only_to_successor {
                true => Otherwise::Keep,
                false if search_over || self.ending => Otherwise::Release,
                false => Otherwise::Wait,
            };
            return Some(self.order(otherwise));
        }
        if !giving.looked {
            let asked = self.row.as_ref().is_some_and(|row| row.handover_expected);
            return Some(if asked { Call::Look } else { Call::Expect { epoch, expected: true } });
        }
        match &self.heir {
            Some(heir) if heir.fresh => Some(self.order(Otherwise::Keep)),
            Some(_) if !search_over => {
                self.giving.as_mut()?.try_at = now + AGAIN;
                Some(Call::Look)
            }
            // Nothing was sent, so nothing has changed.
            _ => {
                self.settle(HandedOver::Kept, actions);
                None
            }
        }
    }

    fn order(&mut self, otherwise: Otherwise) -> Call {
        let ttl = self.ttl().min(self.timing.first_grant);
        let giving = self.giving.as_ref().expect("only called while there is one");
        self.ordered = self.ordered.max(giving.epoch);
        Call::Handover { epoch: giving.epoch, ttl, otherwise, order: giving.order.clone() }
    }

    /// An order was answered.
    pub(super) fn given(&mut self, done: bool, now: BootInstant, actions: &mut Vec<Action>) {
        let (Some(giving), Some(row)) = (&mut self.giving, &self.row) else { return };
        if done {
            let began = giving.epoch + 1;
            let ended = giving.order.last_poll_ended;
            let outcome = match &row.holder {
                Some(_) => HandedOver::To { pod: row.replica.pod.clone(), epoch: row.epoch },
                None => HandedOver::Released,
            };
            self.gaps.extend(ended.map(|ended| (began, ended)));
            self.settle(outcome, actions);
        } else if row.holder.as_deref() != Some(self.me.id.as_str()) || row.epoch != giving.epoch {
            // An order that was given up has been carried out after all: `follow_giving` says which.
        } else if giving.order.only_to_successor {
            // The successor went away in this very moment. The order is void as soon as we have a new epoch.
            self.settle(HandedOver::Kept, actions);
        } else {
            giving.try_at = now + AGAIN;
        }
    }

    /// Looks whether the row has moved on under a handover.
    pub(super) fn follow_giving(&mut self, actions: &mut Vec<Action>) {
        let (Some(giving), Some(row)) = (&mut self.giving, &self.row) else { return };
        giving.looked = true;
        if row.holder.as_deref() == Some(self.me.id.as_str()) && row.epoch == giving.epoch {
            return;
        }
        let outcome = match (&row.holder, giving.maybe_done) {
            (_, false) => HandedOver::NotLeader,
            (Some(_), true) => HandedOver::To { pod: row.replica.pod.clone(), epoch: row.epoch },
            (None, true) => HandedOver::Released,
        };
        self.settle(outcome, actions);
    }

    /// The row may have been forgotten, so it is not certain that it is ours to give: the order is void. Who waited for it is told;
    /// when the doubt is over the lease is taken anew, or freed, as if it were somebody else's.
    pub(super) fn give_up_in_doubt(&mut self, actions: &mut Vec<Action>) {
        if self.doubt.is_some() && self.giving.is_some() {
            self.settle(HandedOver::Unknown, actions);
        }
    }

    fn settle(&mut self, outcome: HandedOver, actions: &mut Vec<Action>) {
        if let Some(giving) = self.giving.take()
            && !giving.settled
        {
            actions.push(Action::Settle(outcome));
        }
        self.expecting = false;
    }

    /// Whoever waits is told in time, even if PostgreSQL does not answer.
    pub(super) fn tell_in_time(&mut self, now: BootInstant, actions: &mut Vec<Action>) {
        let Some(giving) = self.giving.as_mut().filter(|giving| !giving.settled) else { return };
        let deadline = giving.started + PATIENCE;
        if now < deadline {
            return self.wake_by(deadline);
        }
        if giving.order.only_to_successor && giving.epoch > self.ordered {
            return self.settle(HandedOver::Kept, actions);
        }
        giving.settled = true;
        actions.push(Action::Settle(HandedOver::Unknown));
        if self.leaving.is_none() {
            self.giving = None;
        }
    }
}
