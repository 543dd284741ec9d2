//! What can be changed while the gate runs, with the defaults that a user gets.

use std::time::Duration;

/// When Telegram is told that the bot has an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// As soon as the bot says so. Exactly once in planned changes; what a bot had only in memory is lost in a crash.
    #[default]
    Transparent,
    /// When [`Settings::settle`] has passed since its delivery, no call that began within that time is open, and the bot has been
    /// heard of as often as it was given something: at least once, also in a crash.
    Settled,
}

/// What becomes of a bot's wish to drop its pending updates (R17, R18).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PendingUpdates {
    /// They are kept: every start of a new version would lose messages otherwise.
    #[default]
    Keep,
    /// They are dropped if nobody has led this bot for a long time.
    ColdStart,
    /// The bot decides.
    PassThrough,
}

/// What a handover waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// The bot has finished everything that it was given: updates are handled in order, across pods too.
    #[default]
    Strict,
    /// The bot has acknowledged everything; its handlers may still work while the successor polls.
    Fast,
}

/// Durations and bounds of the gate. Every field may be changed at any time ([`crate::Gate::set_settings`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Upper bound of a bot's long poll, whatever the bot asks for (Telegram's own maximum is 50 s).
    pub long_poll: Duration,
    /// Most updates of one delivery, so that a queue in the bot can be drained in time (R27).
    pub max_batch: u16,
    /// A drain takes at most this long (R32).
    pub drain_timeout: Duration,
    /// When Telegram is told that the bot has an update.
    pub delivery: Delivery,
    /// With [`Delivery::Settled`]: an update is settled this long after its delivery.
    pub settle: Duration,
    /// The bot gets no more updates while so many are unsettled (R27); no such bound when absent.
    pub max_unsettled: Option<u16>,
    /// What becomes of a bot's wish to drop its pending updates.
    pub pending_updates: PendingUpdates,
    /// What a handover waits for.
    pub ordering: Ordering,
    /// The silence of a bot that counts as "has finished" (R32.2); absent: the gate finds out.
    pub quiet: Option<Duration>,
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
    /// How often a leader asks how many updates wait at Telegram.
    pub pending_check: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            long_poll: Duration::from_secs(50),
            max_batch: 20,
            drain_timeout: Duration::from_secs(20),
            delivery: Delivery::default(),
            settle: Duration::from_secs(3),
            max_unsettled: None,
            pending_updates: PendingUpdates::default(),
            ordering: Ordering::default(),
            quiet: None,
            quiet_unknown: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            poll_gap: Duration::from_secs(60),
            late_request_window: Duration::from_secs(10),
            get_me_patience: Duration::from_secs(4),
            token_check: Duration::from_secs(2),
            pending_check: Duration::from_secs(60),
        }
    }
}
