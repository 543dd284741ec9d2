//! The fence, where every task can look at it right before a side effect (R8, R13).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pollux_clock::BootInstant;

/// Until when this process leads. Clones are the same fence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fence(Arc<AtomicU64>);

impl Fence {
    /// `None`: does not lead.
    pub(crate) fn set(&self, until: Option<BootInstant>) {
        self.0.store(until.map_or(0, nanos), Ordering::SeqCst);
    }

    /// Whether it is still ahead.
    pub(crate) fn holds(&self) -> bool {
        nanos(BootInstant::now()) < self.0.load(Ordering::SeqCst)
    }

    /// How far ahead it is.
    pub(crate) fn left(&self) -> Duration {
        instant(self.0.load(Ordering::SeqCst)) - BootInstant::now()
    }
}

pub(crate) fn nanos(at: BootInstant) -> u64 {
    u64::try_from(at.since_boot().as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn instant(nanos: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_nanos(nanos))
}
