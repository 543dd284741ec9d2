//! The connection comes and goes, and statements are refused.

use std::time::Duration;

use pollux_clock::BootInstant;

use super::{Call, Core, Rule};
use crate::view::DatabaseState;

// === impl Core ===

impl Core {
    pub(super) fn connected(&mut self, wakes: bool, now: BootInstant) {
        self.connected = true;
        self.wakes = wakes;
        self.database = DatabaseState::Up { wakes };
        self.hold_off = None;
        self.in_flight = None;
        self.renew_at = now;
        self.grace_after_outage(now);
        // What was said last may be lost with the server's last unflushed commits.
        self.beats.again();
    }

    pub(super) fn disconnected(&mut self, error: String, now: BootInstant) {
        self.connected = false;
        self.outage = true;
        self.fault(error, now);
        let lost = self.in_flight.take().map(|(statement, _)| statement.call);
        if let (Some(Call::Handover { .. }), Some(giving)) = (lost, &mut self.giving) {
            giving.maybe_done = true;
            if !self.keeps(Rule::EndedForGood) {
                self.ended = 0;
                self.giving = None;
            }
        }
    }

    /// The statement was answered with an error: it had no effect.
    pub(super) fn refused(&mut self, error: String, another_token: bool, now: BootInstant) {
        const FIRST: Duration = Duration::from_millis(50);
        const LAST: Duration = Duration::from_secs(2);
        match self.in_flight.take().map(|(statement, _)| statement.call) {
            Some(Call::Gap { .. }) => drop(self.gaps.pop_front()), // nice to have, not worth a second try
            // Nothing more to prove with the old token. Beats with the new one adopt a lease that nobody keeps alive.
            Some(Call::Rotate) if another_token => self.rotations -= 1,
            _ => {}
        }
        self.beats.again();
        self.renew_at = now;
        let pause = self.hold_off.map_or(FIRST, |(_, last)| (last * 2).min(LAST));
        self.hold_off = Some((now + pause, pause));
        // One hiccup (a lock that was waited for too long) is not worth a word.
        if pause > FIRST {
            self.fault(error, now);
        }
    }

    fn fault(&mut self, error: String, now: BootInstant) {
        let since = match &self.database {
            DatabaseState::Down { since, .. } => *since,
            _ => now,
        };
        self.database = DatabaseState::Down { error, since };
    }
}
