//! When a leader gives its lease away because its bot is not there (R14, R14b).
//!
//! A leader polls only for its bot, so a leader without one is nobody's leader. It hands over without a drain, because there
//! is nothing to finish, and only to somebody who can lead now: without one, waiting for the bot's restart loses nothing.
//!
//! | the bot | since when | the leader |
//! | --- | --- | --- |
//! | was there, its connections are gone | at once | gives the lease away |
//! | has not come since this agent started (an agent that was restarted takes its own pod's lease at once, and its bot may wait long before it tries again) | [`PATIENCE`] | gives the lease away |
//! | is connected and asks for nothing | the gate's own limit | gives the lease away |
//!
//! While it lasts the attempt is repeated every [`AGAIN`]: a successor may become ready later.

use std::time::Duration;

use pollux_clock::BootInstant;

/// Most libraries try again within this time; some wait for half a minute, and then somebody else should lead meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two attempts.
pub const AGAIN: Duration = Duration::from_millis(500);

/// Why a leader gives its lease away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The bot's process is gone.
    BotGone,
    /// The bot's process has not come.
    BotAbsent,
    /// The bot's process asks for nothing.
    BotDeaf,
}

/// What is known at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Since when this replica leads; nothing on a standby.
    pub leading_since: Option<BootInstant>,
    /// The bot has a connection to the gate.
    pub alive: bool,
    /// The bot has a request for updates open.
    pub polling: bool,
    /// The bot has asked for nothing for a long time.
    pub deaf: bool,
}

/// Remembers what single moments do not tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Absence {
    seen: bool,
    tried: Option<BootInstant>,
}

// === impl Why ===

impl Why {
    /// The word for logs and rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BotGone => "BotGone",
            Self::BotAbsent => "BotAbsent",
            Self::BotDeaf => "BotDeaf",
        }
    }
}

// === impl Absence ===

impl Absence {
    /// Whether to hand over now, if `somebody` is ready. To be asked at every change and at least every [`AGAIN`].
    pub fn look(&mut self, facts: Facts, somebody: bool, now: BootInstant) -> Option<Why> {
        self.seen |= facts.alive;
        let Some(why) = self.why(facts, now) else {
            self.tried = None;
            return None;
        };
        if !somebody {
            return None;
        }
        if self.tried.is_some_and(|tried| now.saturating_since(tried) < AGAIN) {
            return None;
        }
        self.tried = Some(now);
        Some(why)
    }

    fn why(self, facts: Facts, now: BootInstant) -> Option<Why> {
        let since = facts.leading_since?;
        match facts {
            Facts { polling: true, .. } => None,
            Facts { deaf: true, .. } => Some(Why::BotDeaf),
            Facts { alive: true, .. } => None,
            _ if self.seen => Some(Why::BotGone),
            _ if now.saturating_since(since) >= PATIENCE => Some(Why::BotAbsent),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: Facts = Facts { leading_since: Some(BootInstant::ZERO), alive: true, polling: true, deaf: false };
    const GONE: Facts = Facts { alive: false, polling: false, ..THERE };

    fn at(milliseconds: u64) -> BootInstant {
        BootInstant::from_boot(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_leader_whose_bot_died_does_not_wait() {
        let mut absence = Absence::default();
        assert_eq!(absence.look(THERE, true, at(0)), None);
        assert_eq!(absence.look(GONE, true, at(1)), Some(Why::BotGone));
    }

    #[test]
    fn a_restarted_agent_gives_its_bot_a_moment_to_come_back() {
        let mut absence = Absence::default();
        assert_eq!(absence.look(GONE, true, at(0)), None);
        assert_eq!(absence.look(GONE, true, at(999)), None);
        assert_eq!(absence.look(GONE, true, at(1000)), Some(Why::BotAbsent));
    }

    #[test]
    fn a_bot_between_two_polls_is_not_gone() {
        let mut absence = Absence::default();
        let busy = Facts { polling: false, ..THERE };
        assert_eq!(absence.look(THERE, true, at(0)), None);
        assert_eq!(absence.look(busy, true, at(5000)), None);
    }

    #[test]
    fn a_deaf_bot_is_connected_and_does_not_lead() {
        let mut absence = Absence::default();
        let deaf = Facts { polling: false, deaf: true, ..THERE };
        assert_eq!(absence.look(deaf, true, at(0)), Some(Why::BotDeaf));
    }

    #[test]
    fn a_standby_has_nothing_to_give_away() {
        let mut absence = Absence::default();
        assert_eq!(absence.look(THERE, true, at(0)), None);
        assert_eq!(absence.look(Facts { leading_since: None, ..GONE }, true, at(9000)), None);
    }

    #[test]
    fn a_successor_that_comes_later_gets_the_lease_later() {
        let mut absence = Absence::default();
        assert_eq!(absence.look(THERE, true, at(0)), None);
        assert_eq!(absence.look(GONE, false, at(1)), None, "nobody to give it to");
        assert_eq!(absence.look(GONE, true, at(2)), Some(Why::BotGone));
        assert_eq!(absence.look(GONE, true, at(3)), None, "the attempts are not a storm");
        assert_eq!(absence.look(GONE, true, at(502)), Some(Why::BotGone));
    }

    #[test]
    fn a_bot_that_came_back_and_dies_again_is_not_held_up_by_the_former_attempt() {
        let mut absence = Absence::default();
        assert_eq!(absence.look(THERE, true, at(0)), None);
        assert_eq!(absence.look(GONE, true, at(1)), Some(Why::BotGone));
        assert_eq!(absence.look(THERE, true, at(10)), None);
        assert_eq!(absence.look(GONE, true, at(20)), Some(Why::BotGone));
    }
}
