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
//! * With [`crate::Delivery::Settled`] a poll's offset is no higher than the lowest update that the bot may still work on
//!   ([`unsettled`]). While there is one, Telegram is asked by short polls, and what the bot has acknowledged is cut out of the
//!   answers; then an ordinary poll with the bot's offset confirms it.
//! * A drain ends delivery, waits for the bot, confirms (R32). After it, and after a pod's end was announced, nothing is
//!   polled; a later epoch ends the former, or everybody who asked for it takes it back. With [`crate::Ordering::Fast`] it does not
//!   wait for handlers of what was acknowledged; that they have finished is told apart.
//!
//! `step` handles the event, then re-establishes all of the above from the state alone (`settle`), so a rule cannot be
//! forgotten on one path. The time given is the guard: a late wake-up, or a process that was stopped for a minute, meets
//! its fence before it does anything else.

mod drain;
mod polls;
mod presence;
mod trouble;
mod types;
mod unsettled;
mod work;

use std::sync::Arc;
use std::time::Duration;

use pollux_clock::BootInstant;

use self::drain::{Acknowledged, Phase};
use self::polls::{Polls, Requests};
use self::presence::{Change, Presence, earlier};
use self::trouble::Trouble;
pub use self::types::*;
use self::unsettled::Unsettled;
use self::work::Work;
use crate::{BotIdentity, DrainOutcome, Event, Leadership, PendingUpdates, Settings, Status, TokenProblem, TokenState};

/// After the end of the pod was announced, a bot that still polls is answered this late: it must not spin (R32.5).
const TERMINATED_WAIT: Duration = Duration::from_millis(250);

