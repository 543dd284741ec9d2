//! What is measured: the rows of the table, and what each of them takes.

use std::time::Duration;

use clap::ValueEnum;

use crate::contend::Rules;
use crate::elector::{Elector, Failover, Fault, Way};
use crate::world::Needs;

/// A row, as it is chosen with `--only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Row {
    /// Planned handovers, and the floor
    Handover,
    KillTtl,
    StopTtl,
    KillTtl3,
    /// Behind PgBouncer in transaction mode
    KillPooler,
    KillFast,
    /// SIGSTOP, and a network that swallows
    HoleFast,
    KillFast300,
    /// The database is away for 5 s
    Restart,
    /// One statement for each agent, through PgBouncer
    ScaleSingle,
    /// One statement for all leases of a process
    ScaleBatched,
    ClientGoDefault,
    ClientGoFast,
    AdvisoryLock,
    #[value(name = "ttl_row_30s")]
    TtlRow30s,
    River,
    #[value(name = "etcd_10s")]
    Etcd10s,
    #[value(name = "etcd_2s")]
    Etcd2s,
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// For figures: twenty minutes.
    Full,
    /// For a look whether everything works: two minutes.
    Quick,
}

/// One elector's elections, side by side, and what happens in each of them.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) row: Row,
    pub(crate) elector: Elector,
    pub(crate) way: Way,
    pub(crate) lanes: usize,
    pub(crate) steps: Vec<Step>,
    /// Whether nothing else may run meanwhile: its milliseconds matter.
    pub(crate) alone: bool,
}

/// The same fault, several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) key: &'static str,
    pub(crate) fault: Fault,
    pub(crate) samples: usize,
}

// === impl Row ===

impl Row {
    /// The name under `others`, for what is not ours.
    pub(crate) const fn other(self) -> Option<&'static str> {
        Some(match self {
            Self::ClientGoDefault => "client_go_default",
            Self::ClientGoFast => "client_go_fast",
            Self::AdvisoryLock => "advisory_lock",
            Self::TtlRow30s => "ttl_row_30s",
            Self::River => "river",
            Self::Etcd10s => "etcd_10s",
            Self::Etcd2s => "etcd_2s",
            _ => return None,
        })
    }

    /// As `--only` calls it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it needs the mode Fast.
    pub(crate) const fn needs_fast(self) -> bool {
        matches!(self, Self::KillFast | Self::HoleFast | Self::KillFast300)
    }

    pub(crate) fn needs(self) -> Needs {
        Needs {
            pooler: matches!(self, Self::KillPooler | Self::ScaleSingle),
            kubernetes: matches!(self, Self::ClientGoDefault | Self::ClientGoFast | Self::Etcd10s | Self::Etcd2s),
        }
    }

    /// The elections of this row; none for the rows that are measured in another way.
    pub(crate) fn plans(self, size: Size) -> Vec<Plan> {
        let lease = |seconds, failover| Elector::lease(Duration::from_secs(seconds), failover);
        let plan = |elector, way, (lanes, quick_lanes), steps: Vec<Step>| Plan {
            row: self,
            elector,
            way,
            lanes: size.of(lanes, quick_lanes),
            steps,
            alone: false,
        };
        let step = |key, fault, full, quick| Step { key, fault, samples: size.of(full, quick) };
        let (ttl, ttl3) = (lease(10, Failover::Ttl), lease(3, Failover::Ttl));
        let (fast, fast300) = (lease(10, Failover::Fast), lease(10, Failover::Fast300));
        let one = |elector, way, lanes, key, fault, full, quick| {
            vec![plan(elector, way, lanes, vec![step(key, fault, full, quick)])]
        };
        match self {
            Self::Handover | Self::Restart | Self::ScaleSingle | Self::ScaleBatched => Vec::new(),
            Self::KillTtl => one(ttl, Way::Direct, (4, 2), "kill_ttl_ms", Fault::Kill, 20, 1),
            Self::StopTtl => one(ttl, Way::Direct, (2, 1), "stop_ttl_ms", Fault::Stop, 15, 1),
            Self::KillTtl3 => one(ttl3, Way::Direct, (3, 2), "kill_ttl3_ms", Fault::Kill, 35, 2),
            Self::KillPooler => one(ttl, Way::Pooler, (3, 1), "kill_pooler_ms", Fault::Kill, 15, 1),
            Self::KillFast => one(fast, Way::Direct, (3, 2), "kill_fast_ms", Fault::Kill, 40, 2),
            Self::HoleFast => {
                let mut both = one(fast, Way::Direct, (2, 1), "hole_fast_ms", Fault::Stop, 30, 1);
                both.extend(one(fast, Way::Proxy, (2, 1), "hole_fast_ms", Fault::Hole, 30, 1));
                both
            }
            Self::KillFast300 => one(fast300, Way::Direct, (3, 2), "kill_fast300_ms", Fault::Kill, 35, 2),
            Self::ClientGoDefault => self.rival(Elector::client_go_default(), size, (3, [8, 6, 3])),
            Self::ClientGoFast => self.rival(Elector::client_go_fast(), size, (2, [15, 12, 5])),
            Self::AdvisoryLock => self.rival(Elector::Rules(Rules::AdvisoryLock), size, (2, [20, 20, 2])),
            Self::TtlRow30s => self.rival(Elector::Rules(Rules::TtlRow), size, (3, [6, 6, 3])),
            Self::River => self.rival(Elector::Rules(Rules::River), size, (3, [20, 10, 4])),
            Self::Etcd10s => self.rival(Elector::etcd_10s(), size, (2, [20, 12, 6])),
            Self::Etcd2s => self.rival(Elector::etcd_2s(), size, (2, [20, 20, 8])),
        }
        .into_iter()
        .map(|plan| Plan { alone: plan.alone || self == Self::KillFast300, ..plan })
        .collect()
    }

    /// Release, kill and stop of another elector. Where those who wait are woken by a release, that is measured alone.
    fn rival(self, elector: Elector, size: Size, (lanes, [release, kill, stop]): (usize, [usize; 3])) -> Vec<Plan> {
        let step = |key, fault, full| Step { key, fault, samples: size.of(full, 1) };
        let plan = |lanes, alone, steps| Plan { row: self, elector, way: Way::Direct, lanes, steps, alone };
        let release = step("release_ms", Fault::Give, release);
        let rest = vec![step("kill_ms", Fault::Kill, kill), step("stop_ms", Fault::Stop, stop)];
        let lanes = size.of(lanes, 1);
        if matches!(self, Self::River | Self::Etcd10s | Self::Etcd2s) {
            return vec![plan(1, true, vec![release]), plan(lanes, false, rest)];
        }
        vec![plan(lanes, false, [vec![release], rest].concat())]
    }
}

// === impl Size ===

impl Size {
    pub(crate) const fn of<T: Copy>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}
