//! What goes in (bots, updates, faults, load, marks) and what comes out (polls, updates' lives, verdicts).
//!
//! All of it is JSON on the admin port, with the same names; times are durations since the emulator's start, written as
//! milliseconds in fields that end with `_ms`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// A time on the emulator's own monotonic clock: the duration since its start.
pub type At = Duration;

/// `Duration` as a number of milliseconds (with microseconds behind the point).
pub(crate) mod ms {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(d.as_micros() as f64 / 1000.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let ms = f64::deserialize(d)?;
        Duration::try_from_secs_f64(ms / 1000.0).map_err(serde::de::Error::custom)
    }

    pub(crate) mod option {
        use super::Duration;
        use serde::{Deserialize, Deserializer, Serializer};

        pub(crate) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
            match d {
                Some(d) => super::serialize(d, s),
                None => s.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
            let ms = Option::<f64>::deserialize(d)?;
            ms.map(|ms| Duration::try_from_secs_f64(ms / 1000.0).map_err(serde::de::Error::custom)).transpose()
        }
    }
}

/// `Duration` as a number of seconds: what people write in requests.
pub(crate) mod secs {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(d.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(d)?).map_err(serde::de::Error::custom)
    }

    pub(crate) mod option {
        use super::Duration;
        use serde::{Deserialize, Deserializer, Serializer};

        pub(crate) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
            match d {
                Some(d) => super::serialize(d, s),
                None => s.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
            let secs = Option::<f64>::deserialize(d)?;
            secs.map(|s| Duration::try_from_secs_f64(s).map_err(serde::de::Error::custom)).transpose()
        }
    }
}

// === what goes in ===

/// How an emulator is started. The default is what tests want: plain HTTP on ephemeral ports of loopback.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where bots and gates connect to.
    pub listen: SocketAddr,
    /// Where the admin port and the lanes page are.
    pub admin: SocketAddr,
    /// Serve the Bot API (not the admin port) over TLS.
    pub tls: Option<TlsFiles>,
}

/// PEM files of the Bot API port's certificate.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate chain, leaf first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { listen: loopback, admin: loopback, tls: None }
    }
}

/// The type of an update; it decides how long Telegram keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A text message; kept for a day.
    #[default]
    Message,
    /// A pressed button; kept for 150 s.
    CallbackQuery,
    /// Typing `@bot …`; kept for 30 s.
    InlineQuery,
}

/// Updates to be put into a bot's queue. The text of each is `#<update_id>`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Push {
    /// How many.
    pub count: u32,
    /// From which chat.
    pub chat: i64,
    /// Of which type.
    pub kind: Kind,
}

impl Default for Push {
    fn default() -> Self {
        Self { count: 1, chat: 1001, kind: Kind::Message }
    }
}

/// A load: `rate` updates a second, evenly with seeded jitter, and a burst of `burst` at once every `burst_every`.
/// The same seed gives the same chats at the same times. It ends after `seconds` or `count` updates (whichever is first),
/// or when it is stopped.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// Updates a second, without the bursts.
    pub rate: f64,
    /// Updates of one burst; 0: no bursts.
    pub burst: u32,
    /// Time between two bursts.
    #[serde(with = "secs")]
    pub burst_every: Duration,
    /// Number of chats that they come from.
    pub chats: u32,
    /// Seed of jitter and chats.
    pub seed: u64,
    /// End after this time.
    #[serde(with = "secs::option")]
    pub seconds: Option<Duration>,
    /// End after this number of updates.
    pub count: Option<u64>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            rate: 5.0,
            burst: 0,
            burst_every: Duration::from_secs(10),
            chats: 10,
            seed: 1,
            seconds: None,
            count: None,
        }
    }
}

/// What an injected fault does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Not executed; answered with this status and Telegram's JSON (409, 401, 429, 500 … with their usual texts).
    Status(u16),
    /// Not executed; answered with this status and an HTML page, as the proxy before Telegram does (`"502"`, `"504"`).
    Html(u16),
    /// Not executed; the connection is reset.
    Reset,
    /// Executed; then the connection is reset in place of an answer.
    ResetAfter,
    /// Not executed, never answered; the connection stays open.
    Hang,
    /// Executed at once, answered later by `Fault::seconds`.
    Late,
}

