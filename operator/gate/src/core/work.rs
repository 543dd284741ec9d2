//! How much a bot still has to do: what the gate can know without reading a message.
//!
//! Most libraries acknowledge an update when they have queued it, so the acknowledgement says nothing about the handler.
//! The gate counts instead. **Owed** are the updates delivered less the calls completed since the bot was last even. A
//! **silence** is the time from a delivery or a completed call to the start of the next call, measured while something
//! is owed (a call that is open is no silence, however long it takes). A one-worker bot with a queue makes one call per silence, so it is through when nothing was heard for twice its
//! longest silence (R32.2), and its queue is short enough while owed x usual silence fits the drain (R27).
//!
//! Further figures beside the longest silence:
//! * the *usual* silence (a moving average) bounds the queue. The longest would starve a bot that answers few messages:
//!   one call of a cron job long after a delivery is a long "silence" and is remembered for ever. For the same reason only
//!   silences of which two fit the bound are averaged, and what is learnt is halved when a hold turns out to have been for
//!   nothing.
//! * the *pace* (from one completed call to the next, deliveries or not) keeps a drain honest while updates stream in
//!   faster than the bot works: then every silence looks short.
//! * the *reach* (from the last delivery before a pause to the last call before the next delivery; the 99th percentile of the
//!   latest hundred) is for handlers that make several calls. After the first one ("typing ...") such a bot is even, and no
//!   silence is measured. It is counted from the delivery, so that calls of a timer do not put the end off for ever.
//!
//! A bot whose handlers are silent altogether may say so itself: between `POST /busy` and `POST /idle` it has not finished.

use std::collections::VecDeque;
use std::time::Duration;

use pollux_clock::BootInstant;

use crate::{Delivery, Settings};

/// A silence longer than this was not the time that one update takes: nobody's handler was at work.
const LONGEST_LESSON: Duration = Duration::from_secs(60);
/// A pace slower than this is a bot that answers few messages, not a slow worker.
const SLOWEST_PACE: Duration = Duration::from_secs(5);
/// Telegram's own limit.
const LARGEST_BATCH: u16 = 100;
/// Telegram delays requests for a single update when they follow each other: bots send one when they end.
const SMALLEST_BATCH: u16 = 2;
/// The bot is taken for idle after at least this silence, when its next poll was held back (R27).
const SHORTEST_HOLD: Duration = Duration::from_secs(1);

/// Shortest silence that counts as "has finished", unless a user knows better (R32.2).
const SHORTEST_QUIET: Duration = Duration::from_secs(2);
/// So many reaches are remembered.
const REACHES: usize = 100;
/// A bot that never says that it is idle again has forgotten to.
const BUSY_LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Work {
    /// Delivered and not acknowledged yet.
    unacknowledged: Vec<i64>,
    /// The highest id of the last delivery.
    highest: Option<i64>,
    owed: usize,
    /// When each of the open calls began.
    open: Vec<BootInstant>,
    busy: Busy,
    last_delivery: Option<BootInstant>,
    last_call: Option<BootInstant>,
    /// A call completed since the bot was last even.
    paced: bool,
    longest: Option<Duration>,
    usual: Option<Duration>,
    pace: Option<Duration>,
    reaches: VecDeque<Duration>,
}

/// What the bot says of itself.
#[derive(Debug, Default)]
struct Busy {
    jobs: usize,
    until: Option<BootInstant>,
}

// === impl Work ===

impl Work {
    pub(super) fn delivered(&mut self, ids: &[i64], now: BootInstant) {
        let Some(&last) = ids.last() else { return };
        if self.owed == 0 {
            self.paced = false;
        }
        self.learn_reach();
        self.unacknowledged.extend_from_slice(ids);
        self.highest = Some(last);
        self.owed += ids.len();
        self.last_delivery = Some(now);
    }

    fn learn_reach(&mut self) {
        let (Some(delivery), Some(call)) = (self.last_delivery, self.last_call) else { return };
        let reach = call - delivery;
        if reach.is_zero() || reach > LONGEST_LESSON {
            return;
        }
        self.reaches.push_back(reach);
        if self.reaches.len() > REACHES {
            self.reaches.pop_front();
        }
    }

