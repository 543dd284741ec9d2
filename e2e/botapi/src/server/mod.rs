//! The polling session of one bot, as the published server (tdlib/telegram-bot-api 10.0, `Client.cpp`) runs it. Pure: requests
//! and times go in, effects come out; no sockets, no clock.
//!
//! getUpdates:
//!
//! ```text
//! webhook set                                     -> conflict "can't use getUpdates method while webhook is active"
//! offset = the last one, < 3 s ago, timeout < 3   -> timeout = 3          (calms bots that poll in a hot loop)
//! offset = the last one, < 0.5 s ago              -> limit = 1
//! offset < 0                                      -> keep the last -offset updates, delete the others
//! offset <= 0                                     -> offset = head
//! offset out of range                             -> from the head, nothing is deleted
//! else                                            -> delete every update below offset      (the confirmation)
//! nothing to deliver and timeout > 0              -> the pending poll is evicted (conflict); this one becomes the pending one
//! else                                            -> answered now; a pending poll stays pending
//! ```
//!
//! A new update wakes the pending poll 1 ms later, at most 2 ms after the first one, so that what arrives together is delivered
//! together. At its timeout it is answered with nothing. A pending poll knows nothing of its sender: when that one goes away
//! the slot stays taken.
//!
//! Conflicts: the first one is answered at once; one that falls within 3 s of it is answered 3 s after it arose.

mod queue;

use std::{collections::VecDeque, time::Duration};

use crate::model::{At, Conflict, Kind, Removal};
pub(crate) use queue::Event;
use queue::{Got, Queue, QueueKey};

pub(crate) type RequestId = u64;

const MAX_TIMEOUT: i32 = 50;
const SAME_OFFSET_TIMEOUT: i32 = 3;
const SAME_OFFSET_WITHIN: Duration = Duration::from_secs(3);
const SAME_OFFSET_LIMIT_1_WITHIN: Duration = Duration::from_millis(500);
const CONFLICT_DELAY: Duration = Duration::from_secs(3);
const WAIT_AFTER_UPDATE: Duration = Duration::from_millis(1);
const WAIT_AFTER_FIRST_UPDATE: Duration = Duration::from_millis(2);
const SET_WEBHOOK_INTERVAL: Duration = Duration::from_secs(1);
const MAX_ANSWER_BYTES: usize = 1 << 22;
const ANSWER_BYTES_PER_UPDATE: usize = 50;

/// Arguments of getUpdates before any rule was applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct GetUpdates {
    pub(crate) offset: i32,
    pub(crate) limit: Option<i32>,
    pub(crate) timeout: i32,
    pub(crate) allowed_updates: Option<String>,
}

/// Arguments of setWebhook that matter here.
#[derive(Clone, Debug, Default)]
pub(crate) struct SetWebhook {
    pub(crate) url: String,
    pub(crate) secret_token: String,
    pub(crate) drop_pending_updates: bool,
    pub(crate) allowed_updates: Option<String>,
}

/// What setWebhook and deleteWebhook answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WebhookAnswer {
    Ok(&'static str),
    BadRequest(&'static str),
    RetryAfter(u64),
}

/// Of what type an update is, and whose: a webhook gets those of one key one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) chat: i64,
}

/// Why an update did not come into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeptOut {
    /// `allowed_updates`.
    Unwanted,
    /// The queue is full, or the update too big.
    NoRoom,
}

/// What the machine wants done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Answer this getUpdates with these updates.
    Deliver { request: RequestId, updates: Vec<Event> },
    /// This poll lost its slot (or never got one): a 409 is due now or later.
    Evicted { request: RequestId, by: RequestId },
    /// Answer this getUpdates with 409.
    Conflict { request: RequestId, cause: Conflict },
    /// These updates left the queue.
    Removed { ids: Vec<i32>, why: Removal, request: Option<RequestId> },
}

#[derive(Debug)]
struct Pending {
    request: RequestId,
    offset: i32,
    limit: usize,
    /// It is answered by then, whatever comes.
    deadline: At,
    /// It is answered then, unless more updates come.
    alarm: At,
    woken: bool,
}

/// The server's side of one bot.
#[derive(Debug)]
pub(crate) struct Server {
    queue: Queue,
    pending: Option<Pending>,
    previous_offset: i32,
    previous_start: Option<At>,
    next_conflict: At,
    delayed: VecDeque<(At, RequestId, Conflict)>,
    webhook_url: String,
    webhook_secret: String,
    next_set_webhook: At,
    /// None: the default set.
    allowed: Option<Vec<Kind>>,
}

// === impl Server ===