/// A fault on requests to come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The method, case-insensitive; `*`: every method.
    #[serde(default = "any_method")]
    pub method: String,
    /// What happens.
    pub kind: FaultKind,
    /// How many requests it strikes; none: until it is cleared.
    #[serde(default = "once")]
    pub count: Option<u32>,
    /// `retry_after` of a 429 (default 5 s), delay of `late` (default 5 s).
    #[serde(default, with = "secs::option", skip_serializing_if = "Option::is_none")]
    pub seconds: Option<Duration>,
    /// Only requests of this lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
}

fn any_method() -> String {
    "*".to_owned()
}

fn once() -> Option<u32> {
    Some(1)
}

impl Fault {
    /// Strikes the next request of `method`.
    pub fn new(method: impl Into<String>, kind: FaultKind) -> Self {
        Self { method: method.into(), kind, count: Some(1), seconds: None, lane: None }
    }

    /// Strikes that many requests.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }

    /// Strikes until it is cleared.
    #[must_use]
    pub fn forever(mut self) -> Self {
        self.count = None;
        self
    }

    /// `retry_after` of a 429, delay of `late`.
    #[must_use]
    pub fn seconds(mut self, seconds: Duration) -> Self {
        self.seconds = Some(seconds);
        self
    }

    /// Only requests of this lane.
    #[must_use]
    pub fn on_lane(mut self, lane: impl Into<String>) -> Self {
        self.lane = Some(lane.into());
        self
    }
}

/// What a mark means for the verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// Text on the timeline only.
    #[default]
    Note,
    /// Something gentle was begun (rollout, drain, scaling): its losses are counted like all others, and apart.
    Planned,
    /// Something was killed, paused or cut: losses within its window are counted apart and nowhere else.
    Crash,
}

/// A named instant of the timeline; with a kind it opens a classification window `[-before, +after]` around itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The bot; none: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What happened.
    pub text: String,
    /// What it means.
    #[serde(default)]
    pub kind: MarkKind,
    /// How far the window reaches back.
    #[serde(default = "window_before", with = "secs")]
    pub before: Duration,
    /// How far the window reaches on.
    #[serde(default = "window_after", with = "secs")]
    pub after: Duration,
}

fn window_before() -> Duration {
    Duration::from_secs(10)
}

fn window_after() -> Duration {
    Duration::from_secs(30)
}

impl Mark {
    /// A mark for all bots with the default window (10 s before, 30 s after).
    pub fn new(kind: MarkKind, text: impl Into<String>) -> Self {
        Self { token: None, text: text.into(), kind, before: window_before(), after: window_after() }
    }

    /// Only for this bot.
    #[must_use]
    pub fn of(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// With this window.
    #[must_use]
    pub fn window(mut self, before: Duration, after: Duration) -> Self {
        self.before = before;
        self.after = after;
        self
    }
}

// === what comes out: records ===

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The poller's name: that of the lane (`POST /lanes`, `Emulator::lane`), else the IP address.
    pub lane: String,
    /// The peer's IP address.
    pub ip: String,
    /// The connection, numbered from 1 over the emulator's life.
    pub connection: u64,
}

/// Why a 409 was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// Terminated by another getUpdates.
    GetUpdates,
    /// A webhook is active.
    WebhookActive,
    /// Terminated by setWebhook.
    SetWebhook,
    /// A fault that a test asked for.
    Injected,
}

/// What became of a poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum PollEnd {
    /// Still waiting, or its delayed conflict is.
    Open,
    /// Answered 200.
    Answered,
    /// Answered 409.
    Conflict {
        /// Why.
        cause: Conflict,
    },
    /// Struck by a fault.
    Fault {
        /// Which one.
        kind: FaultKind,
    },
}

