//! What a schedule does, drawn from its seed.

use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// The TTL that contenders bring along: short, so that much happens in a minute.
pub(crate) const TTL: Duration = Duration::from_secs(1);
/// What a setting may make of it.
const OTHER_TTLS: [Duration; 3] = [Duration::from_millis(700), TTL, Duration::from_millis(1500)];
/// How often a fault hits the leader, where it hurts.
const AT_LEADER: f64 = 0.7;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// kill -9, and the agent starts again in its pod, whose file lock proves the death
    KillRestart,
    /// kill -9, and another pod comes instead
    KillReplace,
    /// SIGSTOP for half a TTL
    FreezeHalf,
    /// SIGSTOP for one TTL
    FreezeTtl,
    /// SIGSTOP for three
    FreezeLong,
    /// The leader hands over
    Handover,
    /// Another TTL, by a setting
    Ttl,
    /// No packet reaches a pod
    CutIn,
    /// No packet leaves it
    CutOut,
    /// Neither
    CutBoth,
    /// A pod's connections hang
    ProxyHang,
    /// Its requests arrive, and replies do not
    ProxyHangReplies,
    /// Its connections end and new ones are refused
    ProxyCut,
    /// The database sees its connections end, and it does not
    ProxyHalfOpen,
    /// A renewal is carried out and its reply is lost
    LoseRenew,
    /// The same with a handover
    LoseHandover,
    /// The same with the takeover after the leader's death
    LoseTakeover,
    /// The database is restarted
    DatabaseFast,
    /// The same, as after a crash
    DatabaseImmediate,
    /// kill -9 of the database
    DatabaseKill,
    /// SIGSTOP of the database
    DatabaseFreeze,
    /// The database's wall clock jumps by an hour, and back
    DatabaseClock,
    /// The database ends all sessions for locks
    EndSessions,
    /// synchronous_commit=off, and kill -9: what was committed last is gone
    LostTail,
    /// The database dies, and a lagging asynchronous standby is promoted
    Failover,
    /// The same, and then once more to a standby that knows nothing of the first time
    FailoverTwice,
    /// The database's data are replaced by an older snapshot
    Restore,
    /// A standby dies while the database's clock is an hour ahead; the clock is put right, and the leader hands over
    ClockBack,
}

/// Kinds by what they hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Contenders' processes, and what is planned.
    Process,
    /// Network namespaces and iptables.
    Network,
    /// The proxy before each contender.
    Proxy,
    /// The database, which forgets nothing.
    Database,
    /// The database goes back in time, with its data or with its clock.
    Incarnation,
}

/// One fault of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Whether it hits the leader; if not, the contender with this number, counted round.
    pub(crate) at_leader: bool,
    pub(crate) number: usize,
    /// How long it lasts, where that is left open.
    pub(crate) hold: Duration,
    /// By how many hours clocks jump.
    pub(crate) hours: i32,
    /// The new TTL.
    pub(crate) ttl: Duration,
}

/// What a schedule does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) contenders: usize,
    /// Failover by sessions.
    pub(crate) fast: bool,
    pub(crate) faults: Vec<Fault>,
}

// === impl Plan ===

impl Plan {
    /// The same seed and the same kinds give the same plan.
    pub(crate) fn new(seed: u64, kinds: &[Kind]) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let contenders = random.random_range(3..=4);
        let fast = random.random_bool(0.5);
        let number = random.random_range(6..=10);
        let possible = |kind: &&Kind| fast || **kind != Kind::EndSessions;
        let kinds: Vec<_> = kinds.iter().filter(possible).copied().collect();
        let mut faults: Vec<_> = (0..number).map(|_| Fault::random(&mut random, &kinds)).collect();
        // Whatever happens in between, two leaders follow another: a schedule in which nothing changes hands shows nothing.
        for at in [0, faults.len()] {
            faults.insert(at, Fault { kind: Kind::Handover, ..Fault::random(&mut random, &kinds) });
        }
        Self { contenders, fast, faults }
    }
}

// === impl Fault ===

impl Fault {
    fn random(random: &mut StdRng, kinds: &[Kind]) -> Self {
        Self {
            kind: kinds.choose(random).copied().unwrap_or(Kind::Handover),
            at_leader: random.random_bool(AT_LEADER),
            number: random.random_range(0..12),
            hold: TTL.mul_f64(random.random_range(0.4..2.0)),
            hours: if random.random_bool(0.5) { 1 } else { -1 },
            ttl: OTHER_TTLS.choose(random).copied().unwrap_or(TTL),
        }
    }
}

