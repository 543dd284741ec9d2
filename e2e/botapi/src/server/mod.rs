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
mod webhook;

use std::{collections::VecDeque, time::Duration};

use crate::model::{At, Conflict, Kind, Removal};
pub(crate) use queue::Event;
use queue::{Got, Queue, QueueKey};
pub(crate) use webhook::{After, Failure, Post, Webhook};

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
    pub(crate) max_connections: Option<i32>,
    pub(crate) ip_address: String,
    pub(crate) certificate: Option<bytes::Bytes>,
    /// The emulator was told to take `http:` URLs.
    pub(crate) http: bool,
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
    webhook: Option<Webhook>,
    webhooks: u64,
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
            webhook: None,
            webhooks: 0,
            next_set_webhook: At::ZERO,
            allowed: None,
        }
    }

    pub(crate) fn pending_updates(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn webhook(&self) -> Option<&Webhook> {
        self.webhook.as_ref()
    }

    /// What is to be posted to the webhook now.
    pub(crate) fn posts(&mut self, now: At) -> Vec<Post> {
        self.webhook.as_mut().map_or_else(Vec::new, |webhook| webhook.posts(now, self.queue.iter()))
    }

    /// What came of a post; one of a webhook that is no more says nothing.
    pub(crate) fn posted(&mut self, now: At, post: &Post, result: Result<(), Failure>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(webhook) = self.webhook.as_mut().filter(|w| w.generation == post.generation) else {
            return effects;
        };
        let after = match result {
            Ok(()) => {
                webhook.succeeded(post);
                removed(&mut effects, self.queue.forget(post.update), Removal::Webhook, 0);
                return effects;
            }
            Err(failure) => webhook.failed(now, post, self.queue.expires(post.update), failure),
        };
        match after {
            After::Retry => {}
            After::Drop => removed(&mut effects, self.queue.forget(post.update), Removal::Expired, 0),
            After::Remove => self.webhook = None,
        }
        effects
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
        if self.webhook.is_some() {
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
        let retry = self.webhook.as_ref().and_then(Webhook::deadline);
        delayed.into_iter().chain(pending).chain(retry).min()
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
        if !args.drop_pending_updates && self.unchanged(args) {
            self.set_allowed_updates(args.allowed_updates.as_deref());
            let text = if args.url.is_empty() { "Webhook is already deleted" } else { "Webhook is already set" };
            return (WebhookAnswer::Ok(text), effects);
        }
        if !args.url.is_empty()
            && let Some(old) = self.pending.take()
        {
            self.conflict(now, old.request, Conflict::SetWebhook, request, &mut effects);
        }
        let was_set = self.webhook.take().is_some();
        if args.drop_pending_updates {
            removed(&mut effects, self.queue.keep_last(0), Removal::Dropped, request);
        }
        if args.url.is_empty() {
            let text = if was_set { "Webhook was deleted" } else { "Webhook is already deleted" };
            return (WebhookAnswer::Ok(text), effects);
        }
        if let Some(wrong) = wrong(args) {
            return (WebhookAnswer::BadRequest(wrong), effects);
        }
        self.set_allowed_updates(args.allowed_updates.as_deref());
        self.webhooks += 1;
        let (url, secret) = (args.url.clone(), args.secret_token.clone());
        let mut webhook = Webhook::new(self.webhooks, url, secret, max_connections(args));
        webhook.certificate.clone_from(&args.certificate);
        webhook.ip_address.clone_from(&args.ip_address);
        self.webhook = Some(webhook);
        (WebhookAnswer::Ok("Webhook was set"), effects)
    }

    fn unchanged(&self, args: &SetWebhook) -> bool {
        let Some(set) = &self.webhook else {
            return args.url.is_empty();
        };
        let same = (&set.url, &set.secret, &set.ip_address) == (&args.url, &args.secret_token, &args.ip_address);
        same && set.max_connections == max_connections(args) && set.certificate.is_none() && args.certificate.is_none()
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

fn max_connections(args: &SetWebhook) -> usize {
    args.max_connections.unwrap_or(40).clamp(1, 100) as usize
}

/// What is wrong with a webhook.
fn wrong(args: &SetWebhook) -> Option<&'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let host = |url: &str| url.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    if !host(&args.url) {
        Some("Bad Request: invalid webhook URL specified")
    } else if args.secret_token.len() > 256 {
        Some("Bad Request: secret token is too long")
    } else if !args.secret_token.bytes().all(plain) {
        Some("Bad Request: secret token contains unallowed characters")
    } else if !args.url.starts_with("https://") && !args.http {
        Some("Bad Request: bad webhook: An HTTPS URL must be provided for webhook")
    } else {
        None
    }
}

fn removed(effects: &mut Vec<Effect>, ids: Vec<i32>, why: Removal, request: RequestId) {
    if !ids.is_empty() {
        let request = (!matches!(why, Removal::Expired | Removal::Webhook)).then_some(request);
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