    fn reach(&self) -> Duration {
        let mut reaches: Vec<_> = self.reaches.iter().copied().collect();
        reaches.sort_unstable();
        let rank = (reaches.len() * 99).div_ceil(100);
        rank.checked_sub(1).map_or(Duration::ZERO, |index| reaches[index])
    }

    /// The last delivery did not reach the bot.
    pub(super) fn undelivered(&mut self) {
        self.forget_unacknowledged();
    }

    /// The lowest id that was delivered and not acknowledged.
    pub(super) fn first_unacknowledged(&self) -> Option<i64> {
        self.unacknowledged.first().copied()
    }

    /// The bot asks for updates from `offset` on. What it does not acknowledge with that it will get again.
    pub(super) fn asked(&mut self, offset: Option<i64>) {
        if let Some(offset) = offset.filter(|offset| *offset > 0) {
            self.unacknowledged.retain(|id| *id >= offset);
        }
        self.forget_unacknowledged();
    }

    fn forget_unacknowledged(&mut self) {
        self.owed = self.owed.saturating_sub(self.unacknowledged.len());
        self.unacknowledged.clear();
    }

    /// `counts`: handlers make such calls (`getMe` and downloads tell nothing of a handler's pace).
    pub(super) fn call_started(&mut self, counts: bool, began: BootInstant, settings: &Settings, now: BootInstant) {
        if counts
            && self.owed > 0
            && self.open.is_empty()
            && let Some(silence) = self.last_activity().map(|since| now - since).filter(|s| *s <= LONGEST_LESSON)
        {
            self.longest = Some(self.longest.map_or(silence, |longest| longest.max(silence)));
            if silence <= bound(settings) / 2 {
                self.usual = Some(self.usual.map_or(silence, |usual| (usual * 3 + silence) / 4));
            }
        }
        self.open.push(began);
    }

    pub(super) fn call_ended(&mut self, counts: bool, began: BootInstant, now: BootInstant) {
        if let Some(index) = self.open.iter().position(|open| *open == began) {
            self.open.swap_remove(index);
        }
        if !counts {
            return;
        }
        if self.owed > 0 {
            if let Some(call) = self.last_call.filter(|_| self.paced) {
                self.pace = Some((now - call).min(SLOWEST_PACE));
            }
            self.paced = true;
        }
        self.owed = self.owed.saturating_sub(1);
        self.last_call = Some(now);
    }

    /// The bot's process is another one: what the old one had is none of its business.
    pub(super) fn restarted(&mut self) {
        self.unacknowledged.clear();
        self.owed = 0;
        self.paced = false;
        self.busy = Busy::default();
    }

    /// The bot has begun something that makes no calls.
    pub(super) fn busy(&mut self, now: BootInstant) {
        let jobs = if self.busy_until(now).is_some() { self.busy.jobs } else { 0 };
        self.busy = Busy { jobs: jobs + 1, until: Some(now + BUSY_LIMIT) };
    }

    /// One such thing is done.
    pub(super) fn idle(&mut self) {
        self.busy.jobs = self.busy.jobs.saturating_sub(1);
        if self.busy.jobs == 0 {
            self.busy.until = None;
        }
    }

    /// Until when the bot is taken for busy at the longest, because it said so.
    pub(super) fn busy_until(&self, now: BootInstant) -> Option<BootInstant> {
        self.busy.until.filter(|until| now < *until)
    }

