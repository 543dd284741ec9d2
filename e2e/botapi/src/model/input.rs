//! What goes in: options, updates, load, faults, marks.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Error, Kind, secs};

/// How an emulator is started. The default is what tests want: plain HTTP on ephemeral ports of loopback.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where bots and gates connect to.
    pub listen: SocketAddr,
    /// Where the admin port and the lanes page are.
    pub admin: SocketAddr,
    /// Serve the Bot API (not the admin port) over TLS.
    pub tls: Option<TlsFiles>,
    /// How webhooks are delivered.
    pub webhooks: WebhookOptions,
    /// Answer 429 like Telegram: more than a message a second to a chat, 20 a minute to a group, 30 a second in all.
    pub flood_limits: bool,
}

/// What webhooks may be.
#[derive(Clone, Debug, Default)]
pub struct WebhookOptions {
    /// `http:` URLs are taken, too.
    pub http: bool,
    /// PEM file of certificate authorities that are trusted besides the well-known ones.
    pub ca: Option<PathBuf>,
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
        Self { listen: loopback, admin: loopback, tls: None, webhooks: WebhookOptions::default(), flood_limits: false }
    }
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
    /// The text is made at least this long (1 MiB at most): for what is about sizes.
    pub bytes: u32,
}

impl Default for Push {
    fn default() -> Self {
        Self { count: 1, chat: 1001, kind: Kind::Message, bytes: 0 }
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
    #[serde(default)]
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

// === impl FaultKind ===

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
