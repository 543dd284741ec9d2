//! The rules of the gate as a state machine: [`Core::step`] takes what happened and when, and says what to do. No I/O, no
//! clock of its own; [`Core::wakeup`] says when it wants to be called though nothing happens.
//!
//! # Specification
//!
//! A **request** is a `getUpdates` of the bot, a **poll** is one to Telegram.
//!
//! * Every request is answered at its own time-out at the latest: with updates, or with none. Never with an error (R4, R5).
//! * The newest request is the one that is served; older ones wait for their time-out (R10).
//! * A poll is open only while this process leads, its fence is ahead, no drain has begun and a request is held; at most
//!   one (R6-R10). It asks for what the bot asked for. When any of these ends, it is cancelled.
//! * What a poll brought is delivered if all of this still holds; else it is dropped, and Telegram gives it to the next
//!   leader (R8). Nothing is kept across polls (R29).
//! * What Telegram refuses is the gate's business: it waits and asks again, while the bot is held (R11, R25, R26).
//! * A drain ends delivery, waits for the bot, confirms (R32). After it, and after a pod's end was announced, nothing is
//!   polled; only a later epoch ends the former.
//!
//! `step` handles the event, then re-establishes all of the above from the state alone (`settle`), so a rule cannot be
//! forgotten on one path. The time given is the guard: a late wake-up, or a process that was stopped for a minute, meets
//! its fence before it does anything else.

mod drain;
mod polls;
mod presence;
mod trouble;
mod types;
mod work;

use std::sync::Arc;
use std::time::Duration;

use pollux_clock::BootInstant;

use self::drain::{Acknowledged, Drain, Phase, Step};
use self::polls::{Polls, Requests};
use self::presence::{Change, Presence, earlier};
use self::trouble::Trouble;
pub use self::types::*;
use self::work::Work;
use crate::{BotIdentity, DrainOutcome, Drained, Event, Leadership, Settings, Status, TokenState};

/// After the end of the pod was announced, a bot that still polls is answered this late: it must not spin (R32.5).
const TERMINATED_WAIT: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug)]
struct Lease {
    epoch: i64,
    fence: BootInstant,
    since: BootInstant,
    first_poll_seen: bool,
}

/// The state of one bot's gate.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    lease: Option<Lease>,
    phase: Phase,
    terminated: bool,
    drained_epoch: Option<i64>,
    requests: Requests,
    polls: Polls,
    last_poll_ended: Option<BootInstant>,
    work: Work,
    acknowledged: Acknowledged,
    presence: Presence,
    trouble: Trouble,
    webhook_unwanted: bool,
    webhook_deleted_once: bool,
    webhook_active: bool,
    token: TokenState,
    wakeup: Option<BootInstant>,
    actions: Vec<Action>,
}

// === impl Core ===