    /// The later of the last delivery and the last completed call.
    pub(super) fn last_activity(&self) -> Option<BootInstant> {
        self.last_delivery.max(self.last_call)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// A call is open that began in this time, which may be a part of what was delivered at its beginning.
    pub(super) fn call_began_within(&self, from: BootInstant, to: BootInstant) -> bool {
        self.open.iter().any(|began| (from..to).contains(began))
    }

    /// Whether the update is among those that no call was completed for.
    pub(super) fn owes(&self, id: i64) -> bool {
        let owed = i64::try_from(self.owed).unwrap_or(i64::MAX);
        self.highest.is_some_and(|highest| id > highest.saturating_sub(owed))
    }

    /// Until when a call for what is owed is still to be expected. Afterwards nothing is owed: those updates needed no call.
    pub(super) fn heard_of_until(&mut self, settings: &Settings, now: BootInstant) -> Option<BootInstant> {
        if !self.open.is_empty() {
            return Some(now + settings.drain_timeout);
        }
        let silence = self.longest.map_or_else(|| unknown(settings), |longest| longest * 2);
        let silence = silence.max(settings.quiet.unwrap_or_default());
        let until = self.last_activity()? + silence.min(settings.drain_timeout).max(settings.settle);
        if now < until {
            return Some(until);
        }
        self.owed = 0;
        None
    }

    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    pub(super) fn unacknowledged(&self) -> usize {
        self.unacknowledged.len()
    }

    pub(super) fn highest(&self) -> Option<i64> {
        self.highest
    }

    /// When the bot has been silent long enough to have finished, provided that nothing more is heard of it (R32.2).
    pub(super) fn quiet_at(&self, settings: &Settings, now: BootInstant) -> BootInstant {
        let Some(last) = self.last_activity() else {
            return now;
        };
        let doubled = self.longest.unwrap_or_default() * 2;
        if now - last >= settings.idle.max(doubled) {
            return now;
        }
        let quiet = match (self.owed, self.longest) {
            (0, _) => settings.quiet.unwrap_or(SHORTEST_QUIET).max(doubled),
            (_, None) => settings.quiet.unwrap_or_default().max(unknown(settings)),
            _ => settings.quiet.unwrap_or(SHORTEST_QUIET).max(doubled).max(self.pace.unwrap_or_default() * 2),
        };
        let quiet_at = last + quiet;
        match (settings.quiet, self.last_delivery) {
            (None, Some(delivery)) => quiet_at.max(delivery + self.reach().min(bound(settings))),
            _ => quiet_at,
        }
    }

    /// How many updates the bot may be given at once, so that it could finish them in a drain (R27). A bot that acknowledges a
    /// batch when it has done all of it gets that long: what it could not finish would come again.
    pub(super) fn room(&self, settings: &Settings) -> u16 {
        let usual = self.usual.unwrap_or_default().as_millis();
        let fits = bound(settings).as_millis().checked_div(usual).unwrap_or(u128::MAX);
        let fits = u16::try_from(fits).unwrap_or(u16::MAX);
        let owed = u16::try_from(self.owed).unwrap_or(u16::MAX);
        let most = settings.max_batch.clamp(1, LARGEST_BATCH);
        fits.saturating_sub(owed).clamp(SMALLEST_BATCH.min(most), most)
    }

    /// Until when the bot's next poll is held back because it has enough to do (R27); `None` when it may have more. `full`: no
    /// more updates may be unsettled than there are.
    pub(super) fn hold_until(&mut self, full: bool, settings: &Settings, now: BootInstant) -> Option<BootInstant> {
        let usual = self.usual.unwrap_or_default();
        let queue = usual.saturating_mul(u32::try_from(self.owed).unwrap_or(u32::MAX));
        if self.owed == 0 || (queue <= bound(settings) && !full) {
            return None;
        }
        let silence = SHORTEST_HOLD.max(usual * 2);
        // What is settled by a silence must have had the time that the user gives a handler.
        let silence =
            if full || settings.delivery == Delivery::Settled { silence.max(settings.settle) } else { silence };
        let hold = if self.open.is_empty() { silence } else { settings.drain_timeout };
        let until = self.last_activity()? + hold.min(settings.drain_timeout.max(settings.settle));
        if now >= until {
            // A bot with something to do would have been heard of: these updates needed no call, and it is faster than thought.
            self.owed = 0;
            self.usual = self.usual.map(|usual| usual / 2);
            return None;
        }
        Some(until)
    }
}

/// How long a handler may be silent of a bot that never called anything. With `Settled` it has a whole drain: to wait costs short
/// polls and a longer drain, to be wrong would cost the update.
fn unknown(settings: &Settings) -> Duration {
    match settings.delivery {
        Delivery::Settled => settings.drain_timeout,
        Delivery::Transparent => settings.quiet_unknown,
    }
}

/// A bot's queue is meant to take no longer than this (R27).
fn bound(settings: &Settings) -> Duration {
    settings.drain_timeout / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant::from_boot(Duration::from_millis(1_000_000 + ms))
    }

    fn quiet_ms(work: &Work, now: u64) -> u64 {
        u64::try_from((work.quiet_at(&Settings::default(), at(now)) - at(0)).as_millis()).unwrap()
    }

