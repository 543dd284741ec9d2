//! The bot's requests and the one poll that serves the newest of them (R4-R11).

use std::time::Duration;

use pollux_clock::BootInstant;

use super::types::{Action, Outcome, PollArgs, PollId, PollQuery, Reply, RequestId};
use super::{AllowedUpdates, Core, Event};
use crate::TokenState;
use crate::core::TERMINATED_WAIT;

/// Telegram's longest poll.
const LONGEST: i64 = 50;
/// Telegram makes a short poll that repeats its offset within three seconds a poll of three seconds; so does the gate.
const HAMMER: Duration = Duration::from_secs(3);
/// Less than this is not worth another poll: the request is answered, and the bot asks anew.
const USEFUL: Duration = Duration::from_millis(900);
/// An answer of Telegram may come this much later than the bot's time-out (its way through the network). Clients wait
/// at least 5 s longer than they ask for.
const GRACE: Duration = Duration::from_secs(1);
/// A short poll has no time-out of its own to be late for, but may need a new connection.
const GRACE_OF_SHORT: Duration = Duration::from_secs(4);
/// After this much more than its time-out, an upstream poll has failed (R12).
const UPSTREAM_SLACK: Duration = Duration::from_secs(10);
/// An offset this far above the last delivery would be taken by Telegram, and delete updates that nobody has seen (R9).
const TAIL: i64 = 10;

#[derive(Debug)]
struct Request {
    id: RequestId,
    args: PollArgs,
    wait: Duration,
    due: BootInstant,
    /// It was asked upstream at least once.
    asked: bool,
}

/// The held requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: Vec<Request>,
    newest: Option<RequestId>,
    last_asked: Option<(i64, BootInstant)>,
    allowed_updates: Option<AllowedUpdates>,
    pub(super) last_delivered: Option<RequestId>,
}

#[derive(Debug)]
struct Open {
    id: PollId,
    /// Whom it serves; `None`: the confirmation of a drain.
    request: Option<RequestId>,
    query: PollQuery,
    written: bool,
}

/// The upstream poll.
#[derive(Debug, Default)]
pub(super) struct Polls {
    last_id: u64,
    open: Option<Open>,
}

// === impl Requests ===

impl Requests {
    pub(super) fn remove(&mut self, id: RequestId) -> bool {
        let before = self.open.len();
        self.open.retain(|request| request.id != id);
        before != self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Everything that is held is answered now.
    pub(super) fn all_due(&mut self, now: BootInstant) {
        for request in &mut self.open {
            request.due = now;
        }
    }

    fn newest(&mut self) -> Option<&mut Request> {
        let newest = self.newest?;
        self.open.iter_mut().find(|request| request.id == newest)
    }

    fn get(&self, id: RequestId) -> Option<&Request> {
        self.open.iter().find(|request| request.id == id)
    }

    /// R4: what the bot asks for within Telegram's limits and ours, and Telegram's own rule against hammering.
    fn wait(&mut self, args: &PollArgs, longest: Duration, now: BootInstant) -> Duration {
        let offset = args.offset.unwrap_or_default();
        let asked = Duration::from_secs(args.timeout.unwrap_or_default().clamp(0, LONGEST).unsigned_abs());
        let again = self.last_asked.is_some_and(|(last, at)| last == offset && now - at < HAMMER);
        self.last_asked = Some((offset, now));
        let wait = if again { asked.max(HAMMER) } else { asked };
        wait.min(longest)
    }
}

// === impl Polls ===

impl Polls {
    pub(super) fn open(&mut self, request: Option<RequestId>, query: PollQuery, patience: Duration) -> Action {
        debug_assert!(self.open.is_none(), "two polls at once");
        self.last_id += 1;
        let id = PollId(self.last_id);
        self.open = Some(Open { id, request, query: query.clone(), written: false });
        Action::Poll { id, query, patience }
    }

