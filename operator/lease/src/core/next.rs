//! What to do next: at most one statement is under way, so the order of these questions is the order of importance.

use pollux_clock::BootInstant;

use super::{Action, Call, Core, Rule, Sign, Statement};

// === impl Core ===

impl Core {
    pub(super) fn decide(&mut self, now: BootInstant, actions: &mut Vec<Action>) {
        self.wake_at = None;
        self.give_up_in_doubt(actions);
        self.tell_in_time(now, actions);
        if self.ending && !self.connected {
            return actions.push(Action::Done);
        }
        if self.in_flight.is_some() || !self.connected || actions.contains(&Action::Done) {
            return;
        }
        if let Some((until, _)) = self.hold_off.filter(|(until, _)| now < *until) {
            return self.wake_by(until);
        }
        if let Some(call) = self.next_call(now, actions) {
            self.sending(&call, now);
            let statement = Statement { call, known: self.known.clone() };
            actions.push(Action::Send(statement.clone()));
            self.in_flight = Some((statement, now));
        }
    }

    fn next_call(&mut self, now: BootInstant, actions: &mut Vec<Action>) -> Option<Call> {
        if self.rotations > 0 {
            return Some(Call::Rotate);
        }
        // Everything else concerns the row of an agent that is known.
        if !self.registered || self.row.is_none() {
            return Some(self.beat(now));
        }
        if let Some(call) = self.give(now, actions) {
            return Some(call);
        }
        if let Some(call) = self.renewal(now) {
            return Some(call);
        }
        if self.ending && self.giving.is_none() {
            return Some(Call::Depart);
        }
        if self.beats.dirty {
            return Some(self.beat(now));
        }
        // Anybody may send notifications, any number of them: they keep nobody from what is due.
        if let Some(call) = self.candidacy(now) {
            return Some(call);
        }
        // For a holder the renewal is its beat.
        let due = (!self.holds_open()).then(|| self.beats.last + self.beat_interval());
        if due.is_some_and(|due| due <= now) {
            return Some(self.beat(now));
        }
        if self.woken {
            return Some(Call::Look);
        }
        if let Some(&(epoch, end)) = self.gaps.front() {
            return Some(Call::Gap { epoch, ago: now - end });
        }
        if let Some(due) = due {
            self.wake_by(due);
        }
        None
    }

    /// Whether this process holds the lease under an epoch that it has not given up.
    pub(super) fn holds_open(&self) -> bool {
        self.row.as_ref().is_some_and(|row| self.is_me(row) && row.epoch > self.ended)
    }

    fn renewal(&mut self, now: BootInstant) -> Option<Call> {
        // In doubt it is not certain that the row is ours: it is taken anew, when nobody else can rely on it any more.
        if !self.holds_open() || self.doubt.is_some() {
            return None;
        }
        let row = self.row.as_ref()?;
        let (epoch, renew_seq, expected) = (row.epoch, row.renew_seq, row.handover_expected);
        if now >= self.renew_at || self.session_is_due() {
            let session = self.session_to_write();
            return Some(Call::Renew { epoch, renew_seq, ttl: self.ttl(), session, sign: self.sign(now) });
        }
        self.wake_by(self.renew_at);
        let wanted = self.expecting || self.giving.is_some();
        (expected != wanted).then_some(Call::Expect { epoch, expected: wanted })
    }

    fn sending(&mut self, call: &Call, now: BootInstant) {
        match call {
            Call::Renew { ttl, session, .. } => {
                self.binds(*session);
                self.renew_at = now + *ttl / 5;
                let shorter = self.timing.fence(now, *ttl).max(now);
                if self.keeps(Rule::AShorterTtlCountsAtOnce) {
                    for lead in [&mut self.lead, &mut self.confirmed].into_iter().flatten() {
                        lead.fence = lead.fence.min(shorter);
                    }
                }
            }
            Call::Acquire { ttl, .. } | Call::Takeover { ttl, .. } => self.renew_at = now + *ttl / 5,
            Call::Handover { epoch, .. } if self.keeps(Rule::EndedWhenSent) => self.end(*epoch),
            _ => {}
        }
        // Each answer shows the row; what woke us is answered by it.
        self.woken = false;
    }

    fn beat(&mut self, now: BootInstant) -> Call {
        Call::Beat(self.sign(now))
    }

    fn sign(&mut self, now: BootInstant) -> Sign {
        let (beat, report) = self.beats.next(now);
        Sign {
            beat,
            ready: self.shows_ready(),
            leaving: self.leaving.is_some(),
            locked: self.me.file_lock && self.locked,
            report: report.then(|| self.report.clone()),
        }
    }

    /// Nothing happens under this epoch any more (I7).
    pub(super) fn end(&mut self, epoch: i64) {
        self.ended = self.ended.max(epoch);
        self.lead = None;
    }

    pub(super) fn wake_by(&mut self, at: BootInstant) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}
