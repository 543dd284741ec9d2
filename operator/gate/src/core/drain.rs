//! The planned way out (R32, R33).
//!
//! Nothing is delivered any more and no poll is open. Then, in this order: wait until the bot has asked again (so what
//! it was given is acknowledged), has no call open and has been quiet; give Telegram the last acknowledgement if it has
//! not had it; say so. A handover that need not keep the order ([`Ordering::Fast`]) waits for the acknowledgement alone,
//! and the end of the bot's work is told afterwards.

use std::time::Duration;

use pollux_clock::BootInstant;

use super::Core;
use super::types::{Action, Outcome, PollQuery};
use crate::{Delivery, DrainOutcome, Drained, Ordering};

/// A confirmation is applied when it arrives; its answer is not waited for longer than this.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(1);
/// A request that was open this long has reached the server, though its connection was reset then.
const SURELY_APPLIED: Duration = Duration::from_millis(500);
/// Time for a new connection.
const CONNECTING: Duration = Duration::from_millis(150);

/// Whether the gate polls, and why it does not.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// Nobody asked for a drain.
    #[default]
    Serving,
    /// A drain is going on.
    Draining(Drain),
    /// It is over; nothing is polled until a later epoch, or until it is taken back.
    Drained(Drained),
}

#[derive(Debug)]
pub(super) struct Drain {
    pub(super) started: BootInstant,
    pub(super) step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Until the bot has finished.
    Finishing,
    /// The acknowledgement is on its way.
    Confirming { outcome: DrainOutcome, tries: u8 },
}

/// What Telegram knows of the bot's acknowledgements.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// The last offset that the bot sent.
    by_bot: Option<i64>,
    /// The last offset that was written upstream, and when.
    written: Option<(i64, BootInstant)>,
    /// The last offset that surely arrived.
    applied: Option<i64>,
    /// The last offset that was written at any time.
    last_written: Option<i64>,
}

// === impl Acknowledged ===

impl Acknowledged {
    pub(super) fn by_bot(&mut self, offset: Option<i64>) {
        if offset.is_some_and(|offset| offset > 0) {
            self.by_bot = offset;
        }
    }

    pub(super) fn written(&mut self, offset: Option<i64>, at: BootInstant) {
        self.written = offset.filter(|offset| *offset > 0).map(|offset| (offset, at));
        self.last_written = offset;
    }

    /// How long the answer to a confirmation is worth waiting for. Telegram holds a repeated offset for three seconds, so
    /// there only its arrival can be waited for.
    pub(super) fn patience(&self, offset: i64) -> Duration {
        if self.last_written == Some(offset) { SURELY_APPLIED + CONNECTING } else { CONFIRM_PATIENCE }
    }

    /// The last written request was answered, or (`false`) its connection was reset or broke.
    pub(super) fn over(&mut self, answered: bool, now: BootInstant) {
        if let Some((offset, at)) = self.written.take()
            && (answered || now - at >= SURELY_APPLIED)
        {
            self.applied = Some(offset);
        }
    }

    /// The last offset that the bot sent.
    pub(super) fn last(&self) -> Option<i64> {
        self.by_bot
    }

    /// The offset that Telegram must still be told, if it may be told no higher one than `most`.
    pub(super) fn missing(&self, most: Option<i64>) -> Option<i64> {
        let offset = self.by_bot.map(|offset| most.map_or(offset, |most| offset.min(most)));
        offset.filter(|offset| self.applied != Some(*offset))
    }

    pub(super) fn bot_restarted(&mut self) {
        self.by_bot = None;
    }
}

// === impl Core ===

impl Core {
    pub(super) fn start_drain(&mut self, now: BootInstant) {
        match &self.phase {
            Phase::Draining(_) => {}
            Phase::Drained(drained) => {
                let drained = drained.clone();
                self.actions.push(Action::Drained(drained));
            }
            Phase::Serving => {
                let Some(lease) = self.lease else {
                    let drained = self.drained(DrainOutcome::Nothing, Duration::ZERO, true);
                    self.actions.push(Action::Drained(drained));
                    return;
                };
                self.drained_epoch = Some(lease.epoch);
                self.cancel_poll(now);
                // For the confirmation at its end.
                self.actions.push(Action::Warm);
                self.phase = Phase::Draining(Drain { started: now, step: Step::Finishing });
            }
        }
    }

    pub(super) fn terminate(&mut self, now: BootInstant) {
        self.terminated = true;
        // The confirmation of a drain is not cut short: it is the last thing that this process says to Telegram.
        if let Phase::Serving = self.phase {
            self.cancel_poll(now);
        }
        self.requests.all_due(now);
    }

