//! What a process knows of its bot's lease.

use std::fmt;
use std::time::Duration;

use pollux_clock::BootInstant;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::identity::Resource;

/// Whether this process leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Somebody else leads, or nobody.
    #[default]
    Standby,
    /// This process leads until `fence`.
    Leader {
        /// The fencing token: higher than that of every leader before.
        epoch: i64,
        /// From this instant on this process may do nothing any more. It was dated from the moment at which the renewal was
        /// sent, and the margin is already taken off. Compare with the clock before every side effect: a process that was
        /// frozen has not been told.
        fence: BootInstant,
        /// When it began to lead under this epoch.
        since: BootInstant,
    },
}

/// A snapshot of what is known; a new one is published whenever something in it changes, and after each renewal.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// When this came to be so.
    pub at: BootInstant,
    /// Whether this process leads.
    pub role: Role,
    /// The lease's epoch, as last read; 0 before anybody ever led.
    pub epoch: i64,
    /// Who holds the lease, as last read.
    pub holder: Option<Holder>,
    /// From when on nobody leads, as far as this process knows: its own fence while it leads; else the end of the holder's lease
    /// if no further renewal is seen, dated as for a takeover; else since when the row has been seen free. `None` before the
    /// first answer.
    pub leaderless_from: Option<BootInstant>,
    /// The pod that would get the lease if it were handed over now, as last read: it is ready and it may lead.
    pub successor: Option<String>,
    /// Whether PostgreSQL answers.
    pub database: DatabaseState,
    /// The hot settings of this resource; `None` if there are none, or before the first answer.
    pub settings: Option<Settings>,
    /// What was asked of the agents of this resource.
    pub request: Option<Request>,
    /// When PostgreSQL last answered.
    pub last_answer: Option<BootInstant>,
    /// How this process last came to lead.
    pub takeover: Option<Takeover>,
}

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The resource that it belongs to.
    pub resource: Resource,
    /// Its pod.
    pub pod: String,
    /// The pod's node.
    pub node: String,
    /// The revision that it runs.
    pub revision: String,
    /// Whether it is this very process.
    pub me: bool,
}

/// Whether PostgreSQL answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum DatabaseState {
    /// The first connection is being made.
    #[default]
    Connecting,
    /// It answers.
    Up {
        /// Whether it wakes this process when something changed. Behind a transaction pooler it does not; then the process
        /// looks more often and planned handovers take some 100 ms longer.
        wakes: bool,
    },
    /// It does not.
    Down {
        /// Why, without secrets.
        error: String,
        /// Since when.
        since: BootInstant,
    },
}

/// Hot settings: written by the controller, they reach every agent of a resource within a second and without a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Settings {
    /// The resource's generation that they were made from.
    pub generation: i64,
    /// The revisions that may lead, the preferred one first. `None` is no restriction; an empty list lets nobody lead.
    pub eligible: Option<Vec<String>>,
    /// Everything else. The lease itself reads `leaseDurationSeconds`.
    pub json: Value,
}

/// Something that was asked of the agents of a resource. A row that stays until it is replaced: `id` tells a new one apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Made up by who asks.
    pub id: String,
    /// Hand the lease over to this pod.
    pub to_pod: String,
}

/// How a process came to lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Takeover {
    /// The epoch that began with it.
    pub epoch: i64,
    /// The pod that had led before, if there was one.
    pub from: Option<String>,
    /// What allowed it.
    pub evidence: Evidence,
    /// When, by this process's clock.
    pub at: BootInstant,
}

/// What allowed a process to become the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// Nobody held the lease.
    Free,
    /// The holder handed it over.
    Handover,
    /// The holder had been silent for the TTL that is in the row, by this process's own clock.
    Ttl,
    /// The holder was an earlier process of this very pod, and this one has its file lock.
    Pod,
    /// The holder's session had ended, and the time had passed for which it could act without it.
    Session,
}

/// Why the leader changed. The words are those of `status.lastHandover.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Nobody had ever led.
    Initial,
    /// A pod of another revision leads now.
    Rollout,
    /// The pod of an earlier revision leads again.
    Rollback,
    /// Somebody asked for it.
    Manual,
    /// The node is being drained.
    NodeDrain,
    /// The leader's pod ends.
    PodDeleted,
    /// The leader fell silent.
    LeaseExpired,
    /// The leader lost its lease without having been silent.
    Fenced,
    /// The leader's bot process is gone.
    BotGone,
    /// The leader's bot asks for nothing any more.
    BotDeaf,
    /// The leader's agent was restarted in its pod.
    AgentRestarted,
    /// Somebody took the lease from the leader.
    ForcedRelease,
}

