//! What comes out: the verdict.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{At, MarkKind, ms};

/// Counts of one class of updates and conflicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Updates that left the queue and were never answered.
    pub lost: u64,
    /// Updates that were answered more than once.
    pub dup: u64,
    /// 409s that reached a sender who could still read them; neither injected nor due to a late request.
    pub conflict: u64,
}

/// Visible 409s by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflicts {
    /// Terminated by another getUpdates, none of the two being a late request.
    pub get_updates: u64,
    /// Terminated by, or answered to, a late request of a former poller.
    pub late_request: u64,
    /// A webhook was active.
    pub webhook_active: u64,
    /// Terminated by setWebhook.
    pub set_webhook: u64,
    /// Faults that a test asked for.
    pub injected: u64,
    /// Written to nobody: the sender had gone. Not part of any sum.
    pub unseen: u64,
}

/// The polling session changed hands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// First poll of the new poller.
    #[serde(rename = "at_ms", with = "ms")]
    pub at: At,
    /// Old poller.
    pub from: String,
    /// New poller.
    pub to: String,
    /// From the end of the old poller's last poll (answered, evicted, or its sender gone) to the first poll of the new one.
    #[serde(rename = "gap_ms", with = "ms")]
    pub gap: Duration,
    /// The old poller's last poll was still open, with its sender there.
    pub overlap: bool,
    /// Updates pushed within the window around it.
    pub in_window: u64,
    /// It falls into a crash window.
    pub crash: bool,
    /// The marks in whose windows it falls.
    pub marks: Vec<String>,
}

/// What followed a mark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MarkVerdict {
    /// When it was put.
    #[serde(rename = "at_ms", with = "ms")]
    pub at: At,
    /// What happened.
    pub text: String,
    /// What it means.
    pub kind: MarkKind,
    /// Who polled last before it.
    pub poller: Option<String>,
    /// Time to the next poll of anybody.
    #[serde(rename = "next_poll_ms", with = "ms::option")]
    pub next_poll: Option<Duration>,
    /// Whose it was.
    pub next_poll_lane: Option<String>,
    /// Time to the next poll of somebody else.
    #[serde(rename = "takeover_ms", with = "ms::option")]
    pub takeover: Option<Duration>,
    /// Whose it was.
    pub takeover_lane: Option<String>,
}

/// One poller as seen from here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LaneVerdict {
    /// Its name.
    pub lane: String,
    /// Its getUpdates requests.
    pub polls: u64,
    /// Updates delivered to it.
    pub deliveries: u64,
    /// The longest time without an open poll between two of its polls, while nobody else took over.
    #[serde(rename = "longest_silence_ms", with = "ms")]
    pub longest_silence: Duration,
    /// Its late requests.
    pub late: u64,
}

/// A list that is cut at a hundred, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Lost ones.
    pub lost: Vec<i32>,
    /// Doubled ones.
    pub dup: Vec<i32>,
    /// Still in the queue.
    pub undelivered: Vec<i32>,
}

/// The verdict about one bot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BotVerdict {
    /// Its username.
    pub username: String,
    /// Its id (never its token).
    pub bot_id: i64,
    /// Updates pushed.
    pub updates: u64,
    /// Updates answered at least once.
    pub answered: u64,
    /// Outside crash windows: lost, dup, conflict.
    #[serde(flatten)]
    pub counts: Counts,
    /// The part of `counts` within windows of planned marks.
    pub planned: Counts,
    /// Within windows of crash marks; not part of `counts`.
    pub crash: Counts,
    /// Updates that are still in the queue.
    pub undelivered: u64,
    /// On the lanes page: updates that left the queue moments ago and are not answered yet. Elsewhere 0: those are lost.
    #[serde(default)]
    pub in_progress: u64,
    /// Replies that mention an update which was never pushed.
    pub stray: u64,
    /// Updates that never came into the queue: the bot's `allowed_updates` do not name their kind, or the queue was full.
    #[serde(default)]
    pub refused: u64,
    /// The part of `refused` for which there was no room: 100,000 updates or 128 MiB wait, or it is above 512 KiB.
    #[serde(default)]
    pub dropped: u64,
    /// Visible 409s by cause, wherever they fall.
    pub conflicts: Conflicts,
    /// Late requests: single polls of a former poller in the midst of its successor's, within crash windows.
    pub late: u64,
    /// Most polls open at once whose senders could still use the answer, outside crash windows; at most 1 is right.
    pub open_polls_max: u32,
    /// The same within crash windows.
    pub open_polls_max_crash: u32,
    /// The longest time without an open poll and without a reply, between the first poll and the last.
    #[serde(rename = "longest_silence_ms", with = "ms")]
    pub longest_silence: Duration,
    /// Every change of the poller.
    pub handovers: Vec<Handover>,
    /// Updates pushed within the windows around handovers (each counted once).
    pub in_windows: u64,
    /// Every poller.
    pub lanes: Vec<LaneVerdict>,
    /// What followed each mark.
    pub marks: Vec<MarkVerdict>,
    /// Which updates the counts are about, crash windows included.
    pub ids: Ids,
}

/// The verdict about all bots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Sums (maxima where the name says so) over the bots.
    pub total: Total,
    /// Each bot.
    pub bots: Vec<BotVerdict>,
}

/// Sums over bots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// Bots.
    pub bots: u64,
    /// Updates pushed.
    pub updates: u64,
    /// Updates answered at least once.
    pub answered: u64,
    /// Outside crash windows: lost, dup, conflict.
    #[serde(flatten)]
    pub counts: Counts,
    /// The part of `counts` within windows of planned marks.
    pub planned: Counts,
    /// Within windows of crash marks.
    pub crash: Counts,
    /// Updates that are still in a queue.
    pub undelivered: u64,
    /// Late requests.
    pub late: u64,
    /// Changes of a poller.
    pub handovers: u64,
    /// The longest gap of a handover outside crash windows.
    #[serde(rename = "gap_max_ms", with = "ms")]
    pub gap_max: Duration,
    /// Most polls open at once at one bot, outside crash windows.
    pub open_polls_max: u32,
    /// Updates pushed within the windows around handovers.
    pub in_windows: u64,
}

/// What waiting for settled state found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// All pushed updates are confirmed and answered.
    pub settled: bool,
    /// Updates still in a queue.
    pub pending: u64,
    /// Updates that left the queue and have no answer.
    pub unanswered: u64,
}
