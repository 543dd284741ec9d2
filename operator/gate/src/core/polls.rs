//! The bot's requests and the one poll that serves the newest of them (R4-R11).

use std::time::Duration;

use pollux_clock::BootInstant;

use super::types::{Action, Outcome, PollArgs, PollId, PollQuery, Reply, RequestId};
use super::{AllowedUpdates, Core, Event};
use crate::core::TERMINATED_WAIT;
use crate::{Delivery, TokenState};

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
/// While updates are unsettled, Telegram is asked this often. It answers at once, because it still has them; below half a second
/// it would answer with one update only.
const PACE: Duration = Duration::from_millis(600);
/// The most updates of one answer.
const LARGEST_ANSWER: usize = 100;
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
    /// The offset that the bot sent.
    wanted: Option<i64>,
    written: bool,
}

/// The upstream poll.
#[derive(Debug, Default)]
pub(super) struct Polls {
    last_id: u64,
    open: Option<Open>,
    /// When the last one was asked, as far as is known.
    last_asked: Option<BootInstant>,
}

// === impl PollArgs ===

impl PollArgs {
    /// As many updates as the bot takes.
    fn most(&self) -> usize {
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok());
        limit.filter(|limit| (1..=LARGEST_ANSWER).contains(limit)).unwrap_or(LARGEST_ANSWER)
    }
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
        let asked = asked.min(longest);
        if again { asked.max(HAMMER) } else { asked }
    }
}

// === impl Polls ===

impl Polls {
    /// A confirmation serves no request.
    pub(super) fn confirm(&mut self, query: PollQuery, patience: Duration) -> Action {
        self.open(None, query.offset, query, patience)
    }

