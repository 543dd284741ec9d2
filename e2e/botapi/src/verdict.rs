//! Judging a journal. Pure: the same records give the same verdict.
//!
//! * LOST: it left the queue and nobody answered it. DUP: it was answered twice. UNDELIVERED: it is still in the queue.
//! * An update that left the queue less than `patience` ago and has no answer yet is *in progress*, not lost. Only the lanes page has
//!   patience: a verdict that is asked for too early says LOST.
//! * A conflict counts when its sender could still read it.
//! * Silence is the time without an open poll and without a reply. A sequential bot that works off a batch does not poll, and is not silent.
//! * A *crash* mark opens a window. What is lost, doubled or in conflict there is counted under `crash` and nowhere else; an update is
//!   in a window when anything of its life (push, delivery, confirmation, reply) is. Windows of *planned* marks only say which part of
//!   the counts belongs to them. Where both hold, it is a crash.
//! * A late request is a single poll, within a crash window, of somebody who polled before and whose successor polled on at once
//!   (within 5 s): the request that a paused process had already written. It is no handover, and its conflicts stand apart.
//! * A handover is any other change of the poller. Its gap ends with the new poller's first poll and starts when the old poller's last one
//!   was answered or evicted, or its sender went away. A sender that vanishes without a sign (a dead node) is there until it is evicted:
//!   the gap of such a takeover is in `marks`, measured from the crash's mark.

use std::time::Duration;

use crate::model::{
    At, BotVerdict, Conflict, Conflicts, Counts, Handover, Ids, LaneVerdict, Mark, MarkKind, MarkVerdict, PollEnd,
    PollRecord, Total, UpdateRecord, Verdict,
};

const LATE_SUCCESSOR: Duration = Duration::from_secs(5);
const IDS_SHOWN: usize = 100;

/// Everything that a verdict about one bot is made from.
pub(crate) struct Case<'a> {
    pub(crate) username: &'a str,
    pub(crate) bot_id: i64,
    /// In the order of their arrival.
    pub(crate) polls: &'a [PollRecord],
    pub(crate) updates: &'a [UpdateRecord],
    pub(crate) stray: u64,
    pub(crate) refused: u64,
    pub(crate) dropped: u64,
    /// Updates whose records are gone: each was answered once.
    pub(crate) forgotten: u64,
    /// Those of this bot, in order of time.
    pub(crate) marks: &'a [(At, Mark)],
    /// Half width of the window around a handover.
    pub(crate) window: Duration,
    pub(crate) now: At,
    pub(crate) patience: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Planned,
    Crash,
}

/// Consecutive polls of one poller: indices of the first and the last one.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: usize,
    last: usize,
}

// === impl Case ===