impl Server {
    pub(crate) fn new(first_id: i32) -> Self {
        Self {
            queue: Queue::new(first_id),
            pending: None,
            previous_offset: -1,
            previous_start: None,
            next_conflict: At::ZERO,
            delayed: VecDeque::new(),
            webhook_url: String::new(),
            webhook_secret: String::new(),
            next_set_webhook: At::ZERO,
            allowed: None,
        }
    }

    pub(crate) fn pending_updates(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn webhook_url(&self) -> &str {
        &self.webhook_url
    }

    /// None: the default set.
    pub(crate) fn allowed_updates(&self) -> Option<Vec<&'static str>> {
        self.allowed.as_ref().map(|kinds| kinds.iter().map(|k| k.name()).collect())
    }

    /// The poll that holds the slot.
    pub(crate) fn pending(&self) -> Option<RequestId> {
        self.pending.as_ref().map(|p| p.request)
    }

    /// Puts an update into the queue and returns its id.
    pub(crate) fn push(&mut self, now: At, key: Key, json: impl FnOnce(i32) -> String) -> Result<i32, KeptOut> {
        let kind = key.kind;
        if !self.allowed.as_ref().map_or(kind.by_default(), |kinds| kinds.contains(&kind)) {
            return Err(KeptOut::Unwanted);
        }
        let id = self.queue.push(now + kind.lifetime(), key.of(), json).ok_or(KeptOut::NoRoom)?;
        if let Some(pending) = &mut self.pending {
            if !pending.woken {
                pending.woken = true;
                pending.deadline = pending.deadline.min(now + WAIT_AFTER_FIRST_UPDATE);
            }
            pending.alarm = pending.deadline.min(now + WAIT_AFTER_UPDATE);
        }
        Ok(id)
    }

    /// Deletes what is too old. The server does it every now and then; here it happens when the clock is moved.
    pub(crate) fn expire(&mut self, now: At) -> Vec<Effect> {
        let mut effects = Vec::new();
        removed(&mut effects, self.queue.expire(now), Removal::Expired, 0);
        effects
    }