    pub(super) fn progress_drain(&mut self, now: BootInstant) {
        let Phase::Draining(Drain { started, step: Step::Finishing }) = self.phase else {
            return;
        };
        let limit = started + self.settings.drain_timeout;
        let nothing_given = self.work.highest().is_none() && self.missing().is_none();
        let at_work = self.work.in_flight() > 0 || self.work.busy_until(now).is_some();
        let outcome = if nothing_given && !at_work {
            DrainOutcome::Nothing
        } else if self.presence.gone() {
            DrainOutcome::BotGone
        } else if self.let_go(now) {
            DrainOutcome::Complete
        } else if now >= limit {
            DrainOutcome::TimedOut
        } else {
            self.wake_at(Some(limit));
            return;
        };
        if outcome == DrainOutcome::Complete {
            // Whatever its age.
            self.unsettled.clear();
        }
        self.confirm(outcome, 1, now);
    }

    /// Whether the bot has done what a handover waits for.
    fn let_go(&mut self, now: BootInstant) -> bool {
        match self.settings.ordering {
            Ordering::Strict => self.finished(now),
            // What would be repeated in a crash until now is not repeated by the successor either.
            Ordering::Fast => self.acknowledged_all() && self.unsettled_none() || self.finished(now),
        }
    }

    fn acknowledged_all(&self) -> bool {
        self.presence.has_open_poll() && self.work.unacknowledged() == 0
    }

    fn unsettled_none(&self) -> bool {
        self.settings.delivery != Delivery::Settled || self.unsettled.is_empty()
    }

    /// R32.2: the bot asks again, so the last batch is acknowledged; no call is open; it has been quiet.
    fn finished(&mut self, now: BootInstant) -> bool {
        let quiet_at = self.work.quiet_at(&self.settings, now);
        if !self.acknowledged_all() || self.work.in_flight() > 0 {
            return false;
        }
        if let Some(until) = self.work.busy_until(now) {
            self.wake_at(Some(until));
            return false;
        }
        if now < quiet_at {
            self.wake_at(Some(quiet_at));
            return false;
        }
        true
    }

    /// R32.3: Telegram gets the bot's last acknowledgement, unless it has it.
    fn confirm(&mut self, outcome: DrainOutcome, tries: u8, now: BootInstant) {
        let Some(offset) = self.missing() else {
            self.finish_drain(outcome, true, now);
            return;
        };
        if let Phase::Draining(drain) = &mut self.phase {
            drain.step = Step::Confirming { outcome, tries };
        }
        let query = PollQuery { offset: Some(offset), limit: 1, timeout_seconds: 0, allowed_updates: None };
        let action = self.polls.confirm(query, self.acknowledged.patience(offset));
        self.actions.push(action);
    }

    pub(super) fn confirmation_ended(&mut self, outcome: &Outcome, now: BootInstant) {
        let Phase::Draining(Drain { step: Step::Confirming { outcome: ending, tries }, .. }) = self.phase else {
            return;
        };
        let done = matches!(outcome, Outcome::Updates(_)) || self.missing().is_none();
        if done || tries >= 2 {
            self.finish_drain(ending, done, now);
        } else {
            self.confirm(ending, tries + 1, now);
        }
    }

    pub(super) fn finish_drain(&mut self, outcome: DrainOutcome, confirmed: bool, now: BootInstant) {
        let Phase::Draining(Drain { started, .. }) = self.phase else {
            return;
        };
        let drained = self.drained(outcome, now - started, confirmed);
        self.phase = Phase::Drained(drained.clone());
        let fast = self.settings.ordering == Ordering::Fast && outcome == DrainOutcome::Complete;
        self.finishing_until = fast.then_some(started + self.settings.drain_timeout);
        self.actions.push(Action::Drained(drained));
    }

    /// The acknowledgement that Telegram has not; of unsettled updates it gets none.
    fn missing(&self) -> Option<i64> {
        self.acknowledged.missing(self.lag(self.acknowledged.last()))
    }

    fn unsettled_acknowledged(&self) -> usize {
        let last = self.acknowledged.last();
        self.lag(last).and(last).map_or(0, |offset| self.unsettled.below(offset))
    }

    /// After a drain that did not wait for it: whether the bot has finished now.
    pub(super) fn progress_finish(&mut self, now: BootInstant) {
        let Some(limit) = self.finishing_until else {
            return;
        };
        if now >= limit || self.presence.gone() || self.finished(now) {
            self.finishing_until = None;
        } else {
            self.wake_at(Some(limit));
        }
    }

    /// The lease was kept: what one drain ended goes on, unless somebody else wants it drained too.
    pub(super) fn resume(&mut self, now: BootInstant) {
        self.drains = self.drains.saturating_sub(1);
        if self.drains > 0 {
            return;
        }
        self.drained_epoch = None;
        if let Phase::Draining(_) | Phase::Drained(_) = self.phase {
            self.cancel_poll(now);
            self.phase = Phase::Serving;
            self.finishing_until = None;
        }
    }

    fn drained(&self, outcome: DrainOutcome, duration: Duration, confirmed: bool) -> Drained {
        Drained {
            outcome,
            duration,
            last_poll_ended: self.last_poll_ended,
            unacknowledged: self.work.unacknowledged() + self.unsettled_acknowledged(),
            owed: self.work.owed(),
            confirmed,
        }
    }
}