// === impl Kind ===

impl Kind {
    pub(crate) const fn group(self) -> Group {
        match self {
            Self::KillRestart
            | Self::KillReplace
            | Self::FreezeHalf
            | Self::FreezeTtl
            | Self::FreezeLong
            | Self::Handover
            | Self::Ttl => Group::Process,
            Self::CutIn | Self::CutOut | Self::CutBoth => Group::Network,
            Self::ProxyHang
            | Self::ProxyHangReplies
            | Self::ProxyCut
            | Self::ProxyHalfOpen
            | Self::LoseRenew
            | Self::LoseHandover
            | Self::LoseTakeover => Group::Proxy,
            Self::DatabaseFast
            | Self::DatabaseImmediate
            | Self::DatabaseKill
            | Self::DatabaseFreeze
            | Self::DatabaseClock
            | Self::EndSessions => Group::Database,
            Self::LostTail | Self::Failover | Self::FailoverTwice | Self::Restore | Self::ClockBack => {
                Group::Incarnation
            }
        }
    }

    /// How long after its beginning, or for a fault of the database after its end, somebody leads again at the latest.
    /// `longest` is the longest TTL in use.
    pub(crate) fn bound(self, longest: Duration) -> Duration {
        /// A look of a candidate, a connection and a statement.
        const SLACK: Duration = Duration::from_millis(1500);
        match self {
            // Less than the first grant, which is what a handover to somebody dead costs: there is one who is fit, and the
            // dead one's last beat is an hour off.
            Self::ClockBack => SLACK,
            // Who took over has to find out by another connection.
            Self::LoseTakeover => longest + SLACK + Duration::from_secs(1),
            // Nobody takes over for a quarter more than the longest TTL, and then as always.
            _ if self.group() == Group::Incarnation => longest.mul_f64(2.25) + SLACK,
            // So it is when the database was away for longer than a fence.
            Self::DatabaseFast | Self::DatabaseImmediate | Self::DatabaseKill => longest.mul_f64(2.25) + SLACK,
            _ => longest + SLACK,
        }
    }

    /// Whether the database's clock must be one that can be shifted.
    pub(crate) const fn shifts(self) -> bool {
        matches!(self, Self::DatabaseClock | Self::ClockBack)
    }

    /// The word for it, on the command line and in reports.
    pub(crate) fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Reads a list of kinds and groups: `all`, a group's word, or a kind's own.
pub(crate) fn parse(words: &str) -> Result<Vec<Kind>, String> {
    let every = Kind::value_variants().iter().copied();
    let mut kinds = Vec::new();
    for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if word == "all" {
            kinds.extend(every.clone());
        } else if let Ok(group) = Group::from_str(word, false) {
            kinds.extend(every.clone().filter(|kind| kind.group() == group));
        } else {
            let known = every.clone().map(Kind::word).collect::<Vec<_>>().join(", ");
            let kind = Kind::from_str(word, false).map_err(|_| {
                format!(
                    "there is no fault {word:?}; there are all, process, network, proxy, database, incarnation, {known}"
                )
            })?;
            kinds.push(kind);
        }
    }
    kinds.sort();
    kinds.dedup();
    if kinds.is_empty() { Err("no fault is named".to_owned()) } else { Ok(kinds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_its_schedule_and_another_one_makes_another() {
        let kinds = Kind::value_variants();
        assert_eq!(Plan::new(7, kinds), Plan::new(7, kinds));
        assert_ne!(Plan::new(7, kinds), Plan::new(8, kinds));
    }

    #[test]
    fn thirty_schedules_leave_no_kind_of_fault_out() {
        let kinds = Kind::value_variants();
        let drawn: Vec<_> = (0..30).flat_map(|seed| Plan::new(seed, kinds).faults).map(|fault| fault.kind).collect();
        let missing: Vec<_> = kinds.iter().filter(|kind| !drawn.contains(kind)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn groups_and_kinds_are_named_in_one_list() {
        assert_eq!(parse("all").unwrap().len(), Kind::value_variants().len());
        assert_eq!(
            parse("network,handover,cut-in").unwrap(),
            [Kind::Handover, Kind::CutIn, Kind::CutOut, Kind::CutBoth]
        );
        assert!(parse("cut-off").unwrap_err().contains("database-clock"));
        assert!(parse("").is_err());
    }
}