impl Case<'_> {
    pub(crate) fn judge(&self) -> BotVerdict {
        let runs = self.runs();
        let late = self.late(&runs);
        let handovers = self.handovers(&runs, &late);
        let mut v = BotVerdict {
            username: self.username.to_owned(),
            bot_id: self.bot_id,
            updates: self.updates.len() as u64 + self.forgotten,
            answered: self.forgotten,
            counts: Counts::default(),
            planned: Counts::default(),
            crash: Counts::default(),
            undelivered: 0,
            in_progress: 0,
            stray: self.stray,
            refused: self.refused,
            dropped: self.dropped,
            conflicts: Conflicts::default(),
            late: late.len() as u64,
            open_polls_max: 0,
            open_polls_max_crash: 0,
            longest_silence: self.longest_silence(),
            in_windows: self.in_windows(&handovers),
            handovers,
            lanes: self.lanes(&runs, &late),
            marks: self.marks(),
            ids: Ids::default(),
        };
        self.judge_updates(&mut v);
        self.judge_polls(&late, &mut v);
        v
    }

    fn judge_updates(&self, v: &mut BotVerdict) {
        for update in self.updates {
            let class = self.class_of(update);
            v.answered += u64::from(!update.replies.is_empty());
            if update.removed.is_none() {
                v.undelivered += 1;
                note(&mut v.ids.undelivered, update.id);
            } else if update.replies.is_empty() && self.young(update) {
                v.in_progress += 1;
            } else if update.replies.is_empty() {
                count(v, class, |c| &mut c.lost);
                note(&mut v.ids.lost, update.id);
            }
            if update.replies.len() > 1 {
                count(v, class, |c| &mut c.dup);
                note(&mut v.ids.dup, update.id);
            }
        }
    }

    fn young(&self, update: &UpdateRecord) -> bool {
        update.removed.as_ref().is_some_and(|r| r.at + self.patience > self.now)
    }

    fn judge_polls(&self, late: &[u64], v: &mut BotVerdict) {
        for poll in self.polls {
            let class = self.class_at(poll.arrived);
            let max = if class == Class::Crash { &mut v.open_polls_max_crash } else { &mut v.open_polls_max };
            *max = poll.open_polls.max(*max);
            let PollEnd::Conflict { cause } = poll.end else {
                continue;
            };
            let by_late = poll.evicted_by.is_some_and(|by| late.contains(&by));
            if poll.gone.is_some() {
                v.conflicts.unseen += 1;
            } else if cause == Conflict::Injected {
                v.conflicts.injected += 1;
            } else if late.contains(&poll.request) || by_late {
                v.conflicts.late_request += 1;
            } else {
                match cause {
                    Conflict::WebhookActive => v.conflicts.webhook_active += 1,
                    Conflict::SetWebhook => v.conflicts.set_webhook += 1,
                    Conflict::GetUpdates | Conflict::Injected => v.conflicts.get_updates += 1,
                }
                let class = self.class_at(poll.ended.unwrap_or(poll.arrived));
                count(v, class, |c| &mut c.conflict);
            }
        }
    }

    // === windows ===

    fn class_at(&self, at: At) -> Class {
        let hits = |kind| self.marks.iter().any(|(t, m)| m.kind == kind && contains(*t, m, at));
        if hits(MarkKind::Crash) {
            Class::Crash
        } else if hits(MarkKind::Planned) {
            Class::Planned
        } else {
            Class::Plain
        }
    }

    fn class_of(&self, update: &UpdateRecord) -> Class {
        let mut times = vec![update.pushed];
        times.extend(update.deliveries.iter().map(|d| d.at));
        times.extend(update.removed.iter().map(|r| r.at));
        times.extend(update.replies.iter().map(|r| r.at));
        let classes: Vec<Class> = times.into_iter().map(|at| self.class_at(at)).collect();
        *[Class::Crash, Class::Planned].iter().find(|c| classes.contains(c)).unwrap_or(&Class::Plain)
    }

    // === pollers ===

    fn lane(&self, run: Run) -> &str {
        &self.polls[run.first].peer.lane
    }

    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (i, poll) in self.polls.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if self.polls[run.first].peer.lane == poll.peer.lane => run.last = i,
                _ => runs.push(Run { first: i, last: i }),
            }
        }
        runs
    }

    /// The late requests.
    fn late(&self, runs: &[Run]) -> Vec<u64> {
        let is_late = |i: usize| {
            let (run, poll) = (runs[i], &self.polls[runs[i].first]);
            let Some(next) = runs.get(i + 1) else {
                return false;
            };
            let next_at = self.polls[next.first].arrived;
            run.first == run.last
                && i >= 2
                && self.lane(runs[i - 1]) == self.lane(*next)
                && runs[..i - 1].iter().any(|r| self.lane(*r) == self.lane(run))
                && next_at - poll.arrived < LATE_SUCCESSOR
                && self.class_at(poll.arrived) == Class::Crash
        };
        (0..runs.len()).filter(|i| is_late(*i)).map(|i| self.polls[runs[i].first].request).collect()
    }

    fn handovers(&self, runs: &[Run], late: &[u64]) -> Vec<Handover> {
        let tenures = runs.iter().filter(|r| !late.contains(&self.polls[r.first].request));
        let mut handovers = Vec::new();
        let mut old: Option<Run> = None;
        for new in tenures.copied() {
            if let Some(old) = old.filter(|old| self.lane(*old) != self.lane(new)) {
                handovers.push(self.handover(old, new));
            }
            old = Some(new);
        }
        handovers
    }

    fn handover(&self, old: Run, new: Run) -> Handover {
        let at = self.polls[new.first].arrived;
        let ends = self.polls[old.first..=old.last].iter().map(|p| end(p).unwrap_or(At::MAX));
        let last_end = ends.max().unwrap_or(at);
        let marks = self.marks.iter().filter(|(t, m)| m.kind != MarkKind::Note && contains(*t, m, at));
        Handover {
            at,
            from: self.lane(old).to_owned(),
            to: self.lane(new).to_owned(),
            gap: at.saturating_sub(last_end),
            overlap: last_end >= at,
            in_window: self.updates.iter().filter(|u| u.pushed.abs_diff(at) <= self.window).count() as u64,
            crash: self.class_at(at) == Class::Crash,
            marks: marks.map(|(_, m)| m.text.clone()).collect(),
        }
    }

    fn in_windows(&self, handovers: &[Handover]) -> u64 {
        let near = |u: &&UpdateRecord| handovers.iter().any(|h| u.pushed.abs_diff(h.at) <= self.window);
        self.updates.iter().filter(near).count() as u64
    }

    fn lanes(&self, runs: &[Run], late: &[u64]) -> Vec<LaneVerdict> {
        let mut lanes: Vec<LaneVerdict> = Vec::new();
        for run in runs {
            let name = self.lane(*run);
            let index = lanes.iter().position(|l| l.lane == name).unwrap_or_else(|| {
                lanes.push(LaneVerdict { lane: name.to_owned(), ..LaneVerdict::default() });
                lanes.len() - 1
            });
            let lane = &mut lanes[index];
            let polls = &self.polls[run.first..=run.last];
            lane.polls += polls.len() as u64;
            lane.deliveries += polls.iter().map(|p| p.updates as u64).sum::<u64>();
            lane.late += polls.iter().filter(|p| late.contains(&p.request)).count() as u64;
            lane.longest_silence = lane.longest_silence.max(silence(polls.iter().map(span)));
        }
        lanes
    }

    /// The longest time without an open poll and without a reply, between the first poll and the last one.
    fn longest_silence(&self) -> Duration {
        let (Some(first), Some(last)) = (self.polls.first(), self.polls.last()) else { return Duration::ZERO };
        let replies = self.updates.iter().flat_map(|u| &u.replies).map(|r| (r.at, r.at));
        let mut signs: Vec<(At, At)> = self.polls.iter().map(span).chain(replies).collect();
        signs.retain(|(from, _)| *from >= first.arrived && *from <= last.arrived);
        signs.sort_unstable();
        silence(signs)
    }

    fn marks(&self) -> Vec<MarkVerdict> {
        let verdict = |(at, mark): &(At, Mark)| {
            let poller = self.polls.iter().rev().find(|p| p.arrived <= *at).map(|p| p.peer.lane.clone());
            let mut after = self.polls.iter().filter(|p| p.arrived > *at);
            let next = after.clone().next();
            let other = after.find(|p| poller.as_ref().is_some_and(|lane| *lane != p.peer.lane));
            MarkVerdict {
                at: *at,
                text: mark.text.clone(),
                kind: mark.kind,
                next_poll: next.map(|p| p.arrived - *at),
                next_poll_lane: next.map(|p| p.peer.lane.clone()),
                takeover: other.map(|p| p.arrived - *at),
                takeover_lane: other.map(|p| p.peer.lane.clone()),
                poller,
            }
        };
        self.marks.iter().map(verdict).collect()
    }
}