    fn open(
        &mut self,
        request: Option<RequestId>,
        wanted: Option<i64>,
        query: PollQuery,
        patience: Duration,
    ) -> Action {
        debug_assert!(self.open.is_none(), "two polls at once");
        self.last_id += 1;
        let id = PollId(self.last_id);
        self.open = Some(Open { id, request, query: query.clone(), wanted, written: false });
        Action::Poll { id, query, patience }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    fn ended(&mut self, id: PollId) -> Option<Open> {
        self.open.take_if(|open| open.id == id)
    }
}

// === impl Core: requests ===

impl Core {
    pub(super) fn asked(&mut self, id: RequestId, mut args: PollArgs, now: BootInstant) {
        if args.offset.is_some_and(|offset| offset < 0) && !self.may_drop() {
            // R17: a negative offset deletes updates.
            self.presence.called(now);
            self.keep_pending("getUpdates");
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
        if let Some(until) = self.dropping_until.filter(|until| now < *until) {
            self.wake_at(Some(until));
            return;
        }
        if self.adopt_or_cancel(now) {
            return;
        }
        let Some(request) = self.requests.newest() else {
            return;
        };
        let (id, wanted) = (request.id, request.args.offset);
        if request.asked && request.due - now < USEFUL {
            return;
        }
        if let Some(retry) = self.trouble.retry_at().filter(|retry| now < *retry) {
            self.wake_at(Some(retry));
            return;
        }
        let lag = self.lag(wanted);
        let pace = self.polls.last_asked.map(|last| last + PACE).filter(|at| lag.is_some() && now < *at);
        if let Some(until) = pace.or_else(|| self.hold(wanted, now)) {
            self.wake_at(Some(until));
            return;
        }
        let Some(query) = self.query(fence, now) else {
            return;
        };
        let patience = Duration::from_secs(query.timeout_seconds.into()) + UPSTREAM_SLACK;
        self.polls.last_asked = Some(now);
        let action = self.polls.open(Some(id), wanted, query, patience);
        self.actions.push(action);
    }

    /// What Telegram is told instead of the bot's offset, while something below it is unsettled.
    pub(super) fn lag(&self, offset: Option<i64>) -> Option<i64> {
        let offset = offset.filter(|offset| *offset > 0 && self.settings.delivery == Delivery::Settled)?;
        self.unsettled.lowest().filter(|lowest| *lowest < offset)
    }

    /// R27: until when a bot that asks from `offset` on gets nothing, because it has enough to do.
    fn hold(&mut self, offset: Option<i64>, now: BootInstant) -> Option<BootInstant> {
        let full = self.vacancy(offset) == 0;
        if let Some(until) = self.work.hold_until(full, &self.settings, now) {
            return Some(until);
        }
        if !full {
            return None;
        }
        // What was owed may have been forgiven just now.
        let next = self.unsettled.pass(&mut self.work, &self.settings, now);
        next.filter(|_| self.vacancy(offset) == 0)
    }

    /// How many more updates may be unsettled. Those that the bot asks for again are not counted.
    fn vacancy(&self, offset: Option<i64>) -> usize {
        let most = self.settings.max_unsettled.map_or(usize::MAX, |most| usize::from(most).max(1));
        let most = if self.settings.delivery == Delivery::Settled { most.min(LARGEST_ANSWER) } else { most };
        most.saturating_sub(self.unsettled.below(offset.unwrap_or_default()))
    }

    fn query(&mut self, fence: BootInstant, now: BootInstant) -> Option<PollQuery> {
        let allowed_updates = self.requests.allowed_updates.clone();
        let offset = self.requests.newest()?.args.offset;
        let most = usize::from(self.work.room(&self.settings)).min(self.vacancy(offset));
        let lag = self.lag(offset);
        // Those that the bot has acknowledged come again, before the new ones.
        let hidden = lag.and(offset).map_or(0, |offset| self.unsettled.below(offset));
        let request = self.requests.newest()?;
        request.asked = true;
        // The tenth makes up for the time since the request arrived: a second less would be a gap without a poll.
        let left = (request.due - now + Duration::from_millis(100)).as_secs();
        let timeout = if request.wait.is_zero() || lag.is_some() { 0 } else { left };
        // At the fence the poll is cancelled here, so it may be longer. What a stopped process leaves behind at Telegram is over
        // when a successor that waits for the lease's time to live begins; an earlier one ends it by its own first poll.
        let timeout = timeout.min((fence - now).max(self.settings.late_request_window).as_secs().max(1));
        let limit = (hidden + request.args.most().min(most)).min(LARGEST_ANSWER);
        Some(PollQuery {
            offset: lag.or(offset),
            limit: u16::try_from(limit).unwrap_or(1),
            timeout_seconds: u16::try_from(timeout).unwrap_or(0),
            allowed_updates,
        })
    }

    /// An open poll is kept if it serves the newest request, or asks for the same; else it is cancelled.
    fn adopt_or_cancel(&mut self, now: BootInstant) -> bool {
        let Some(open) = self.polls.open.as_mut() else {
            return false;
        };
        let subscribed = open.query.allowed_updates == self.requests.allowed_updates;
        let newest = self.requests.newest();
        let same = newest.as_ref().is_some_and(|newest| {
            !newest.wait.is_zero() && newest.args.offset == open.wanted && newest.args.limit != Some(1)
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
        self.polls.last_asked = Some(at);
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
            Outcome::Updates(ids) => {
                let hides = open.query.offset != open.wanted;
                self.polled(request, &ids, hides, now);
            }
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
    fn polled(&mut self, id: RequestId, ids: &[i64], hides: bool, now: BootInstant) {
        self.trouble.answered();
        self.token = TokenState::Accepted;
        self.webhook_active = false;
        let Some(request) = self.requests.get(id) else {
            return;
        };
        let worthwhile = !request.wait.is_zero() && request.due - now >= USEFUL;
        let offset = request.args.offset.filter(|_| hides).unwrap_or_default();
        let skip = ids.iter().take_while(|id| **id < offset).count();
        let new = &ids[skip..];
        // Of those that were to be skipped, some may have expired.
        let new = &new[..new.len().min(request.args.most())];
        if !new.is_empty() {
            self.requests.last_delivered = Some(id);
            self.cold = None;
            self.delivered(new, now);
            self.answer(id, Reply::Updates { skip, take: new.len() }, now);
        } else if !worthwhile {
            self.answer(id, Reply::Empty, now);
        }
    }

    fn delivered(&mut self, ids: &[i64], now: BootInstant) {
        self.work.delivered(ids, now);
        if self.settings.delivery == Delivery::Settled || self.settings.max_unsettled.is_some() {
            self.unsettled.delivered(ids, now);
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
            self.actions.push(Action::DeleteWebhook { drop: false });
        }
    }
}