    fn ended(&mut self, id: PollId) -> Option<Open> {
        self.open.take_if(|open| open.id == id)
    }
}

// === impl Core: requests ===

impl Core {
    pub(super) fn asked(&mut self, id: RequestId, mut args: PollArgs, now: BootInstant) {
        if args.offset.is_some_and(|offset| offset < 0) {
            // R17: a negative offset deletes updates.
            self.presence.called(now);
            self.emit(Event::Suppressed { method: "getUpdates" });
            self.actions.push(Action::Answer(id, Reply::Empty));
            return;
        }
        let wait = self.requests.wait(&args, self.settings.long_poll, now);
        let hurried = args.timeout.unwrap_or_default() <= 0 || args.limit == Some(1);
        args.offset = self.sane_offset(args.offset);
        if args.allowed_updates.is_some() {
            self.requests.allowed_updates.clone_from(&args.allowed_updates);
        }
        self.presence.poll_opened(now);
        self.work.asked(args.offset);
        self.acknowledged.by_bot(args.offset);
        let due = match (self.terminated, hurried) {
            (false, _) => now + wait,
            (true, false) => now + wait.min(TERMINATED_WAIT),
            (true, true) => now,
        };
        self.requests.open.push(Request { id, args, wait, due, asked: false });
        self.requests.newest = Some(id);
        if !self.terminated && self.lease.is_none() {
            self.actions.push(Action::Warm);
        }
    }

    /// R9: an offset slightly above what was delivered would make Telegram delete what the bot has not seen.
    fn sane_offset(&self, offset: Option<i64>) -> Option<i64> {
        let next = self.work.highest().map(|highest| highest + 1);
        match (offset, next) {
            (Some(offset), Some(next)) if offset > next && offset <= next + TAIL => Some(next),
            _ => offset,
        }
    }

    fn answer(&mut self, id: RequestId, reply: Reply, now: BootInstant) {
        if self.requests.remove(id) {
            self.presence.poll_closed(now);
            self.actions.push(Action::Answer(id, reply));
        }
    }

    /// Requests whose time is over get an empty answer (R4); the poll of such a request is cancelled.
    pub(super) fn answer_due(&mut self, now: BootInstant) {
        let served = self.polls.open.as_ref().and_then(|open| open.request);
        let mut due = Vec::new();
        let mut next = None;
        for request in &self.requests.open {
            let at = match (served == Some(request.id), request.wait.is_zero()) {
                (false, _) => request.due,
                (true, false) => request.due + GRACE,
                (true, true) => request.due + GRACE_OF_SHORT,
            };
            if now >= at {
                due.push(request.id);
            } else {
                next = super::earlier(next, Some(at));
            }
        }
        self.wake_at(next);
        for id in due {
            if served == Some(id) {
                self.cancel_poll(now);
            }
            self.answer(id, Reply::Empty, now);
        }
    }
}

// === impl Core: the poll ===

impl Core {
    /// R6, R7, R10: the newest request is polled for, whenever it may be.
    pub(super) fn serve_newest(&mut self, now: BootInstant) {
        let Some(lease) = self.lease.filter(|_| self.may_poll()) else {
            return;
        };
        let fence = lease.fence;
        if self.adopt_or_cancel(now) {
            return;
        }
        let Some(request) = self.requests.newest() else {
            return;
        };
        let left = request.due - now;
        if request.asked && left < USEFUL {
            return;
        }
        if let Some(retry) = self.trouble.retry_at().filter(|retry| now < *retry) {
            self.wake_at(Some(retry));
            return;
        }
        if let Some(until) = self.work.hold_until(&self.settings, now) {
            self.wake_at(Some(until));
            return;
        }
        let Some((id, query)) = self.query(fence, now) else {
            return;
        };
        let patience = Duration::from_secs(query.timeout_seconds.into()) + UPSTREAM_SLACK;
        let action = self.polls.open(Some(id), query, patience);
        self.actions.push(action);
    }

    fn query(&mut self, fence: BootInstant, now: BootInstant) -> Option<(RequestId, PollQuery)> {
        let most = self.work.room(&self.settings);
        let allowed_updates = self.requests.allowed_updates.clone();
        let request = self.requests.newest()?;
        request.asked = true;
        // The tenth makes up for the time since the request arrived: a second less would be a gap without a poll.
        let left = (request.due - now + Duration::from_millis(100)).as_secs();
        let timeout = if request.wait.is_zero() { 0 } else { left };
        // Not beyond the fence, so that a process that is stopped leaves no poll behind; but no row of short polls.
        let timeout = timeout.min((fence - now).as_secs().max(1));
        let limit = request.args.limit.filter(|limit| (1..=100).contains(limit)).unwrap_or(100);
        let query = PollQuery {
            offset: request.args.offset,
            limit: u16::try_from(limit).unwrap_or(100).min(most),
            timeout_seconds: u16::try_from(timeout).unwrap_or(0),
            allowed_updates,
        };
        Some((request.id, query))
    }

