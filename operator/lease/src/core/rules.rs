//! What safety rests on: the rules, each by a name that the code asks for where it obeys, and the numbers.
//!
//! In production every rule is kept. The model takes one away at a time and must find out what it is for.

use std::time::Duration;

use pollux_clock::BootInstant;

use super::Core;

/// A rule without which an invariant falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rule {
    // === the holder ===
    /// A fence is dated from the moment before the statement was sent, not from its answer.
    FenceFromSending,
    /// It is as long as the TTL that this very statement wrote, whatever the setting is by now.
    FenceFromTheWrittenTtl,
    /// A renewal that writes a shorter TTL brings the fence forward when it is sent.
    AShorterTtlCountsAtOnce,
    /// Whoever has sent an order that gives the lease away acts under its epoch no more.
    EndedWhenSent,
    /// Also if no answer comes.
    EndedForGood,
    // === becoming the holder ===
    /// A successor's first fence is dated from its own beat that its predecessor saw.
    GrantFromTheBeat,
    /// A notification is a reason to look, and grants nothing.
    NotificationsGrantNothing,
    /// A holder is silent after the TTL that is in the row, whatever the setting is.
    SilenceOfTheWrittenTtl,
    /// Only the lock of the pod's file proves that the former process of this pod is dead.
    ThePodsLock,
    /// Only a revision that may lead is a candidate.
    EligibleOnly,
    // === sessions ===
    /// A candidate that was granted the lock waits until the holder's last heartbeat counts no more.
    SessionFenceIsWaitedOut,
    /// A heartbeat counts only if the backend that has the lock answered it.
    TheSameBackend,
    /// A grant is evidence only for a session that was refused before.
    AlreadyTrying,
    /// A leader whose row names a session acts only while its heartbeats are answered.
    BoundByTheSession,
    /// A heartbeat counts from the moment before it was sent.
    HeartbeatFromSending,
    /// The holder is bound by its session when the renewal that says so is sent,
    BoundWhenSent,
    /// and until one that says nothing of it is confirmed.
    UnboundWhenConfirmed,
    /// A session whose heartbeat another backend answered is given up, so that the row names it no longer.
    ALostSessionIsGivenUp,
    // === a server that forgets ===
    /// Statements name the incarnation that their sender knows, and are void in any other.
    #[cfg(test)]
    IncarnationIsCompared,
    /// Who cannot vouch for a row of an earlier incarnation waits until every fence has passed.
    DoubtIsWaitedOut,
    /// Only a holder that hears of the new incarnation before its fence vouches for its row.
    VouchedWithinTheFence,
    /// And only one that has sent no order that gives the row away.
    VouchedWithoutAnOrder,
    /// In Fast that is the fence of its session, after which somebody may have been granted the lease on the session's end.
    VouchedWithinTheSession,
    /// What was seen in an earlier incarnation is no evidence.
    ObservedAnew,
    // === the statements, kept by the server ===
    /// A renewal compares the row's number: one that was given up is void after a later one.
    #[cfg(test)]
    RenewComparesNumber,
    /// So does a takeover: its evidence is about one state of the row.
    #[cfg(test)]
    TakeoverComparesNumber,
    /// Every new holder begins a new epoch, also in the pod of the former one.
    #[cfg(test)]
    EpochRises,
    /// After a rollback the next epoch is above all that were ever granted, not only above the row's.
    #[cfg(test)]
    EpochAboveTheForgotten,
}

/// The numbers that safety rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Timing {
    /// Share of the TTL by which a leader stops early: the drift of two quartz clocks against each other is below 0.02 %, that
    /// of two virtual machines under load has been seen at 1 %.
    pub(super) drift_percent: u32,
    /// What a leader stops early in any case: from the check of the fence to the effect at the peer.
    pub(super) margin: Duration,
    /// What a candidate waits beyond the TTL, besides 1 % of it.
    pub(super) slack: Duration,
    /// The TTL of a handover: what a successor that died in the last 300 ms costs.
    pub(super) first_grant: Duration,
    /// How long a row is doubted, in hundredths of the longest TTL in use.
    pub(super) doubt_percent: u32,
}

// === impl Timing ===

impl Timing {
    pub(super) const PRODUCTION: Self = Self {
        drift_percent: 2,
        margin: Duration::from_millis(50),
        slack: Duration::from_millis(20),
        first_grant: Duration::from_secs(2),
        doubt_percent: 125,
    };

    /// The instant from which a lease that was written by a statement sent at `sent` may not be relied on.
    pub(super) fn fence(&self, sent: BootInstant, ttl: Duration) -> BootInstant {
        sent + ttl.saturating_sub(ttl * self.drift_percent / 100 + self.margin)
    }

    /// How long a row that promises `ttl` must have been silent before somebody else may take it.
    pub(super) fn silence(&self, ttl: Duration) -> Duration {
        ttl + ttl / 100 + self.slack
    }
}

// === impl Core ===

impl Core {
    /// Whether this rule is kept: always, but in the model.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the model's has a use for it")]
    pub(super) const fn keeps(&self, _: Rule) -> bool {
        true
    }

    #[cfg(test)]
    pub(super) fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// The same, but for one rule or one number.
    #[cfg(test)]
    pub(super) const fn flawed(mut self, without: Option<Rule>, timing: Timing) -> Self {
        self.without = without;
        self.timing = timing;
        self
    }
}