/// One getUpdates request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PollRecord {
    /// Number of the request over the emulator's life.
    pub request: u64,
    /// Who sent it.
    #[serde(flatten)]
    pub peer: Peer,
    /// When it arrived.
    #[serde(rename = "arrived_ms", with = "ms")]
    pub arrived: At,
    /// When it lost the slot, or was answered.
    #[serde(rename = "ended_ms", with = "ms::option")]
    pub ended: Option<At>,
    /// When its sender went away before it was answered.
    #[serde(rename = "gone_ms", with = "ms::option")]
    pub gone: Option<At>,
    /// How it ended.
    #[serde(flatten)]
    pub end: PollEnd,
    /// The poll that took its slot.
    pub evicted_by: Option<u64>,
    /// The raw offset; absent is 0.
    pub offset: i32,
    /// The limit that was asked for.
    pub limit: i32,
    /// The timeout that was asked for, in seconds.
    pub timeout: i32,
    /// The updates in its answer, first and last id.
    pub delivered: Option<(i32, i32)>,
    /// Number of updates in its answer.
    pub updates: usize,
    /// Polls that were open at its arrival, whose sender could still use the answer, itself included.
    pub open_polls: u32,
}

/// One delivery of one update: it was in the answer to a getUpdates request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// When.
    #[serde(rename = "at_ms", with = "ms")]
    pub at: At,
    /// In the answer to this request.
    pub request: u64,
    /// To whom.
    #[serde(flatten)]
    pub peer: Peer,
    /// Whether the answer was handed to a connection that was still open.
    pub usable: bool,
}

/// Why an update left the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// A getUpdates with a higher offset.
    Confirmed,
    /// A getUpdates with a negative offset.
    NegativeOffset,
    /// drop_pending_updates, or logOut.
    Dropped,
    /// Its time was over.
    Expired,
}

/// How an update left the queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// When.
    #[serde(rename = "at_ms", with = "ms")]
    pub at: At,
    /// Why.
    pub why: Removal,
    /// By which request; none when it expired.
    pub request: Option<u64>,
    /// Whose request.
    pub lane: Option<String>,
}

/// A sendMessage whose text mentions the update.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// When.
    #[serde(rename = "at_ms", with = "ms")]
    pub at: At,
    /// The request.
    pub request: u64,
    /// Who sent it.
    #[serde(flatten)]
    pub peer: Peer,
}

/// The life of one update.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpdateRecord {
    /// Its id.
    pub id: i32,
    /// When it was pushed.
    #[serde(rename = "pushed_ms", with = "ms")]
    pub pushed: At,
    /// From which chat.
    pub chat: i64,
    /// Every delivery.
    pub deliveries: Vec<Delivery>,
    /// How it left the queue.
    pub removed: Option<Removed>,
    /// Every reply.
    pub replies: Vec<Reply>,
}

/// The life of every update of a bot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ledger {
    /// The bot's username.
    pub username: String,
    /// In the order of their ids.
    pub updates: Vec<UpdateRecord>,
}

/// A request other than getUpdates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Its number.
    pub request: u64,
    /// Its method, as it was sent.
    pub method: String,
    /// Who sent it.
    #[serde(flatten)]
    pub peer: Peer,
    /// When it arrived.
    #[serde(rename = "arrived_ms", with = "ms")]
    pub arrived: At,
    /// The status that it was answered with; none: reset, or hanging.
    pub status: Option<u16>,
}

// === what comes out: the verdict ===

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

/// What was asked for is not possible.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No bot has this token.
    #[error("no bot has this token: add it with POST /bots {{token, username}}")]
    UnknownBot,
    /// The token is not `<digits>:<secret>`.
    #[error("a token looks like 123456:secret")]
    Token,
    /// A number is out of range.
    #[error("{0}")]
    Value(String),
}

impl Serialize for FaultKind {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FaultKind {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(code) => write!(f, "{code}"),
            Self::Html(code) => write!(f, "{code}"),
            Self::Reset => f.write_str("reset"),
            Self::ResetAfter => f.write_str("reset-after"),
            Self::Hang => f.write_str("hang"),
            Self::Late => f.write_str("late"),
        }
    }
}

impl std::str::FromStr for FaultKind {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Ok(match s {
            "reset" => Self::Reset,
            "reset-after" => Self::ResetAfter,
            "hang" => Self::Hang,
            "late" => Self::Late,
            "502" | "503" | "504" => Self::Html(s.parse().expect("digits")),
            code => match code.parse() {
                Ok(code @ 400..=599) => Self::Status(code),
                _ => {
                    return Err(Error::Value(
                        "a fault is a status (400..599), reset, reset-after, hang or late".to_owned(),
                    ));
                }
            },
        })
    }
}
