//! Deliveries to a webhook, as `WebhookActor.cpp` makes them. Pure, like the session.
//!
//! * Updates of one key (a chat or user, and a class of types) go one after the other; different keys at once, up to `max_connections`.
//! * 2xx confirms. Anything else is tried again: at once, then after 2, 4, 8 … 60 s; `Retry-After` counts up to an hour.
//! * An update whose next try would come after its lifetime is dropped. 410 for 23 hours removes the webhook.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{Event, QueueKey};
use crate::model::At;

const MAX_DELAY: Duration = Duration::from_secs(60);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
const GONE_FOR: Duration = Duration::from_secs(23 * 3600);

/// A webhook that is set.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub(crate) url: String,
    pub(crate) secret: String,
    pub(crate) max_connections: usize,
    pub(crate) ip_address: String,
    /// Of the bot's own: PEM.
    pub(crate) certificate: Option<bytes::Bytes>,
    /// When the last delivery failed, and why.
    pub(crate) last_error: Option<(At, String)>,
    pub(crate) generation: u64,
    in_flight: HashMap<QueueKey, i32>,
    retries: HashMap<i32, Retry>,
    gone_since: Option<At>,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    at: At,
    delay: Duration,
}

/// One update to be posted now.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) generation: u64,
    pub(crate) update: i32,
    pub(crate) key: QueueKey,
    pub(crate) json: Arc<str>,
}

/// A delivery failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) text: String,
    pub(crate) status: Option<u16>,
    pub(crate) retry_after: Option<Duration>,
}

/// What becomes of an update after a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum After {
    Retry,
    Drop,
    /// The webhook is removed.
    Remove,
}

// === impl Webhook ===

impl Webhook {
    pub(crate) fn new(generation: u64, url: String, secret: String, max_connections: usize) -> Self {
        Self {
            url,
            secret,
            max_connections,
            ip_address: String::new(),
            certificate: None,
            last_error: None,
            generation,
            in_flight: HashMap::new(),
            retries: HashMap::new(),
            gone_since: None,
        }
    }

    /// What is to be sent now; it counts as sent.
    pub(crate) fn posts<'a>(&mut self, now: At, events: impl Iterator<Item = &'a Event>) -> Vec<Post> {
        let (mut posts, mut seen) = (Vec::new(), HashSet::new());
        for event in events {
            if self.in_flight.len() >= self.max_connections {
                break;
            }
            if event.expires < now {
                continue;
            }
            let first = seen.insert(event.key) && !self.in_flight.contains_key(&event.key);
            let waits = self.retries.get(&event.id).is_some_and(|retry| retry.at > now);
            if first && !waits {
                self.in_flight.insert(event.key, event.id);
                let (generation, update, key) = (self.generation, event.id, event.key);
                posts.push(Post { generation, update, key, json: event.json.clone() });
            }
        }
        posts
    }

    /// When something is to be tried again.
    pub(crate) fn deadline(&self) -> Option<At> {
        let waiting = self.retries.iter().filter(|(id, _)| !self.in_flight.values().any(|sent| sent == *id));
        waiting.map(|(_, retry)| retry.at).min()
    }

    pub(crate) fn succeeded(&mut self, post: &Post) {
        self.in_flight.remove(&post.key);
        self.retries.remove(&post.update);
        self.gone_since = None;
    }

    pub(crate) fn failed(&mut self, now: At, post: &Post, expires: Option<At>, failure: Failure) -> After {
        self.in_flight.remove(&post.key);
        if failure.status == Some(410) {
            if now > *self.gone_since.get_or_insert(now) + GONE_FOR {
                return After::Remove;
            }
        } else {
            self.gone_since = None;
        }
        self.last_error = Some((now, failure.text));
        let before = self.retries.get(&post.update);
        let mut delay = before.map_or(Duration::from_secs(1), |retry| retry.delay);
        let wait = match failure.retry_after.filter(|after| !after.is_zero()) {
            Some(after) => after.min(MAX_RETRY_AFTER),
            None if before.is_none() => Duration::ZERO,
            None => {
                delay = (delay * 2).min(MAX_DELAY);
                delay
            }
        };
        if expires.is_none_or(|expires| now + wait > expires) {
            self.retries.remove(&post.update);
            return After::Drop;
        }
        self.retries.insert(post.update, Retry { at: now + wait, delay });
        After::Retry
    }
}