/// An order to [`crate::Lease::hand_over`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HandOver {
    /// Why. A handover for [`Reason::PodDeleted`] to another revision is logged as [`Reason::Rollout`].
    pub reason: Reason,
    /// What the drain achieved, if there was one.
    pub drain: Option<DrainReport>,
    /// When this process's last request for updates ended: from here on nobody polls.
    pub last_poll_ended: Option<BootInstant>,
    /// Only to this pod.
    pub to_pod: Option<String>,
    /// If there is no ready successor: keep the lease instead of releasing it.
    pub only_to_successor: bool,
}

/// What a drain achieved, as it is in the log of handovers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DrainReport {
    /// How long it took.
    pub took: Duration,
    /// How it ended, in one word.
    pub outcome: String,
    /// Updates that the bot had and had not acknowledged: the next leader's bot gets them again.
    pub unacknowledged: u32,
    /// Updates that the bot was probably still working on.
    pub owed: u32,
}

/// What became of a handover.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HandedOver {
    /// A successor holds the lease.
    To {
        /// Its pod.
        pod: String,
        /// Its epoch.
        epoch: i64,
    },
    /// There was no ready successor: nobody holds it.
    Released,
    /// There was no ready successor, and the lease was to be kept: this process still leads.
    Kept,
    /// This process did not hold the lease.
    NotLeader,
    /// PostgreSQL did not answer, or may have forgotten. Under its epoch this process polls no more. If it does not end, it takes
    /// the lease anew when the order did not reach the row, and nobody else has by then.
    Unknown,
}

// === impl Role ===

impl Role {
    /// Whether a side effect may happen at `now`.
    pub fn may_poll(&self, now: BootInstant) -> bool {
        matches!(self, Self::Leader { fence, .. } if now < *fence)
    }

    /// The epoch that this process leads under, if it does. Does not look at the clock.
    pub const fn epoch(&self) -> Option<i64> {
        match self {
            Self::Standby => None,
            Self::Leader { epoch, .. } => Some(*epoch),
        }
    }
}

// === impl View ===

impl Default for View {
    fn default() -> Self {
        Self {
            at: BootInstant::ZERO,
            role: Role::Standby,
            epoch: 0,
            holder: None,
            leaderless_from: None,
            successor: None,
            database: DatabaseState::Connecting,
            settings: None,
            request: None,
            last_answer: None,
            takeover: None,
        }
    }
}

// === impl DatabaseState ===

impl DatabaseState {
    /// Whether PostgreSQL answers.
    pub const fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// Why it does not.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Down { error, .. } => Some(error),
            _ => None,
        }
    }
}

// === impl Evidence ===

impl Evidence {
    /// The word that is in the log of handovers, and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Handover => "handover",
            Self::Ttl => "ttl",
            Self::Pod => "pod",
            Self::Session => "session",
        }
    }
}

// === impl Reason ===

impl Reason {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "Initial",
            Self::Rollout => "Rollout",
            Self::Rollback => "Rollback",
            Self::Manual => "Manual",
            Self::NodeDrain => "NodeDrain",
            Self::PodDeleted => "PodDeleted",
            Self::LeaseExpired => "LeaseExpired",
            Self::Fenced => "Fenced",
            Self::BotGone => "BotGone",
            Self::BotDeaf => "BotDeaf",
            Self::AgentRestarted => "AgentRestarted",
            Self::ForcedRelease => "ForcedRelease",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl HandOver ===

impl HandOver {
    /// A handover for this reason to the best successor, or to nobody.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, drain: None, last_poll_ended: None, to_pod: None, only_to_successor: false }
    }
}

// === impl HandedOver ===

impl HandedOver {
    /// The successor's pod.
    pub fn to_pod(&self) -> Option<&str> {
        match self {
            Self::To { pod, .. } => Some(pod),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_fence_nothing_may_happen_any_more() {
        let fence = BootInstant::from_boot(Duration::from_secs(9));
        let role = Role::Leader { epoch: 1, fence, since: BootInstant::ZERO };
        assert!(role.may_poll(fence.saturating_sub(Duration::from_nanos(1))));
        assert!(!role.may_poll(fence));
        assert!(!Role::Standby.may_poll(BootInstant::ZERO));
    }
}