fn contains(mark_at: At, mark: &Mark, at: At) -> bool {
    at + mark.before >= mark_at && at <= mark_at + mark.after
}

/// When a poll was over for its sender.
fn end(poll: &PollRecord) -> Option<At> {
    poll.ended.into_iter().chain(poll.gone).min()
}

fn span(poll: &PollRecord) -> (At, At) {
    (poll.arrived, end(poll).unwrap_or(At::MAX))
}

/// The longest time between these spans, which are in order of their beginning.
fn silence(spans: impl IntoIterator<Item = (At, At)>) -> Duration {
    let mut longest = Duration::ZERO;
    let mut covered = None;
    for (from, to) in spans {
        longest = longest.max(from.saturating_sub(covered.unwrap_or(from)));
        covered = covered.max(Some(to));
    }
    longest
}

fn count(v: &mut BotVerdict, class: Class, field: impl Fn(&mut Counts) -> &mut u64) {
    match class {
        Class::Crash => *field(&mut v.crash) += 1,
        Class::Planned => {
            *field(&mut v.planned) += 1;
            *field(&mut v.counts) += 1;
        }
        Class::Plain => *field(&mut v.counts) += 1,
    }
}

fn note(ids: &mut Vec<i32>, id: i32) {
    if ids.len() < IDS_SHOWN {
        ids.push(id);
    }
}

// === impl Verdict ===

impl Verdict {
    pub(crate) fn of(bots: Vec<BotVerdict>) -> Self {
        let mut total = Total { bots: bots.len() as u64, ..Total::default() };
        for bot in &bots {
            total.updates += bot.updates;
            total.answered += bot.answered;
            total.counts.add(bot.counts);
            total.planned.add(bot.planned);
            total.crash.add(bot.crash);
            total.undelivered += bot.undelivered;
            total.late += bot.late;
            total.handovers += bot.handovers.len() as u64;
            let gaps = bot.handovers.iter().filter(|h| !h.crash).map(|h| h.gap);
            total.gap_max = gaps.chain([total.gap_max]).max().unwrap_or_default();
            total.open_polls_max = total.open_polls_max.max(bot.open_polls_max);
            total.in_windows += bot.in_windows;
        }
        Self { total, bots }
    }
}

// === impl Counts ===

impl Counts {
    fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.dup += other.dup;
        self.conflict += other.conflict;
    }
}

#[cfg(test)]
mod tests;