impl Core {
    /// A standby. `seed` is for the jitter of retries.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            lease: None,
            phase: Phase::Serving,
            terminated: false,
            drained_epoch: None,
            requests: Requests::default(),
            polls: Polls::default(),
            last_poll_ended: None,
            work: Work::default(),
            acknowledged: Acknowledged::default(),
            presence: Presence::default(),
            trouble: Trouble::new(seed),
            webhook_unwanted: false,
            webhook_deleted_once: false,
            webhook_active: false,
            token: TokenState::Unknown,
            wakeup: None,
            actions: Vec::new(),
        }
    }

    /// Takes what happened at `now`, says what to do.
    pub fn step(&mut self, input: Input, now: BootInstant) -> Vec<Action> {
        self.lapse(now);
        self.handle(input, now);
        self.settle(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Input::Tick`] is due though nothing else happens.
    pub fn wakeup(&self) -> Option<BootInstant> {
        self.wakeup
    }

    /// The fence of the lease, while this process leads: nothing may be written upstream or delivered from then on.
    pub fn fence(&self) -> Option<BootInstant> {
        self.lease.map(|lease| lease.fence)
    }

    /// A snapshot for the owner. `bot` is what the edge knows from `getMe`.
    pub fn status(&self, bot: Option<BotIdentity>, now: BootInstant) -> Status {
        Status {
            bot_ready: self.presence.latched(),
            bot_polling: self.presence.polling(now),
            bot_alive: self.presence.alive(),
            bot_missing: self.presence.missing(),
            deaf: self.presence.deaf(),
            token: self.token,
            bot,
            webhook_active: self.webhook_active,
            foreign_conflicts: self.trouble.foreign_conflicts(now),
            leading: self.lease.filter(|_| self.may_poll()).map(|lease| lease.epoch),
            draining: !matches!(self.phase, Phase::Serving),
            calls_in_flight: self.work.in_flight(),
        }
    }

    /// Updates that the bot was given and has not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.work.unacknowledged()
    }

    /// The last delivery to the bot or completed call of it.
    pub fn last_activity(&self) -> Option<BootInstant> {
        self.work.last_activity()
    }

    fn handle(&mut self, input: Input, now: BootInstant) {
        match input {
            Input::Leadership(leadership) => self.lead(leadership, now),
            Input::Settings(settings) => self.settings = settings,
            Input::Connected(connection) => {
                let change = self.presence.connected(connection, now);
                self.changed(change);
            }
            Input::Disconnected(connection, how) => self.presence.disconnected(connection, how, now),
            Input::Poll { request, args } => self.asked(request, args, now),
            Input::Abandoned(request) => {
                if self.requests.remove(request) {
                    self.presence.poll_closed(now);
                }
            }
            Input::Undelivered(request) => {
                if self.requests.last_delivered == Some(request) {
                    self.work.undelivered();
                }
            }
            Input::CallStarted { counts } => {
                self.work.call_started(counts, &self.settings, now);
                self.called(counts, now);
            }
            Input::CallEnded { counts } => {
                self.work.call_ended(counts, now);
                self.called(counts, now);
            }
            Input::WebhookUnwanted => {
                self.webhook_unwanted = true;
                if self.lease.is_some() && self.may_poll() {
                    self.actions.push(Action::DeleteWebhook);
                }
            }
            Input::Suppressed(method) => self.emit(Event::Suppressed { method }),
            Input::WebhookDeleted(done) => {
                // Only the wait that the webhook caused is over, and not one that Telegram asked for.
                if done && std::mem::take(&mut self.webhook_active) {
                    self.trouble.retry_now();
                }
            }
            Input::PollWritten(poll, at) => self.poll_written(poll, at),
            Input::PollEnded(poll, outcome) => self.poll_ended(poll, outcome, now),
            Input::TokenSeen(accepted) => self.token_seen(accepted),
            Input::TokenChanged => {
                self.token = TokenState::Unknown;
                self.trouble.retry_now();
            }
            Input::Drain => self.start_drain(now),
            Input::Terminate => self.terminate(now),
            Input::Tick => {}
        }
    }

    /// R13: at the fence this process is a standby, whatever else it was told.
    fn lapse(&mut self, now: BootInstant) {
        if self.lease.is_some_and(|lease| now >= lease.fence) {
            self.stand_by(now);
        }
    }

    fn stand_by(&mut self, now: BootInstant) {
        self.lease = None;
        self.cancel_poll(now);
        if !self.requests.is_empty() && !self.terminated {
            // The lease may come back at any moment.
            self.actions.push(Action::Warm);
        }
        if let Phase::Draining(_) = self.phase {
            self.finish_drain(DrainOutcome::FenceLost, false, now);
        }
    }

    fn lead(&mut self, leadership: Leadership, now: BootInstant) {
        match leadership {
            Leadership::Leader { epoch, fence } if now < fence => {
                if let Some(lease) = self.lease.as_mut().filter(|lease| lease.epoch == epoch) {
                    lease.fence = fence;
                    return;
                }
                // Another epoch is another leadership: polls and waits of the earlier one do not belong to it.
                self.stand_by(now);
                self.lease = Some(Lease { epoch, fence, since: now, first_poll_seen: false });
                self.trouble.leadership_began();
                self.webhook_deleted_once = false;
                if self.drained_epoch.is_none_or(|drained| epoch > drained) {
                    self.phase = Phase::Serving;
                }
            }
            _ => {
                self.stand_by(now);
                self.phase = Phase::Serving;
            }
        }
    }

    /// Whether polling is this process's business as long as its fence is ahead.
    fn may_poll(&self) -> bool {
        let drained = self.lease.is_some_and(|lease| self.drained_epoch.is_some_and(|epoch| lease.epoch <= epoch));
        matches!(self.phase, Phase::Serving) && !self.terminated && !drained
    }

    fn changed(&mut self, change: Option<Change>) {
        match change {
            Some(Change::Gone) => {
                // What it acknowledged stays acknowledged: a drain still confirms that.
                self.work.restarted();
                self.emit(Event::BotGone);
            }
            Some(Change::Back) => {
                self.acknowledged.bot_restarted();
                self.emit(Event::BotBack);
            }
            Some(Change::Deaf) => self.emit(Event::BotDeaf),
            None => {}
        }
    }

    fn token_seen(&mut self, accepted: bool) {
        let token = if accepted { TokenState::Accepted } else { TokenState::Rejected };
        if token == TokenState::Rejected && self.token != token {
            self.emit(Event::TokenRejected);
        }
        if accepted && self.token == TokenState::Rejected {
            self.trouble.retry_now();
        }
        self.token = token;
    }

    /// A health check by `getMe` goes on when nobody asks for updates any more.
    fn called(&mut self, counts: bool, now: BootInstant) {
        if counts {
            self.presence.called(now);
        }
    }

    fn emit(&mut self, event: Event) {
        self.actions.push(Action::Emit(event));
    }

    /// Brings everything that follows from the state up to date; idempotent.
    fn settle(&mut self, now: BootInstant) {
        self.wakeup = None;
        self.wake_at(self.lease.map(|lease| lease.fence));
        self.pass_time(now);
        self.progress_drain(now);
        self.serve_newest(now);
        self.answer_due(now);
    }

    fn wake_at(&mut self, at: Option<BootInstant>) {
        self.wakeup = earlier(self.wakeup, at);
    }

    fn pass_time(&mut self, now: BootInstant) {
        let (change, wake) = self.presence.pass(self.settings.poll_gap, self.work.in_flight(), now);
        self.changed(change);
        self.wake_at(wake);
        self.wake_at(self.trouble.foreign_until().filter(|until| now < *until));
    }

    fn start_drain(&mut self, now: BootInstant) {
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

    fn terminate(&mut self, now: BootInstant) {
        self.terminated = true;
        // The confirmation of a drain is not cut short: it is the last thing that this process says to Telegram.
        if let Phase::Serving = self.phase {
            self.cancel_poll(now);
        }
        self.requests.all_due(now);
    }

    fn progress_drain(&mut self, now: BootInstant) {
        let Phase::Draining(Drain { started, step: Step::Finishing }) = self.phase else {
            return;
        };
        let limit = started + self.settings.drain_timeout;
        let nothing_given = self.work.highest().is_none() && self.acknowledged.missing().is_none();
        let outcome = if nothing_given && self.work.in_flight() == 0 {
            DrainOutcome::Nothing
        } else if self.presence.gone() {
            DrainOutcome::BotGone
        } else if self.finished(now) {
            DrainOutcome::Complete
        } else if now >= limit {
            DrainOutcome::TimedOut
        } else {
            self.wake_at(Some(limit));
            return;
        };
        self.confirm(outcome, 1, now);
    }

    /// R32.2: the bot asks again, so the last batch is acknowledged; no call is open; it has been quiet.
    fn finished(&mut self, now: BootInstant) -> bool {
        let quiet_at = self.work.quiet_at(&self.settings, now);
        if !self.presence.has_open_poll() || self.work.unacknowledged() > 0 || self.work.in_flight() > 0 {
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
        let Some(offset) = self.acknowledged.missing() else {
            self.finish_drain(outcome, true, now);
            return;
        };
        if let Phase::Draining(drain) = &mut self.phase {
            drain.step = Step::Confirming { outcome, tries };
        }
        let query = PollQuery { offset: Some(offset), limit: 1, timeout_seconds: 0, allowed_updates: None };
        let action = self.polls.open(None, query, self.acknowledged.patience(offset));
        self.actions.push(action);
    }

    fn confirmation_ended(&mut self, outcome: &Outcome, now: BootInstant) {
        let Phase::Draining(Drain { step: Step::Confirming { outcome: ending, tries }, .. }) = self.phase else {
            return;
        };
        let done = matches!(outcome, Outcome::Updates(_)) || self.acknowledged.missing().is_none();
        if done || tries >= 2 {
            self.finish_drain(ending, done, now);
        } else {
            self.confirm(ending, tries + 1, now);
        }
    }

    fn finish_drain(&mut self, outcome: DrainOutcome, confirmed: bool, now: BootInstant) {
        let Phase::Draining(Drain { started, .. }) = self.phase else {
            return;
        };
        let drained = self.drained(outcome, now - started, confirmed);
        self.phase = Phase::Drained(drained.clone());
        self.actions.push(Action::Drained(drained));
    }

    fn drained(&self, outcome: DrainOutcome, duration: Duration, confirmed: bool) -> Drained {
        Drained {
            outcome,
            duration,
            last_poll_ended: self.last_poll_ended,
            unacknowledged: self.work.unacknowledged(),
            owed: self.work.owed(),
            confirmed,
        }
    }
}

/// The text of a list of update types, shared between a request and the polls made from it.
type AllowedUpdates = Arc<str>;