    /// A getUpdates request.
    pub(crate) fn get_updates(&mut self, now: At, request: RequestId, args: &GetUpdates) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !self.webhook_url.is_empty() {
            self.conflict(now, request, Conflict::WebhookActive, request, &mut effects);
            return effects;
        }
        let mut limit = args.limit.unwrap_or(100).clamp(1, 100) as usize;
        let mut timeout = args.timeout.clamp(0, MAX_TIMEOUT);
        self.set_allowed_updates(args.allowed_updates.as_deref());
        let since = self.previous_start.filter(|_| args.offset == self.previous_offset).map(|start| now - start);
        if since.is_some_and(|d| d < SAME_OFFSET_WITHIN) {
            timeout = timeout.max(SAME_OFFSET_TIMEOUT);
        }
        if since.is_some_and(|d| d < SAME_OFFSET_LIMIT_1_WITHIN) {
            limit = 1;
        }
        self.previous_offset = args.offset;
        self.previous_start = Some(now);
        let timeout = Duration::from_secs(u64::from(timeout.unsigned_abs()));
        self.run(now, request, args.offset, limit, timeout, &mut effects);
        effects
    }

    fn run(
        &mut self,
        now: At,
        request: RequestId,
        mut offset: i32,
        limit: usize,
        timeout: Duration,
        effects: &mut Vec<Effect>,
    ) {
        if offset < 0 {
            let ids = self.queue.keep_last(offset.unsigned_abs() as usize);
            removed(effects, ids, Removal::NegativeOffset, request);
        }
        if offset <= 0 {
            offset = self.queue.head();
        }
        let got = match self.queue.get(offset, limit, now) {
            Ok(got) => got,
            Err(queue::OutOfRange) => self.queue.get(self.queue.head(), limit, now).unwrap_or_default(),
        };
        let Got { events, confirmed, expired } = got;
        removed(effects, confirmed, Removal::Confirmed, request);
        removed(effects, expired, Removal::Expired, request);
        if timeout > Duration::ZERO && events.is_empty() {
            if let Some(old) = self.pending.take() {
                self.conflict(now, old.request, Conflict::GetUpdates, request, effects);
            }
            let deadline = now + timeout;
            self.pending = Some(Pending { request, offset, limit, deadline, alarm: deadline, woken: false });
        } else {
            effects.push(Effect::Deliver { request, updates: cut(events) });
        }
    }

    fn conflict(&mut self, now: At, request: RequestId, cause: Conflict, by: RequestId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Evicted { request, by });
        if now >= self.next_conflict {
            self.next_conflict = now + CONFLICT_DELAY;
            effects.push(Effect::Conflict { request, cause });
        } else {
            self.delayed.push_back((now + CONFLICT_DELAY, request, cause));
        }
    }

    /// When `tick` is due.
    pub(crate) fn deadline(&self) -> Option<At> {
        let delayed = self.delayed.front().map(|(at, ..)| *at);
        let pending = self.pending.as_ref().map(|p| p.alarm);
        delayed.into_iter().chain(pending).min()
    }

    /// Does what has become due.
    pub(crate) fn tick(&mut self, now: At) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some((_, request, cause)) = self.delayed.pop_front_if(|(at, ..)| *at <= now) {
            effects.push(Effect::Conflict { request, cause });
        }
        if let Some(due) = self.pending.take_if(|p| p.alarm <= now) {
            self.run(now, due.request, due.offset, due.limit, Duration::ZERO, &mut effects);
        }
        effects
    }

    /// setWebhook; with an empty url, or as deleteWebhook, it deletes.
    pub(crate) fn set_webhook(
        &mut self,
        now: At,
        request: RequestId,
        args: &SetWebhook,
    ) -> (WebhookAnswer, Vec<Effect>) {
        let mut effects = Vec::new();
        if !args.url.is_empty() {
            if now < self.next_set_webhook {
                return (WebhookAnswer::RetryAfter(1), effects);
            }
            self.next_set_webhook = now + SET_WEBHOOK_INTERVAL;
        }
        let unchanged = self.webhook_url == args.url && self.webhook_secret == args.secret_token;
        if unchanged && !args.drop_pending_updates {
            self.set_allowed_updates(args.allowed_updates.as_deref());
            let text = if args.url.is_empty() { "Webhook is already deleted" } else { "Webhook is already set" };
            return (WebhookAnswer::Ok(text), effects);
        }
        if !args.url.is_empty()
            && let Some(old) = self.pending.take()
        {
            self.conflict(now, old.request, Conflict::SetWebhook, request, &mut effects);
        }
        let was_set = !std::mem::take(&mut self.webhook_url).is_empty();
        self.webhook_secret.clear();
        if args.drop_pending_updates {
            removed(&mut effects, self.queue.keep_last(0), Removal::Dropped, request);
        }
        if args.url.is_empty() {
            let text = if was_set { "Webhook was deleted" } else { "Webhook is already deleted" };
            return (WebhookAnswer::Ok(text), effects);
        }
        if !args.url.starts_with("https://") || args.url.len() <= "https://".len() {
            return (WebhookAnswer::BadRequest("Bad Request: invalid webhook URL specified"), effects);
        }
        self.set_allowed_updates(args.allowed_updates.as_deref());
        self.webhook_url.clone_from(&args.url);
        self.webhook_secret.clone_from(&args.secret_token);
        (WebhookAnswer::Ok("Webhook was set"), effects)
    }

    /// `close` and `logOut` answer the pending poll; the latter empties the queue.
    pub(crate) fn close(&mut self, now: At, request: RequestId, log_out: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(due) = self.pending.take() {
            self.run(now, due.request, due.offset, due.limit, Duration::ZERO, &mut effects);
        }
        if log_out {
            removed(&mut effects, self.queue.keep_last(0), Removal::Dropped, request);
        }
        effects
    }

    /// State of the server, not of one request: a missing or bad list keeps what was set before.
    fn set_allowed_updates(&mut self, list: Option<&str>) {
        let Some(names) = list.and_then(|text| serde_json::from_str::<Vec<String>>(text).ok()) else {
            return;
        };
        let names: Vec<String> = names.iter().map(|n| n.to_lowercase()).collect();
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|k| names.iter().any(|n| n == k.name())).collect();
        let default = kinds.is_empty() || Kind::ALL.iter().all(|k| k.by_default() == kinds.contains(k));
        self.allowed = (!default).then_some(kinds);
    }
}

fn removed(effects: &mut Vec<Effect>, ids: Vec<i32>, why: Removal, request: RequestId) {
    if !ids.is_empty() {
        let request = (why != Removal::Expired).then_some(request);
        effects.push(Effect::Removed { ids, why, request });
    }
}

/// An answer stops at 4 MiB, even below its limit.
fn cut(events: Vec<Event>) -> Vec<Event> {
    let fits = events
        .iter()
        .scan(0, |bytes, event| {
            *bytes += ANSWER_BYTES_PER_UPDATE + event.json.len();
            Some(*bytes)
        })
        .take_while(|bytes| *bytes < MAX_ANSWER_BYTES)
        .count();
    events.into_iter().take(fits).collect()
}

// === impl Key ===

impl Key {
    fn of(self) -> QueueKey {
        (self.chat, self.kind.lane())
    }
}

/// An answer's body.
pub(crate) fn updates_json(updates: &[Event]) -> String {
    let list: Vec<&str> = updates.iter().map(|e| -> &str { &e.json }).collect();
    format!("[{}]", list.join(","))
}

#[cfg(test)]
mod tests;
