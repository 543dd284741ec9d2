//! What can be changed while the gate runs, with the defaults that a user gets.

use std::time::Duration;

/// Durations and bounds of the gate. Every field may be changed at any time ([`crate::Gate::set_settings`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Upper bound of a bot's long poll, whatever the bot asks for (Telegram's own maximum is 50 s).
    pub long_poll: Duration,
    /// Most updates of one delivery, so that a queue in the bot can be drained in time (R27).
    pub max_batch: u16,
    /// A drain takes at most this long (R32).
    pub drain_timeout: Duration,
    /// Shortest silence of a bot that counts as "has finished" (R32.2).
    pub quiet: Duration,
    /// The silence that is waited for while updates are owed and nothing is known yet about this bot's pace (R32.2).
    pub quiet_unknown: Duration,
    /// Nothing delivered and no call for this long: a drain waits for no silence (R32.2).
    pub idle: Duration,
    /// A bot without an open poll and without a call for this long is deaf (R14). Must exceed its longest handler.
    pub poll_gap: Duration,
    /// A conflict this soon after a takeover is the one late request of a paused predecessor (R25). Set it to the lease's TTL.
    pub late_request_window: Duration,
    /// How long the gate tries to get an answer to `getMe` before it serves the last good one (R16).
    pub get_me_patience: Duration,
    /// How often the token file is looked at.
    pub token_check: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            long_poll: Duration::from_secs(50),
            max_batch: 20,
            drain_timeout: Duration::from_secs(20),
            quiet: Duration::from_secs(2),
            quiet_unknown: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            poll_gap: Duration::from_secs(60),
            late_request_window: Duration::from_secs(10),
            get_me_patience: Duration::from_secs(4),
            token_check: Duration::from_secs(2),
        }
    }
}
