//! Who competes, and with which settings.

use std::time::Duration;

pub(crate) use pollux_lease_soak::failover::Failover;

use crate::contend::Rules;

/// An elector with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Elector {
    /// This project's lease.
    Lease {
        /// The row's TTL.
        ttl: Duration,
        /// What ends a leader before its TTL does.
        failover: Failover,
    },
    /// The rules of [`crate::contend`] that are not ours.
    Rules(Rules),
    /// client-go's `tools/leaderelection` with `ReleaseOnCancel`.
    ClientGo(Timing),
    /// etcd's `client/v3/concurrency.Election` on a session of this TTL.
    Etcd {
        /// In whole seconds.
        ttl: Duration,
    },
}

/// client-go's three durations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timing {
    pub(crate) lease: Duration,
    pub(crate) renew: Duration,
    pub(crate) retry: Duration,
}

/// How a contender reaches its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    /// PgBouncer in transaction mode.
    Pooler,
    /// A proxy of its own that can swallow everything.
    Proxy,
}

/// What happens to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It resigns.
    Give,
    /// kill -9, and nobody restarts it.
    Kill,
    /// SIGSTOP: it does nothing, and its connections stay open.
    Stop,
    /// Nothing passes between it and the database, in neither direction, and nobody is told.
    Hole,
}

// === impl Elector ===

impl Elector {
    pub(crate) const TTL: Duration = Duration::from_secs(10);

    pub(crate) const fn lease(ttl: Duration, failover: Failover) -> Self {
        Self::Lease { ttl, failover }
    }

    /// The settings of every Kubernetes component (component-base, `config/v1alpha1`).
    pub(crate) const fn client_go_default() -> Self {
        Self::ClientGo(Timing { lease: secs(15), renew: secs(10), retry: secs(2) })
    }

    /// The fastest that is sane. The lease's duration is written in whole seconds. The API server promises an answer to a
    /// write within 1 s (99 %), so a renewal must have time for two of them: 2 s, four tries 500 ms apart. And the lease
    /// must be longer than that by what a slow answer and two clocks may take, because `renew` is all the fence there is: 3 s.
    pub(crate) const fn client_go_fast() -> Self {
        Self::ClientGo(Timing { lease: secs(3), renew: secs(2), retry: Duration::from_millis(500) })
    }

    /// What is often chosen, and as long as our own TTL.
    pub(crate) const fn etcd_10s() -> Self {
        Self::Etcd { ttl: secs(10) }
    }

    /// The least that a server with its default election timeout of 1 s grants.
    pub(crate) const fn etcd_2s() -> Self {
        Self::Etcd { ttl: secs(2) }
    }

    /// The time after which its signs of life repeat: faults are to come at any moment of it.
    pub(crate) fn cycle(self) -> Duration {
        match self {
            Self::Lease { ttl, .. } => ttl / 5,
            Self::Rules(Rules::TtlRow) => Duration::from_secs(10),
            Self::Rules(Rules::River) => Duration::from_secs(5),
            Self::Rules(_) => Duration::from_secs(1),
            Self::ClientGo(timing) => timing.retry,
            // client/v3/lease.go renews at a third of the TTL.
            Self::Etcd { ttl } => ttl / 3,
        }
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
