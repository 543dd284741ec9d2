//! The one clock that leases, fences and drains are measured with.
//!
//! `CLOCK_BOOTTIME` goes on while a machine is suspended, so a process that slept through its lease finds it over when it
//! wakes. It is never set by anybody and is shared by all processes of one kernel, but two machines' readings mean nothing
//! to each other: only durations measured on one of them may travel.

use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A reading of `CLOCK_BOOTTIME`: time since this kernel started, suspension included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(Duration);

// === impl BootInstant ===

impl BootInstant {
    /// The earliest instant there is: every deadline set to it has passed.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// Reads the clock.
    pub fn now() -> Self {
        let t = clock_gettime(ClockId::Boottime);
        let secs = u64::try_from(t.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(t.tv_nsec).unwrap_or_default();
        Self(Duration::new(secs, nanos))
    }

    /// An instant `since_boot` after the kernel's start. For tests and simulations, which bring their own clock.
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// Time since the kernel's start.
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This instant moved back by `by`, at most to [`BootInstant::ZERO`].
    pub const fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl Sub for BootInstant {
    type Output = Duration;

    /// Saturates at zero, as [`BootInstant::saturating_since`] does.
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_runs_backwards() {
        let readings: Vec<_> = (0..1000).map(|_| BootInstant::now()).collect();
        assert!(readings.is_sorted());
    }

    #[test]
    fn a_deadline_far_in_the_future_does_not_wrap_round() {
        assert!(BootInstant::now() + Duration::MAX > BootInstant::now());
    }

    #[test]
    fn a_difference_with_a_later_instant_is_zero() {
        let earlier = BootInstant::from_boot(Duration::from_secs(1));
        let later = earlier + Duration::from_secs(2);
        assert_eq!(earlier - later, Duration::ZERO);
        assert_eq!(later - earlier, Duration::from_secs(2));
    }
}
