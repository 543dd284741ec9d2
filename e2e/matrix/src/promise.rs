//! What a cell has to show, and what is only reported.

use crate::ground::{Figures, Mode};
use crate::scenarios::Scenario;
use crate::setups::Acks;

/// Largest batch that the gate hands out: what a bot that acknowledges afterwards may get a second time.
const BATCH: u64 = 20;

/// At most so many; `None`: reported, not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    lost: Option<u64>,
    dup: Option<u64>,
    conflict: Option<u64>,
    restarts: Option<u64>,
}

const CLEAN: Promise = Promise { lost: Some(0), dup: Some(0), conflict: Some(0), restarts: Some(0) };
const NOTHING: Promise = Promise { lost: None, dup: None, conflict: None, restarts: None };

// === impl Promise ===

impl Promise {
    /// What is promised for this cell.
    pub(crate) fn of(scenario: Scenario, mode: Mode, acks: Acks, runs: u32) -> Self {
        if mode == Mode::Direct {
            return NOTHING;
        }
        let deaths = u64::from(runs);
        match scenario {
            // The process and what it has in memory dies: Settled gets it back, and so do libraries that acknowledge afterwards.
            Scenario::Crash | Scenario::BotRestart => Self {
                lost: (mode == Mode::Settled || acks == Acks::After).then_some(0),
                dup: (mode == Mode::Gate).then_some(BATCH * deaths),
                restarts: if scenario == Scenario::Crash { Some(0) } else { None },
                ..CLEAN
            },
            // The bot's call fails in the midst, and whatever it makes of that.
            Scenario::GateRestart => Self { conflict: Some(0), ..NOTHING },
            // Who acknowledges first and then works for long without a call cannot be seen working: Settled gets its updates back,
            // up to the length of a drain. What outlasts that is cut off.
            Scenario::Silent10 | Scenario::Silent30 => {
                let settled = mode == Mode::Settled && scenario == Scenario::Silent10;
                Self { lost: (settled || acks == Acks::After).then_some(0), dup: None, ..CLEAN }
            }
            // Whoever polls with the token takes the session; the bot must not notice.
            Scenario::ForeignPoller => Self { conflict: None, ..CLEAN },
            // The gate meets the webhook before it is deleted.
            Scenario::WebhookLeft => Self { conflict: None, ..CLEAN },
            _ => CLEAN,
        }
    }

    /// What was not kept, in words.
    pub(crate) fn broken_by(&self, figures: &Figures) -> Vec<String> {
        let mut broken = Vec::new();
        for (what, limit, found) in [
            ("lost", self.lost, figures.lost),
            ("doubled", self.dup, figures.dup),
            ("409s", self.conflict, figures.conflict),
            ("restarts", self.restarts, figures.restarts.into()),
            // Whatever happened, in the end everything was fetched.
            ("never fetched", self.conflict.or(self.lost), figures.undelivered),
        ] {
            if let Some(limit) = limit.filter(|limit| found > *limit) {
                broken.push(format!("{found} {what}, at most {limit} allowed"));
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_message_breaks_the_promise_of_a_rollout_and_says_so() {
        let promise = Promise::of(Scenario::Roll, Mode::Gate, Acks::First, 20);
        let figures = Figures { lost: 1, ..Figures::default() };
        assert_eq!(promise.broken_by(&figures), ["1 lost, at most 0 allowed"]);
        assert_eq!(promise.broken_by(&Figures::default()), [""; 0]);
    }

    #[test]
    fn a_bot_that_acknowledges_first_may_lose_its_memory_in_a_crash_but_not_when_settled() {
        let figures = Figures { lost: 3, dup: 4, ..Figures::default() };
        let broken = |mode, acks| Promise::of(Scenario::Crash, mode, acks, 1).broken_by(&figures);
        assert_eq!(broken(Mode::Gate, Acks::First), [""; 0]);
        assert_eq!(broken(Mode::Gate, Acks::After), ["3 lost, at most 0 allowed"]);
        assert_eq!(broken(Mode::Settled, Acks::First), ["3 lost, at most 0 allowed"]);
    }

    #[test]
    fn without_a_gate_nothing_is_promised() {
        let figures = Figures { lost: 3, dup: 4, conflict: 5, restarts: 6, ..Figures::default() };
        assert_eq!(Promise::of(Scenario::Roll, Mode::Direct, Acks::First, 1).broken_by(&figures), [""; 0]);
    }
}
