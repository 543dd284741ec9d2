//! Ways in which the driver could be wrong. In production it is none of them; the simulation makes it one of them at a time, and
//! must find it out.

use crate::driver::Driver;
use crate::world::World;

/// A mistake that somebody could make in the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// An order that gives the lease away is on its way before the role is given up.
    ViewAfterTheActions,
    /// What happened is dated with a clock that was read before it was waited for.
    ClockReadBeforeTheWait,
    /// A file lock that somebody else has is taken for one's own.
    LockedWithoutTheLock,
    /// Only a change of the epoch is worth being published.
    RenewalsUnpublished,
    /// A statement is waited for as long as it takes.
    NoDeadline,
}

// === impl Driver ===

impl<W: World> Driver<W> {
    /// Whether it has this one.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the simulation's has a use for it")]
    pub(crate) const fn has(&self, _: Flaw) -> bool {
        false
    }

    #[cfg(test)]
    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}
