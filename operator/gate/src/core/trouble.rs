//! When to ask Telegram again after it refused (R11, R25, R26). The bot is held meanwhile.

use std::time::Duration;

use pollux_clock::BootInstant;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// 5xx, HTML, resets, silence: from half a second to ten, doubled each time.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A foreign poller: quick retries would only trade the slot every three seconds.
const CONFLICT_SECONDS: [u64; 5] = [3, 5, 10, 20, 30];
/// Without a conflict for this long, the foreign poller is gone.
const CONFLICT_FORGOTTEN: Duration = Duration::from_secs(600);
/// A webhook that nobody asked to delete: somebody's mistake, that a person mends.
const WEBHOOK_RETRY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Trouble {
    rng: SmallRng,
    retry_at: Option<BootInstant>,
    failures: u32,
    conflicts: usize,
    /// Those of the foreign poller that is there now.
    foreign_conflicts: u32,
    last_conflict: Option<BootInstant>,
    /// The late request of this leadership was seen (R25).
    late_request: bool,
}

// === impl Trouble ===

impl Trouble {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            retry_at: None,
            failures: 0,
            conflicts: 0,
            foreign_conflicts: 0,
            last_conflict: None,
            late_request: false,
        }
    }

    pub(super) fn retry_at(&self) -> Option<BootInstant> {
        self.retry_at
    }

    pub(super) fn retry_now(&mut self) {
        self.retry_at = None;
        self.failures = 0;
    }

    /// A new leadership starts without the waits of an earlier one.
    pub(super) fn leadership_began(&mut self) {
        self.retry_now();
        self.late_request = false;
    }

    pub(super) fn answered(&mut self) {
        self.retry_now();
        self.conflicts = 0;
    }

    pub(super) fn failed(&mut self, now: BootInstant) {
        let doubled = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(8));
        self.failures += 1;
        let wait = self.jitter(doubled.min(LAST_BACKOFF));
        self.retry_at = Some(now + wait);
    }

    pub(super) fn flood_wait(&mut self, wait: Duration, now: BootInstant) {
        self.retry_at = Some(now + wait.min(Duration::from_secs(3600)));
    }

    pub(super) fn unauthorized(&mut self, now: BootInstant) {
        let wait = Duration::from_millis(self.rng.random_range(30_000..60_000));
        self.retry_at = Some(now + wait);
    }

    pub(super) fn webhook(&mut self, now: BootInstant) {
        self.retry_at = Some(now + WEBHOOK_RETRY);
    }

    /// The first conflict within `window` of a takeover is the predecessor's last request: true, and retried at once.
    pub(super) fn conflict(&mut self, led_for: Duration, window: Duration, now: BootInstant) -> bool {
        if led_for < window && !self.late_request {
            self.late_request = true;
            self.retry_at = None;
            return true;
        }
        let seconds = CONFLICT_SECONDS[self.conflicts.min(CONFLICT_SECONDS.len() - 1)];
        self.conflicts += 1;
        self.foreign_conflicts = self.foreign_conflicts(now).saturating_add(1);
        self.last_conflict = Some(now);
        self.retry_at = Some(now + self.jitter(Duration::from_secs(seconds)));
        false
    }

    pub(super) fn foreign_until(&self) -> Option<BootInstant> {
        self.last_conflict.map(|last| last + CONFLICT_FORGOTTEN)
    }

    pub(super) fn foreign_conflicts(&self, now: BootInstant) -> u32 {
        if self.foreign_until().is_some_and(|until| now < until) { self.foreign_conflicts } else { 0 }
    }

    fn jitter(&mut self, wait: Duration) -> Duration {
        wait.mul_f64(self.rng.random_range(0.8..1.2))
    }
}
