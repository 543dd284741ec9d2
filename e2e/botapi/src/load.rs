//! When the updates of a load come, and from which chats. Deterministic: the seed decides.

use std::time::Duration;

use crate::model::Load;

const FIRST_CHAT: i64 = 1001;

/// The updates of a load in order of time: when (since its start), and from which chat.
#[derive(Debug)]
pub(crate) struct Schedule {
    load: Load,
    random: SplitMix64,
    given: u64,
    /// Numbers of the evenly spread update, of the burst, and of the update within it, that come next.
    even: u64,
    even_at: Duration,
    burst: u32,
    in_burst: u32,
}

// === impl Schedule ===

impl Schedule {
    pub(crate) fn new(load: Load) -> Self {
        let mut schedule = Self {
            load,
            random: SplitMix64(load.seed),
            given: 0,
            even: 0,
            even_at: Duration::MAX,
            burst: 1,
            in_burst: 0,
        };
        schedule.plan_even();
        schedule
    }

    /// The next evenly spread update: somewhere in the first half of its interval.
    fn plan_even(&mut self) {
        if self.load.rate <= 0.0 {
            return;
        }
        let jitter = (self.random.next() >> 11) as f64 / (1_u64 << 53) as f64 / 2.0;
        self.even_at = Duration::from_secs_f64((self.even as f64 + jitter) / self.load.rate);
        self.even += 1;
    }

    fn burst_at(&self) -> Duration {
        if self.load.burst == 0 { Duration::MAX } else { self.load.burst_every.saturating_mul(self.burst) }
    }
}

impl Iterator for Schedule {
    type Item = (Duration, i64);

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.even_at.min(self.burst_at());
        let over = self.load.seconds.is_some_and(|end| at >= end) || self.load.count.is_some_and(|n| self.given >= n);
        if over || at == Duration::MAX {
            return None;
        }
        if at == self.burst_at() {
            self.in_burst += 1;
            if self.in_burst == self.load.burst {
                self.in_burst = 0;
                self.burst += 1;
            }
        } else {
            self.plan_even();
        }
        self.given += 1;
        let chat = self.random.next() % u64::from(self.load.chats.max(1));
        Some((at, FIRST_CHAT + chat as i64))
    }
}

/// Sebastiano Vigna's generator: the same numbers with every version of every crate.
#[derive(Debug)]
struct SplitMix64(u64);

// === impl SplitMix64 ===

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(load: Load) -> Vec<(Duration, i64)> {
        Schedule::new(load).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_load_and_another_one_another() {
        let load = Load { count: Some(100), burst: 8, ..Load::default() };
        assert_eq!(all(load), all(load));
        assert_ne!(all(load), all(Load { seed: 2, ..load }));
    }

    #[test]
    fn rate_and_bursts_add_up_and_come_in_order() {
        let load = Load { seconds: Some(Duration::from_secs(31)), burst: 8, ..Load::default() };
        let updates = all(load);
        assert_eq!(updates.len(), 31 * 5 + 3 * 8);
        assert!(updates.is_sorted_by_key(|(at, _)| *at));
        let at_ten = updates.iter().filter(|(at, _)| *at == Duration::from_secs(10)).count();
        assert_eq!(at_ten, 8);
    }

    #[test]
    fn all_chats_take_part() {
        let mut chats: Vec<i64> =
            all(Load { count: Some(200), chats: 4, ..Load::default() }).into_iter().map(|(_, chat)| chat).collect();
        chats.sort_unstable();
        chats.dedup();
        assert_eq!(chats, [1001, 1002, 1003, 1004]);
    }

    #[test]
    fn a_load_of_bursts_alone_works_and_one_of_nothing_is_empty() {
        let load = Load { rate: 0.0, burst: 3, count: Some(7), ..Load::default() };
        assert_eq!(all(load).len(), 7);
        assert_eq!(all(Load { rate: 0.0, ..Load::default() }), []);
    }
}
