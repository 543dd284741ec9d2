//! Signs of life: numbered, and remembered with the moment at which each was sent, because a handover dates the successor's
//! first fence from one of them.

use std::collections::VecDeque;

use pollux_clock::BootInstant;

/// A handover names a beat younger than 300 ms; what is older than this many is never asked for.
const REMEMBERED: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Beats {
    number: i64,
    sent: VecDeque<(i64, BootInstant)>,
    /// Something in it differs from what was last written.
    pub(super) dirty: bool,
    /// The report is to be written with the next one.
    report_due: bool,
    /// When the last one was sent.
    pub(super) last: BootInstant,
}

// === impl Beats ===

impl Beats {
    pub(super) const fn new() -> Self {
        Self { number: 0, sent: VecDeque::new(), dirty: true, report_due: true, last: BootInstant::ZERO }
    }

    /// The next one's number, and whether the report goes with it.
    pub(super) fn next(&mut self, now: BootInstant) -> (i64, bool) {
        self.number += 1;
        self.sent.push_back((self.number, now));
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        self.dirty = false;
        self.last = now;
        (self.number, std::mem::take(&mut self.report_due))
    }

    /// When beat `number` was sent.
    pub(super) fn sent(&self, number: i64) -> Option<BootInstant> {
        self.sent.iter().find(|(n, _)| *n == number).map(|(_, sent)| *sent)
    }

    /// Whether the last one arrived is not known, or the report changed: everything is to be said anew.
    pub(super) fn again(&mut self) {
        self.dirty = true;
        self.report_due = true;
    }
}
