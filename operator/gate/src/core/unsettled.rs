//! Delivered updates that the bot may still have to work on (gate.md, delivery `Settled`; R27).
//!
//! Most libraries acknowledge an update when they have queued it. With [`crate::Delivery::Settled`] Telegram is told only
//! what is **settled**: delivered at least `settle` ago, no call is open that began within that time (it may be the
//! handler's), and not owed ([`super::work`]: a one-worker queue outlasts any `settle`). What a crash takes with it comes
//! again from Telegram. Only ids are kept; the updates themselves stay where they are.
//!
//! A call that a drain would not wait for holds nothing back here either. What is owed holds back as long as it takes; a bot
//! that is silent for long enough owes nothing ([`Work::heard_of_until`], [`Work::hold_until`]).

use std::collections::VecDeque;

use pollux_clock::BootInstant;

use super::work::Work;
use crate::Settings;

#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Ascending.
    updates: VecDeque<(i64, BootInstant)>,
}

// === impl Unsettled ===

impl Unsettled {
    /// An update that is delivered again begins anew.
    pub(super) fn delivered(&mut self, ids: &[i64], now: BootInstant) {
        if let Some(first) = ids.first() {
            self.undelivered(*first);
            self.updates.extend(ids.iter().map(|id| (*id, now)));
        }
    }

    /// The bot has not got the updates from `first` on.
    pub(super) fn undelivered(&mut self, first: i64) {
        self.updates.retain(|(id, _)| *id < first);
    }

    pub(super) fn clear(&mut self) {
        self.updates.clear();
    }

    pub(super) fn lowest(&self) -> Option<i64> {
        self.updates.front().map(|(id, _)| *id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.updates.is_empty()
    }

    /// How many have an id below `offset`.
    pub(super) fn below(&self, offset: i64) -> usize {
        self.updates.partition_point(|(id, _)| *id < offset)
    }

    /// Lets go of what is settled, and says when to look again.
    pub(super) fn pass(&mut self, work: &mut Work, settings: &Settings, now: BootInstant) -> Option<BootInstant> {
        while let Some(&(id, delivered)) = self.updates.front() {
            let settled = delivered + settings.settle;
            let limit = delivered + settings.settle.max(settings.drain_timeout);
            let busy = work.busy_until(now);
            if now < settled || busy.is_some() {
                return Some(busy.map_or(settled, |until| until.max(settled)));
            }
            if now < limit && work.call_began_within(delivered, settled) {
                return Some(limit);
            }
            if work.owes(id)
                && let Some(until) = work.heard_of_until(settings, now)
            {
                return Some(until);
            }
            self.updates.pop_front();
        }
        None
    }
}