    /// A call that takes no time.
    fn call(work: &mut Work, ms: u64) {
        work.call_started(true, at(ms), &Settings::default(), at(ms));
        work.call_ended(true, at(ms), at(ms));
    }

    #[test]
    fn a_bot_that_got_nothing_is_quiet_at_once() {
        assert_eq!(quiet_ms(&Work::default(), 5), 5);
    }

    #[test]
    fn a_one_worker_queue_is_waited_for_though_it_is_slower_than_the_quiet_time() {
        let mut work = Work::default();
        work.delivered(&[1, 2, 3], at(0));
        work.asked(Some(4));
        assert_eq!(quiet_ms(&work, 0), 10_000, "nothing is known of its pace");
        call(&mut work, 2500);
        assert_eq!(work.owed(), 2);
        assert_eq!(quiet_ms(&work, 2500), 2500 + 5000, "twice its silence");
    }

    #[test]
    fn a_handler_of_a_bot_that_never_called_anything_has_as_long_as_the_user_says() {
        let mut work = Work::default();
        work.delivered(&[1], at(0));
        let quiet_ms = |settings: Settings| (work.quiet_at(&settings, at(0)) - at(0)).as_millis();
        assert_eq!(quiet_ms(Settings { quiet: Some(Duration::from_secs(15)), ..Settings::default() }), 15_000);
        assert_eq!(quiet_ms(Settings { quiet: Some(Duration::from_secs(1)), ..Settings::default() }), 10_000);
        assert_eq!(quiet_ms(Settings { delivery: Delivery::Settled, ..Settings::default() }), 20_000, "a whole drain");
    }

    #[test]
    fn a_stream_of_deliveries_does_not_hide_a_slow_worker() {
        let mut work = Work::default();
        for n in 0..50_u64 {
            work.delivered(&[i64::try_from(n).unwrap()], at(n * 200));
            work.asked(Some(i64::try_from(n).unwrap() + 1));
            if n > 0 && n % 12 == 0 {
                call(&mut work, n * 200 + 100);
            }
        }
        assert!(work.longest.unwrap() < Duration::from_millis(200), "every silence looks short");
        let last = 49 * 200;
        assert!(quiet_ms(&work, last) >= last + 4800, "the pace is 2.4 s");
    }

    #[test]
    fn a_bot_that_asks_for_the_same_again_has_not_got_it() {
        let mut work = Work::default();
        work.delivered(&[7, 8, 9], at(0));
        work.asked(Some(8));
        assert_eq!((work.unacknowledged(), work.owed()), (0, 1), "7 is acknowledged, 8 and 9 come again");
    }

    /// A bot that says "typing ..." at once and answers when it has thought.
    #[test]
    fn r32_a_second_call_of_the_same_handler_is_waited_for() {
        let mut work = Work::default();
        for n in 0..3_u64 {
            work.delivered(&[n.cast_signed()], at(n * 60_000));
            work.asked(Some(n.cast_signed() + 1));
            call(&mut work, n * 60_000 + 100);
            assert_eq!(work.owed(), 0, "even after the first call");
            if n < 2 {
                call(&mut work, n * 60_000 + 6100);
            }
        }
        assert_eq!(quiet_ms(&work, 120_100), 120_000 + 6100, "two seconds of silence are not the end");
        let word = Settings { quiet: Some(Duration::from_secs(1)), ..Settings::default() };
        assert_eq!(work.quiet_at(&word, at(120_100)), at(121_100), "the user's word is not improved on");
    }

    #[test]
    fn r32_calls_of_a_timer_do_not_put_the_end_off_for_ever() {
        let mut work = Work::default();
        for n in 0..4_u64 {
            work.delivered(&[n.cast_signed()], at(n * 30_000));
            work.asked(Some(n.cast_signed() + 1));
            call(&mut work, n * 30_000 + 100);
            for tick in (1..6).filter(|_| n < 3) {
                call(&mut work, n * 30_000 + tick * 5000);
            }
        }
        call(&mut work, 95_000);
        assert_eq!(quiet_ms(&work, 95_000), 100_000, "half a drain after the delivery at most");
        call(&mut work, 100_000);
        assert_eq!(quiet_ms(&work, 100_000), 102_000, "and then two seconds between two of them");
    }