/// How long the first poll of a cold start waits for the pending updates to be dropped (R17).
const DROP_PATIENCE: Duration = Duration::from_secs(10);

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
    /// So many drains were asked for and not taken back.
    drains: usize,
    /// A drain is over, and the bot has until then to finish.
    finishing_until: Option<BootInstant>,
    requests: Requests,
    polls: Polls,
    last_poll_ended: Option<BootInstant>,
    work: Work,
    unsettled: Unsettled,
    acknowledged: Acknowledged,
    presence: Presence,
    trouble: Trouble,
    webhook_unwanted: bool,
    webhook_deleted_once: bool,
    webhook_active: bool,
    /// The epoch that began with a cold start, until something was delivered.
    cold: Option<i64>,
    /// The bot of this standby asked to drop its pending updates.
    drop_wished: bool,
    /// They are being dropped; what fails until then is given up, because a bot that gets nothing is worse.
    dropping_until: Option<BootInstant>,
    token: TokenState,
    token_problem: Option<TokenProblem>,
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
            drains: 0,
            finishing_until: None,
            requests: Requests::default(),
            polls: Polls::default(),
            last_poll_ended: None,
            work: Work::default(),
            unsettled: Unsettled::default(),
            acknowledged: Acknowledged::default(),
            presence: Presence::default(),
            trouble: Trouble::new(seed),
            webhook_unwanted: false,
            webhook_deleted_once: false,
            webhook_active: false,
            cold: None,
            drop_wished: false,
            dropping_until: None,
            token: TokenState::Unknown,
            token_problem: None,
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

    /// A call began or ended at `at`. What follows from it is done by the next step, before which it has to be told; if
    /// [`Self::minds_calls`], that has to be at once.
    pub fn called(&mut self, call: Call, at: BootInstant) {
        let counts = match call {
            Call::Started { counts, began } => {
                self.work.call_started(counts, began, &self.settings, at);
                counts
            }
            Call::Ended { counts, began } => {
                self.work.call_ended(counts, began, at);
                counts
            }
        };
        // A health check by `getMe` goes on when nobody asks for updates any more.
        if counts {
            self.presence.called(at);
        }
    }

    /// Whether anything waits for calls to begin or end. Nothing does while the bot is served: a bot makes thousands of them.
    pub fn minds_calls(&self) -> bool {
        let served = !self.requests.is_empty() && (self.lease.is_none() || self.polls.is_open());
        let settled = self.unsettled.is_empty() && self.finishing_until.is_none();
        !(served && settled && matches!(self.phase, Phase::Serving))
    }

    /// When [`Input::Tick`] is due though nothing else happens.
    pub fn wakeup(&self) -> Option<BootInstant> {
        self.wakeup
    }

    /// The fence of the lease, while this process leads: nothing may be written upstream or delivered from then on.
    pub fn fence(&self) -> Option<BootInstant> {
        self.lease.map(|lease| lease.fence)
    }

    /// The epoch that this process polls under, while it may.
    pub fn leading(&self) -> Option<i64> {
        self.lease.filter(|_| self.may_poll()).map(|lease| lease.epoch)
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
            token_problem: self.token_problem,
            bot,
            webhook_active: self.webhook_active,
            foreign_conflicts: self.trouble.foreign_conflicts(now),
            leading: self.leading(),
            draining: !matches!(self.phase, Phase::Serving),
            finishing: self.finishing_until.is_some(),
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
                    if let Some(first) = self.work.first_unacknowledged() {
                        self.unsettled.undelivered(first);
                    }
                    self.work.undelivered();
                }
            }
            Input::Call(call) => self.called(call, now),
            Input::Busy => self.work.busy(now),
            Input::Idle => self.work.idle(),
            Input::WebhookUnwanted { drop } => self.webhook_unwanted(drop),
            Input::ColdStart { epoch } => self.cold = Some(epoch),
            Input::Suppressed(method) => self.emit(Event::Suppressed { method }),
            Input::WebhookDeleted(done) => {
                self.dropping_until = None;
                // Only the wait that the webhook caused is over, and not one that Telegram asked for.
                if done && std::mem::take(&mut self.webhook_active) {
                    self.trouble.retry_now();
                }
            }
            Input::PollWritten(poll, at) => self.poll_written(poll, at),
            Input::PollEnded(poll, outcome) => self.poll_ended(poll, outcome, now),
            Input::TokenSeen(accepted) => self.token_seen(accepted),
            Input::TokenProblem(problem) => self.token_problem = problem,
            Input::TokenChanged => {
                self.token = TokenState::Accepted;
                self.token_problem = None;
                self.trouble.retry_now();
            }
            Input::Drain => {
                self.drains += 1;
                self.start_drain(now);
            }
            Input::Resume => self.resume(now),
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
        self.dropping_until = None;
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
                    self.drains = 0;
                }
                self.drop_if_cold(now);
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

    /// R17: whether this bot may drop its pending updates now.
    fn may_drop(&self) -> bool {
        let cold = self.lease.is_some_and(|lease| self.cold == Some(lease.epoch));
        self.lease.is_some()
            && self.may_poll()
            && match self.settings.pending_updates {
                PendingUpdates::Keep => false,
                PendingUpdates::ColdStart => cold,
                PendingUpdates::PassThrough => true,
            }
    }

    /// The bot asked to drop its pending updates, and they are kept. A bot asks that when it starts, and then it is a standby:
    /// its wish may come true when it leads.
    fn keep_pending(&mut self, method: &'static str) {
        if self.lease.is_none() && self.settings.pending_updates == PendingUpdates::ColdStart {
            self.drop_wished = true;
        } else {
            self.emit(Event::Suppressed { method });
        }
    }

    fn drop_if_cold(&mut self, now: BootInstant) {
        if !std::mem::take(&mut self.drop_wished) {
            return;
        }
        if self.may_drop() {
            self.dropping_until = Some(now + DROP_PATIENCE);
            self.actions.push(Action::DeleteWebhook { drop: true });
        } else {
            self.emit(Event::Suppressed { method: "getUpdates" });
        }
    }

    fn webhook_unwanted(&mut self, drop: bool) {
        self.webhook_unwanted = true;
        let drops = drop && self.may_drop();
        if drop && !drops {
            self.keep_pending("deleteWebhook");
        }
        if self.lease.is_some() && self.may_poll() {
            self.actions.push(Action::DeleteWebhook { drop: drops });
        }
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

    fn emit(&mut self, event: Event) {
        self.actions.push(Action::Emit(event));
    }

    /// Brings everything that follows from the state up to date; idempotent.
    fn settle(&mut self, now: BootInstant) {
        self.wakeup = None;
        self.wake_at(self.lease.map(|lease| lease.fence));
        self.pass_time(now);
        self.progress_drain(now);
        self.progress_finish(now);
        self.serve_newest(now);
        self.answer_due(now);
    }

    fn wake_at(&mut self, at: Option<BootInstant>) {
        self.wakeup = earlier(self.wakeup, at);
    }

    fn pass_time(&mut self, now: BootInstant) {
        let at_work = self.work.in_flight() + usize::from(self.work.busy_until(now).is_some());
        let (change, wake) = self.presence.pass(self.settings.poll_gap, at_work, now);
        self.changed(change);
        self.wake_at(wake);
        let settled = self.unsettled.pass(&mut self.work, &self.settings, now);
        self.wake_at(settled);
        self.wake_at(self.trouble.foreign_until().filter(|until| now < *until));
    }
}

/// The text of a list of update types, shared between a request and the polls made from it.
type AllowedUpdates = Arc<str>;