    /// An open poll is kept if it serves the newest request, or asks for the same; else it is cancelled.
    fn adopt_or_cancel(&mut self, now: BootInstant) -> bool {
        let Some(open) = self.polls.open.as_mut() else {
            return false;
        };
        let subscribed = open.query.allowed_updates == self.requests.allowed_updates;
        let newest = self.requests.newest();
        let same = newest.as_ref().is_some_and(|newest| {
            !newest.wait.is_zero() && newest.args.offset == open.query.offset && newest.args.limit != Some(1)
        });
        match newest {
            Some(newest) if open.request == Some(newest.id) => return true,
            Some(newest) if same && subscribed => {
                newest.asked = true;
                open.request = Some(newest.id);
                return true;
            }
            _ => {}
        }
        self.cancel_poll(now);
        false
    }

    pub(super) fn cancel_poll(&mut self, now: BootInstant) {
        let Some(open) = self.polls.open.take() else {
            return;
        };
        if open.written {
            self.last_poll_ended = Some(now);
        }
        self.acknowledged.over(false, now);
        self.actions.push(Action::Cancel(open.id));
    }

    pub(super) fn poll_written(&mut self, id: PollId, at: BootInstant) {
        let Some(open) = self.polls.open.as_mut().filter(|open| open.id == id) else {
            return;
        };
        open.written = true;
        let offset = open.query.offset;
        let serves = open.request.is_some();
        self.acknowledged.written(offset, at);
        if let Some(lease) = self.lease.as_mut().filter(|lease| serves && !lease.first_poll_seen) {
            lease.first_poll_seen = true;
            let epoch = lease.epoch;
            self.emit(Event::FirstPoll { epoch, at });
        }
    }

    pub(super) fn poll_ended(&mut self, id: PollId, outcome: Outcome, now: BootInstant) {
        let Some(open) = self.polls.ended(id) else {
            return;
        };
        if open.written {
            self.last_poll_ended = Some(now);
        }
        let applied = matches!(outcome, Outcome::Updates(_) | Outcome::Conflict);
        self.acknowledged.over(applied, now);
        let Some(request) = open.request else {
            self.confirmation_ended(&outcome, now);
            return;
        };
        match outcome {
            Outcome::Updates(ids) => self.polled(request, &ids, now),
            Outcome::Conflict => self.conflict(now),
            Outcome::WebhookActive => self.webhook_met(now),
            Outcome::FloodWait(wait) => self.trouble.flood_wait(wait, now),
            Outcome::Unauthorized => {
                self.trouble.unauthorized(now);
                self.token_seen(false);
            }
            Outcome::Failed => self.trouble.failed(now),
            Outcome::Stale => {}
        }
    }

    /// R8: the lease is valid here (`step` has looked at the fence), and a drain would have cancelled the poll.
    fn polled(&mut self, id: RequestId, ids: &[i64], now: BootInstant) {
        self.trouble.answered();
        self.token = TokenState::Accepted;
        self.webhook_active = false;
        let Some(request) = self.requests.get(id) else {
            return;
        };
        let worthwhile = !request.wait.is_zero() && request.due - now >= USEFUL;
        if !ids.is_empty() {
            self.requests.last_delivered = Some(id);
            self.work.delivered(ids, now);
            self.answer(id, Reply::Updates, now);
        } else if !worthwhile {
            self.answer(id, Reply::Empty, now);
        }
    }

    fn conflict(&mut self, now: BootInstant) {
        let led_for = self.lease.map_or(Duration::MAX, |lease| now - lease.since);
        let known = self.trouble.foreign_until().is_some_and(|until| now < until);
        if self.trouble.conflict(led_for, self.settings.late_request_window, now) {
            self.emit(Event::LateRequest);
        } else if !known {
            self.emit(Event::ForeignPoller);
        }
    }

    /// R18: a bot behind some gate wanted no webhook, so one left-over webhook is deleted; else a person must decide.
    fn webhook_met(&mut self, now: BootInstant) {
        self.trouble.webhook(now);
        self.webhook_active = true;
        if self.webhook_unwanted && !self.webhook_deleted_once {
            self.webhook_deleted_once = true;
            self.actions.push(Action::DeleteWebhook);
        }
    }
}