    #[test]
    fn a_slow_upload_is_no_silence() {
        let mut work = Work::default();
        work.delivered(&[1, 2], at(0));
        work.call_started(true, at(100), &Settings::default(), at(100));
        work.call_ended(true, at(100), at(9000));
        assert_eq!(quiet_ms(&work, 9000), 11_000);
    }

    #[test]
    fn r27_a_full_queue_holds_the_next_poll_until_it_fits_the_drain() {
        let mut work = Work::default();
        let settings = Settings::default();
        work.delivered(&[1, 2, 3, 4, 5, 6, 7, 8], at(0));
        work.asked(Some(9));
        assert_eq!(work.hold_until(false, &settings, at(1)), None, "its pace is unknown");
        call(&mut work, 2500);
        assert_eq!(work.hold_until(false, &settings, at(2501)), Some(at(7500)), "7 x 2.5 s do not fit 10 s");
        for n in 2..=4 {
            call(&mut work, n * 2500);
        }
        assert_eq!(work.hold_until(false, &settings, at(10_001)), None, "4 x 2.5 s do");
    }

    #[test]
    fn r27_a_batch_is_no_larger_than_a_drain_has_time_for() {
        let mut work = Work::default();
        let settings = Settings::default();
        assert_eq!(work.room(&settings), 20, "its pace is unknown");
        work.delivered(&[1, 2], at(0));
        call(&mut work, 2500);
        assert_eq!(work.room(&settings), 3, "one is owed, and 4 x 2.5 s fit half of the drain");
        call(&mut work, 5000);
        assert_eq!(work.room(&settings), 4);
        for n in 0..9 {
            work.delivered(&[3 + n], at(10_000 + 20 * n.unsigned_abs()));
            call(&mut work, 10_010 + 20 * n.unsigned_abs());
        }
        assert_eq!(work.room(&settings), 20, "it has become fast");
    }

    #[test]
    fn r27_a_batch_is_never_a_single_update() {
        let mut work = Work::default();
        let settings = Settings { drain_timeout: Duration::from_secs(2), ..Settings::default() };
        work.delivered(&[1], at(0));
        call(&mut work, 500);
        work.delivered(&[2, 3], at(600));
        assert_eq!(work.room(&settings), 2);
    }

    /// A group's bot that ignores most messages, and a job that sends something once an hour.
    #[test]
    fn r27_a_call_long_after_a_delivery_does_not_starve_the_bot() {
        let mut work = Work::default();
        let settings = Settings::default();
        work.delivered(&[1], at(0));
        call(&mut work, 3_000_000);
        for n in 0..1000 {
            work.delivered(&[2 + n], at(3_000_100));
            assert_eq!(work.hold_until(false, &settings, at(3_000_100)), None);
        }
    }

    #[test]
    fn r27_a_health_check_by_get_me_is_no_handler() {
        let mut work = Work::default();
        work.delivered(&[1, 2], at(0));
        work.call_started(false, at(4000), &Settings::default(), at(4000));
        work.call_ended(false, at(4000), at(4001));
        assert_eq!((work.longest, work.usual, work.owed()), (None, None, 2));
    }

    #[test]
    fn r27_a_hold_for_nothing_is_not_repeated_for_ever() {
        let mut work = Work::default();
        let settings = Settings::default();
        work.delivered(&[1], at(0));
        call(&mut work, 4000);
        let (mut now, mut held) = (4000, 0);
        for n in 0..100 {
            work.delivered(&[2 + n], at(now));
            if let Some(until) = work.hold_until(false, &settings, at(now)) {
                let wait = u64::try_from((until - at(now)).as_millis()).unwrap();
                (now, held) = (now + wait, held + wait);
                assert_eq!(work.hold_until(false, &settings, at(now)), None);
            }
        }
        assert!(held < 30_000, "held for {held} ms in all");
    }

    #[test]
    fn r27_a_bot_that_answers_few_messages_is_not_starved() {
        let mut work = Work::default();
        let settings = Settings::default();
        work.delivered(&[1], at(0));
        work.asked(Some(2));
        call(&mut work, 100);
        let ids: Vec<i64> = (2..200).collect();
        work.delivered(&ids, at(200));
        work.asked(Some(200));
        assert_eq!(work.hold_until(false, &settings, at(201)), Some(at(1200)));
        assert_eq!(work.hold_until(false, &settings, at(1200)), None, "a second of silence is enough to know");
        assert_eq!(work.owed(), 0);
    }
}
