//! What the lanes page shows: the last minutes of every bot, lane by lane. The page reads `GET /timeline` once a second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::{
    emulator::Emulator,
    model::{At, Conflict, Handover, MarkKind, PollEnd, PollRecord, Total, UpdateRecord, Verdict},
};

const WINDOW: Duration = Duration::from_secs(5);
/// A handler may take this long before the page calls its update lost.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Serialize)]
pub(crate) struct Timeline {
    /// The emulator's clock.
    now_ms: f64,
    /// The wall clock at the same instant.
    unix_ms: f64,
    total: Total,
    bots: Vec<BotTimeline>,
}

#[derive(Serialize)]
struct BotTimeline {
    username: String,
    bot_id: i64,
    loading: bool,
    updates: u64,
    answered: u64,
    lost: u64,
    dup: u64,
    conflict: u64,
    crash_lost: u64,
    crash_dup: u64,
    undelivered: u64,
    in_progress: u64,
    late: u64,
    handovers_total: usize,
    lanes: Vec<LaneTimeline>,
    handovers: Vec<Handover>,
    marks: Vec<MarkPoint>,
    /// When updates were pushed.
    pushes: Vec<f64>,
}

#[derive(Serialize, Default)]
struct LaneTimeline {
    lane: String,
    polls: Vec<Bar>,
    replies: Vec<f64>,
    dups: Vec<Point>,
    conflicts: Vec<ConflictPoint>,
}

/// A poll: from, to, how it ended, updates delivered.
#[derive(Serialize)]
struct Bar(f64, Option<f64>, &'static str, usize);

#[derive(Serialize)]
struct Point {
    at_ms: f64,
    id: i32,
}

#[derive(Serialize)]
struct ConflictPoint {
    at_ms: f64,
    cause: Conflict,
    seen: bool,
}

#[derive(Serialize)]
struct MarkPoint {
    at_ms: f64,
    text: String,
    kind: MarkKind,
}

pub(crate) fn timeline(emulator: &Emulator, length: Duration) -> Timeline {
    let now = emulator.now();
    let since = now.saturating_sub(length);
    let tokens: Vec<String> = emulator.state().bots.keys().cloned().collect();
    let mut verdicts = Vec::new();
    let mut bots = Vec::new();
    for token in &tokens {
        let Ok(verdict) = emulator.judge(token, WINDOW, PATIENCE) else {
            continue;
        };
        let (Ok(polls), Ok(ledger)) = (emulator.polls(token), emulator.ledger(token)) else {
            continue;
        };
        let marks = emulator.state().marks_of(token);
        let marks = marks.into_iter().filter(|(at, _)| *at >= since);
        bots.push(BotTimeline {
            username: verdict.username.clone(),
            bot_id: verdict.bot_id,
            loading: emulator.loading(token),
            updates: verdict.updates,
            answered: verdict.answered,
            lost: verdict.counts.lost,
            dup: verdict.counts.dup,
            conflict: verdict.counts.conflict,
            crash_lost: verdict.crash.lost,
            crash_dup: verdict.crash.dup,
            undelivered: verdict.undelivered,
            in_progress: verdict.in_progress,
            late: verdict.late,
            handovers_total: verdict.handovers.len(),
            lanes: lanes(&polls, &ledger.updates, since),
            handovers: verdict.handovers.iter().filter(|h| h.at >= since).cloned().collect(),
            marks: marks.map(|(at, m)| MarkPoint { at_ms: ms(at), text: m.text, kind: m.kind }).collect(),
            pushes: ledger.updates.iter().filter(|u| u.pushed >= since).map(|u| ms(u.pushed)).collect(),
        });
        verdicts.push(verdict);
    }
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timeline { now_ms: ms(now), unix_ms: ms(unix), total: Verdict::of(verdicts).total, bots }
}

/// Lanes in the order of their first poll; those which were not seen lately are left out.
fn lanes(polls: &[PollRecord], updates: &[UpdateRecord], since: At) -> Vec<LaneTimeline> {
    let mut lanes: Vec<LaneTimeline> = Vec::new();
    for poll in polls {
        let lane = lane_of(&mut lanes, &poll.peer.lane);
        let end = poll.ended.into_iter().chain(poll.gone).min();
        if end.is_some_and(|at| at < since) {
            continue;
        }
        let how = match &poll.end {
            PollEnd::Open if poll.ended.is_none() && poll.gone.is_none() => "open",
            PollEnd::Open | PollEnd::Answered if poll.gone.is_some() => "gone",
            PollEnd::Open | PollEnd::Conflict { .. } => "conflict",
            PollEnd::Answered => "answered",
            PollEnd::Fault { .. } => "fault",
        };
        lane.polls.push(Bar(ms(poll.arrived), end.map(ms), how, poll.updates));
        if let PollEnd::Conflict { cause } = poll.end {
            let at = poll.ended.unwrap_or(poll.arrived);
            lane.conflicts.push(ConflictPoint { at_ms: ms(at), cause, seen: poll.gone.is_none() });
        }
    }
    for update in updates {
        for (n, reply) in update.replies.iter().enumerate().filter(|(_, r)| r.at >= since) {
            let lane = lane_of(&mut lanes, &reply.peer.lane);
            if n == 0 {
                lane.replies.push(ms(reply.at));
            } else {
                lane.dups.push(Point { at_ms: ms(reply.at), id: update.id });
            }
        }
    }
    lanes.retain(|l| !l.polls.is_empty() || !l.replies.is_empty() || !l.dups.is_empty());
    lanes
}

fn lane_of<'a>(lanes: &'a mut Vec<LaneTimeline>, name: &str) -> &'a mut LaneTimeline {
    let index = lanes.iter().position(|l| l.lane == name).unwrap_or_else(|| {
        lanes.push(LaneTimeline { lane: name.to_owned(), ..LaneTimeline::default() });
        lanes.len() - 1
    });
    &mut lanes[index]
}

fn ms(at: Duration) -> f64 {
    (at.as_secs_f64() * 1e5).round() / 100.0
}
