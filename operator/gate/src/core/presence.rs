//! Whether the bot is there: readiness, candidacy, deafness, death (R14, R14b, R15).

use std::collections::BTreeSet;
use std::time::Duration;

use pollux_clock::BootInstant;

use super::types::{Closed, ConnectionId};

/// A bot between two polls is still polling: libraries pause up to 300 ms there, and a level that flaps with every poll
/// would be a write to the database each time.
const BETWEEN_POLLS: Duration = Duration::from_millis(500);
/// The shortest time without a connection that counts as death (R14b).
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Longer pauses are restarts of the container, and teach nothing about the pauses of one process. No kubelet was seen to need
/// less than 0.7 s for one.
const LONGEST_LESSON: Duration = Duration::from_millis(250);
/// The kernel closes a dead process's connections within this time.
const AT_ONCE: Duration = Duration::from_millis(20);
/// No known client closes a connection for having been idle so short a time (Node's agents: 4 and 5 s; httpx 5 s, aiohttp 15 s,
/// Go and reqwest 90 s), but a handler may well be silent for longer than those.
const WORTH_KEEPING: Duration = Duration::from_secs(3);
/// Connections that expire together were idle for equally long; those of a process that dies were not.
const EQUALLY_LONG: Duration = Duration::from_secs(1);

/// The closing of connections that may be a death.
#[derive(Debug, Default, Clone, Copy)]
struct Closing {
    first: Option<BootInstant>,
    /// The shortest and the longest time that a connection of a pool had been idle. Only one that carried two requests is known
    /// to be of a pool: a client that opens one for each request may be slow to close it, and then it looks kept.
    idle: Option<(Duration, Duration)>,
    /// One of them at least was in use, or would have been used again.
    abrupt: bool,
}

#[derive(Debug, Default)]
pub(super) struct Presence {
    connections: BTreeSet<ConnectionId>,
    closing: Closing,
    /// Since when there is no connection.
    empty_since: Option<BootInstant>,
    longest_pause: Duration,
    gone: bool,
    latched: bool,
    /// It has asked for updates in this life or an earlier one, so it should again.
    expected: bool,
    deaf: bool,
    open_polls: usize,
    last_poll_closed: Option<BootInstant>,
    /// The last instant at which a poll or a call was open.
    last_sign: Option<BootInstant>,
}

/// What time has made of the bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Gone,
    Back,
    Deaf,
}

// === impl Closing ===

impl Closing {
    fn like_a_death(self) -> bool {
        self.abrupt || self.idle.is_some_and(|(shortest, longest)| longest - shortest > EQUALLY_LONG)
    }
}

// === impl Presence ===

impl Presence {
    pub(super) fn connected(&mut self, connection: ConnectionId, now: BootInstant) -> Option<Change> {
        if let Some(since) = self.empty_since.take() {
            let pause = now - since;
            // A client that closed its connections in peace was never in danger of being taken for dead.
            if self.closing.like_a_death() && pause <= LONGEST_LESSON {
                self.longest_pause = self.longest_pause.max(pause);
            }
        }
        self.connections.insert(connection);
        let back = std::mem::take(&mut self.gone);
        if back {
            self.last_sign = Some(now);
        }
        back.then_some(Change::Back)
    }

    pub(super) fn disconnected(&mut self, connection: ConnectionId, closed: Closed, now: BootInstant) {
        if !self.connections.remove(&connection) {
            return;
        }
        if self.closing.first.is_none_or(|first| now - first > AT_ONCE) {
            self.closing = Closing { first: Some(now), ..Closing::default() };
        }
        match closed {
            Closed::Interrupted => self.closing.abrupt = true,
            Closed::Idle { since, reused: true } => {
                let (shortest, longest) = self.closing.idle.unwrap_or((since, since));
                self.closing.idle = Some((shortest.min(since), longest.max(since)));
                self.closing.abrupt |= since < WORTH_KEEPING;
            }
            Closed::Idle { reused: false, .. } => {}
        }
        if self.connections.is_empty() {
            self.empty_since = Some(now);
        }
    }

    pub(super) fn poll_opened(&mut self, now: BootInstant) {
        self.open_polls += 1;
        self.latched = true;
        self.expected = true;
        self.deaf = false;
        self.last_sign = Some(now);
    }

    pub(super) fn poll_closed(&mut self, now: BootInstant) {
        self.open_polls = self.open_polls.saturating_sub(1);
        self.last_poll_closed = Some(now);
        self.last_sign = Some(now);
    }

    pub(super) fn called(&mut self, now: BootInstant) {
        self.last_sign = Some(now);
    }

    /// What changed by the passing of time, and when to look again.
    pub(super) fn pass(
        &mut self,
        gap: Duration,
        calls: usize,
        now: BootInstant,
    ) -> (Option<Change>, Option<BootInstant>) {
        let mut wake = None;
        if let Some(at) = self.dead_at() {
            if now >= at {
                self.gone = true;
                self.latched = false;
                return (Some(Change::Gone), None);
            }
            wake = Some(at);
        }
        // Not `latched`: a bot that came back from the dead and never polls again would keep the lease for ever.
        if self.expected
            && !self.gone
            && !self.deaf
            && self.open_polls == 0
            && calls == 0
            && let Some(sign) = self.last_sign
        {
            let at = sign + gap;
            if now >= at {
                self.deaf = true;
                self.latched = false;
                return (Some(Change::Deaf), wake);
            }
            wake = earlier(wake, Some(at));
        }
        if let Some(at) = self.level_ends().filter(|at| now < *at) {
            wake = earlier(wake, Some(at));
        }
        (None, wake)
    }

    /// When the absence of connections is a death, if it may be one at all.
    fn dead_at(&self) -> Option<BootInstant> {
        let since = self.empty_since.filter(|_| self.missing() && !self.gone)?;
        Some(since + SHORTEST_PAUSE.max(self.longest_pause * 2))
    }

    fn level_ends(&self) -> Option<BootInstant> {
        if self.open_polls > 0 {
            return None;
        }
        self.last_poll_closed.map(|closed| closed + BETWEEN_POLLS)
    }

    pub(super) fn polling(&self, now: BootInstant) -> bool {
        !self.gone && (self.open_polls > 0 || self.level_ends().is_some_and(|end| now < end))
    }

    pub(super) fn has_open_poll(&self) -> bool {
        self.open_polls > 0
    }

    pub(super) fn latched(&self) -> bool {
        self.latched
    }

    pub(super) fn deaf(&self) -> bool {
        self.deaf
    }

    /// Dead, or perhaps dead.
    pub(super) fn missing(&self) -> bool {
        self.empty_since.is_some() && self.closing.like_a_death()
    }

    pub(super) fn gone(&self) -> bool {
        self.gone
    }

    pub(super) fn alive(&self) -> bool {
        !self.gone && (!self.connections.is_empty() || self.empty_since.is_some())
    }
}

pub(super) fn earlier(a: Option<BootInstant>, b: Option<BootInstant>) -> Option<BootInstant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
