//! The planned way out (R32, R33).
//!
//! Nothing is delivered any more and no poll is open. Then, in this order: wait until the bot has asked again (so what
//! it was given is acknowledged), has no call open and has been quiet; give Telegram the last acknowledgement if it has
//! not had it; say so.

use std::time::Duration;

use pollux_clock::BootInstant;

use crate::DrainOutcome;

/// A confirmation is applied when it arrives; its answer is not waited for longer than this.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(1);
/// A request that was open this long has reached the server, though its connection was reset then.
const SURELY_APPLIED: Duration = Duration::from_millis(500);
/// Time for a new connection.
const CONNECTING: Duration = Duration::from_millis(150);

/// Whether the gate polls, and why it does not.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// Nobody asked for a drain.
    #[default]
    Serving,
    /// A drain is going on.
    Draining(Drain),
    /// It is over; nothing is polled until a later epoch.
    Drained(crate::Drained),
}

#[derive(Debug)]
pub(super) struct Drain {
    pub(super) started: BootInstant,
    pub(super) step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Until the bot has finished.
    Finishing,
    /// The acknowledgement is on its way.
    Confirming { outcome: DrainOutcome, tries: u8 },
}

/// What Telegram knows of the bot's acknowledgements.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// The last offset that the bot sent.
    by_bot: Option<i64>,
    /// The last offset that was written upstream, and when.
    written: Option<(i64, BootInstant)>,
    /// The last offset that surely arrived.
    applied: Option<i64>,
    /// The last offset that was written at any time.
    last_written: Option<i64>,
}

// === impl Acknowledged ===

impl Acknowledged {
    pub(super) fn by_bot(&mut self, offset: Option<i64>) {
        if offset.is_some_and(|offset| offset > 0) {
            self.by_bot = offset;
        }
    }

    pub(super) fn written(&mut self, offset: Option<i64>, at: BootInstant) {
        self.written = offset.filter(|offset| *offset > 0).map(|offset| (offset, at));
        self.last_written = offset;
    }

    /// How long the answer to a confirmation is worth waiting for. Telegram holds a repeated offset for three seconds, so
    /// there only its arrival can be waited for.
    pub(super) fn patience(&self, offset: i64) -> Duration {
        if self.last_written == Some(offset) { SURELY_APPLIED + CONNECTING } else { CONFIRM_PATIENCE }
    }

    /// The last written request was answered, or (`false`) its connection was reset or broke.
    pub(super) fn over(&mut self, answered: bool, now: BootInstant) {
        if let Some((offset, at)) = self.written.take()
            && (answered || now - at >= SURELY_APPLIED)
        {
            self.applied = Some(offset);
        }
    }

    /// The offset that Telegram must still be told.
    pub(super) fn missing(&self) -> Option<i64> {
        self.by_bot.filter(|offset| self.applied != Some(*offset))
    }

    pub(super) fn bot_restarted(&mut self) {
        self.by_bot = None;
    }
}
